"""The problems: endless streams of examples that change under the learner's feet.

A stream is a pure function of (seeds, time): ``examples(seeds, start, count)`` gives the
examples start, start + 1, ... of every run. Anything with that method, a method ``to(device)``,
the attributes ``name``, ``inputs``, ``outputs``, and a ``repr`` that tells two of them apart is
a stream; `check` is what guards it.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from dyndl_lite import draws


def check(stream, X: Tensor, Y: Tensor, start: int, asked: tuple[int, int] | None = None) -> None:
    """Refuse examples that no learner should see.

    Parameters
    ----------
    stream
    X, Y : tensors
        As its method ``examples`` gave them.
    start : int
        Time of the first.
    asked : (int, int), optional
        The steps and runs that were asked for.

    Raises
    ------
    ValueError
        Naming the stream and the step, if a value is NaN or infinite, if an input or target
        has the wrong size, or if a label is out of range.
    """
    where = f"stream {stream.name!r}, step"
    runs = asked or tuple(X.shape[:2])
    # An example may be a whole minibatch (`image_tasks`): then x and the labels have a shape.
    x_shape, label_shape = shapes(stream)
    if X.shape != (*runs, *x_shape) or Y.shape[:2] != runs:
        expected = ", ".join(map(str, [*(asked or ("steps", "runs")), *x_shape]))
        raise ValueError(f"{where} {start}: examples of shape X {tuple(X.shape)}, "
                         f"Y {tuple(Y.shape)}; expected [{expected}] and the same steps and runs "
                         "in Y")
    if Y.is_floating_point():
        if Y.ndim != 3 or Y.shape[2] != stream.outputs:
            raise ValueError(f"{where} {start}: targets of shape {tuple(Y.shape)}; expected "
                             f"[steps, runs, {stream.outputs}]")
        in_range = torch.isfinite(Y.sum())
        wrong = "NaN or infinite input or target"
    else:
        if Y.shape[2:] != label_shape:
            expected = ", ".join(["steps", "runs", *map(str, label_shape)])
            raise ValueError(f"{where} {start}: labels of shape {tuple(Y.shape)}; expected "
                             f"[{expected}] (or targets in floating point)")
        in_range = (Y.min() >= 0) & (Y.max() < stream.outputs)
        wrong = f"NaN or infinite input, or a label outside 0..{stream.outputs - 1}"
    if torch.isfinite(X.sum()) & in_range:  # as good as a look at each number, and faster
        return
    good = torch.isfinite(X).flatten(2).all(2)
    fit = torch.isfinite(Y) if Y.is_floating_point() else (Y >= 0) & (Y < stream.outputs)
    good &= fit.reshape(*runs, -1).all(2)
    if not good.all():  # a sum may also overflow where all is well
        step, run = (~good).nonzero()[0].tolist()
        raise ValueError(f"{where} {start + step}, run {run}: {wrong}; mend the data and run "
                         "again")


def shapes(stream) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the shapes of one x and of one label: [inputs] and a number, unless the stream says."""
    return getattr(stream, "shape", (stream.inputs,)), getattr(stream, "label_shape", ())


