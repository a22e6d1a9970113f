"""Dynamic deep learning: a network that grows, unit by unit, and learns at every moment.

It starts from inputs and outputs alone. Units are born at the fringe at moments of hunger, and can
learn through shadow weights (`shadow`); who finds one useful lets the step size of its weight rise,
then the weight itself, and the unit has joined the backbone. When there is no room left, the least
useful unit makes way (`population`). Every weight learns its own step size (`step_sizes`), around
the mean of what it hears, and forgets where the loss is saturated; outputs can let go of what they
hardly use (`credit`). How far they may go at one example is learned by trying (`bound`).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.step_sizes import steady
from dyndl_lite.dynamic import bound, population
from dyndl_lite.dynamic import shadow as fringe
from dyndl_lite.dynamic.credit import with_bias, hungers, learn
from dyndl_lite.learning import CURVATURE, Learner, squared_error
from dyndl_lite.models.mlp import weight_bound

SETTINGS = {
    "step_size": 0.02,  # first step size of all weights, but for
    "newcomer_step_size": 0.02,  # those that listen to a newborn where there was no room
    "meta_step_size": 0.05,  # 0: step sizes stay what they were at first
    "bound": 0.33,  # most of its own error that a unit may correct at one example; the outputs' moves
    "bound_rate": 0.0,  # at this rate to what proves best (`bound`); 0: it stays
    "joint": 1.0,  # and all together no more than the whole of it; 0: they may
    "tau": 1e4,  # memory of Autostep's normaliser, in examples
    "levelling": 0.5,  # power of a unit's spread that it is divided by where it is learned from
    "forgetting": 0.1,  # how far weights shrink, in step sizes, where the loss is saturated,
    "hidden_forgetting": 0.03,  # and those of hidden units, under a softmax alone
    "l1": 0.0,  # how far weights of outputs shrink at each example whatever their size, in step sizes
    "input_mean_decay": 0.995,  # of the running mean of each input,
    "mean_decay": 0.999,  # and of each hidden unit's activity
    "utility_decay": 0.9999,  # of its running spread, which says how much there is to use
    "growth_rate": 0.04,  # births an example while there is room
    "replacement_rate": 1e-4,  # else, share of those who may make way replaced each example
    "fringe": 0.0,  # most units of the fringe that there is room for; 0: as many as there are places
    "hungry_births": 1.0,  # times the hunger, of 1 at most; 0: at any hunger alike
    "patience": 0.0,  # 1: times what was learned of the outputs' bound, too; 0: however slow they are
    "maturity_threshold": 5000.0,  # examples
    "join": 0.1,  # utility, in equal shares, above which a unit joins the backbone,
    "leave": 0.03,  # and below which it is of the fringe again
    "shadow": 0.0,  # magnitude of the shadow weights, 1 in the talk; 0: none
    "imprint": 0.7,  # length of the imprinted weights; 0: none
    "noise": 0.5,  # size of a newborn's random weights, 1: that of a random network
    "centring": 1.0,  # 0: weights are learned around zero, not around the mean
    "random_master": 0.0,  # 1: whoever, instead of the hungriest
    "as_if": 0.0,  # 1: a shadow weight carries what it would leave of the master's error, not all of it
    "protection": 0.0,  # 1: only units of the fringe make way for a newborn
    "propagation": 1.0,  # 0: a unit is worth its contribution, not its share of each output
}


def run(params: dict, level: Tensor, x: Tensor, depth: int) -> Tensor:
    """Give the activities s [inputs + units] of all sources, level after level.

    A unit hears inputs and units of lower levels; what it must not hear has no weight.
    """
    a = torch.zeros_like(level)
    for this in range(1, depth + 1):
        heard = with_bias(torch.cat([x, a]), params["hidden"])
        a = torch.where(level == this, torch.relu(params["hidden"] @ heard), a)
    return torch.cat([x, a])


def dynamic_network(inputs: int, units: int, outputs: int, loss: Callable = squared_error,
                    depth: int = 1, grown: bool = True) -> Learner:
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
    grown : bool
        Whether it starts from nothing. False: from a random network, with a unit in every place,
        the levels taking turns; no output hears its units yet, and they serve no master.

    Returns
    -------
    Learner
        With the settings of `SETTINGS`.

    Raises
    ------
    ValueError
        If a size is under 1; before a run starts, if a rate is over one birth an example, a first
        step size or the bound is not over 0, `l1` or the fringe is negative, or `leave` is above `join`.
    """
    if min(inputs, units, outputs, depth) < 1:
        raise ValueError(f"inputs {inputs}, units {units}, outputs {outputs}, depth {depth}: give "
                         "1 or more of each")
    # Every output learns from its own error, however many others there are.
    whole = outputs if loss is squared_error else 1
    hidden = units if depth > 1 else 0  # only then do hidden units hear others
    sources, listeners = inputs + hidden, outputs + hidden

    def check(setting: dict) -> None:
        for name, most in (("growth_rate", 1), ("replacement_rate", 1 / units)):
            if not 0 <= setting[name] <= most:
                raise ValueError(f"{name} {setting[name]} asks for more than one birth an example: "
                                 f"use 0 to {most:.1e}")
        for name in ("step_size", "newcomer_step_size", "bound"):
            if not setting[name] > 0:
                raise ValueError(f"{name} {setting[name]} lets nobody learn: use more than 0")
        if setting["l1"] < 0 or setting["fringe"] < 0 or 0 < setting["fringe"] < 1:
            raise ValueError(f"l1 {setting['l1']}, fringe {setting['fringe']}: l1 must be 0 or more, "
                             "and the fringe 0 (any size) or 1 or more")
        if not setting["leave"] <= setting["join"]:
            raise ValueError(f"leave {setting['leave']} is above join {setting['join']}: a unit "
                             "would join and leave at every example")

    def fresh(seed: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Draw what a newborn at time t would need; one example ahead, as in CBP."""
        where = torch.arange(sources + listeners, device=seed.device)
        u = random.uniform(seed, random.NEWBORN, t, where)
        return {"row": weight_bound(inputs, "relu") * (2 * u[:sources] - 1), "luck": u[sources:]}

    def start(seed: Tensor) -> dict:
        shapes = {"hidden": (units, sources + 1), "output": (outputs, inputs + units + 1)}
        params = {name: torch.zeros(shape, device=seed.device) for name, shape in shapes.items()}
        memory = {name: {part: w.clone() for part in steady.memory} for name, w in params.items()}
        shadow, t = torch.zeros(listeners, units, device=seed.device), torch.zeros_like(seed)
        everyone = population.new_units(units, inputs, seed.device)
        if not grown:
            level = 1.0 + torch.arange(units, device=seed.device) % depth
            place, source = torch.meshgrid(torch.arange(units, device=seed.device),
                                           torch.arange(sources, device=seed.device), indexing="ij")
            u = random.uniform(seed, random.WEIGHTS, place, source)
            may = _may_hear(level, level, inputs)[:, :sources]
            rows = torch.where(may, weight_bound(inputs, "relu") * (2 * u - 1), 0.0)
            params["hidden"] = torch.cat([rows, params["hidden"][:, -1:]], 1)
            everyone["level"] = level
        return {"params": params, "memory": memory, "trials": bound.new_trials(params["output"]),
                "units": everyone, "shadow": shadow,
                "seed": seed.clone(), "t": t, "fresh": fresh(seed, t)}

    def slope_of(output, y):
        return grad_and_value(lambda o: whole * loss(o, y)[0])(output)

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, units_ = net["params"], net["memory"], net["units"]
        # Predict.
        s = run(params, units_["level"], x, depth)
        heard = with_bias(s, params["output"])
        output = params["output"] @ heard
        _, score = loss(output, y)
        slope, _ = slope_of(output, y)
        tried, losses = vmap(slope_of, in_dims=(0, None))(net["trials"]["weights"] @ heard, y)
        # Who is useful, who hungers.
        units_ = population.update_statistics(units_, s, hyper)
        received = population.utility(params, units_, depth, hyper)
        links = _links(params, inputs, depth)
        units_, shadow = population.update_backbone(units_, received, links, net["shadow"], outputs,
                                                    hyper)
        wants = fringe.wanting(links, shadow * (1 - units_["backbone"]), hyper["shadow"])
        said = hyper["as_if"] * (s - units_["mean"])[inputs:]
        delta, c = hungers(links, wants, s[inputs:] > 0, said, units_["level"], -slope,
                           whole * CURVATURE[loss](output), depth)
        # Learn.
        may = None if depth == 1 else _may_hear(units_["level"], units_["level"], inputs)
        params, memory, trials = learn(params, memory, net["trials"], s, units_, delta, c, -tried,
                                       may, depth, hyper)
        trials = bound.judge(trials, losses, hyper)
        # Grow.
        hunger = delta[:outputs].abs().max()
        pace = torch.exp(hyper["patience"] * trials["log"])
        units_, place, room, dies = population.births(units_, received, hunger, pace, hyper)
        others = torch.where(population._at(place, units), 0.0, units_["level"])
        level = torch.cat([torch.full_like(delta[:outputs], depth + 1.0),
                           others * units_["backbone"]])[:listeners]
        hunger = delta[:listeners]
        hunger = torch.where(hyper["random_master"] > 0,
                             torch.copysign(net["fresh"]["luck"], hunger), hunger)
        master, sign = fringe.choose_master(hunger, level > 1)
        level = torch.where(dies, 0.0, (level * master).sum() - 1)  # who dies leaves an empty place
        may = _may_hear(level[None], others, inputs)[0, :sources]
        row, bias = fringe.imprint(s[:sources], units_["mean"][:sources], may, hyper["imprint"],
                                   hyper["noise"] * net["fresh"]["row"])
        newcomer = torch.where(room, 0.0, hyper["newcomer_step_size"])
        mean = units_["mean"][inputs:]
        for name in ("output", "hidden") if depth > 1 else ("output",):
            params[name], memory[name] = population.reset_outgoing(params[name], memory[name], place,
                                                                   mean, newcomer)
        trials["weights"] = torch.stack([population.reset_outgoing(w, {}, place, mean, newcomer)[0]
                                         for w in trials["weights"]])
        params["hidden"], memory["hidden"] = population.init_incoming(
            params["hidden"], memory["hidden"], place,
            torch.where(dies, 0.0, torch.cat([row, bias[None]])))
        shadow = population.assign_master(shadow, place, torch.where(master & ~dies, sign, 0.0),
                                          outputs)
        seed, t = net["seed"], net["t"] + 1
        return {"params": params, "memory": memory, "trials": trials,
                "units": population.newborn(units_, place, level), "shadow": shadow,
                "seed": seed, "t": t, "fresh": fresh(seed, t)}, score

    description = (f"dynamic {inputs} {units} {outputs} {loss.__name__} depth={depth}"
                   f"{'' if grown else ' from a random network'}")
    return Learner(start, step, dict(SETTINGS), description, outputs, check)


def _links(params: dict, inputs: int, depth: int) -> Tensor:
    """Real weights of all listeners for the hidden units."""
    links = params["output"][:, inputs:-1]
    return links if depth == 1 else torch.cat([links, params["hidden"][:, inputs:-1]])


def _may_hear(listeners: Tensor, level: Tensor, inputs: int) -> Tensor:
    """Mask [listeners, sources] of what keeps the net feed-forward: inputs, and lower levels."""
    lower = (level > 0) & (level < listeners[:, None])
    return torch.cat([torch.ones(listeners.shape[0], inputs, device=level.device), lower], 1) > 0
