"""Remedies that change what a layer of a convolutional network computes, and a look inside it.

The kinds are those of `hidden_layers`. In a convolution layer norm is over all channels and places
of one image, dropout silences a channel at all places, and a concatenated ReLU passes on two maps.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from dyndl_lite.algorithms.layers import check, Kind, KINDS
from dyndl_lite.experiment import diagnostics
from dyndl_lite.learning import cross_entropy, Learner, momentum, Optimiser
from dyndl_lite.models.cnn import initialise, Layout
from dyndl_lite.models.mlp import Params

#: Of `hidden_layers.KINDS`, and none: online normalisation is made for one example at a time.
IMAGE_KINDS = {"plain": Kind(), **{name: KINDS[name] for name in ("layer_norm", "dropout", "crelu")}}


def forward(params: Params, x: Tensor, kind: Kind, kept: list | None = None
            ) -> tuple[Tensor, list[Tensor]]:
    """Run one network on one image.

    Parameters
    ----------
    params : list of (weights, biases)
    x : tensor [3, side, side]
    kind : Kind
    kept : list of tensors [units], optional
        Factors of each hidden layer's activities (dropout, while learning).

    Returns
    -------
    output : tensor [outputs]
    features : list of tensors [voices x units] or [voices x units, places]
    """
    h, features = x, []
    for layer, (W, b) in enumerate(params[:-1]):
        convolution = W.ndim == 4
        z = F.conv2d(h, W) if convolution else W @ h.flatten()
        y = kind.normalise(z, {})
        h = kind.fire(torch.relu, y + (b[:, None, None] if convolution else b))
        if convolution and h.shape[-1] > 1:
            h = F.max_pool2d(h[None], 2)[0]
        if kept:
            h = h * (kept[layer][:, None, None] if convolution else kept[layer])
        features.append(h.flatten(1) if convolution else h)
    W, b = params[-1]
    return W @ h.flatten() + b, features


def conv_backprop_with(kind: str, layout: Layout, optimiser: Optimiser = momentum) -> Learner:
    """Make a backprop learner of minibatches of images with another kind of hidden layers.

    Parameters
    ----------
    kind : str
        "layer_norm", "dropout" or "crelu", as in `backprop_with`.
    layout, optimiser
        As for `conv_backprop`.

    Raises
    ------
    ValueError
        If the kind is unknown or there is no hidden layer.
    """
    if kind not in IMAGE_KINDS:
        raise ValueError(f"kind {kind!r} is unknown for images: use one of {list(IMAGE_KINDS)}")
    hidden, what = [*layout.channels, *layout.hidden], IMAGE_KINDS[kind]
    if not hidden:
        raise ValueError(f"{layout}: {kind} needs a hidden layer")

    def start(seed: Tensor) -> dict:
        params = initialise(seed, layout, what.voices)
        return {"params": params, "memory": optimiser.start(params), "seed": seed.clone(),
                "t": torch.zeros_like(seed)}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        seed, t = net["seed"], net["t"]
        images = t * len(x) + torch.arange(len(x), device=seed.device)  # each its own dropout

        def one(params, x, y, image):
            kept = [what.keep(seed, image, i, n, hyper) for i, n in enumerate(hidden)] \
                if what.keep else None
            loss, score = cross_entropy(forward(params, x, what, kept)[0], y)
            if what.keep:  # predictions are scored with all units
                score = cross_entropy(forward(params, x, what)[0], y)[1]
            return loss, score

        def objective(params):
            losses, scores = vmap(one, (None, 0, 0, 0))(params, x, y, images)
            return losses.mean(), scores.mean()

        gradients, score = grad(objective, has_aux=True)(net["params"])
        params, memory = optimiser.update(net["params"], gradients, net["memory"], hyper)
        return {"params": params, "memory": memory, "seed": seed, "t": t + 1}, score

    return Learner(start, step, {**optimiser.settings, **what.settings},
                   f"conv_backprop_with {kind} {tuple(layout)} {optimiser.name}", layout.outputs,
                   check)


def held_back_probe(kind: str = "plain") -> Callable:
    """Give a function of (net, X, Y) for `ensemble.run`: what a net makes of images held back.

    Parameters
    ----------
    kind : str
        Of the net's hidden layers; "plain" is for all that is not of this module.

    Returns
    -------
    function of net, X [images, 3, side, side], Y [images]
        Gives ``test_accuracy`` and what `diagnostics.measure` sees in the units, where what a
        channel does at an image is its mean over the places.
    """

    def probe(net: dict, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
        output, features = vmap(lambda x: forward(net["params"], x, IMAGE_KINDS[kind]))(X)
        units = [h.mean(2) if h.ndim > 2 else h for h in features]
        return {"test_accuracy": (output.argmax(-1) == Y).float().mean(),
                **diagnostics.measure(net["params"], units)}

    return probe
