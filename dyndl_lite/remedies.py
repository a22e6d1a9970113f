"""Common remedies for a net that stops learning: weight decay, shrink and perturb.

Both keep the weights small; the second also stirs them, so that no unit stays dead for long
(Ash and Adams 2020, in the step-by-step form of Dohare et al. 2024, Methods).
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dyndl_lite import draws
from dyndl_lite.backprop import Learner, Optimiser, sgd


def decayed(optimiser: Optimiser = sgd) -> Optimiser:
    """Add L2 regularisation to an optimiser: every gradient g becomes g + weight_decay w."""

    def update(params, gradients, memory, hyper, *more):
        gradients = tree_map(lambda w, g: g + hyper["weight_decay"] * w, params, gradients)
        return optimiser.update(params, gradients, memory, hyper, *more)

    return optimiser._replace(update=update, name=f"decayed {optimiser.name}",
                              settings={**optimiser.settings, "weight_decay": 1e-4})


#: Gradient descent on the loss plus weight_decay / 2 times the sum of the squared weights.
l2 = decayed(sgd)


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
        bits = draws.bits(seed, draws.NOISE, t, where)
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
