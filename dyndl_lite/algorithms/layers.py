"""Remedies that change what a hidden layer computes: normalisation, dropout, concatenated ReLU.

All in their online form, one example at a time. A unit's summed input z = W h is normalised to
y, the bias is added after that, and the activity is h = f(y + b). No gain is learned: with
ReLU the outgoing weights can do all that a gain could.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import diagnostics
from dyndl_lite.learning import Learner, Optimiser, sgd, squared_error
from dyndl_lite.models.mlp import ACTIVATIONS, initialise, Params

_EPSILON = 1e-5  # added to every variance


class Kind(NamedTuple):
    """What a kind of hidden layer does differently from a plain one."""

    settings: dict[str, float] = {}
    remembers: dict[str, float] = {}  # of every unit, with the values at the start
    normalise: Callable = lambda z, own: z  # z, own -> y
    control: Callable = lambda z, y, own, hyper: 0.0  # a term whose gradient steers z
    learn: Callable = lambda own, z, y, slope, hyper: own  # slope: of the loss by y
    fire: Callable = lambda f, z: f(z)
    voices: int = 1  # numbers that each unit passes on
    keep: Callable | None = None  # seed, t, layer, units, hyper -> factors of the activities


def _layer_normalise(z, own):
    """Give one example's layer mean 0 and variance 1 (Ba, Kiros and Hinton 2016)."""
    centred = z - z.mean()
    return centred / torch.sqrt((centred**2).mean() + _EPSILON)


def _online_normalise(z, own):
    """Subtract a unit's running mean, divide by its running deviation: Equation 8a."""
    return (z - own["mean"]) / torch.sqrt(own["variance"] + _EPSILON)


def _leaks(own, hyper):
    """How strongly the two accumulated errors pull the gradient back."""
    pull = 1 - hyper["backward_decay"]
    return pull * own["error_along"], pull * own["error_mean"]


def _online_control(z, y, own, hyper):
    """A term of the loss that changes the gradient y' / s by z to (y' - a y) / s - m.

    s is the running deviation, a and m the errors accumulated so far: what a true normalisation
    over many examples would take out of the gradient, along y and in the mean (Equations 10 to 12).
    """
    a, m = _leaks(own, hyper)
    s = torch.sqrt(own["variance"] + _EPSILON)
    return -((a * y / s + m).detach() * z).sum()


def _online_learn(own, z, y, slope, hyper):
    """Update the running mean and variance (Equations 8b, 8c) and the accumulated errors."""
    a, m = _leaks(own, hyper)
    along = slope - a * y
    by_z = along / torch.sqrt(own["variance"] + _EPSILON) - m
    decay, off = hyper["forward_decay"], z - own["mean"]
    return {"mean": own["mean"] + (1 - decay) * off,
            "variance": decay * own["variance"] + decay * (1 - decay) * off**2,
            "error_along": own["error_along"] + along * y,
            "error_mean": own["error_mean"] + by_z}


def _keep(seed, t, layer, units, hyper):
    """Silence a share of the units, and raise the voice of the others."""
    where = torch.arange(units, device=seed.device) + 2**20 * layer
    kept = random.uniform(seed, random.DROPPED, t, where) >= hyper["dropout"]
    return kept.float() / (1 - hyper["dropout"])


KINDS = {
    "layer_norm": Kind(normalise=_layer_normalise),
    "online_norm": Kind({"forward_decay": 0.999, "backward_decay": 0.99},
                        {"mean": 0.0, "variance": 1.0, "error_along": 0.0, "error_mean": 0.0},
                        _online_normalise, _online_control, _online_learn),
    "dropout": Kind({"dropout": 0.1}, keep=_keep),
    "crelu": Kind(fire=lambda f, z: torch.cat([f(z), f(-z)]), voices=2),
}


