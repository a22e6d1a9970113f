"""Decentralised networks: units with goals of their own.

After Richard Sutton's talk *Decentralized neural networks* (DAI 2024), and Klopf's *The hedonistic
neuron* (1982). Nobody in the network is in charge of it. Each unit wants to be listened to, keeps
its activity in a normal range, and is active a fair share of the time; it has only its **incoming**
weights to do so, for its outgoing weights belong to those who listen. It adapts at three levels,
each switched on by a setting: its weights (``weights``), its connections (``rewiring``), its step
sizes (``meta_step_size``).

One hidden layer: its units hear inputs, and the output units hear them. Every function below that
changes weights changes those of the units it is given, row by row: row i belongs to unit i.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.step_sizes import autostep
from dyndl_lite.dynamic.backbone import follow, new_trace, propagate
from dyndl_lite.learning import CURVATURE, Learner, squared_error
from dyndl_lite.models import mlp
from dyndl_lite.models.mlp import forward, weight_bound

# Normal range of a unit's activity: root of its mean square.
QUIET, LOUD = 0.1, 10.0

SETTINGS = {
    **autostep.settings,
    "step_size": 0.01, "meta_step_size": 0.0,  # Autostep's; with 0 the step size is fixed
    "weights": 1.0,  # hidden units learn from their listeners' hunger; 0: they do not
    "rewiring": 0.0,  # connections each hidden unit exchanges an example, a small share
    "homeostasis": 0.0,  # step of a unit's bias, and relative step of its size, if out of range
    "least_active": 0.01, "most_active": 0.99,  # share of the time that a unit wants to be active
    "enough": 0.1,  # a unit that is paid less, of a fair share of attention,
    "patience": float("inf"),  # for more than so many examples in a row, explores
    "decay": 0.999,  # of all running averages
}
#: Goals and levels as they are switched on one by one, each on top of those before it.
LEVELS = {
    "random features": {"weights": 0.0},
    "weights": {"weights": 1.0},
    "+ be listened to": {"patience": 1_000.0},
    "+ connections": {"rewiring": 3e-4},
    "+ step sizes": {"meta_step_size": 0.01},
    "+ normal activity": {"homeostasis": 1e-4},
}


def switched_on(upto: str) -> dict[str, float]:
    """Give the settings of a level of `LEVELS`, with all those before it."""
    settings = {}
    for name, more in LEVELS.items():
        settings |= more
        if name == upto:
            return settings
    raise ValueError(f"level {upto!r} is unknown: use one of {list(LEVELS)}")


def first_wires(seed: Tensor, units: int, inputs: int, capacity: int) -> Tensor:
    """Connect every unit to `capacity` inputs drawn at random: 1 for a wire, else 0."""
    where = torch.arange(units * inputs, device=seed.device).reshape(units, inputs)
    rank = random.bits(seed, random.WIRES, where).argsort(1).argsort(1)
    return (rank < capacity).to(torch.float32)


def pursue(W: Tensor, b: Tensor, memory: dict, delta: Tensor, heard: Tensor, c: Tensor,
           hyper: dict) -> tuple[Tensor, Tensor, dict]:
    """Each unit moves its own weights to still the hunger of those who listen.

    With a meta-step size of 0 all weights have the same step size, for ever; otherwise each unit
    learns one for each of its weights, by Autostep (whose memory is [units, inputs + 1], the bias
    last), and its steps never overshoot. delta [units] is how much more a unit should have said,
    heard [units, inputs] what it hears, 0 where it has no wire, c [units] its curvature
    (`mlp.curvatures`).
    """
    a = torch.cat([heard, torch.ones_like(b)[:, None]], 1)
    learned, change = vmap(autostep.update, in_dims=(0, 0, 0, 0, None))(memory, delta, a, c, hyper)
    adapts = hyper["meta_step_size"] > 0
    change = torch.where(adapts, change, hyper["step_size"] * delta[:, None] * a)
    memory = {part: torch.where(adapts, learned[part], memory[part]) for part in memory}
    return W + change[:, :-1], b + change[:, -1], memory


def attention(V: Tensor, spread: Tensor) -> Tensor:
    """Give what each unit's listeners pay it; 1 is a fair share.

    Attention is limited, as utility is in `backbone`: each listener has as much as the others,
    and divides it among the units by the use it makes of them.
    """
    paid = propagate([(V, V[:, 0])], [spread], keep=0.0).delivered
    return paid * V.shape[1] / V.shape[0]


def normalise(W: Tensor, b: Tensor, active: Tensor, power: Tensor,
              hyper: dict) -> tuple[Tensor, Tensor]:
    """Each unit shifts its bias if it is active too rarely or too often, and scales itself.

    `active` and `power` [units] are running averages of how often a unit is active, and of its
    squared activity.
    """
    rate = hyper["homeostasis"]
    rarely, often = active < hyper["least_active"], active > hyper["most_active"]
    quiet, loud = (power < QUIET**2) & ~rarely, power > LOUD**2
    scale = 1 + rate * (quiet.to(b.dtype) - loud.to(b.dtype))
    b = b + rate * (rarely.to(b.dtype) - often.to(b.dtype))
    return W * scale[:, None], b * scale


def rewire(w: Tensor, b: Tensor, wires: Tensor, mean: Tensor, spread: Tensor, wish: Tensor,
           now: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Let one unit drop the wire it uses least and take a new one, at weight 0, where `now` is True.

    `w`, `b` and `wires` are the unit's; `mean` and `spread` [inputs] are running averages of the
    inputs (`backbone.follow`). Of the free inputs it takes the one with the highest `wish`, which
    is random and not negative. Gives w, b, wires, and a mask [inputs] of where a wire went or came.
    """
    free = wires == 0
    least = torch.where(free, torch.inf, w.abs() * spread).argmin()
    new = torch.where(free, wish, -1.0).argmax()
    where, now = torch.arange(len(w), device=w.device), now & free.any()
    drops, takes = now & (where == least), now & (where == new)
    b = b + torch.where(drops, w * mean, 0.0).sum()  # what it said on average, the unit says itself
    wires = torch.where(takes, 1.0, torch.where(drops, 0.0, wires))
    return torch.where(drops | takes, 0.0, w), b, wires, drops | takes


