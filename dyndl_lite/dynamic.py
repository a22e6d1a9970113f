"""Dynamic deep learning: a network that grows, unit by unit, and learns at every moment.

After Richard Sutton's talk "Toward a better deep learning" (2024). It starts from inputs and
outputs alone. Units are born at moments of hunger, at the *fringe*, where nobody listens to
them; they learn through their shadow weights (`fringe`); a master that finds one useful lets the
step size of its weight rise, then the weight itself, and the unit has joined the *backbone*. When
there is no room left, the least useful unit makes way. Every weight learns its own step size
(`step_sizes`), around the mean of what it hears.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from dyndl_lite import draws, fringe, growth
from dyndl_lite.backprop import CURVATURE, Learner, squared_error
from dyndl_lite.network import weight_bound
from dyndl_lite.step_sizes import prepare, shortened, steady

SETTINGS = {
    "step_size": 0.03,  # first step size of all weights, but for
    "newcomer_step_size": 0.03,  # those that listen to a newborn once there is no room left
    "meta_step_size": 0.05,  # 0: step sizes stay what they were at first
    "bound": 0.33,  # most of its own error that a unit may correct at one example
    "joint": 1.0,  # and all together no more than the whole of it; 0: they may
    "tau": 1e4,  # memory of Autostep's normaliser, in examples
    "mean_decay": 0.999,  # of the running mean of each activity
    "utility_decay": 0.9999,  # of its running spread, which says how much there is to use
    "growth_rate": 0.02,  # births an example while there is room
    "replacement_rate": 1e-4,  # after that, share of the mature units replaced each example
    "hungry_births": 1.0,  # times the hunger, of 1 at most; 0: at any hunger alike
    "maturity_threshold": 5000.0,  # examples
    "join": 0.1,  # utility, in equal shares, above which a unit joins the backbone,
    "leave": 0.03,  # and below which it is of the fringe again
    "shadow": 1.0,  # magnitude of the shadow weights; 0: none
    "imprint": 1.0,  # length of the imprinted weights; 0: none
    "noise": 0.5,  # size of a newborn's random weights, 1: that of a random network
    "centring": 1.0,  # 0: weights are learned around zero, not around the mean
    "random_master": 0.0,  # 1: whoever, instead of the hungriest
    "regressed": 0.0,  # 1: shadow weights by regression, not of one size
    "propagation": 1.0,  # 0: a unit is worth its contribution, not its share of each output
}


def run(params: dict, level: Tensor, x: Tensor, depth: int) -> Tensor:
    """Give the activities s [inputs + units] of all sources, level after level.

    A unit hears inputs and units of lower levels; what it must not hear has no weight.
    """
    a = torch.zeros_like(level)
    for this in range(1, depth + 1):
        heard = _heard(torch.cat([x, a]), params["hidden"])
        a = torch.where(level == this, torch.relu(params["hidden"] @ heard), a)
    return torch.cat([x, a])


def _heard(s: Tensor, weights: Tensor) -> Tensor:
    """What listeners with these weights hear: their sources, and a 1 for the bias."""
    return torch.cat([s[:weights.shape[1] - 1], torch.ones_like(s[:1])])


def hungers(links: Tensor, wants: Tensor, active: Tensor, level: Tensor, delta: Tensor,
            c: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Carry errors and curvatures back over real links, and over the shadow links.

    Parameters
    ----------
    links, wants : tensors [listeners, units]
        Real weights, and what the shadow weights add (`fringe.wanting`).
    active : bool tensor [units]
        Slope of the rectifier.
    level : tensor [units]
    delta, c : tensors [outputs]
        Local errors and curvatures of the outputs.

    Returns
    -------
    delta, c : tensors [outputs + units]
    """
    outputs, none = delta.shape[0], torch.zeros_like(level)
    delta, c = torch.cat([delta, none]), torch.cat([c, none])
    for this in range(depth, 0, -1):
        here = torch.cat([torch.zeros_like(delta[:outputs]), active & (level == this)]) > 0
        told, bent = delta[:links.shape[0]], c[:links.shape[0]]
        hunger = (links + wants).T @ told
        curved = (links**2 + wants**2).T @ bent
        delta = torch.where(here, torch.cat([delta[:outputs], hunger]), delta)
        c = torch.where(here, torch.cat([c[:outputs], curved]), c)
    return delta, c


def joint_pace(params: dict, pace: dict, s: Tensor, level: Tensor, depth: int) -> Tensor:
    """Give how far each output's sum moves, for an error of 1, when all below it learn as well.

    A listener moves its sum by its own pace, and unit j, of weight w, moves it by w^2 of its own:
    it feels w of the error, and is heard with w.
    """
    active = (s[-level.shape[0]:] > 0).to(s.dtype)
    moved = torch.zeros_like(level)
    for this in range(1, depth + 1):
        below = _links_squared(params["hidden"], moved) if depth > 1 else 0
        moved = torch.where(level == this, active * (pace["hidden"] + below), moved)
    return pace["output"] + _links_squared(params["output"], moved)


