"""Remedies that change what a hidden layer computes: normalisation, dropout, concatenated ReLU.

All in their online form, one example at a time. In a convolution layer norm is over all channels
and places of one image, dropout silences a channel at all places, and a concatenated ReLU passes on
two maps. A unit's summed input z = W h is normalised to y, the bias is added after that, and the
activity is h = f(y + b). No gain is learned: with ReLU the outgoing weights can do all of that.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.backprop import named
from dyndl_lite.algorithms.optimisers import momentum
from dyndl_lite.learning import (Intervention, LayerState, Learner, learner,
                                 minibatch_cross_entropy, Model, Optimiser, sgd, squared_error)
from dyndl_lite.models import cnn, mlp
from dyndl_lite.models.mlp import ACTIVATIONS, Params

_EPSILON = 1e-5  # added to every variance


class HiddenLayer(NamedTuple):
    """What a kind of hidden layer does differently from a plain one."""

    settings: dict[str, float] = {}
    remembers: dict[str, float] = {}  # of every unit, with the values at the start
    normalise: Callable = lambda z, own: z  # z, own -> y
    control: Callable = lambda z, y, own, hyper: 0.0  # a term whose gradient steers z
    learn: Callable = lambda own, z, y, slope, hyper: own  # slope: of the loss by y
    fire: Callable = lambda f, z: f(z)
    multiplicity: int = 1  # numbers that each unit passes on
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
    "layer_norm": HiddenLayer(normalise=_layer_normalise),
    "online_norm": HiddenLayer({"forward_decay": 0.999, "backward_decay": 0.99},
                               {"mean": 0.0, "variance": 1.0, "error_along": 0.0, "error_mean": 0.0},
                               _online_normalise, _online_control, _online_learn),
    "dropout": HiddenLayer({"dropout": 0.1}, keep=_keep),
    "crelu": HiddenLayer(fire=lambda f, z: torch.cat([f(z), f(-z)]), multiplicity=2),
}
#: Kinds that know nothing of the last example, so that the images of a minibatch can come at once.
IMAGE_KINDS = {"plain": HiddenLayer(),
               **{name: KINDS[name] for name in ("layer_norm", "dropout", "crelu")}}


def forward(params: Params, x: Tensor, activation: str, kind: HiddenLayer, layers: list[dict],
            kept: list | None = None) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Run one network on one example, as `mlp.forward` or, of one image, `cnn.forward`.

    Layers are what each hidden layer remembers; `kept` are factors [units] of each hidden layer's
    activities (dropout, while learning). Gives the output [outputs], and of every hidden layer (z,
    y, h): summed inputs, the same normalised, activities.
    """
    h, seen = x, []
    for layer, (W, b) in enumerate(params[:-1]):
        convolution = W.ndim == 4
        z = F.conv2d(h, W) if convolution else W @ h.flatten()
        y = kind.normalise(z, layers[layer])
        h = kind.fire(ACTIVATIONS[activation], y + (b[:, None, None] if convolution else b))
        if convolution and h.shape[-1] > 1:
            h = F.max_pool2d(h[None], 2)[0]
        if kept:
            h = h * (kept[layer][:, None, None] if convolution else kept[layer])
        seen.append((z, y, h))
    W, b = params[-1]
    return W @ h.flatten() + b, seen


def _check(setting: dict) -> None:
    if not 0 <= setting.get("dropout", 0) < 1:
        raise ValueError(f"dropout {setting['dropout']} is a share: give one from 0 to below 1")


