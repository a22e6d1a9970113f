"""How a dynamic network learns: hunger goes back, and everybody's step has one bound.

The errors of the outputs go back over real links and shadow links (`hungers`). Each listener then
learns around the mean of what it hears, every weight by a step size of its own (`step_sizes`), and
no further than its own bound and the bound that all share allow (`learn`).
"""

import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite.algorithms.step_sizes import prepare, shortened
from dyndl_lite.dynamic.bound import bound_of, TRIALS

_LEAST_SPREAD = 0.1  # else a unit that is all but silent would be learned from without measure


def with_bias(s: Tensor, weights: Tensor) -> Tensor:
    """What listeners with these weights hear: their sources, and a 1 for the bias."""
    return torch.cat([s[:weights.shape[1] - 1], torch.ones_like(s[:1])])


def hungers(links: Tensor, wants: Tensor, active: Tensor, said: Tensor, level: Tensor,
            delta: Tensor, c: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Carry errors and curvatures back over real links, and over the shadow links.

    Over a shadow link the *as-if error* goes back if it is asked for: what would be left of the
    master's error, to first order, if it heard the unit with the weight that is wanted. Without
    that, nothing tells a unit of the fringe that it has said enough.

    Links and wants [listeners, units] are real weights, and what the shadow weights add
    (`shadow.wanting`); `active` [units] is the slope of the rectifier; `said` [units] is what each
    unit says beyond its mean, 0 where no as-if error is asked for; delta and c [outputs] are the
    local errors and curvatures of the outputs. It gives those of all, [outputs + units].
    """
    outputs, none = delta.shape[0], torch.zeros_like(level)
    delta, c = torch.cat([delta, none]), torch.cat([c, none])
    for this in range(depth, 0, -1):
        here = torch.cat([torch.zeros_like(delta[:outputs]), active & (level == this)]) > 0
        told, bent = delta[:links.shape[0]], c[:links.shape[0]]
        hunger = (links + wants).T @ told - said * ((wants**2).T @ bent)
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


def learn(params: dict, memory: dict, trials: dict, s: Tensor, units: dict, delta: Tensor,
          c: Tensor, tried: Tensor, may: Tensor | None, depth: int, hyper: dict
          ) -> tuple[dict, dict, dict]:
    """Let all learn around the mean of what they hear, each weight at its own step size.

    The sum w s + b is w (s - mean) + b' with b' = b + w mean. Learning w and b' instead of w and b
    is the same net, but a change of w then leaves the mean answer alone, and the strongest of all
    correlations between inputs, that with the bias, is gone.

    No unit corrects more than a share of its own error, and all who are heard share one more bound:
    together they correct no more than the whole. What they learned before they decay
    (`saturation_decay`) where the loss is saturated, and then take their step; the mean answer
    stays. After it the weights of outputs come nearer to 0, or are 0, by the share `l1` of the step
    size they took: soft thresholding, as for the lasso (Duchi and Singer 2009). The traces of
    Autostep see neither that nor the decay. The trials (`bound`) learn as the outputs do, with the
    outputs' step sizes and curvatures.

    Params and memory are those of the hidden units and of the outputs, s [sources] the activities,
    units those of `population`, delta and c [outputs + units] from `hungers`, tried [2, outputs]
    the errors of the trials. `may` [units, sources] says whom each hidden unit hears; None: all of
    them hear the inputs.
    """
    outputs = params["output"].shape[0]
    mean = hyper["centring"] * units["mean"]
    level = activity_scaling(units, hyper)
    heard = {name: with_bias(level * (s - mean), w) for name, w in params.items()}
    if may is not None:
        heard["hidden"] = heard["hidden"] * torch.cat([may, torch.ones_like(may[:, :1])], 1)
    own = {"output": (delta[:outputs], heard["output"], c[:outputs] / bound_of(trials, hyper)),
           "hidden": (delta[outputs:], heard["hidden"], c[outputs:] / hyper["bound"])}
    dims = {name: (0, None if heard[name].ndim == 1 else 0, 0) for name in own}
    plans = {name: vmap(prepare, in_dims=(0, *dims[name], None))(memory[name], *own[name], hyper)
             for name in own}
    pace = {name: plans[name][2] for name in own}
    share = {name: pace[name] * own[name][2] for name in own}
    whole = (joint_pace(params, pace, s, units["level"], depth) * c[:outputs]).max()
    joint = {"output": hyper["joint"], "hidden": hyper["joint"] * units["backbone"]}
    forgetting = saturation_decay(delta, c, outputs, hyper)
    l1 = {"output": hyper["l1"], "hidden": 0.0}

    def shorter(name, share):
        return 1 / torch.clamp(torch.maximum(share, joint[name] * whole), min=1)

    def moved(weights, change, forgotten, shrunk):
        bias, scale = with_bias(torch.zeros_like(s), weights), with_bias(level, weights)
        turn = (change - forgotten * weights * (1 - bias)) * scale
        after, least = weights + turn, shrunk * (1 - bias) * scale
        lost = torch.clamp(after, -least, least)  # so that who is nearer to 0 than that is exactly 0
        turn = turn - lost
        return after - lost - bias * (turn[:, :-1] @ mean[:turn.shape[1] - 1])[:, None]

    def trial(weights, times, delta):
        less = shorter("output", times * share["output"])[:, None]
        forgotten = hyper["forgetting"] * torch.clamp(delta.abs() - c[:outputs], min=0)
        alpha = plans["output"][0] * less
        return moved(weights, alpha * delta[:, None] * heard["output"], alpha * forgotten[:, None],
                     alpha * hyper["l1"])

    params, memory = dict(params), dict(memory)
    for name, (alpha, v, _) in plans.items():
        less = shorter(name, share[name])
        memory[name], change = vmap(shortened, in_dims=(0, 0, 0, 0, *dims[name]))(
            memory[name], alpha, v, less, *own[name])
        params[name] = moved(params[name], change, (less * forgetting[name])[:, None] * alpha,
                             (less * l1[name])[:, None] * alpha)
    weights = [trial(w, 1 / times, e) for w, times, e in zip(trials["weights"], TRIALS, tried)]
    return params, memory, {**trials, "weights": torch.stack(weights)}


def activity_scaling(units: dict, hyper: dict) -> Tensor:
    """Give the factor [sources] of each source where weights are learned: louder units get less.

    With the power 1/2 a weight's change is in proportion to (s - mean) / spread: what counts is how
    unusual the unit is, not how much it says. Inputs are taken as they are.
    """
    size = units["level"].shape[0]
    spread = units["spread"][-size:] + _LEAST_SPREAD
    factor = torch.exp(-hyper["levelling"] * torch.log(spread))  # a power, computed faster
    return torch.cat([torch.ones_like(units["spread"][:-size]), factor])


def saturation_decay(delta: Tensor, c: Tensor, outputs: int, hyper: dict) -> dict[str, Tensor]:
    """Give how fast the weights of each listener shrink, in step sizes.

    Where a loss is saturated, its slope tells little of how far there is to go: a softmax that is
    sure of the wrong class has the error 1 whether it is a little too sure or much, and hardly any
    curvature. What makes it so sure was learned for something else; it shrinks. An output forgets
    where its error exceeds its curvature (with the squared error, where it is off by more than 1),
    hidden units only under a loss that is truly saturated, its slope at most 1: a squared error
    never is, and there they would forget what they know of a context that returns. (Narendra and
    Annaswamy 1987 forget in proportion to the error itself, and so at every noise.) Errors and
    curvatures are [outputs + units].
    """
    error, curvature = delta[:outputs].abs(), c[:outputs]
    saturated = torch.clamp(torch.clamp(error, max=1) - curvature, min=0).max()
    taught = (delta[outputs:] != 0).to(delta.dtype)  # who hears nothing of it forgets nothing
    return {"output": hyper["forgetting"] * torch.clamp(error - curvature, min=0),
            "hidden": hyper["hidden_forgetting"] * saturated * taught}
