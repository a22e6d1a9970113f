"""A multilayer network as plain data: a list of (weights, biases), and how to run it."""

import math

import torch
from torch import Tensor
from torch.func import grad

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import Model

Params = list[tuple[Tensor, Tensor]]

ACTIVATIONS = {
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.where(z > 0, z, 0.01 * z),
    "elu": lambda z: torch.where(z > 0, z, torch.expm1(torch.clamp(z, max=0.0))),
    "swish": lambda z: z * torch.sigmoid(z),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

# Kaiming's gain per activation; Dohare et al. (2024), Methods, use ReLU's for ELU and swish.
_GAINS = {**dict.fromkeys(("relu", "elu", "swish"), math.sqrt(2)),
          "leaky_relu": math.sqrt(2 / (1 + 0.01**2)), "tanh": 5 / 3, "sigmoid": 1.0,
          "linear": 1.0, "zero": 0.0}  # of an output layer, and of one that starts at zero


def weight_bound(fan_in: int, activation: str) -> float:
    """Half-width of the uniform initial weights, gain x sqrt(3 / fan_in): He et al. (2015)."""
    return _GAINS[activation] * math.sqrt(3 / fan_in)


def drawn(seed: Tensor, layer: int, shape: tuple[int, ...], activation: str) -> tuple:
    """Draw a layer's weights [units, ...], uniform within `weight_bound`; its biases are zero."""
    where = torch.arange(math.prod(shape), device=seed.device)
    bound = weight_bound(math.prod(shape[1:]), activation)
    W = bound * (2 * random.uniform(seed, random.WEIGHTS, layer, where) - 1)
    return W.reshape(shape), torch.zeros(shape[0], device=seed.device)


def mlp(sizes: tuple[int, ...], activation: str = "relu") -> Model:
    """Describe a multilayer network: inputs, units of each hidden layer, outputs."""
    return Model(lambda seed: initialise(seed, sizes, activation),
                 lambda params, x: forward(params, x, activation), sizes[-1], f"{sizes} {activation}",
                 sizes[1:-1], curvatures=lambda *given: curvatures(*given, activation))


def initialise(seed: Tensor, sizes: tuple[int, ...], activation: str = "relu",
               multiplicity: int = 1) -> Params:
    """Draw the weights of one new network; its biases start at zero.

    Parameters
    ----------
    seed : int64 scalar tensor
        The same seed and sizes give the same network for every learner.
    sizes : tuple of int
        Inputs, units of each hidden layer, outputs; ``(20, 1)`` is a linear network.
    activation : str
        A name in `ACTIVATIONS`; it sets the scale of the hidden layers' weights.
    multiplicity : int
        Numbers that each hidden unit passes on: 1, or 2 where a ReLU is concatenated.

    Returns
    -------
    list of (weights [units, inputs], biases [units]), one pair a layer
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown: use one of {list(ACTIVATIONS)}")
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes {sizes}: give inputs, hidden units a layer, outputs, all >= 1")
    kinds = [activation] * (len(sizes) - 2) + ["linear"]
    heard = [sizes[0], *(multiplicity * n for n in sizes[1:-1])]
    return [drawn(seed, layer, shape, kinds[layer])
            for layer, shape in enumerate(zip(sizes[1:], heard))]


def forward(params: Params, x: Tensor, activation: str = "relu") -> tuple[Tensor, list[Tensor]]:
    """Run one network on one example.

    Parameters
    ----------
    params : list of (weights, biases)
    x : tensor [inputs]
    activation : str
        A name in `ACTIVATIONS`.

    Returns
    -------
    output : tensor [outputs]
    features : list of tensors [units], the activity h of every hidden layer
    """
    f = ACTIVATIONS[activation]
    h, features = x, []
    for W, b in params[:-1]:
        h = f(W @ h + b)
        features.append(h)
    W, b = params[-1]
    return W @ h + b, features


def curvatures(params: Params, inputs: list[Tensor], of_output: Tensor,
               activation: str = "relu") -> list[Tensor]:
    """Carry the curvature of the loss back to every unit.

    Approximate second derivatives of the loss with respect to each unit's summed input z, as
    LeCun, Denker and Solla (1990, Equations 6 to 9) carry them back, without the term in f'':
    c_j = f'(z_j)^2 sum_k w_kj^2 c_k, never negative.

    Parameters
    ----------
    params : list of (weights, biases)
    inputs : list of tensors [inputs]
        Of each layer: x, then the activities of the hidden layers.
    of_output : tensor [outputs]
        Second derivatives with respect to the outputs.
    activation : str

    Returns
    -------
    list of tensors [units], one a layer
    """
    f = ACTIVATIONS[activation]
    c = [of_output]
    for (W, b), a, (W_next, _) in zip(params[-2::-1], inputs[-2::-1], params[:0:-1]):
        slope = grad(lambda z: f(z).sum())(W @ a + b)
        c.append(slope**2 * ((W_next**2).T @ c[-1]))
    return c[::-1]
