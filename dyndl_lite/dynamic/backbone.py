"""Finding the backbone: which units does the output depend on, and which are fringe?

Four ways, from Sutton's talks on dynamic deep learning and decentralised networks (2024). Does the
output move if a unit does (`perturbation`: a forward pass for each)? Does the loss pull at its
weights (`mean_squared_gradient`: targets, a backward pass)? Is there a path of large weights
(`reachability`: the weights alone)? What do its listeners use (`propagate`: running averages, the
weights)? And the dear one that they stand in for, `rise_without`.

All are pure functions of one network (`mlp.Params`), for any number of layers; each gives a list of
tensors [units], one a hidden layer, and `torch.func.vmap` gives them for an ensemble. A unit that
scores high is backbone.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from dyndl_lite.learning import squared_error
from dyndl_lite.models.mlp import forward, Params


class Ledger(NamedTuple):
    """Where the utility went that was put on the outputs; all of it is here.

    kept of all layers + delivered + leaked = number of outputs.
    """

    utility: list[Tensor]  # what each unit of each hidden layer received
    kept: list[Tensor]  # what each unit of each layer kept, the output layer last
    delivered: Tensor  # what arrived at each input
    leaked: Tensor  # what units wanted to pass on, but nothing that they hear ever varies


def activities(params: Params, X: Tensor, activation: str = "relu") -> list[Tensor]:
    """Give what the inputs and each hidden layer do on X: tensors [examples, units]."""
    return [X, *vmap(lambda x: tuple(forward(params, x, activation)[1]))(X)]


def _outputs(params: Params, X: Tensor, activation: str) -> Tensor:
    return vmap(lambda x: forward(params, x, activation)[0])(X)


def perturbation(params: Params, X: Tensor, activation: str = "relu",
                 size: float = 0.01) -> list[Tensor]:
    """Scale a unit's weights and bias by 1 + size: how far does the output move?

    For a ReLU unit that is the same as scaling its activity, or all its outgoing weights. Gives the
    root mean square of the outputs' change over the examples X, divided by size.
    """

    def outputs(layer, which):
        W, b = params[layer]
        scale = 1 + size * which
        moved = [*params[:layer], (W * scale[:, None], b * scale), *params[layer + 1:]]
        return _outputs(moved, X, activation)

    changes = [_changes(partial(outputs, layer), b) for layer, (_, b) in enumerate(params[:-1])]
    return [(change**2).mean((1, 2)).sqrt() / size for change in changes]


def _changes(found: Callable, b: Tensor) -> Tensor:
    """Give how what is found differs if 1 stands for one unit of a layer, 0 for the others.

    The undisturbed network, all 0, goes through the same arithmetic as the others, so that a unit
    without effect has an effect of exactly 0.
    """
    each = torch.eye(len(b), dtype=b.dtype, device=b.device)
    results = vmap(found)(torch.cat([torch.zeros_like(b)[None], each]))
    return results[1:] - results[0]


def mean_squared_gradient(params: Params, X: Tensor, Y: Tensor, loss: Callable = squared_error,
                          activation: str = "relu") -> list[Tensor]:
    """Squared length of the gradient on a unit's weights and bias, mean over examples.

    Zero for long: the unit is of no use. The reverse does not hold: noise pulls, too.
    """

    def objective(params, x, y):
        return loss(forward(params, x, activation)[0], y)[0]

    pulls = vmap(grad(objective), in_dims=(None, 0, 0))(params, X, Y)
    return [((gW**2).sum(2) + gb**2).mean(0) for gW, gb in pulls[:-1]]


def reachability(params: Params) -> list[Tensor]:
    """Width of the widest path from a unit to an output; a path is as wide as its least weight.

    A unit is reachable over weights larger than a threshold exactly if its width is larger
    than the threshold, so this answers for all thresholds at once. It asks no example, and
    cannot tell a unit that is silent from one that speaks.
    """
    widths = [torch.full_like(params[-1][1], torch.inf)]
    for W, _ in reversed(params[1:]):
        widths.insert(0, torch.minimum(W.abs(), widths[0][:, None]).amax(0))
    return widths[:-1]


def spreads(params: Params, X: Tensor, activation: str = "relu") -> list[Tensor]:
    """Mean of |a - mean a| of each input and each hidden unit: all that a listener can use.

    A constant part of a unit's activity could as well stand in its listeners' biases.
    """
    return [(A - A.mean(0)).abs().mean(0) for A in activities(params, X, activation)]


def new_trace(units: int, device=None) -> dict[str, Tensor]:
    """What `follow` knows of one layer's activity at the start: nothing."""
    zeros = torch.zeros(units, device=device)
    return {"mean": zeros, "spread": zeros.clone(), "past": torch.zeros((), device=device)}


