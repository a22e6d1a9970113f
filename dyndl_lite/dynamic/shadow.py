"""Learning where gradients are zero: masters, shadow weights and imprinting.

A unit of the fringe is not listened to yet: its outgoing weights are about zero, and so is every
gradient that could reach it. So it learns as if its shadow weight of +1 or -1 were real. Only the
master changes the real one.

Listeners are rows and units are columns of all matrices here: ``links[k, j]`` is the real weight
with which listener k hears unit j, ``shadow[k, j]`` is +1 or -1 where k is the master of the fringe
unit j, and 0 elsewhere.
"""

import torch
from torch import Tensor

_TINY = 1e-12


def wanting(links: Tensor, shadow: Tensor, size: Tensor | float = 1.0) -> Tensor:
    """Give what each shadow weight still lacks: the weight it wants minus the one it has.

    As the master comes to listen, the real weight takes over and the shadow fades. Links and shadow
    are [listeners, units]; `size` is the magnitude of the weight a unit of the fringe wishes for,
    0: none. What it gives has the sign of the shadow weight, and a magnitude from 0 to `size`.
    """
    return shadow * torch.clamp(size - torch.clamp(links * shadow, min=0), min=0)


def choose_master(hunger: Tensor, may: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the hungriest listener as master of a newborn unit.

    Hunger [listeners] is minus the slope of the loss in each listener's activity; `may` says who
    can be a master. Gives a mask of the one, and the shadow weight: +1 if it wants to be more
    active, else -1.
    """
    want = torch.where(may, hunger.abs(), -1.0)
    master = torch.arange(want.shape[0], device=want.device) == want.argmax()
    return master, torch.where((hunger * master).sum() >= 0, 1.0, -1.0)


def imprint(x: Tensor, mean: Tensor, may: Tensor, size: Tensor | float,
            noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Make the incoming weights of a newborn from the pattern of this moment.

    The talk's rule, positive weights to what is active and negative ones to what is silent,
    whichever sign the shadow weight has: the unit shall be active now. Here "active" means above
    its own mean, and what is unusual counts most. (One gradient step on the replayed example, as
    Platt's RAN, 1991, and GradMax, Evci et al. 2022, take it.)

    x and mean [sources] are what the unit could hear, now and on average, of what it `may` hear, so
    that the net stays feed-forward. The imprinted weights have the length `size`, and random
    `noise` is added. The bias is such that the unit's summed input is 0 on average.
    """
    unusual = torch.where(may, x - mean, 0.0)
    weights = size * unusual / torch.sqrt((unusual**2).sum() + _TINY)
    weights = weights + torch.where(may, noise, 0.0)
    return weights, -(weights @ mean)
