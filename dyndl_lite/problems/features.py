"""Hidden features: knowledge that stays or comes and goes, under tasks that keep changing.

After GEOFF, "generic online feature finding" (Rahman and Sutton). The target is built of features
that nobody sees: features are the knowledge, their read-out is the task. So what is claimed of
backbones can be tested, for every feature can be looked for in a network (`explained`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.problems.stream import in_pieces, Stream
from dyndl_lite.problems.tracking import normal


@dataclass(frozen=True)
class HiddenFeatures(Stream):
    """Regression on features of random bits, read out by weights that change.

    Inputs are `bits` random signs, +1 or -1. A feature hears `fan` of them, with a sign each, and is
    1 where their sum is at least `threshold`, else 0. The outputs are 2 / sqrt(features) times the
    sum of the features (of the second level, if there is one), each with a sign, and noise.

    Parameters
    ----------
    bits, features, fan, threshold : int
        At most 32 bits.
    outputs : int
    noise : float
        Standard deviation; the least squared error that can be reached is its square.
    task_period : int
        Examples after which one sign of each output is drawn anew.
    arrival_period : int
        Examples after which one feature goes and a new one comes; 0: all features stay.
    deep : int
        Features of a second level, each of three of the first, which the outputs then read
        instead; 0: none.
    oracle : bool
        True: the learner is shown the features themselves, in place of the bits.
    """

    bits: int = 20
    features: int = 20
    fan: int = 6
    threshold: int = 2
    outputs: int = 5
    noise: float = 0.3
    task_period: int = 5_000
    arrival_period: int = 0
    deep: int = 0
    oracle: bool = False

    def __post_init__(self):
        if not 1 <= self.fan <= self.bits <= 32 or min(self.features, self.outputs) < 1:
            raise ValueError(f"bits {self.bits}, fan {self.fan}, features {self.features}, outputs "
                             f"{self.outputs}: give 1 or more of each, 32 bits at most, and a fan "
                             "of no more than the bits")
        if self.task_period < 1 or min(self.arrival_period, self.noise, self.deep) < 0:
            raise ValueError(f"task_period {self.task_period}, arrival_period {self.arrival_period}, "
                             f"noise {self.noise}, deep {self.deep}: task_period must be at least 1, "
                             "the others at least 0")

    @property
    def name(self) -> str:
        """What is hidden."""
        kind = "features that come and go" if self.arrival_period else "features that stay"
        return f"{'deep ' if self.deep else ''}{kind}{', shown' if self.oracle else ''}"

    @property
    def inputs(self) -> int:
        """Number of inputs (the learner adds its own bias)."""
        return (self.deep or self.features) if self.oracle else self.bits

    def arrivals(self, seeds: Tensor, t: int) -> Tensor:
        """Give when the features present at time t came, [runs, features], in arrival periods."""
        return self._latest(seeds, random.ARRIVALS, self.features, 1,
                            t // self.arrival_period if self.arrival_period else 0)[:, 0]

    def weights(self, seeds: Tensor, t: int) -> Tensor:
        """Give the features' weights for the bits at time t, [runs, features, bits]: +1, -1 or 0."""
        feature = torch.arange(self.features, device=seeds.device)[:, None]
        bit = torch.arange(self.bits, device=seeds.device)
        came = self.arrivals(seeds, t)[:, :, None]
        return _few_signs(seeds[:, None, None], self.fan, random.FEATURES, came, feature, bit)

    def present(self, seeds: Tensor, X: Tensor, t: int) -> Tensor:
        """Give the features of bits X [examples, runs, bits] that the outputs read at time t.

        It is a tensor [examples, runs, features] (of the second level, where there is one).
        """
        F = (X.transpose(0, 1) @ self.weights(seeds, t).mT >= self.threshold).to(X.dtype)
        if self.deep:
            above = torch.arange(self.deep, device=seeds.device)[:, None]
            below = torch.arange(self.features, device=seeds.device)
            wires = _few_signs(seeds[:, None, None], min(3, self.features), random.FEATURES, 0,
                               self.features + above, below)
            F = ((2 * F - 1) @ wires.mT >= 1).to(X.dtype)
        return F.transpose(0, 1)

    def read_out(self, seeds: Tensor, t: int) -> Tensor:
        """Give the outputs' weights at time t, [runs, outputs, features]."""
        return self._signs(seeds, t) * self._loudness

    @property
    def _loudness(self) -> float:
        return 2 / math.sqrt(self.deep or self.features)

    def _signs(self, seeds: Tensor, t: int) -> Tensor:
        features, output = self.deep or self.features, torch.arange(self.outputs, device=seeds.device)
        drawn = self._latest(seeds, random.CONTEXT, features, self.outputs, t // self.task_period)
        feature = torch.arange(features, device=seeds.device)
        signs = random.bits(seeds[:, None, None], random.TARGET, drawn, output[:, None], feature) >> 31
        return 2.0 * signs - 1

    def _latest(self, seeds, purpose, places, rows, periods):
        """In which period each place [runs, rows, places] was the one to change, last; 0: never."""
        where, row = torch.arange(places, device=seeds.device), torch.arange(rows, device=seeds.device)
        period = torch.arange(1, periods + 1, device=seeds.device)[:, None, None]
        which = random.bits(seeds[:, None], purpose, period, row) % places
        changed = (which[..., None] == where) * period[..., None]
        none = torch.zeros(1, len(seeds), rows, places, dtype=torch.int64, device=seeds.device)
        return torch.cat([none, changed]).amax(0)

    def inputs_at(self, seeds: Tensor, time: Tensor) -> Tensor:
        """Give the bits [examples, runs, bits] of these times [examples]."""
        bit = torch.arange(self.bits, device=seeds.device)
        word = random.bits(seeds, random.FAST_BITS, time[:, None])
        return 2.0 * ((word[..., None] >> bit) & 1) - 1

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        periods = [self.task_period, *([self.arrival_period] if self.arrival_period else [])]
        output = torch.arange(self.outputs, device=seeds.device)

        def piece(t, most):  # in which nothing changes
            length = min(most, *(period - t % period for period in periods))
            time = torch.arange(t, t + length, device=seeds.device)
            X = self.inputs_at(seeds, time)
            F = self.present(seeds, X, t)
            # A sum of signs is exact, in whatever order it is taken; only then it is scaled.
            Y = (F.transpose(0, 1) @ self._signs(seeds, t).mT).transpose(0, 1) * self._loudness
            if self.noise:
                Y = Y + self.noise * normal(seeds[:, None], random.NOISE, time[:, None, None], output)
            return (F if self.oracle else X), Y

        return in_pieces(piece, start, count)

    def test(self, seeds: Tensor, t: int, examples: int = 500) -> tuple[Tensor, Tensor]:
        """Give bits and the features in them before time t, each [runs, examples, ...], to look for.

        A probe can find in a network what its outputs must read: see `found`.
        """
        X = self.inputs_at(seeds, torch.arange(2**31, 2**31 + examples, device=seeds.device))
        F = self.present(seeds, X, max(t - 1, 0))
        return (F if self.oracle else X).transpose(0, 1), F.transpose(0, 1)


def _few_signs(seeds: Tensor, few: int, purpose: int, *where: Tensor | int) -> Tensor:
    """Draw signs, all but a few of them 0, over the last dimension."""
    keys = random.bits(seeds, purpose, 0, *where) * 2**30  # two that are equal stay in their order
    order = (keys + torch.arange(keys.shape[-1], device=keys.device)).argsort(-1).argsort(-1)
    signs = random.bits(seeds, purpose, 1, *where) >> 31
    return torch.where(order < few, 2.0 * signs - 1, 0.0)


FOUND = 0.5  # a feature is found if a unit explains more than half of it


def found(activities: Tensor, features: Tensor, readers: int = 1) -> Tensor:
    """Share of the features that some unit, or few, represent: they explain more than `FOUND`.

    A unit that hears a feature's six signs alone explains up to 0.81 of it; of 120 random units
    that hear all 20 bits, the best explains 0.18 on average (in 400 tries never more than 0.45), and
    the best two 0.30 (0.50).

    Parameters
    ----------
    activities, features : tensors [examples, units] and [examples, features]
    readers : int
        Units that a read-out combines.

    Returns
    -------
    scalar tensor, from 0 to 1
    """
    return (explained(activities, features, readers) > FOUND).to(activities.dtype).mean()


def explained(activities: Tensor, features: Tensor, readers: int = 1) -> Tensor:
    """How much of each feature's variance a linear read-out of few units explains (R squared).

    The units are chosen one after the other, each the one that explains most of what the others
    leave (orthogonal least squares, Chen, Billings and Luo 1989). With one reader it is the largest
    squared correlation of the feature with any unit.

    Parameters
    ----------
    activities : tensor [examples, units]
    features : tensor [examples, features]
    readers : int
        Units of a read-out.

    Returns
    -------
    tensor [features], from 0 to 1
        A feature that does not vary is not explained: 0.
    """
    A, F = activities - activities.mean(0), features - features.mean(0)
    whole, left, chosen = (F**2).sum(0), F, []
    power = (A**2).sum(0)[:, None].expand(-1, F.shape[1])  # of what the chosen units do not say yet
    for _ in range(min(readers, A.shape[1])):
        # What is left of a unit after its like was chosen is rounding alone, of two sums, and explains
        # nothing.
        heard = power > 1e-5 * (activities**2).sum(0)[:, None]
        gain = torch.where(heard, (A.T @ left)**2 / torch.where(heard, power, 1.0), 0.0)
        best = A.T[gain.argmax(0)].T * (gain.amax(0) > 0)
        for one in chosen:
            best = best - one * (one * best).sum(0)
        best = best / torch.clamp((best**2).sum(0).sqrt(), min=1e-12)
        left, power = left - best * (best * left).sum(0), power - (A.T @ best)**2
        chosen.append(best)
    return torch.where(whole > 0, 1 - (left**2).sum(0) / torch.where(whole > 0, whole, 1.0), 0.0)