def follow(trace: dict, a: Tensor, decay: float) -> tuple[dict, Tensor]:
    """Online form of `spreads` for one layer: running averages, one example at a time.

    Gives the trace and the spread [units], corrected for the bias of a young average, as in
    continual backprop.
    """
    past = decay * trace["past"] + (1 - decay)
    mean = decay * trace["mean"] + (1 - decay) * a
    spread = decay * trace["spread"] + (1 - decay) * (a - mean / past).abs()
    return {"mean": mean, "spread": spread, "past": past}, spread / past


def propagate(params: Params, spreads: list[Tensor], keep: float = 0.1) -> Ledger:
    """Put one unit of utility on each output and let it flow to where it was earned.

    Unit j keeps a share of what it receives and passes the rest to the units i that it hears, in
    proportion to its use of them, the running average r_ij of |w_ij (a_i - mean a_i)|. With the
    weights of now that is |w_ij| times the spread of a_i, so it costs one number for each unit and
    not one for each weight. What is passed on is lost to the giver.

    A unit keeps a share, and not everything up to a cap: in a wide layer all units are under any
    cap, keep all, and the layers below starve. With a share the order of the units of a layer does
    not depend on how much they keep. The spreads of the inputs and of each hidden layer are from
    `spreads` or `follow`.
    """
    utility, leaked, received, kept = torch.ones_like(params[-1][1]), 0.0, [], []
    for (W, _), spread in zip(reversed(params), reversed(spreads), strict=True):
        use = W.abs() * spread  # [units, predecessors]
        total = use.sum(1)
        kept.insert(0, keep * utility)
        passed = utility - kept[0]
        leaked = leaked + torch.where(total > 0, 0.0, passed).sum()
        utility = passed @ (use / torch.where(total > 0, total, 1.0)[:, None])
        received.insert(0, utility)
    return Ledger(received[1:], kept, received[0], leaked)


def members(scores: list[Tensor], threshold: float = 0.1) -> list[Tensor]:
    """Masks of the backbone: the units with more than `threshold` of their layer's mean score."""
    return [score > threshold * score.mean() for score in scores]


def prune(params: Params, keep: list[Tensor], means: list[Tensor]) -> Params:
    """Remove units; what they say on average stays, in their listeners' biases.

    Shapes stay: all weights into and out of a removed unit are 0, and its bias. Both ``keep``,
    bool, and ``means``, mean activities, are lists of tensors [units], one a hidden layer. Means
    change nothing where a unit has no listener.
    """
    pruned = []
    for layer, (W, b) in enumerate(params):
        if layer > 0:
            stays = keep[layer - 1]
            b = b + W @ torch.where(stays, 0.0, means[layer - 1])
            W = torch.where(stays, W, 0.0)
        if layer < len(keep):
            W, b = torch.where(keep[layer][:, None], W, 0.0), torch.where(keep[layer], b, 0.0)
        pruned.append((W, b))
    return pruned


def mean_loss(params: Params, X: Tensor, Y: Tensor, loss: Callable = squared_error,
              activation: str = "relu") -> Tensor:
    """Loss of one network, mean over the examples."""
    return vmap(lambda output, y: loss(output, y)[0])(_outputs(params, X, activation), Y).mean()


def rise_without(params: Params, X: Tensor, Y: Tensor, loss: Callable = squared_error,
                 activation: str = "relu") -> list[Tensor]:
    """Oracle: remove one unit, put its mean in its place; how much does the mean loss rise?"""
    means = [A.mean(0) for A in activities(params, X, activation)[1:]]
    everyone = [torch.ones_like(mean, dtype=torch.bool) for mean in means]

    def without(layer, which):
        others = [*everyone[:layer], which == 0, *everyone[layer + 1:]]
        return mean_loss(prune(params, others, means), X, Y, loss, activation)

    return [_changes(partial(without, layer), mean) for layer, mean in enumerate(means)]