def with_layers(plain: Model, name: str, after: tuple[Intervention, ...], init: Callable,
                activation: str = "relu", minibatch: bool = False) -> Model:
    """Give a model, `mlp` or `cnn`, another kind of hidden layers.

    ``init(seed, multiplicity)`` draws its weights. Where an example is a minibatch, layers can
    remember nothing.
    """
    kinds = IMAGE_KINDS if minibatch else KINDS
    if name not in kinds:
        raise ValueError(f"kind {name!r} is unknown: use one of {list(kinds)}")
    kind = kinds[name]
    if not plain.hidden:
        raise ValueError(f"{plain.description}: {name} needs a hidden layer")
    if kind.multiplicity > 1 and any(each.of_units for each in after):
        raise ValueError(f"{name}: units that pass on two numbers cannot be replaced one by one")

    def new_state(seed: Tensor) -> dict:
        return {"layers": [{name: torch.full((n,), first, device=seed.device)
                            for name, first in kind.remembers.items()} for n in plain.hidden],
                "seed": seed.clone(), "t": torch.zeros_like(seed)}

    def alone(params, state, hyper, x, t=None):
        t = state["t"] if t is None else t
        kept = [kind.keep(state["seed"], t, i, n, hyper)
                for i, n in enumerate(plain.hidden)] if kind.keep else None
        output, seen = forward(params, x, activation, kind, state["layers"], kept)
        penalty = sum(kind.control(z, y, own, hyper)
                      for (z, y, _), own in zip(seen, state["layers"]))
        return output, [h if h.ndim == 1 else h.flatten(1) for *_, h in seen], penalty, seen

    def together(params, state, hyper, x):
        t = state["t"] * len(x) + torch.arange(len(x), device=x.device)  # each its own dropout
        each = vmap(lambda *given: alone(*given)[:2], in_dims=(None, None, None, 0, 0))
        return *each(params, state, hyper, x, t), 0.0, ()

    def update(state, seen, gradients, hyper):
        layers = state["layers"] if not kind.remembers else [
            kind.learn(own, z, y, slope, hyper)  # b is added to y: the same slope
            for own, (z, y, _), (_, slope) in zip(state["layers"], seen, gradients)]
        return {**state, "layers": layers, "t": state["t"] + 1}

    def predict(params, state, x):  # with all units
        def output(x):
            return forward(params, x, activation, kind, state["layers"])[0]
        return vmap(output)(x) if minibatch else output(x)

    def apply(params, x):
        raise TypeError("layers that remember have no output without their state")

    layers = LayerState(new_state, together if minibatch else alone, update,
                        predict if kind.keep else None, kind.settings, _check)
    return plain._replace(init=lambda seed: init(seed, kind.multiplicity), apply=apply, layers=layers,
                          curvatures=None)


def backprop_with(kind: str, sizes: tuple[int, ...], activation: str = "relu",
                  loss: Callable = squared_error, optimiser: Optimiser = sgd,
                  after: tuple[Intervention, ...] = ()) -> Learner:
    """Make a backprop learner with another kind of hidden layers.

    ``"layer_norm"``: Ba et al. (2016). ``"online_norm"``: Chiley et al. (2019, arXiv 1905.05894),
    the normalisation with its control of the gradient, without the layer scaling that may follow
    it. ``"dropout"``: Srivastava et al. (2014), a share `dropout` of the units silent while
    learning; predictions are scored with all units. ``"crelu"``: each unit passes on f(z) and f(-z)
    (Shang et al. 2016; Abbas et al. 2023), so one side of it is always alive.

    Parameters
    ----------
    kind : str
        A name in `KINDS`.
    sizes, activation, loss, optimiser, after
        As for `backprop`; step sizes per unit (`step_sizes.per_unit`) need plain layers.

    Raises
    ------
    ValueError
        If the kind is unknown, there is no hidden layer, or units that pass on two numbers should
        be replaced.
    """
    model = with_layers(mlp.mlp(sizes, activation), kind, after,
                        lambda seed, n: mlp.initialise(seed, sizes, activation, n), activation)
    return named(f"backprop_with {kind}", learner(model, loss, optimiser, *after))


def conv_backprop_with(kind: str, layout: cnn.Layout, optimiser: Optimiser = momentum,
                       after: tuple[Intervention, ...] = ()) -> Learner:
    """Make a backprop learner of minibatches of images with another kind of hidden layers.

    Parameters are those of `backprop_with` and `conv_backprop`; the kinds are `IMAGE_KINDS`.
    """
    model = with_layers(cnn.cnn(layout), kind, after,
                        lambda seed, n: cnn.initialise(seed, layout, n), minibatch=True)
    return named(f"conv_backprop_with {kind}",
                 learner(model, minibatch_cross_entropy, optimiser, *after))
