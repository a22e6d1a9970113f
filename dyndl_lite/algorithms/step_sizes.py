"""Learned step sizes: every weight has its own, and learns it too, by a gradient of its own.

A rule is written for **one linear unit**, as its paper writes it: `idbd`, `autostep`, `swift`,
`meta_optimize`, and `lms` with its one fixed step size. `linear` makes a learner of a rule.
`adapt` lets every unit of a layer follow the rule with its own local error, and `per_unit` makes
an optimiser of that, for backprop and for continual backprop.

Memory is zero at the start, and clearing it makes a weight new: a step size alpha of 0 stands for
the initial one. h is a trace of the weight's recent changes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite.learning import Learner, Optimiser, optimizer_state


class Rule(NamedTuple):
    """How one linear unit learns its weights and their step sizes."""

    update: Callable  # memory, delta, a, c, hyper -> memory, change
    memory: tuple[str, ...]  # names of what it remembers, one number a weight each
    settings: dict[str, float]


# Every update below takes and gives the same:
#   memory : dict of tensors [inputs]
#   delta  : scalar, the unit's error: target - output, or minus the loss's slope in its sum z
#   a      : tensor [inputs], what the unit hears
#   c      : scalar, the curvature of the loss in z: 1 for (target - output)^2 / 2
#   hyper  : dict of scalars, the rule's settings; step_size is the initial one
#   -> memory after the example, and change [inputs] to be added to the weights

_LEAST = 1e-10  # a step size that shrinks for ever would end as 0, which says "new"
# A step size may grow unseen: around the mean an input that stands still is all but 0, so no bound
# is near. When it moves at last, the weight must not have run away: `steady` steps no wider than
# this.
_MOST = 1.0


def _alpha(memory, hyper):
    return torch.where(memory["alpha"] > 0, memory["alpha"], hyper["step_size"])


def _moved(alpha, by):
    return torch.clamp(alpha * torch.exp(by), min=_LEAST)  # alpha = e^beta, and beta moves


def _lms(memory, delta, a, c, hyper):
    return memory, hyper["step_size"] * delta * a


def _idbd(memory, delta, a, c, hyper):
    h = memory["h"]
    alpha = _moved(_alpha(memory, hyper), hyper["meta_step_size"] * delta * a * h)
    change = alpha * delta * a
    h = h * torch.clamp(1 - alpha * c * a**2, min=0) + change
    return {"alpha": alpha, "h": h}, change


def prepare(memory: dict, delta: Tensor, a: Tensor, c: Tensor,
            hyper: dict) -> tuple[Tensor, Tensor, Tensor]:
    """First half of `autostep` and of `steady`: move the step sizes, take no step yet.

    Gives alpha and v [inputs], and the pace, the sum of alpha a^2: times c it is the share of its
    own error that the unit would correct; over 1 it would overshoot.
    """
    alpha, v = _alpha(memory, hyper), memory["v"]
    slope = delta * a * memory["h"]  # of the squared error in beta, with its sign turned
    # v normalises the slope: it rises at once and falls slowly, over tau effective examples.
    v = torch.maximum(slope.abs(), v + alpha * (c / hyper["tau"]) * a**2 * (slope.abs() - v))
    by = hyper["meta_step_size"] * slope / torch.clamp(v, min=1e-30)
    # As `_moved`, but |by| is never over the meta step size, so five terms of the exponential
    # series do (they miss 1e-7 of alpha at 0.1), and a dynamic network is an eighth faster.
    growth = 1 + by * (1 + by * (1 / 2 + by * (1 / 6 + by * (1 / 24))))
    alpha = torch.clamp(alpha * growth, min=_LEAST)
    return alpha, v, (alpha * a**2).sum()


def _autostep(memory, delta, a, c, hyper):
    alpha, v, pace = prepare(memory, delta, a, c, hyper)
    alpha = alpha * (1 / torch.clamp(c * pace, min=1))
    change = alpha * delta * a
    h = memory["h"] * (1 - alpha * c * a**2) + change
    return {"alpha": alpha, "v": v, "h": h}, change


def shortened(memory: dict, alpha: Tensor, v: Tensor, shorter: Tensor, delta: Tensor, a: Tensor,
              c: Tensor) -> tuple[dict, Tensor]:
    """Second half of `steady`: take the step, shorter by a factor; the step sizes stay."""
    change = alpha * (shorter * delta) * a
    h = memory["h"] * (1 - alpha * (shorter * c) * a**2) + change
    return {"alpha": torch.clamp(alpha, max=_MOST), "v": v, "h": h}, change


def _steady(memory, delta, a, c, hyper):
    alpha, v, pace = prepare(memory, delta, a, c, hyper)
    return shortened(memory, alpha, v, 1 / torch.clamp(c * pace, min=1), delta, a, c)


def _swift(memory, delta, a, c, hyper):
    alpha, h, bound = _alpha(memory, hyper), memory["h"], hyper["bound"]
    alpha = _moved(alpha, hyper["meta_step_size"] * delta * a * h / alpha)
    alpha = torch.minimum(alpha, bound)
    rate = (alpha * c * a**2).sum()
    change = bound / torch.maximum(rate, bound) * alpha * delta * a
    h = h * torch.clamp(1 - alpha * c * a**2, min=0) + change
    exceeded = rate > bound  # then those who caused it take smaller steps from now on
    alpha = torch.where(exceeded, _moved(alpha, torch.log(hyper["decay"]) * c * a**2), alpha)
    return {"alpha": alpha, "h": torch.where(exceeded, 0.0, h)}, change


def _meta_optimize(memory, delta, a, c, hyper):
    alpha, h, m = _alpha(memory, hyper), memory["h"], memory["m"]
    slope = (h * delta * a).sum()  # one step size for all weights of the unit
    change = alpha * delta * a
    return {"alpha": _moved(alpha, hyper["meta_step_size"] * torch.sign(0.9 * m + 0.1 * slope)),
            "h": hyper["discount"] * h + change, "m": 0.99 * m + 0.01 * slope}, change


#: Least mean squares (Widrow and Hoff 1960): one fixed step size.
lms = Rule(_lms, (), {"step_size": 0.01})
#: IDBD (Sutton 1992, Figure 2). With a curvature other than 1 its decay of h follows.
idbd = Rule(_idbd, ("alpha", "h"), {"step_size": 0.05, "meta_step_size": 0.01})
#: Autostep (Mahmood, Sutton, Degris and Pilarski 2012, Table 1): IDBD whose step in beta does
#: not depend on scale, and whose step never overshoots.
autostep = Rule(_autostep, ("alpha", "v", "h"),
                {"step_size": 0.001, "meta_step_size": 0.01, "tau": 1e4})
#: Ours: Autostep whose bound shortens the step and leaves the step sizes alone. In a deep net a
#: unit that is heard with a large weight, or an input that is rarely large, exceeds the bound at
#: single examples; Autostep lets all the unit's step sizes pay for it, for good. They are at most 1
#: (SwiftTD has such a bound too): inputs should be of the order of 1.
steady = autostep._replace(update=_steady)
#: SwiftTD (Javed, Sharifnassab and Sutton 2024) without its traces, for a target that is there at
#: once: meta-steps in proportion to 1 / alpha, the share corrected bounded, and decay where
#: it was exceeded.
swift = Rule(_swift, ("alpha", "h"),
             {"step_size": 0.01, "meta_step_size": 0.001, "bound": 1.0, "decay": 0.999})
#: MetaOptimize (Sharifnassab, Salehkaleybar and Sutton 2024), Hessian-free, base SGD, meta Lion,
#: one step size a unit. Its h forgets at a fixed rate, IDBD's as fast as weights are relearned.
meta_optimize = Rule(_meta_optimize, ("alpha", "h", "m"),
                     {"step_size": 0.001, "meta_step_size": 0.001, "discount": 0.999})


def centred(rule: Rule) -> Rule:
    """Let a unit with a bias (its last input, always 1) learn around the mean of what it hears.

    See `credit.learn`. Each weight keeps its own running mean, so one that is new starts afresh.
    """

    def update(memory, delta, a, c, hyper):
        age, rest = memory["age"] + 1, {part: memory[part] for part in rule.memory}
        rate = torch.maximum(1 / age, 1 - hyper["mean_decay"])  # plain averages at first
        mean = memory["mean"] + rate * (a - memory["mean"])
        inputs = torch.arange(a.shape[0], device=a.device) < a.shape[0] - 1
        around = torch.where(inputs, mean, 0.0)
        rest, change = rule.update(rest, delta, a - around, c, hyper)
        bias = torch.where(inputs, 0.0, (change * around).sum())
        return {**rest, "mean": mean, "age": age}, change - bias

    update.__name__ = f"centred{rule.update.__name__}"
    return Rule(update, (*rule.memory, "mean", "age"), {**rule.settings, "mean_decay": 0.999})


def linear(inputs: int, rule: Rule) -> Learner:
    """Make a linear unit without a bias, all weights zero at the start, that follows a rule."""
    name = rule.update.__name__.lstrip("_")

    def start(seed: Tensor) -> dict:
        zeros = torch.zeros(inputs, device=seed.device)
        return {"w": zeros, "memory": {part: zeros.clone() for part in rule.memory}}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        delta = y.squeeze(0) - net["w"] @ x
        memory, change = rule.update(net["memory"], delta, x, torch.ones_like(delta), hyper)
        return {"w": net["w"] + change, "memory": memory}, delta**2

    return Learner(start, step, dict(rule.settings), f"linear {inputs} {name}", 1)


def adapt(rule: Rule, memory: dict, delta: Tensor, a: Tensor, c: Tensor,
          hyper: dict) -> tuple[dict, Tensor]:
    """Let every unit of a layer follow a rule with its own local error, curvature and bound.

    Memory is [units, inputs]. delta [units] are local errors, a unit's hunger times the slope of
    its activation function; a [inputs] is what the layer hears, 1 for a bias; c [units] are
    curvatures, from `mlp.curvatures`. Gives the memory, and the change [units, inputs].
    """
    return vmap(rule.update, in_dims=(0, 0, None, 0, None))(memory, delta, a, c, hyper)


def per_unit(rule: Rule) -> Optimiser:
    """Make an optimiser of a rule for one unit: in a deep net each unit has its local error."""

    def update(params, gradients, state, hyper, context):
        past, moved = state["per_weight"], []
        after = {part: [] for part in rule.memory}
        for layer, (a, c) in enumerate(zip(*context())):
            (W, b), (_, slope) = params[layer], gradients[layer]  # a bias's slope is its unit's
            rows = {part: torch.cat([layers[layer][0], layers[layer][1][:, None]], 1)
                    for part, layers in past.items()}  # a bias is the weight of an input that is 1
            a = torch.cat([a, torch.ones_like(a[:1])])
            now, change = adapt(rule, rows, -slope, a, c, hyper)
            for part, value in now.items():
                after[part].append((value[:, :-1], value[:, -1]))
            moved.append((W + change[:, :-1], b + change[:, -1]))
        return moved, {**state, "per_weight": after}

    name = rule.update.__name__.lstrip("_")
    return Optimiser(optimizer_state(*rule.memory), update, dict(rule.settings), f"per-unit {name}")
