"""Convolutional networks, run on minibatches.

As in Continual ImageNet (Dohare et al. 2024, Methods): convolutions, each with ReLU and max pool,
then fully connected layers. A unit of a convolution is a channel: it has a value at many
places, one set of incoming weights, and a block of outgoing ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dyndl_lite.learning import Model
from dyndl_lite.models.mlp import drawn, Params


class Layout(NamedTuple):
    """What a convolutional network is made of; the defaults are the published one.

    No channels and no hidden units make the linear classifier.
    """

    side: int = 32  # of the images, in pixels
    outputs: int = 2
    channels: tuple[int, ...] = (32, 64, 128)
    kernels: tuple[int, ...] = (5, 3, 3)  # side of each layer's kernel, in pixels
    hidden: tuple[int, ...] = (128, 128)

    def weights(self, multiplicity: int = 1) -> list[tuple[int, ...]]:
        """Give the shape of each layer's weights, if each unit passes on so many numbers.

        ValueError if a kernel does not fit into what it should see.
        """
        inputs, side, shapes = 3, self.side, []
        for units, kernel in zip(self.channels, self.kernels, strict=True):
            if side < kernel:
                raise ValueError(f"{self}: a kernel of side {kernel} meets an image of side {side}: "
                                 "use larger images, smaller kernels or fewer layers")
            shapes.append((units, inputs, kernel, kernel))
            inputs, side = multiplicity * units, max(1, (side - kernel + 1) // 2)
        inputs *= side**2
        for units in (*self.hidden, self.outputs):
            shapes.append((units, inputs))
            inputs = multiplicity * units
        return shapes


def cnn(layout: Layout) -> Model:
    """Describe a convolutional network."""
    return Model(lambda seed: initialise(seed, layout), forward, layout.outputs, str(tuple(layout)),
                 (*layout.channels, *layout.hidden))


def initialise(seed: Tensor, layout: Layout, multiplicity: int = 1) -> Params:
    """Draw the weights of one new network, as `mlp.initialise` does; its head starts at zero.

    Those of a convolution are [channels, inputs, kernel, kernel].
    """
    *hidden, head = enumerate(layout.weights(multiplicity))
    return [*(drawn(seed, *layer, "relu") for layer in hidden), drawn(seed, *head, "zero")]


def forward(params: Params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run one network on a minibatch.

    Parameters
    ----------
    params : list of (weights, biases)
    x : tensor [minibatch, 3, side, side]

    Returns
    -------
    output : tensor [minibatch, outputs]
    features : list of tensors [minibatch, units] or, of a convolution, [minibatch, units, places]
        The activity h of every hidden layer, after the max pool.
    """
    h, features = x, []
    for W, b in params[:-1]:
        if W.ndim == 4:
            z = F.conv2d(h, W)
            if z.shape[-1] > 1:
                z = F.max_pool2d(z, 2)
            # The largest of ReLUs is the ReLU of the largest, and the bias is all the same to it.
            h = torch.relu(z + b[:, None, None])
            features.append(h.flatten(2))
        else:
            h = torch.relu(h.flatten(1) @ W.T + b)
            features.append(h)
    W, b = params[-1]
    return h.flatten(1) @ W.T + b, features


def held_back_accuracy(net: dict, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
    """Probe a net with the images [images, 3, side, side] and labels that a stream holds back."""
    output, _ = forward(net["params"], X)
    return {"test_accuracy": (output.argmax(-1) == Y).float().mean()}
