"""Slowly-changing regression: a target too large for the learner, and bits that flip now and then."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.problems.stream import in_pieces, Stream


@dataclass(frozen=True)
class SlowlyChangingRegression(Stream):
    """Slowly-changing regression (Dohare et al. 2021, section 2.1; 2024, Methods).

    Inputs are 20 bits: 15 slow ones, of which one flips every `flip_period` examples, and 5 that
    are drawn afresh every example. The target is a fixed random network of 100 linear threshold
    units with weights of +1 and -1, too large for the learner to represent, so the best
    approximation keeps moving.

    Parameters
    ----------
    bits, slow_bits, target_units : int
    flip_period : int
        Examples between two changes.
    beta : float
        Threshold of the target's units: (bits + 1) beta - (how many of the weights from the
        bits are negative).
    released : bool
        False: as published, one slow bit flips. True: as in the released problem file, all
        slow bits are redrawn, and a unit's bias enters its threshold.
    """

    bits: int = 20
    slow_bits: int = 15
    flip_period: int = 10_000
    target_units: int = 100
    beta: float = 0.7
    released: bool = False

    name = "slowly-changing regression"
    outputs = 1

    def __post_init__(self):
        if not 0 <= self.bits - self.slow_bits <= 12 or self.slow_bits < 1:
            raise ValueError(f"slow_bits {self.slow_bits} of {self.bits}: give at least 1 slow "
                             "bit and at most 12 fast ones")

    @property
    def inputs(self) -> int:
        """Number of inputs (the learner adds its own bias)."""
        return self.bits

    def slow(self, seeds: Tensor, periods: Tensor) -> Tensor:
        """Give the slow bits [periods, runs, slow_bits] (0 or 1) of some flip periods."""
        where = torch.arange(self.slow_bits, device=seeds.device)
        if self.released:
            return random.bits(seeds[:, None], random.SLOW_BITS, periods[:, None, None], where) >> 31
        first = random.bits(seeds[:, None], random.SLOW_BITS, 0, where) >> 31
        change = torch.arange(1, int(periods.max()) + 1, device=seeds.device)
        which = random.bits(seeds, random.SLOW_BITS, change[:, None]) % self.slow_bits
        flips = torch.cat([first[None], (which[..., None] == where).long()])
        return flips.cumsum(0)[periods] % 2

    def target(self, seeds: Tensor, X: Tensor) -> Tensor:
        """Give the target [..., runs, n, 1] of the inputs X [..., runs, n, bits]."""
        n, m = self.target_units, self.bits
        where = torch.arange(n * (m + 1) + n + 1, device=seeds.device)
        signs = (random.bits(seeds[:, None], random.TARGET, where) >> 31) * 2.0 - 1
        W = signs[:, :n * (m + 1)].reshape(-1, n, m + 1)
        V = signs[:, n * (m + 1):]
        w, bias = W[..., :m], W[..., m]
        if self.released:
            negative = (m - w.sum(-1) + bias) / 2
        else:
            negative = (w < 0).sum(-1).to(w.dtype)
        threshold = (m + 1) * self.beta - negative
        units = X @ w.mT + (bias - threshold)[:, None] > 0
        return units.to(X.dtype) @ V[:, :n, None] + V[:, None, n:]

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        # Within a flip period only the fast bits vary, so all 2^(fast bits) examples of a period
        # are worked out once and then looked up.
        fast_bits, run = self.bits - self.slow_bits, torch.arange(len(seeds), device=seeds.device)

        def piece(t, most):  # within one flip period
            period, within = divmod(t, self.flip_period)
            length = min(most, self.flip_period - within)
            inputs, targets = _lookup(self, tuple(seeds.tolist()), seeds.device, period)
            time = torch.arange(t, t + length, device=seeds.device)[:, None]
            row = random.bits(seeds, random.FAST_BITS, time) >> (32 - fast_bits)
            where = (run * 2**fast_bits + row).flatten()
            return [table.index_select(0, where).reshape(length, len(seeds), -1)
                    for table in (inputs, targets)]

        return in_pieces(piece, start, count)


@lru_cache(maxsize=4)
def _lookup(stream: SlowlyChangingRegression, seeds: tuple, device, period: int):
    """All inputs of a flip period and their targets, one row each, run after run."""
    seeds = torch.tensor(seeds, device=device)
    fast_bits = stream.bits - stream.slow_bits
    rows = torch.arange(2**fast_bits, device=device)
    fast = (rows[:, None] >> torch.arange(fast_bits, device=device)) & 1
    slow = stream.slow(seeds, torch.tensor([period], device=device))[0]
    table = torch.cat([slow[:, None].expand(-1, len(rows), -1),
                       fast.expand(len(seeds), -1, -1)], -1).float()
    return table.flatten(0, 1), stream.target(seeds, table).flatten(0, 1)
