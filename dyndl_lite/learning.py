"""Backpropagation, one example at a time, with SGD, momentum or Adam.

A learner is a pair of pure functions for **one** network: ``start(seed)`` makes it and
``step(net, hyper, x, y)`` lets it see one example. `ensemble` makes them fast.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad
from torch.utils._pytree import tree_map

from dyndl_lite.models import mlp
from dyndl_lite.models.mlp import forward, initialise, Params


class Learner(NamedTuple):
    """One network's whole life, as two pure functions."""

    start: Callable  # seed -> net: a dict of tensors, all that the learner remembers
    step: Callable  # net, hyper, x, y -> net, score: one example, first predicted, then learned
    settings: dict[str, float]  # what `hyper` holds, with default values
    description: str  # says all that the two functions were built from
    outputs: int  # length of what it predicts
    check: Callable = lambda setting: None  # raises ValueError for a setting that cannot run


class Optimiser(NamedTuple):
    """What turns gradients into weight changes, and what it remembers of them."""

    start: Callable  # params -> memory: a dict of lists shaped like params
    # params, gradients, memory, hyper, inputs, curvatures -> params, memory. `inputs` are those
    # of each layer, [x, hidden activities ...]; `curvatures()` gives `mlp.curvatures`.
    update: Callable
    settings: dict[str, float]
    name: str


def squared_error(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and score of a regression: both are the mean squared error of the prediction."""
    if output.shape != y.shape:  # torch would broadcast in silence
        raise ValueError(f"squared_error of {tuple(output.shape)} outputs and a target of shape "
                         f"{tuple(y.shape)}")
    loss = ((output - y) ** 2).mean()
    return loss, loss


def cross_entropy(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and score of a classification: -log softmax(output)[y], and 1.0 if y is on top."""
    if y.is_floating_point() or y.ndim:
        raise ValueError("cross_entropy needs one whole number, the label, as target")
    chosen = torch.arange(output.shape[0], device=output.device) == y
    loss = torch.logsumexp(output, 0) - torch.where(chosen, output, 0.0).sum()
    return loss, (output.detach().argmax(0) == y).to(output.dtype)


def _of_cross_entropy(output):
    p = torch.softmax(output, 0)
    return p * (1 - p)


#: Second derivative of a loss with respect to each output.
CURVATURE = {
    squared_error: lambda output: torch.full_like(output, 2 / output.shape[0]),
    cross_entropy: _of_cross_entropy,
}


def _sgd(params, gradients, memory, hyper, *_):
    step_size = hyper["step_size"]
    return tree_map(lambda w, g: w - step_size * g, params, gradients), memory


def _momentum(params, gradients, memory, hyper, *_):
    trace = tree_map(lambda v, g: hyper["momentum"] * v + g, memory["trace"], gradients)
    params = tree_map(lambda w, v: w - hyper["step_size"] * v, params, trace)
    return params, {"trace": trace}


def _adam(params, gradients, memory, hyper, *_):
    b1, b2 = hyper["beta_1"], hyper["beta_2"]
    m = tree_map(lambda m, g: b1 * m + (1 - b1) * g, memory["m"], gradients)
    v = tree_map(lambda v, g: b2 * v + (1 - b2) * g * g, memory["v"], gradients)
    # The same averages of the constant 1 are Adam's bias corrections 1 - beta^t, kept for
    # each weight: a weight that was reset counts its own steps.
    m1 = tree_map(lambda c: b1 * c + (1 - b1), memory["m1"])
    v1 = tree_map(lambda c: b2 * c + (1 - b2), memory["v1"])

    def move(w, m, m1, v, v1):
        return w - hyper["step_size"] * (m / m1) / (torch.sqrt(v / v1) + 1e-8)

    return tree_map(move, params, m, m1, v, v1), {"m": m, "m1": m1, "v": v, "v1": v1}


def _remember(*names: str) -> Callable:
    """Memory of zeros: one list shaped like params for each name."""
    return lambda params: {name: tree_map(torch.zeros_like, params) for name in names}


#: Stochastic gradient descent: w <- w - step_size g.
sgd = Optimiser(_remember(), _sgd, {"step_size": 0.01}, "sgd")
#: Heavy-ball momentum: v <- momentum v + g; w <- w - step_size v.
momentum = Optimiser(_remember("trace"), _momentum, {"step_size": 0.001, "momentum": 0.9},
                     "momentum")
#: Adam (Kingma and Ba 2015, Algorithm 1), epsilon 1e-8.
adam = Optimiser(_remember("m", "m1", "v", "v1"), _adam,
                 {"step_size": 0.001, "beta_1": 0.9, "beta_2": 0.999}, "adam")


def gradient_step(net: dict, hyper: dict, x: Tensor, y: Tensor, activation: str, loss: Callable,
                  optimiser: Optimiser) -> tuple[Params, dict, list[Tensor], Tensor]:
    """Predict one example, then move every weight down the gradient of its loss.

    Returns
    -------
    params, memory : the network and the optimiser's memory after the step
    features : list of tensors [units], the hidden activities before the step
    score : scalar tensor, of the prediction before the step
    """

    def objective(params):
        output, features = forward(params, x, activation)
        value, score = loss(output, y)
        return value, (output, features, score)

    gradients, (output, features, score) = grad(objective, has_aux=True)(net["params"])
    inputs = [x, *features]

    def curvatures():  # a function, so that it costs nothing where nobody asks
        return mlp.curvatures(net["params"], inputs, CURVATURE[loss](output), activation)

    params, memory = optimiser.update(net["params"], gradients, net["memory"], hyper, inputs,
                                      curvatures)
    return params, memory, features, score


def backprop(sizes: tuple[int, ...], activation: str = "relu", loss: Callable = squared_error,
             optimiser: Optimiser = sgd) -> Learner:
    """Make a backprop learner; with no hidden layer it is the linear learner.

    Parameters
    ----------
    sizes : tuple of int
        Inputs, units of each hidden layer, outputs.
    activation : str
        relu, leaky_relu, elu, swish, tanh or sigmoid.
    loss : function
        `squared_error` or `cross_entropy`.
    optimiser : Optimiser
        `sgd`, `momentum`, `adam`, or one with learned step sizes (`step_sizes`).

    Returns
    -------
    Learner
    """

    def start(seed: Tensor) -> dict:
        params = initialise(seed, sizes, activation)
        return {"params": params, "memory": optimiser.start(params)}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, _, score = gradient_step(net, hyper, x, y, activation, loss, optimiser)
        return {"params": params, "memory": memory}, score

    description = f"backprop {sizes} {activation} {loss.__name__} {optimiser.name}"
    return Learner(start, step, dict(optimiser.settings), description, sizes[-1])
