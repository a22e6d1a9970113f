"""Convolutional networks that replace units: continual backprop, ReDo, self-normalised resets.

As in Continual ImageNet (Dohare et al. 2024, Methods) a unit of a convolution is a channel: it has
a value at many places, one set of incoming weights, and a block of outgoing ones.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dyndl_lite.algorithms.continual_backprop import (
    appraise,
    check_rate,
    choose,
    forget,
    fresh_weights,
    new_units,
    newborn,
    outgoing_weights,
    rebirth,
)
from dyndl_lite.algorithms.resets import criterion_named, one_of, unwatched
from dyndl_lite.learning import Learner, momentum, Optimiser
from dyndl_lite.models.cnn import gradient_step, initialise, Layout


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
    hidden = [*layout.channels, *layout.hidden]

    def judge(units, mean, w_in, w_out, t, hyper):
        units, u_hat, f_hat = appraise(units, mean, w_in, w_out, hyper, "contribution")
        units, pick = choose(units, u_hat, hyper)
        return units, pick, f_hat

    def check(setting: dict) -> None:
        check_rate(setting, max(hidden), "units a minibatch")

    learner = conv_replacing(layout, new_units, judge, optimiser)
    settings = {"replacement_rate": 3e-4, "utility_decay": 0.99, "maturity_threshold": 100.0}
    return learner._replace(settings={**learner.settings, **settings}, check=check,
                            description=f"conv_continual_backprop {learner.description}")


def conv_replacing(layout: Layout, remember: Callable, judge: Callable,
                   optimiser: Optimiser = momentum) -> Learner:
    """Make a learner that replaces at most one unit a layer and minibatch.

    Parameters
    ----------
    layout, optimiser
        As for `conv_backprop`.
    remember : function of (units, device)
        Makes what a layer remembers of its units: a dict of tensors [units].
    judge : function of (units, mean, w_in, w_out, t, hyper)
        What is remembered, each unit's mean activity over images and places, the sums of its
        absolute weights, in and out, the minibatches before this one. Gives what is remembered
        now, (which unit, whether), and the means that listeners keep of a replaced unit.

    Returns
    -------
    Learner
    """
    shapes = layout.weights()
    hidden = [shape[0] for shape in shapes[:-1]]
    # As `fresh_weights` reads sizes: how many weights come into a unit of each hidden layer.
    fan_ins = (*(torch.Size(shape[1:]).numel() for shape in shapes), layout.outputs)
    if not hidden:
        raise ValueError(f"{layout}: there is no hidden layer to replace units of")

    def start(seed: Tensor) -> dict:
        params = initialise(seed, layout)
        return {"params": params, "memory": optimiser.start(params),
                "units": [remember(n, seed.device) for n in hidden],
                "seed": seed.clone(), "t": torch.zeros_like(seed),
                "fresh": fresh_weights(seed, torch.zeros_like(seed), fan_ins, "relu")}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, features, score = gradient_step(net, hyper, x, y, optimiser)
        layers, chosen, left_behind = [], [], []
        for layer, h in enumerate(features):
            seen = observed(h, params[layer][0], params[layer + 1][0])
            units, pick, f_hat = judge(net["units"][layer], *seen, net["t"], hyper)
            layers.append(newborn(units, pick))
            chosen.append(pick)
            left_behind.append(f_hat)
        seed, t = net["seed"], net["t"] + 1
        return {"params": rebirth(params, chosen, net["fresh"], left_behind),
                "memory": forget(memory, chosen), "units": layers, "seed": seed, "t": t,
                "fresh": fresh_weights(seed, t, fan_ins, "relu")}, score

    return Learner(start, step, dict(optimiser.settings), f"{tuple(layout)} {optimiser.name}",
                   layout.outputs)


def observed(h: Tensor, incoming: Tensor, outgoing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give the mean activities of a layer's units, and the sums of their absolute weights, in and out.

    Parameters
    ----------
    h : tensor [minibatch, units] or, of a convolution, [minibatch, units, places]
    incoming, outgoing : tensors
        Weights of the layer, and of the one that listens to it.
    """
    w_in = incoming.flatten(1).abs().sum(1)
    w_out = outgoing_weights(outgoing, len(w_in)).abs().sum((0, 2))
    return h.mean((0, 2)) if h.ndim > 2 else h.mean(0), w_in, w_out


def conv_resetting(layout: Layout, criterion: str, optimiser: Optimiser = momentum) -> Learner:
    """Make a learner of minibatches of images that replaces the units which a criterion names.

    All is as in `resetting`, with minibatches for examples. What a unit does at a minibatch is its
    mean activity over images and places; it is silent if it fires nowhere.

    Parameters
    ----------
    layout, optimiser
        As for `conv_backprop`.
    criterion : str
        "redo" or "self_normalised".
    """
    remembers, judged, settings, check = criterion_named(criterion)

    def judge(watch, mean, w_in, w_out, t, hyper):
        watch, wanted = judged(watch, mean, t, hyper)
        return watch, one_of(wanted), torch.zeros_like(mean)

    learner = conv_replacing(layout, partial(unwatched, remembers), judge, optimiser)
    return learner._replace(settings={**learner.settings, **settings}, check=check,
                            description=f"conv_resetting {criterion} {learner.description}")