def explore(w: Tensor, b: Tensor, wires: Tensor, fresh: Tensor,
            now: Tensor) -> tuple[Tensor, Tensor]:
    """Let one unit draw its incoming weights afresh; parameters as in `rewire`."""
    return torch.where(now, fresh * wires, w), torch.where(now, 0.0, b)


def _forget(memory: dict, where: Tensor) -> dict:
    return {part: torch.where(where, 0.0, value) for part, value in memory.items()}


def welcome(V: Tensor, c: Tensor, mean: Tensor, who: Tensor) -> tuple[Tensor, Tensor]:
    """Listeners, on hearing that a unit has changed, say themselves what it said on average.

    They give the stranger weight 0. These are the listeners' own weights: the unit could not.
    """
    return torch.where(who, 0.0, V), c + V @ torch.where(who, mean, 0.0)


def decentralised(sizes: tuple[int, int, int], capacity: int,
                  loss: Callable = squared_error) -> Learner:
    """Make a decentralised learner with one hidden layer of ReLU units, and `SETTINGS`.

    Parameters
    ----------
    sizes : (inputs, units, outputs)
    capacity : int
        Wires of each hidden unit.
    loss : function
        `squared_error` or `cross_entropy`.

    Raises
    ------
    ValueError
        If there is not exactly one hidden layer, or the capacity does not fit.
    """
    if len(sizes) != 3:
        raise ValueError(f"sizes {sizes}: give inputs, hidden units, outputs (one hidden layer)")
    inputs, units, outputs = sizes
    if not 1 <= capacity <= inputs:
        raise ValueError(f"capacity {capacity}: give 1 to {inputs}, the number of inputs")

    def fresh(seed, t):
        """Numbers for the unit whose turn it is: new weights, and wishes for a new wire."""
        where = torch.arange(inputs, device=seed.device)
        weights = 2 * random.uniform(seed, random.EXPLORED, t, where) - 1
        return {"weights": weight_bound(capacity, "relu") * weights,
                "wish": random.uniform(seed, random.NEW_WIRE, t, where)}

    def start(seed: Tensor) -> dict:
        (W, b), last = mlp.initialise(seed, sizes)
        wires = first_wires(seed, units, inputs, capacity)
        params = [(W * wires * (inputs / capacity) ** 0.5, b), last]
        zeros = torch.zeros(units, device=seed.device)
        return {
            "params": params,
            "wires": wires,
            "memory": [{part: torch.zeros(*b.shape, W.shape[1] + 1, device=seed.device)
                        for part in autostep.memory} for W, b in params],
            "inputs": new_trace(inputs, seed.device),
            "hidden": new_trace(units, seed.device),
            "active": zeros + 0.5, "power": zeros + 1.0,
            "unheard": zeros.clone(),  # examples in a row without enough attention
            "due": zeros.clone(),  # connections to be exchanged, a fraction
            "seed": seed.clone(), "t": torch.zeros_like(seed),
            "fresh": fresh(seed, torch.zeros_like(seed)),
        }

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        def objective(params):
            output, (h,) = forward(params, x)
            value, score = loss(output, y)
            return value, (output, h, score)

        slopes, (output, h, score) = grad(objective, has_aux=True)(net["params"])
        c_hidden, c_output = mlp.curvatures(net["params"], [x, h], CURVATURE[loss](output))
        (W, b), (V, c) = net["params"]
        wires, (memory, memory_out) = net["wires"], net["memory"]

        # Goal: be of use to those who listen. A bias's slope is its unit's.
        served = hyper["weights"]
        W, b, memory = pursue(W, b, memory, -served * slopes[0][1], wires * x, served * c_hidden,
                              hyper)
        V, c, memory_out = pursue(V, c, memory_out, -slopes[1][1], h.expand_as(V), c_output, hyper)

        # Goal: a normal activity.
        decay = hyper["decay"]
        active = decay * net["active"] + (1 - decay) * (h > 0).to(h.dtype)
        power = decay * net["power"] + (1 - decay) * h**2
        W, b = normalise(W, b, active, power, hyper)

        # Goal: be listened to.
        trace_x, spread_x = follow(net["inputs"], x, decay)
        trace_h, spread_h = follow(net["hidden"], h, decay)
        ignored = attention(V, spread_h) < hyper["enough"]
        unheard = torch.where(ignored, net["unheard"] + 1, 0.0)

        # One unit at a time sees to its affairs: each has its turn once in `units` examples.
        i = (net["t"] % units).reshape(1)
        turn = torch.arange(units, device=h.device) == i
        due = net["due"] + hyper["rewiring"]
        w, bias, wired = (a.index_select(0, i).squeeze(0) for a in (W, b, wires))
        explores = (unheard.index_select(0, i) > hyper["patience"]).squeeze(0)
        rewires = (due.index_select(0, i) >= 1).squeeze(0)
        mean_x, mean_h = (trace["mean"] / trace["past"] for trace in (trace_x, trace_h))
        w, bias, wired, touched = rewire(w, bias, wired, mean_x, spread_x, net["fresh"]["wish"],
                                         rewires)
        w, bias = explore(w, bias, wired, net["fresh"]["weights"], explores)
        forgotten = torch.cat([touched | explores, explores[None]])
        stranger = turn & explores
        V, c = welcome(V, c, mean_h, stranger)
        return {
            "params": [(torch.where(turn[:, None], w, W), torch.where(turn, bias, b)), (V, c)],
            "wires": torch.where(turn[:, None], wired, wires),
            "memory": [_forget(memory, turn[:, None] & forgotten),
                       _forget(memory_out, torch.cat([stranger, torch.zeros_like(turn[:1])]))],
            "inputs": trace_x, "hidden": trace_h,
            "active": torch.where(stranger, 0.5, active),
            "power": torch.where(stranger, 1.0, power),
            "unheard": torch.where(stranger, 0.0, unheard),
            "due": torch.where(turn & rewires, due - 1, due),
            "seed": net["seed"], "t": net["t"] + 1, "fresh": fresh(net["seed"], net["t"] + 1),
        }, score

    description = f"decentralised {sizes} {capacity} {loss.__name__}"
    return Learner(start, step, dict(SETTINGS), description, outputs)
