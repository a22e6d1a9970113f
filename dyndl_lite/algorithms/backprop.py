"""Backpropagation, one example at a time: the learner that all others are measured against."""

from collections.abc import Callable

from dyndl_lite.algorithms.optimisers import momentum
from dyndl_lite.learning import (Intervention, Learner, learner, minibatch_cross_entropy, Optimiser,
                                 sgd, squared_error)
from dyndl_lite.models.cnn import cnn, Layout
from dyndl_lite.models.mlp import mlp


def backprop(sizes: tuple[int, ...], activation: str = "relu", loss: Callable = squared_error,
             optimiser: Optimiser = sgd, after: tuple[Intervention, ...] = ()) -> Learner:
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
        `sgd`, `momentum`, `adam`, ..., or one with learned step sizes (`step_sizes`).
    after : tuple of Intervention
        What happens after each step.
    """
    return named("backprop", learner(mlp(sizes, activation), loss, optimiser, *after))


def conv_backprop(layout: Layout, optimiser: Optimiser = momentum,
                  after: tuple[Intervention, ...] = ()) -> Learner:
    """Make a backprop learner of minibatches of images.

    Parameters
    ----------
    layout : Layout
        Without channels and hidden units it is the linear classifier.
    optimiser, after
        As for `backprop`.
    """
    return named("conv_backprop", learner(cnn(layout), minibatch_cross_entropy, optimiser, *after))


def named(name: str, made: Learner, **defaults: float) -> Learner:
    """Give a learner a name, and other defaults to some of its settings."""
    return made._replace(description=f"{name} {made.description}",
                         settings={**made.settings, **defaults})