@dataclass(frozen=True)
class SlowlyChangingRegression:
    """Slowly-changing regression (Dohare et al. 2021, section 2.1; 2024, Methods).

    Inputs are 20 bits: 15 slow ones, of which one flips every `flip_period` examples, and
    5 that are drawn afresh every example. The target is a fixed random network of 100 linear
    threshold units with weights of +1 and -1, too large for the learner to represent, so the
    best approximation keeps moving.

    Parameters
    ----------
    bits, slow_bits : int
    flip_period : int
        Examples between two changes.
    target_units : int
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

    def to(self, device) -> "SlowlyChangingRegression":
        """Give the stream on a device: it holds no data, so itself."""
        return self

    def slow(self, seeds: Tensor, periods: Tensor) -> Tensor:
        """Give the slow bits [periods, runs, slow_bits] (0 or 1) of some flip periods."""
        where = torch.arange(self.slow_bits, device=seeds.device)
        if self.released:
            return draws.bits(seeds[:, None], draws.SLOW_BITS, periods[:, None, None], where) >> 31
        first = draws.bits(seeds[:, None], draws.SLOW_BITS, 0, where) >> 31
        change = torch.arange(1, int(periods.max()) + 1, device=seeds.device)
        which = draws.bits(seeds, draws.SLOW_BITS, change[:, None]) % self.slow_bits
        flips = torch.cat([first[None], (which[..., None] == where).long()])
        return flips.cumsum(0)[periods] % 2

    def target(self, seeds: Tensor, X: Tensor) -> Tensor:
        """Give the target [..., runs, n, 1] of the inputs X [..., runs, n, bits]."""
        n, m = self.target_units, self.bits
        where = torch.arange(n * (m + 1) + n + 1, device=seeds.device)
        signs = (draws.bits(seeds[:, None], draws.TARGET, where) >> 31) * 2.0 - 1
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
        """Give X [count, runs, bits] and Y [count, runs, 1] from time `start` on.

        Within a flip period only the fast bits vary, so all 2^(fast bits) examples of a period
        are worked out once and then looked up.
        """
        fast_bits, run = self.bits - self.slow_bits, torch.arange(len(seeds), device=seeds.device)
        X, Y, t, stop = [], [], start, start + count
        while t < stop:  # one stretch within one flip period at a time
            period, within = divmod(t, self.flip_period)
            length = min(stop - t, self.flip_period - within)
            inputs, targets = _lookup(self, tuple(seeds.tolist()), seeds.device, period)
            time = torch.arange(t, t + length, device=seeds.device)[:, None]
            row = draws.bits(seeds, draws.FAST_BITS, time) >> (32 - fast_bits)
            where = (run * 2**fast_bits + row).flatten()
            X.append(inputs.index_select(0, where).reshape(length, len(seeds), -1))
            Y.append(targets.index_select(0, where).reshape(length, len(seeds), -1))
            t += length
        return torch.cat(X), torch.cat(Y)


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


@dataclass(frozen=True, eq=False)
class PermutedImages:
    """Online permuted images (permuted MNIST: Goodfellow 2013; Dohare et al. 2024).

    A task is one random order of the pixels, the same for all its images; the images of a
    task come in random order, each once a pass. Every task is as hard as every other.

    Parameters
    ----------
    images : float tensor [images, pixels]
    labels : int64 tensor [images]
    task_length : int
        Examples a task: fewer than the images (a random part of them is seen) or more
        (several passes).
    name : str
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    task_length: int
    name: str = "permuted images"

    def __post_init__(self):
        if self.images.ndim != 2 or len(self.images) != len(self.labels):
            raise ValueError(f"stream {self.name!r}: images {tuple(self.images.shape)} and labels "
                             f"{tuple(self.labels.shape)} do not fit [n, pixels] and [n]")

    @property
    def inputs(self) -> int:
        """Number of pixels."""
        return self.images.shape[1]

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    @property
    def digest(self) -> str:
        """Checksum of the images and labels, for the provenance of results."""
        data = self.images.cpu().numpy().tobytes() + self.labels.cpu().numpy().tobytes()
        return hashlib.sha256(data).hexdigest()[:16]

    def to(self, device) -> "PermutedImages":
        """Give the same stream with its images on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def permutation(self, task: int) -> int:
        """Give the number of a task's order of the pixels: each has its own."""
        return task

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Give X [count, runs, pixels] and labels Y [count, runs] from time `start` on."""
        run = torch.arange(len(seeds), device=seeds.device)[:, None]
        X, Y, t, stop = [], [], start, start + count
        while t < stop:  # one stretch within one pass of one task at a time
            task, within = divmod(t, self.task_length)
            a_pass, first = divmod(within, len(self.images))
            length = min(stop - t, self.task_length - within, len(self.images) - first)
            pixels, order = _task(tuple(seeds.tolist()), seeds.device, self.inputs,
                                  len(self.images), self.permutation(task), task, a_pass)
            chosen = order[:, first:first + length]
            X.append(self.images[chosen[:, :, None], pixels[:, None, :]].transpose(0, 1))
            Y.append(self.labels[chosen].T)
            t += length
        return torch.cat(X), torch.cat(Y)


@lru_cache(maxsize=4)
def _task(seeds: tuple, device, pixels: int, images: int, permutation: int, task: int,
          a_pass: int):
    """Order of the pixels of a task and of the images of one of its passes, for every run."""
    seeds = torch.tensor(seeds, device=device)
    return (draws.permutation(seeds, pixels, draws.PIXELS, permutation),
            draws.permutation(seeds, images, draws.ORDER, task, a_pass))
