"""Convolutional networks that learn from minibatches, by backprop.

As in Continual ImageNet (Dohare et al. 2024, Methods): convolutions, each with ReLU and max pool,
then fully connected layers. A unit of a convolution is a channel: it has a value at many
places, one set of incoming weights, and a block of outgoing ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import cross_entropy, Learner, momentum, Optimiser
from dyndl_lite.models.mlp import Params, weight_bound


class Layout(NamedTuple):
    """What a convolutional network is made of; the defaults are the published one.

    No channels and no hidden units make the linear classifier.
    """

    side: int = 32  # of the images, in pixels
    outputs: int = 2
    channels: tuple[int, ...] = (32, 64, 128)
    kernels: tuple[int, ...] = (5, 3, 3)  # side of each layer's kernel, in pixels
    hidden: tuple[int, ...] = (128, 128)

    def weights(self, voices: int = 1) -> list[tuple[int, ...]]:
        """Give the shape of each layer's weights, if each unit passes on so many numbers.

        Raises
        ------
        ValueError
            If a kernel does not fit into what it should see.
        """
        inputs, side, shapes = 3, self.side, []
        for units, kernel in zip(self.channels, self.kernels, strict=True):
            if side < kernel:
                raise ValueError(f"{self}: a kernel of side {kernel} meets an image of side {side}: "
                                 "use larger images, smaller kernels or fewer layers")
            shapes.append((units, inputs, kernel, kernel))
            inputs, side = voices * units, max(1, (side - kernel + 1) // 2)
        inputs *= side**2
        for units in (*self.hidden, self.outputs):
            shapes.append((units, inputs))
            inputs = voices * units
        return shapes


def initialise(seed: Tensor, layout: Layout, voices: int = 1) -> Params:
    """Draw the weights of one new network; its biases start at zero, and so does its head.

    Parameters
    ----------
    seed : int64 scalar tensor
    layout : Layout
    voices : int
        Numbers that each unit passes on.

    Returns
    -------
    list of (weights, biases), one pair a layer
        Weights [channels, inputs, kernel, kernel] of a convolution, [units, inputs] of the rest.
    """
    params, shapes = [], layout.weights(voices)
    for layer, shape in enumerate(shapes):
        fan_in = torch.Size(shape[1:]).numel()
        where = torch.arange(shape[0] * fan_in, device=seed.device)
        bound = 0.0 if layer == len(shapes) - 1 else weight_bound(fan_in, "relu")
        W = bound * (2 * random.uniform(seed, random.WEIGHTS, layer, where) - 1)
        params.append((W.reshape(shape), torch.zeros(shape[0], device=seed.device)))
    return params


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


def gradient_step(net: dict, hyper: dict, x: Tensor, y: Tensor,
                  optimiser: Optimiser) -> tuple[Params, dict, list[Tensor], Tensor]:
    """Predict a minibatch, then move every weight down the gradient of its mean loss.

    Returns
    -------
    params, memory : the network and the optimiser's memory after the step
    features : list of tensors, the hidden activities before the step, as `forward` gives them
    score : scalar tensor, share of right predictions before the step
    """

    def objective(params):
        output, features = forward(params, x)
        losses, scores = vmap(cross_entropy)(output, y)
        return losses.mean(), (features, scores.mean())

    gradients, (features, score) = grad(objective, has_aux=True)(net["params"])
    params, memory = optimiser.update(net["params"], gradients, net["memory"], hyper)
    return params, memory, features, score


def conv_backprop(layout: Layout, optimiser: Optimiser = momentum) -> Learner:
    """Make a backprop learner of minibatches of images.

    Parameters
    ----------
    layout : Layout
        Without channels and hidden units it is the linear classifier.
    optimiser : Optimiser
        One that needs gradients alone: sgd, momentum, adam, or one of these with weight decay.

    Returns
    -------
    Learner
    """

    def start(seed: Tensor) -> dict:
        params = initialise(seed, layout)
        return {"params": params, "memory": optimiser.start(params)}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, _, score = gradient_step(net, hyper, x, y, optimiser)
        return {"params": params, "memory": memory}, score

    return Learner(start, step, dict(optimiser.settings),
                   f"conv_backprop {tuple(layout)} {optimiser.name}", layout.outputs)


def held_back_accuracy(net: dict, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
    """Probe a net with the images [images, 3, side, side] and labels that a stream holds back."""
    output, _ = forward(net["params"], X)
    return {"test_accuracy": (output.argmax(-1) == Y).float().mean()}