def _links_squared(weights: Tensor, moved: Tensor) -> Tensor:
    return weights[:, -1 - moved.shape[0]:-1]**2 @ moved


def learn(params: dict, memory: dict, s: Tensor, units: dict, delta: Tensor, c: Tensor,
          may: Tensor | None, depth: int, hyper: dict) -> tuple[dict, dict]:
    """Let all learn around the mean of what they hear, each weight at its own step size.

    The sum w s + b is w (s - mean) + b' with b' = b + w mean. Learning w and b' instead of w and
    b is the same net, but a change of w then leaves the mean answer alone, and the strongest of
    all correlations between inputs, that with the bias, is gone.

    No unit corrects more than a share of its own error, and all who are heard share one more bound:
    together they correct no more than the whole.

    Parameters
    ----------
    params, memory : dicts
        Of the hidden units and of the outputs.
    s : tensor [sources]
    units : dict
        Of `growth`.
    delta, c : tensors [outputs + units]
        From `hungers`.
    may : bool tensor [units, sources], optional
        Whom each hidden unit hears; None: all of them hear the inputs.
    depth : int
    hyper : dict
    """
    outputs = params["output"].shape[0]
    mean = hyper["centring"] * units["mean"]
    heard = {name: _heard(s - mean, w) for name, w in params.items()}
    if may is not None:
        heard["hidden"] = heard["hidden"] * torch.cat([may, torch.ones_like(may[:, :1])], 1)
    bent = c / hyper["bound"]
    own = {"output": (delta[:outputs], heard["output"], bent[:outputs]),
           "hidden": (delta[outputs:], heard["hidden"], bent[outputs:])}
    dims = {name: (0, None if heard[name].ndim == 1 else 0, 0) for name in own}
    plans = {name: vmap(prepare, in_dims=(0, *dims[name], None))(memory[name], *own[name], hyper)
             for name in own}
    pace = {name: plans[name][2] for name in own}
    share = {name: pace[name] * own[name][2] for name in own}
    whole = (joint_pace(params, pace, s, units["level"], depth) * c[:outputs]).max()
    heard = {"output": hyper["joint"], "hidden": hyper["joint"] * units["backbone"]}
    share = {name: torch.maximum(share[name], heard[name] * whole) for name in own}
    params, memory = dict(params), dict(memory)
    for name, (alpha, v, _) in plans.items():
        shorter = 1 / torch.clamp(share[name], min=1)
        memory[name], change = vmap(shortened, in_dims=(0, 0, 0, 0, *dims[name]))(
            memory[name], alpha, v, shorter, *own[name])
        bias = change[:, -1] - change[:, :-1] @ mean[:change.shape[1] - 1]
        params[name] = params[name] + torch.cat([change[:, :-1], bias[:, None]], 1)
    return params, memory


