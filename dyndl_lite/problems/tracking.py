"""Tracking problems for one linear unit, where the right step sizes are known."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.problems.stream import Stream


def normal(seed: Tensor, *counters: Tensor | int) -> Tensor:
    """Draw numbers of mean 0 and variance 1 from the normal distribution (Box and Muller 1958)."""
    radius = torch.sqrt(-2 * torch.log(1 - random.uniform(seed, *counters, 0)))
    return radius * torch.cos(2 * math.pi * random.uniform(seed, *counters, 1))


@dataclass(frozen=True)
class FlippingSigns(Stream):
    """Sutton's test of IDBD (1992): a sum of a few inputs, whose signs keep flipping.

    Inputs are normal with mean 0 and variance 1. The target is the sum of the first of them, the
    `relevant` ones, each times +1 or -1; every `flip_period` examples one of these signs flips. The
    others are irrelevant for ever: their best step size is 0.
    """

    inputs: int = 20
    relevant: int = 5
    flip_period: int = 20

    name = "flipping signs"
    outputs = 1

    def signs(self, seeds: Tensor, periods: Tensor) -> Tensor:
        """Give the signs [periods, runs, relevant], +1 or -1, of some flip periods."""
        where = torch.arange(self.relevant, device=seeds.device)
        change = torch.arange(int(periods.max()) + 1, device=seeds.device)[:, None, None]
        which = random.bits(seeds[:, None], random.FLIPS, change) % self.relevant
        flips = ((which == where) & (change > 0)).long()
        return 1.0 - 2.0 * (flips.cumsum(0)[periods] % 2)

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        time = torch.arange(start, start + count, device=seeds.device)
        where = torch.arange(self.inputs, device=seeds.device)
        X = normal(seeds[:, None], random.SIGNALS, time[:, None, None], where)
        signs = self.signs(seeds, time // self.flip_period)
        return X, (signs * X[..., :self.relevant]).sum(-1, keepdim=True)


@dataclass(frozen=True)
class RandomWalks(Stream):
    """Weights that wander, each at its own pace, seen through noise: Kalman knows the step sizes.

    Inputs take turns: one of them is 1, the others 0. The target is the position of the walk that
    has its turn plus noise; before each turn it moves up or down by its drift. Drifts run from
    `slowest` to `fastest`, evenly spaced in their logs; `noise` is a standard deviation.
    """

    inputs: int = 20
    slowest: float = 0.01
    fastest: float = 1.0
    noise: float = 1.0

    name = "random walks"
    outputs = 1

    @property
    def drifts(self) -> list[float]:
        """Size of a step of each walk."""
        ratio = self.fastest / self.slowest
        return [self.slowest * ratio ** (i / (self.inputs - 1)) for i in range(self.inputs)]

    @property
    def best_step_sizes(self) -> list[float]:
        """Kalman's gain P / (P + r) for each weight, once it has settled.

        Kalman (1960): the best linear prediction of the next position from all targets so far
        has variance P = (q + sqrt(q^2 + 4 q r)) / 2, where q = drift^2 and r = noise^2.
        """
        return [1 - self.noise**2 / error for error in self.least_errors]

    @property
    def least_errors(self) -> list[float]:
        """Mean squared error P + r of the best linear prediction of each weight's next target."""
        r = self.noise**2
        return [(q + math.sqrt(q**2 + 4 * q * r)) / 2 + r for q in (d**2 for d in self.drifts)]

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        time = torch.arange(start, start + count, device=seeds.device)
        turn, walk = time // self.inputs, time % self.inputs
        walks = _walks(tuple(seeds.tolist()), seeds.device, self.inputs,
                       max(1024, 2 ** int(turn[-1] + 1).bit_length()))
        drifts = torch.tensor(self.drifts, device=seeds.device)[walk, None]
        Y = drifts * walks[turn, :, walk]
        Y += self.noise * normal(seeds, random.DISTURBANCE, time[:, None])
        here = walk[:, None] == torch.arange(self.inputs, device=seeds.device)
        X = here.float()[:, None].repeat(1, len(seeds), 1)
        return X, Y[..., None]


@lru_cache(maxsize=4)
def _walks(seeds: tuple, device, inputs: int, turns: int) -> Tensor:
    """Positions [turns, runs, inputs] of walks with steps of +1 and -1: sums of integers, exact."""
    time = torch.arange(turns, device=device)[:, None, None]
    where = torch.arange(inputs, device=device)
    steps = random.bits(torch.tensor(seeds, device=device)[:, None], random.DRIFT, time, where) >> 31
    return (steps * 2 - 1).cumsum(0, dtype=torch.int32)
