"""Convolutional networks that learn from minibatches, by backprop and continual backprop.

As in Continual ImageNet (Dohare et al. 2024, Methods): convolutions, each with ReLU and max pool,
then fully connected layers. A unit of a convolution is a channel: it has a value at many
places, one set of incoming weights, and a block of outgoing ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from dyndl_lite import draws
from dyndl_lite.backprop import Learner, Optimiser, cross_entropy, momentum
from dyndl_lite.continual_backprop import (appraise, choose, forget, fresh_weights, new_units,
                                           newborn, outgoing_weights, rebirth)
from dyndl_lite.network import Params, weight_bound


class Layout(NamedTuple):
    """What a convolutional network is made of; the defaults are the published one.

    No channels and no hidden units make the linear classifier.
    """

    side: int = 32  # of the images, in pixels
    outputs: int = 2
    channels: tuple[int, ...] = (32, 64, 128)
    kernels: tuple[int, ...] = (5, 3, 3)  # side of each layer's kernel, in pixels
    hidden: tuple[int, ...] = (128, 128)

    def weights(self) -> list[tuple[int, ...]]:
        """Give the shape of each layer's weights.

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
            inputs, side = units, max(1, (side - kernel + 1) // 2)
        inputs *= side**2
        for units in (*self.hidden, self.outputs):
            shapes.append((units, inputs))
            inputs = units
        return shapes


def initialise(seed: Tensor, layout: Layout) -> Params:
    """Draw the weights of one new network; its biases start at zero, and so does its head.

    Returns
    -------
    list of (weights, biases), one pair a layer
        Weights [channels, inputs, kernel, kernel] of a convolution, [units, inputs] of the rest.
    """
    params, shapes = [], layout.weights()
    for layer, shape in enumerate(shapes):
        fan_in = torch.Size(shape[1:]).numel()
        where = torch.arange(shape[0] * fan_in, device=seed.device)
        bound = 0.0 if layer == len(shapes) - 1 else weight_bound(fan_in, "relu")
        W = bound * (2 * draws.uniform(seed, draws.WEIGHTS, layer, where) - 1)
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


def least_useful(units: dict, h: Tensor, incoming: Tensor, outgoing: Tensor,
                 hyper: dict) -> tuple[dict, tuple[Tensor, Tensor], Tensor]:
    """Let a layer's units grow older by a minibatch, and choose the one to be reborn if one is due.

    Parameters
    ----------
    units : dict
        As `continual_backprop.new_units` makes it.
    h : tensor [minibatch, units] or, of a convolution, [minibatch, units, places]
        Their activities.
    incoming, outgoing : tensors
        Weights of the layer, and of the one that listens to it.
    hyper : dict

    Returns
    -------
    units : dict
        With nothing known of the unit that is reborn.
    chosen : (int64 scalar tensor, bool scalar tensor)
        As `continual_backprop.choose` gives it; utility is the contribution.
    f_hat : tensor [units]
        Their mean activities.
    """
    w_in = incoming.flatten(1).abs().sum(1)
    w_out = outgoing_weights(outgoing, len(w_in)).abs().sum((0, 2))
    mean = h.mean((0, 2)) if h.ndim > 2 else h.mean(0)
    units, u_hat, f_hat = appraise(units, mean, w_in, w_out, hyper, "contribution")
    units, chosen = choose(units, u_hat, hyper)
    return newborn(units, chosen), chosen, f_hat


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


def conv_continual_backprop(layout: Layout, optimiser: Optimiser = momentum) -> Learner:
    """Make a continual-backprop learner of minibatches of images.

    All is as in `continual_backprop`, with the contribution utility. What a unit does at
    a minibatch is its mean activity over the images and, if it is a channel, over the places;
    its outgoing weights are all that look at it, from whatever place.

    Parameters
    ----------
    layout, optimiser
        As for `conv_backprop`.

    Returns
    -------
    Learner
        With the settings of the optimiser and ``replacement_rate`` (share of the mature units
        replaced each minibatch), ``utility_decay`` and ``maturity_threshold`` (minibatches).
    """
    shapes = layout.weights()
    hidden = [shape[0] for shape in shapes[:-1]]
    # As `fresh_weights` reads sizes: how many weights come into a unit of each hidden layer.
    fan_ins = (*(torch.Size(shape[1:]).numel() for shape in shapes), layout.outputs)
    if not hidden:
        raise ValueError(f"{layout}: continual backprop needs a hidden layer")

    def check(setting: dict) -> None:
        if setting["replacement_rate"] * max(hidden) > 1:
            raise ValueError(f"replacement_rate {setting['replacement_rate']} asks for more than "
                             f"one of {max(hidden)} units a minibatch: use "
                             f"{1 / max(hidden):.1e} or less")

    def start(seed: Tensor) -> dict:
        params = initialise(seed, layout)
        return {"params": params, "memory": optimiser.start(params),
                "units": [new_units(n, seed.device) for n in hidden],
                "seed": seed.clone(), "t": torch.zeros_like(seed),
                "fresh": fresh_weights(seed, torch.zeros_like(seed), fan_ins, "relu")}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, features, score = gradient_step(net, hyper, x, y, optimiser)
        layers, chosen, left_behind = [], [], []
        for layer, h in enumerate(features):
            units, pick, f_hat = least_useful(net["units"][layer], h, params[layer][0],
                                              params[layer + 1][0], hyper)
            layers.append(units)
            chosen.append(pick)
            left_behind.append(f_hat)
        seed, t = net["seed"], net["t"] + 1
        return {"params": rebirth(params, chosen, net["fresh"], left_behind),
                "memory": forget(memory, chosen), "units": layers, "seed": seed, "t": t,
                "fresh": fresh_weights(seed, t, fan_ins, "relu")}, score

    settings = {**optimiser.settings, "replacement_rate": 3e-4, "utility_decay": 0.99,
                "maturity_threshold": 100.0}
    return Learner(start, step, settings,
                   f"conv_continual_backprop {tuple(layout)} {optimiser.name}", layout.outputs,
                   check)


#: What may happen to a net's weights when a task begins: params, fresh params, hyper -> params.
RENEWALS = {
    "heads": lambda params, fresh, hyper: [*params[:-1], fresh[-1]],
    "all": lambda params, fresh, hyper: fresh,
    "shrink and perturb": lambda params, fresh, hyper: tree_map(
        lambda w, new: hyper["shrink"] * w + hyper["perturb"] * new, params, fresh),
}


def renewed(learner: Learner, layout: Layout, begins: Callable, renewal: str) -> Learner:
    """Let a learner begin its tasks with other weights.

    Parameters
    ----------
    learner : Learner
        Of this module, or such a one with noise (`remedies.perturbed`).
    layout : Layout
    begins : function of t, an int64 scalar tensor
        Says whether a task begins at that minibatch (`image_tasks.ClassPairs.begins`).
    renewal : str
        "heads": new tasks find the last layer at zero (Continual ImageNet). "all": a network
        from scratch. "shrink and perturb": all weights become ``shrink`` times as large, and
        ``perturb`` times those of a new network are added (Ash and Adams 2020).

    Returns
    -------
    Learner
        The optimiser's memory of what is renewed is cleared.
    """
    change = RENEWALS[renewal]
    redrawn = renewal != "heads"  # the new head is zero: nothing to draw

    def start(seed: Tensor) -> dict:
        return {**learner.start(seed), "tasks": (seed.clone(), torch.zeros_like(seed))}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        seed, t = net["tasks"]
        now = begins(t) & (t > 0)  # a new net is new already
        params, memory = net["params"], net["memory"]
        fresh = (initialise(seed + 2**20 * t, layout) if redrawn
                 else tree_map(torch.zeros_like, params))
        nothing = tree_map(torch.zeros_like, memory)
        forgotten = {name: change(part, nothing[name], {"shrink": 0.0, "perturb": 0.0})
                     for name, part in memory.items()}

        def if_now(new, old):
            return tree_map(lambda a, b: torch.where(now, a, b), new, old)

        params, memory = if_now(change(params, fresh, hyper), params), if_now(forgotten, memory)
        net, score = learner.step({**net, "params": params, "memory": memory}, hyper, x, y)
        return {**net, "tasks": (seed, t + 1)}, score

    extra = {"shrink": 0.4, "perturb": 0.1} if renewal == "shrink and perturb" else {}
    return learner._replace(start=start, step=step, settings={**learner.settings, **extra},
                            description=f"renewed {renewal} {learner.description}")


def held_back_accuracy(net: dict, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
    """Probe a net with the images [images, 3, side, side] and labels that a stream holds back."""
    output, _ = forward(net["params"], X)
    return {"test_accuracy": (output.argmax(-1) == Y).float().mean()}
