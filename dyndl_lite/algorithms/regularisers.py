"""Remedies for a net that stops learning which act on every weight alike, example by example.

Weight decay, towards zero or towards the initial weights, and clipping keep the weights small;
shrink and perturb also stirs them, so that no unit stays dead for long; utility-based perturbed
gradient descent stirs what is of no use and spares the rest. Remedies that start single units
afresh are in `resets`, those that change what a hidden layer computes in `hidden_layers`.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import Learner, Optimiser, sgd
from dyndl_lite.models.mlp import weight_bound

_TINY = 1e-12  # a net in which no weight is useful has still something to divide by


def decayed(optimiser: Optimiser = sgd) -> Optimiser:
    """Add L2 regularisation to an optimiser: every gradient g becomes g + weight_decay w."""

    def update(params, gradients, memory, hyper, *more):
        gradients = tree_map(lambda w, g: g + hyper["weight_decay"] * w, params, gradients)
        return optimiser.update(params, gradients, memory, hyper, *more)

    return optimiser._replace(update=update, name=f"decayed {optimiser.name}",
                              settings={**optimiser.settings, "weight_decay": 1e-4})


#: Gradient descent on the loss plus weight_decay / 2 times the sum of the squared weights.
l2 = decayed(sgd)


def decayed_to_start(optimiser: Optimiser = sgd) -> Optimiser:
    """Add L2 Init to an optimiser: every gradient g becomes g + weight_decay (w - w_0).

    w_0 is the weight as it was in the beginning (Kumar, Marklund and Van Roy 2023, Equation 1).
    """

    def start(params):
        return {**optimiser.start(params), "initial": tree_map(torch.clone, params)}

    def update(params, gradients, memory, hyper, *more):
        gradients = tree_map(lambda w, g, w_0: g + hyper["weight_decay"] * (w - w_0), params,
                             gradients, memory["initial"])
        own = {name: pairs for name, pairs in memory.items() if name != "initial"}
        params, own = optimiser.update(params, gradients, own, hyper, *more)
        return params, {**own, "initial": memory["initial"]}

    return Optimiser(start, update, {**optimiser.settings, "weight_decay": 1e-4},
                     f"decayed_to_start {optimiser.name}")


#: Gradient descent with L2 regularisation towards the initial weights.
l2_init = decayed_to_start(sgd)


def clipped(optimiser: Optimiser = sgd, activation: str = "relu") -> Optimiser:
    """Keep every weight and bias within ``clip`` times the bound it was first drawn from.

    Elsayed, Lan, Lyle and Mahmood (2024), Algorithm 1. The bound is that of `initialise`, and a
    bias has its layer's.
    """

    def update(params, gradients, memory, hyper, *more):
        params, memory = optimiser.update(params, gradients, memory, hyper, *more)
        kept = []
        for layer, (W, b) in enumerate(params):
            last = layer == len(params) - 1
            most = hyper["clip"] * weight_bound(W[0].numel(), "linear" if last else activation)
            kept.append((torch.clamp(W, -most, most), torch.clamp(b, -most, most)))
        return kept, memory

    return optimiser._replace(update=update, name=f"clipped {activation} {optimiser.name}",
                              settings={**optimiser.settings, "clip": 2.0})


def noise(seed: Tensor, t: Tensor, params: list) -> list:
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


def perturbed(learner: Learner) -> Learner:
    """Add noise of standard deviation ``noise`` to every weight of a learner after each step.

    Around backprop with `l2` this is shrink and perturb.
    """

    def start(seed: Tensor) -> dict:
        return {**learner.start(seed), "noise": (seed.clone(), torch.zeros_like(seed))}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        seed, t = net["noise"]
        net, score = learner.step(net, hyper, x, y)
        params = tree_map(lambda w, e: w + hyper["noise"] * e, net["params"],
                          noise(seed, t, net["params"]))
        return {**net, "params": params, "noise": (seed, t + 1)}, score

    return learner._replace(start=start, step=step, settings={**learner.settings, "noise": 1e-4},
                            description=f"perturbed {learner.description}")


def _protected(params, gradients, memory, hyper, *_):
    decay = hyper["utility_decay"]
    past = decay * memory["weight_of_past"] + (1 - decay)
    utility = tree_map(lambda u, w, g: decay * u - (1 - decay) * g * w, memory["utility"], params,
                       gradients)
    most = torch.stack([u.max() for u in tree_leaves(utility)]).max()
    most = torch.clamp(most / past, min=_TINY)
    seed, t = memory["noise"]

    def move(w, g, u, e):
        useless = 1 - torch.sigmoid(u / past / most)
        shrunk = (1 - hyper["step_size"] * hyper["weight_decay"]) * w
        return shrunk - 2 * hyper["step_size"] * (g + hyper["noise"] * e) * useless

    params = tree_map(move, params, gradients, utility, noise(seed, t, params))
    return params, {"utility": utility, "weight_of_past": past, "noise": (seed, t + 1)}


#: Steps of utility-based perturbed gradient descent; see `upgd`, which keeps what draws its noise.
protected = Optimiser(
    lambda params: {"utility": tree_map(torch.zeros_like, params)}, _protected,
    {"step_size": 0.01, "utility_decay": 0.999, "weight_decay": 0.0, "noise": 1e-3}, "protected")


def upgd(learner: Learner) -> Learner:
    """Make a learner by utility-based perturbed gradient descent (UPGD).

    A weight's utility U is a running average of -g w, what the loss would gain without the weight, to
    first order. With the largest utility of the whole net, M, and noise e of variance 1,

        w <- (1 - step_size weight_decay) w
             - 2 step_size (g + noise e) (1 - sigmoid(U / M)),

    so that a weight of no use takes the whole step of gradient descent and all of the noise
    (Elsayed and Mahmood 2024, Algorithm 1; the factor 2 is the released optimiser's). U is
    corrected for the bias of a young average, in M too, which the released optimiser leaves out.

    Parameters
    ----------
    learner : Learner
        Backprop, or one like it, with the optimiser `protected`.
    """

    def start(seed: Tensor) -> dict:
        net = learner.start(seed)
        past, draw = torch.zeros((), device=seed.device), (seed.clone(), torch.zeros_like(seed))
        return {**net, "memory": {**net["memory"], "weight_of_past": past, "noise": draw}}

    return learner._replace(start=start, description=f"upgd {learner.description}")
