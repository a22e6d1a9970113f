"""Optimisers beside plain gradient descent: momentum, Adam, weight decay, UPGD.

Step sizes that every weight learns for itself are in `step_sizes`.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import Optimiser, optimizer_state, sgd

_TINY = 1e-12  # a net in which no weight is useful has still something to divide by


def _momentum(params, gradients, state, hyper, context=None):
    trace = tree_map(lambda v, g: hyper["momentum"] * v + g, state["per_weight"]["trace"], gradients)
    params = tree_map(lambda w, v: w - hyper["step_size"] * v, params, trace)
    return params, {**state, "per_weight": {"trace": trace}}


def _adam(params, gradients, state, hyper, context=None):
    b1, b2, past = hyper["beta_1"], hyper["beta_2"], state["per_weight"]
    m = tree_map(lambda m, g: b1 * m + (1 - b1) * g, past["m"], gradients)
    v = tree_map(lambda v, g: b2 * v + (1 - b2) * g * g, past["v"], gradients)
    # The same averages of the constant 1 are Adam's bias corrections 1 - beta^t, kept for
    # each weight: a weight that was reset counts its own steps.
    m1 = tree_map(lambda c: b1 * c + (1 - b1), past["m1"])
    v1 = tree_map(lambda c: b2 * c + (1 - b2), past["v1"])

    def move(w, m, m1, v, v1):
        return w - hyper["step_size"] * (m / m1) / (torch.sqrt(v / v1) + 1e-8)

    return tree_map(move, params, m, m1, v, v1), {
        **state, "per_weight": {"m": m, "m1": m1, "v": v, "v1": v1}}


#: Heavy-ball momentum: v <- momentum v + g; w <- w - step_size v.
momentum = Optimiser(optimizer_state("trace"), _momentum, {"step_size": 0.001, "momentum": 0.9},
                     "momentum")
#: Adam (Kingma and Ba 2015, Algorithm 1), epsilon 1e-8.
adam = Optimiser(optimizer_state("m", "m1", "v", "v1"), _adam,
                 {"step_size": 0.001, "beta_1": 0.9, "beta_2": 0.999}, "adam")


def l2(optimiser: Optimiser = sgd) -> Optimiser:
    """Add L2 regularisation to an optimiser: every gradient g becomes g + weight_decay w."""

    def update(params, gradients, state, hyper, context=None):
        gradients = tree_map(lambda w, g: g + hyper["weight_decay"] * w, params, gradients)
        return optimiser.update(params, gradients, state, hyper, context)

    return optimiser._replace(update=update, name=f"l2 {optimiser.name}",
                              settings={**optimiser.settings, "weight_decay": 1e-4})


def l2_init(optimiser: Optimiser = sgd) -> Optimiser:
    """Add L2 Init to an optimiser: every gradient g becomes g + weight_decay (w - w_0).

    w_0 is the weight as it was in the beginning (Kumar, Marklund and Van Roy 2023, Equation 1);
    that of a reborn unit is its own beginning.
    """

    def init(params, seed):
        state = optimiser.init(params, seed)
        return {**state, "initial": {**state["initial"], "w_0": tree_map(torch.clone, params)}}

    def update(params, gradients, state, hyper, context=None):
        gradients = tree_map(lambda w, g, w_0: g + hyper["weight_decay"] * (w - w_0), params,
                             gradients, state["initial"]["w_0"])
        return optimiser.update(params, gradients, state, hyper, context)

    return optimiser._replace(init=init, update=update, name=f"l2_init {optimiser.name}",
                              settings={**optimiser.settings, "weight_decay": 1e-4})


def noise(seed: Tensor, t: Tensor, params) -> list:
    """Draw a number of mean 0 and variance 1 for each weight and bias at time t.

    It is the sum of the four bytes of one draw: nearly normal, and many times cheaper.
    """
    spread = (4 * (256**2 - 1) / 12) ** 0.5
    count = 0

    def one(w: Tensor) -> Tensor:
        nonlocal count
        where = torch.arange(count, count + w.numel(), device=w.device)
        count += w.numel()
        bits = random.bits(seed, random.NOISE, t, where)
        total = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)
        return ((total - 510) / spread).to(w.dtype).reshape(w.shape)

    return tree_map(one, params)


def _upgd(params, gradients, state, hyper, context=None):
    decay, own = hyper["utility_decay"], state["own"]
    past = decay * own["bias_correction"] + (1 - decay)
    utility = tree_map(lambda u, w, g: decay * u - (1 - decay) * g * w,
                       state["per_weight"]["utility"], params, gradients)
    most = torch.stack([u.max() for u in tree_leaves(utility)]).max()
    most = torch.clamp(most / past, min=_TINY)

    def move(w, g, u, e):
        useless = 1 - torch.sigmoid(u / past / most)
        shrunk = (1 - hyper["step_size"] * hyper["weight_decay"]) * w
        return shrunk - 2 * hyper["step_size"] * (g + hyper["noise"] * e) * useless

    e = noise(own["seed"], own["t"], params)
    return tree_map(move, params, gradients, utility, e), {
        **state, "per_weight": {"utility": utility},
        "own": {"bias_correction": past, "seed": own["seed"], "t": own["t"] + 1}}


#: Utility-based perturbed gradient descent. A weight's utility U is a running average of -g w, what
#: the loss would gain without the weight, to first order. With the largest utility of the whole
#: net, M, and noise e of variance 1,
#:
#:     w <- (1 - step_size weight_decay) w - 2 step_size (g + noise e) (1 - sigmoid(U / M)),
#:
#: so that a weight of no use takes the whole step of gradient descent and all of the noise (Elsayed
#: and Mahmood 2024, Algorithm 1; the factor 2 is the released optimiser's). U is corrected for the
#: bias of a young average, in M too, which the released optimiser leaves out.
upgd = Optimiser(
    optimizer_state("utility", own=lambda seed: {"bias_correction": torch.zeros((), device=seed.device),
                                                 "seed": seed.clone(), "t": torch.zeros_like(seed)}),
    _upgd, {"step_size": 0.01, "utility_decay": 0.999, "weight_decay": 0.0, "noise": 1e-3}, "upgd")
