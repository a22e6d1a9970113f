"""A residual network as plain data, and how to run it on a minibatch of images.

A convolution, blocks of two convolutions with a shortcut around them, the mean over all places,
a linear output; batch norm follows every convolution (He et al. 2016; ResNet-18 as Dohare et al.
2024 have it for small images: no max pool, a stem that keeps the side). `incremental` learns with it.
"""

from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from dyndl_lite.learning import Chains, LayerState, Model
from dyndl_lite.models.mlp import drawn

_RATE, _TINY = 0.1, 1e-5  # of batch norm: of its running statistics, and added to the variance


class Layout(NamedTuple):
    """What a residual network is made of; the defaults are the published one, ResNet-18."""

    outputs: int = 100
    channels: tuple[int, ...] = (64, 128, 256, 512)  # of each stage; all but the first halve the side
    blocks: int = 2  # a stage

    def shapes(self) -> dict:
        """Give the shape of every layer's weights, nested as the network is."""
        heard, blocks = self.channels[0], []
        for n in self.channels:
            for _ in range(self.blocks):
                block = {"first": (n, heard, 3, 3), "second": (n, n, 3, 3)}
                if n != heard:
                    block["shortcut"] = (n, heard, 1, 1)
                blocks.append(block)
                heard = n
        return {"stem": (self.channels[0], 3, 3, 3), "blocks": blocks,
                "head": (self.outputs, heard)}


def initialise(seed: Tensor, layout: Layout) -> tuple[dict, dict]:
    """Make one new network.

    Returns
    -------
    params : dict
        "stem", a convolution; "blocks", a list of dicts of convolutions, "first", "second" and, where
        the shape changes, "shortcut"; "head", (weights, biases). A convolution is ((weights
        [channels, inputs, kernel, kernel], biases), (scale, shift)), the latter of its batch norm.
    norms : dict
        Nested like it, without the head: the running (mean, variance) of every channel.
    """
    layers = count(1)

    def convolution(shape):
        W, b = drawn(seed, next(layers), shape, "relu")
        return (W, b), (torch.ones_like(b), torch.zeros_like(b))

    def everywhere(make, of):
        return {"stem": make(of["stem"]), "blocks": [
            {name: make(part) for name, part in block.items()} for block in of["blocks"]]}

    shapes = layout.shapes()
    params = everywhere(convolution, shapes)
    norms = everywhere(lambda conv: tuple(tree_map(torch.clone, conv[1][::-1])), params)
    return {**params, "head": drawn(seed, next(layers), shapes["head"], "linear")}, norms


def convolve(conv: tuple, norm: tuple, x: Tensor, stride: int,
             learning: bool) -> tuple[Tensor, tuple]:
    """Convolve a minibatch and normalise each channel (Ioffe and Szegedy 2015); give the norm too.

    While learning, by its mean and variance over the minibatch and all places, and the running ones
    follow; else by the running ones. The bias of a convolution matters only then: it is there for
    what a replaced unit leaves behind.
    """
    (W, b), (scale, shift) = conv
    z = F.conv2d(x, W, b, stride=stride, padding=W.shape[-1] // 2)
    mean, variance = norm
    if learning:
        mean = z.mean((0, 2, 3))
        variance = ((z - mean[:, None, None]) ** 2).mean((0, 2, 3))
        seen = z.numel() // len(b)
        now = mean.detach(), variance.detach() * seen / (seen - 1)
        norm = tuple((1 - _RATE) * old + _RATE * new for old, new in zip(norm, now))
    gain = scale * torch.rsqrt(variance + _TINY)
    return gain[:, None, None] * z + (shift - gain * mean)[:, None, None], norm


def forward(params: dict, norms: dict, x: Tensor,
            learning: bool = False) -> tuple[Tensor, list[Tensor], dict]:
    """Run one network on a minibatch.

    Parameters
    ----------
    params, norms : dict
        As `initialise` makes them.
    x : tensor [minibatch, 3, side, side]
    learning : bool
        Whether batch norm looks at the minibatch.

    Returns
    -------
    output : tensor [minibatch, outputs]
    features : list of tensors [minibatch, channels, places]
        What passes from the first to the second convolution of each block.
    norms : dict
        The running statistics afterwards.
    """
    z, stem = convolve(params["stem"], norms["stem"], x, 1, learning)
    h, features, blocks = torch.relu(z), [], []
    for block, norm in zip(params["blocks"], norms["blocks"]):
        new, around, stride = {}, h, 1
        if "shortcut" in block:  # the shape changes
            stride = 2
            around, new["shortcut"] = convolve(block["shortcut"], norm["shortcut"], h, 2, learning)
        z, new["first"] = convolve(block["first"], norm["first"], h, stride, learning)
        within = torch.relu(z)
        z, new["second"] = convolve(block["second"], norm["second"], within, 1, learning)
        h = torch.relu(z + around)
        features.append(within.flatten(2))
        blocks.append(new)
    W, b = params["head"]
    return h.mean((2, 3)) @ W.T + b, features, {"stem": stem, "blocks": blocks}


def in_use(output: Tensor, classes: Tensor) -> Tensor:
    """Leave out the outputs of classes that have not come yet: they are never predicted."""
    return torch.where(torch.arange(output.shape[-1], device=output.device) < classes, output,
                       -torch.inf)


def resnet(layout: Layout) -> Model:
    """Describe a residual network; its layers keep ``norms`` and the number of ``classes`` in use."""
    def new_state(seed: Tensor) -> dict:
        return {"norms": initialise(seed, layout)[1], "classes": torch.full_like(seed, layout.outputs)}

    def apply(params, state, hyper, x):
        output, features, norms = forward(params, state["norms"], x, learning=True)
        return in_use(output, state["classes"]), features, 0.0, norms

    def update(state, norms, gradients, hyper):
        return {**state, "norms": norms}

    def without_state(params, x):
        raise TypeError("a residual network has no output without its running statistics")

    hidden = tuple(n for n in layout.channels for _ in range(layout.blocks))
    return Model(lambda seed: initialise(seed, layout)[0], without_state, layout.outputs,
                 str(tuple(layout)), hidden, LayerState(new_state, apply, update))


def _split(params: dict) -> list:
    return [[(*conv, *norm) for conv, norm in (block["first"], block["second"])]
            for block in params["blocks"]]


def _join(params: dict, chains: list) -> dict:
    blocks = [{**block, **{name: ((W, b), tuple(norm)) for name, (W, b, *norm) in
                           zip(("first", "second"), chain)}}
              for block, chain in zip(params["blocks"], chains)]
    return {**params, "blocks": blocks}


#: Channels within a block, which its second convolution alone hears.
BLOCKS = Chains(_split, _join)
