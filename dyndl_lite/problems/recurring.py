"""Problems whose tasks return: does a learner that stays able to learn also remember?

A visit is a stretch of examples of one task; a cycle visits every task once, in turn. The error
over the first examples of a visit says what was kept since the last one (retention), the error
over whole visits in the first cycle how fast a new task is learned (plasticity).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression


@dataclass(frozen=True)
class RecurringContexts(SlowlyChangingRegression):
    """Slowly-changing regression that returns to a few fixed patterns of its slow bits.

    Target and fast bits are those of `SlowlyChangingRegression`; `flip_period` is the length of a
    visit. The slow bits are a context: one of `contexts` random patterns (of the 2^15, so two are
    hardly ever the same), drawn once for each seed and visited in turn.
    """

    flip_period: int = 5_000
    contexts: int = 8

    name = "recurring contexts"

    def slow(self, seeds: Tensor, periods: Tensor) -> Tensor:
        where = torch.arange(self.slow_bits, device=seeds.device)
        context = (periods % self.contexts)[:, None, None]
        return random.bits(seeds[:, None], random.CONTEXT, context, where) >> 31


@dataclass(frozen=True, eq=False)
class ReturningImages(PermutedImages):
    """Permuted images whose orders of the pixels return, in turn; the images come in a new order.

    A task is a visit; there are `permutations` orders of the pixels, drawn once for each seed.
    """

    name: str = "returning images"
    permutations: int = 5

    def permutation(self, task: int) -> int:
        return task % self.permutations