def forward(params: Params, x: Tensor, activation: str, kind: Kind, layers: list[dict],
            kept: list | None = None) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Run one network on one example.

    Parameters
    ----------
    params : list of (weights, biases)
    x : tensor [inputs]
    activation : str
    kind : Kind
    layers : list of dicts
        What each hidden layer remembers.
    kept : list of tensors [units], optional
        Factors of each hidden layer's activities (dropout, while learning).

    Returns
    -------
    output : tensor [outputs]
    seen : list of (z, y, h), one a hidden layer
        Summed inputs, the same normalised, activities.
    """
    h, seen = x, []
    for layer, ((W, b), own) in enumerate(zip(params[:-1], layers)):
        z = W @ h
        y = kind.normalise(z, own)
        h = kind.fire(ACTIVATIONS[activation], y + b)
        h = h * kept[layer] if kept else h
        seen.append((z, y, h))
    W, b = params[-1]
    return W @ h + b, seen


def check(setting: dict) -> None:
    """Raise ValueError for a setting that cannot run."""
    if not 0 <= setting.get("dropout", 0) < 1:
        raise ValueError(f"dropout {setting['dropout']} is a share: give one from 0 to below 1")


def backprop_with(kind: str, sizes: tuple[int, ...], activation: str = "relu",
                  loss: Callable = squared_error, optimiser: Optimiser = sgd) -> Learner:
    """Make a backprop learner with another kind of hidden layers.

    ``"layer_norm"``: Ba et al. (2016). ``"online_norm"``: Chiley et al. (2019, arXiv
    1905.05894), the normalisation with its control of the gradient, without the layer scaling
    that may follow it. ``"dropout"``: Srivastava et al. (2014), a share `dropout` of the units
    silent while learning; predictions are scored with all units. ``"crelu"``: each unit passes on
    f(z) and f(-z) (Shang et al. 2016; Abbas et al. 2023), so one side of it is always alive.

    Parameters
    ----------
    kind : str
        A name in `KINDS`.
    sizes, activation, loss
        As for `backprop`.
    optimiser : Optimiser
        One that asks for nothing but gradients: `sgd`, `momentum`, `adam`, or decayed.

    Raises
    ------
    ValueError
        If the kind is unknown or there is no hidden layer.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown: use one of {list(KINDS)}")
    if len(sizes) < 3:
        raise ValueError(f"sizes {sizes}: {kind} needs a hidden layer")
    hidden, what = sizes[1:-1], KINDS[kind]

    def start(seed: Tensor) -> dict:
        params = initialise(seed, sizes, activation, what.voices)
        return {
            "params": params,
            "memory": optimiser.start(params),
            "layers": [{name: torch.full((n,), first, device=seed.device)
                        for name, first in what.remembers.items()} for n in hidden],
            "seed": seed.clone(),
            "t": torch.zeros_like(seed),
        }

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, layers, seed, t = net["params"], net["layers"], net["seed"], net["t"]
        kept = [what.keep(seed, t, i, n, hyper) for i, n in enumerate(hidden)] if what.keep else None
        score = loss(forward(params, x, activation, what, layers)[0], y)[1]

        def objective(params):
            output, seen = forward(params, x, activation, what, layers, kept)
            steering = sum(what.control(z, y, own, hyper)
                           for (z, y, _), own in zip(seen, layers))
            return loss(output, y)[0] + steering, seen

        gradients, seen = grad(objective, has_aux=True)(params)
        params, memory = optimiser.update(params, gradients, net["memory"], hyper)
        layers = [what.learn(own, z, y, slope, hyper)  # b is added to y: the same slope
                  for own, (z, y, _), (_, slope) in zip(layers, seen, gradients)]
        return {"params": params, "memory": memory, "layers": layers, "seed": seed,
                "t": t + 1}, score

    description = f"backprop_with {kind} {sizes} {activation} {loss.__name__} {optimiser.name}"
    return Learner(start, step, {**optimiser.settings, **what.settings}, description, sizes[-1],
                   check)


def probe(kind: str, activation: str = "relu") -> Callable:
    """Give the function of (net, X) that `ensemble.run` calls, as `diagnostics.probe` does."""

    def activities(net, x):
        _, seen = forward(net["params"], x, activation, KINDS[kind], net["layers"])
        return tuple(h for _, _, h in seen)

    return lambda net, X: diagnostics.measure(net["params"],
                                           vmap(activities, in_dims=(None, 0))(net, X))