def dynamic(inputs: int, units: int, outputs: int, loss: Callable = squared_error,
            depth: int = 1) -> Learner:
    """Make a dynamic network: inputs and outputs, and room for hidden units.

    Parameters
    ----------
    inputs, outputs : int
    units : int
        Room for hidden units, backbone and fringe together.
    loss : function
        `squared_error` or `cross_entropy`.
    depth : int
        Most levels of hidden units. Those with an output as master are of the highest level;
        with more than one, hidden units of the backbone can be masters too, of units below.

    Returns
    -------
    Learner
        With the settings of `SETTINGS`.

    Raises
    ------
    ValueError
        If a size is under 1, or (before a run starts) a rate is over one birth an example.
    """
    if min(inputs, units, outputs, depth) < 1:
        raise ValueError(f"inputs {inputs}, units {units}, outputs {outputs}, depth {depth}: give "
                         "1 or more of each")
    hidden = units if depth > 1 else 0  # only then do hidden units hear others
    sources, listeners = inputs + hidden, outputs + hidden

    def check(setting: dict) -> None:
        for name, most in (("growth_rate", 1), ("replacement_rate", 1 / units)):
            if not 0 <= setting[name] <= most:
                raise ValueError(f"{name} {setting[name]} asks for more than one birth an example: "
                                 f"use 0 to {most:.1e}")

    def fresh(seed: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Draw what a newborn at time t would need; one example ahead, as in CBP."""
        where = torch.arange(sources + listeners, device=seed.device)
        u = draws.uniform(seed, draws.NEWBORN, t, where)
        return {"row": weight_bound(inputs, "relu") * (2 * u[:sources] - 1), "luck": u[sources:]}

    def start(seed: Tensor) -> dict:
        shapes = {"hidden": (units, sources + 1), "output": (outputs, inputs + units + 1)}
        zeros = {name: torch.zeros(shape, device=seed.device) for name, shape in shapes.items()}
        return {
            "params": {name: w.clone() for name, w in zeros.items()},
            "memory": {name: {part: w.clone() for part in steady.memory}
                       for name, w in zeros.items()},
            "units": growth.new_units(units, inputs, seed.device),
            "shadow": torch.zeros(listeners, units, device=seed.device),
            "seed": seed.clone(),
            "t": torch.zeros_like(seed),
            "fresh": fresh(seed, torch.zeros_like(seed)),
        }

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, units_ = net["params"], net["memory"], net["units"]
        # Predict.
        s = run(params, units_["level"], x, depth)
        output = params["output"] @ _heard(s, params["output"])
        _, score = loss(output, y)
        slope = grad(lambda o: loss(o, y)[0])(output)
        # Who is useful, who hungers.
        units_ = growth.watch(units_, s, hyper)
        received = growth.utility(params, units_, depth, hyper)
        links = _links(params, inputs, depth)
        units_, shadow = growth.guard(units_, received, links, net["shadow"], outputs, hyper)
        wants = _wants(links, shadow, units_, hyper)
        delta, c = hungers(links, wants, s[inputs:] > 0, units_["level"], -slope,
                           CURVATURE[loss](output), depth)
        units_ = growth.agree(units_, shadow, s[inputs:], delta[:listeners], hyper)
        # Learn.
        may = None if depth == 1 else _may_hear(units_["level"], units_["level"], inputs)
        params, memory = learn(params, memory, s, units_, delta, c, may, depth, hyper)
        # Grow.
        hunger = delta[:outputs].abs().max()
        units_, place, room = growth.births(units_, received, hunger, hyper)
        others = torch.where(growth._at(place, units), 0.0, units_["level"])
        level = torch.cat([torch.full_like(delta[:outputs], depth + 1.0),
                           others * units_["backbone"]])[:listeners]
        hunger = delta[:listeners]
        hunger = torch.where(hyper["random_master"] > 0,
                             torch.copysign(net["fresh"]["luck"], hunger), hunger)
        master, sign = fringe.choose_master(hunger, level > 1)
        level = (level * master).sum() - 1
        may = _may_hear(level[None], others, inputs)[0, :sources]
        row, bias = fringe.imprint(s[:sources], units_["mean"][:sources], may, hyper["imprint"],
                                   hyper["noise"] * net["fresh"]["row"])
        newcomer = torch.where(room, 0.0, hyper["newcomer_step_size"])
        mean = units_["mean"][inputs:]
        for name in ("output", "hidden") if depth > 1 else ("output",):
            params[name], memory[name] = growth.be_heard(params[name], memory[name], place, mean,
                                                         newcomer)
        params["hidden"], memory["hidden"] = growth.listen(
            params["hidden"], memory["hidden"], place, torch.cat([row, bias[None]]))
        return {
            "params": params,
            "memory": memory,
            "units": growth.newborn(units_, place, level),
            "shadow": growth.serve(shadow, place, torch.where(master, sign, 0.0), outputs),
            "seed": net["seed"],
            "t": net["t"] + 1,
            "fresh": fresh(net["seed"], net["t"] + 1),
        }, score

    return Learner(start, step, dict(SETTINGS),
                   f"dynamic {inputs} {units} {outputs} {loss.__name__} depth={depth}", outputs,
                   check)


def _wants(links: Tensor, shadow: Tensor, units: dict, hyper: dict) -> Tensor:
    """What the shadow weights of the fringe add; the backbone has none."""
    fitted = units["agreement"] / torch.clamp(units["power"], min=1e-12)
    regressed = hyper["regressed"] > 0
    shadow = torch.where(regressed, shadow.abs() * torch.sign(fitted), shadow)
    size = hyper["shadow"] * torch.where(regressed, fitted.abs(), 1.0)
    return fringe.wanting(links, shadow * (1 - units["backbone"]), size)


def _links(params: dict, inputs: int, depth: int) -> Tensor:
    """Real weights of all listeners for the hidden units."""
    links = params["output"][:, inputs:-1]
    return links if depth == 1 else torch.cat([links, params["hidden"][:, inputs:-1]])


def _may_hear(listeners: Tensor, level: Tensor, inputs: int) -> Tensor:
    """Mask [listeners, sources] of what keeps the net feed-forward: inputs, and lower levels."""
    lower = (level > 0) & (level < listeners[:, None])
    return torch.cat([torch.ones(listeners.shape[0], inputs, device=level.device), lower], 1) > 0
