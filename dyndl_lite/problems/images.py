"""Permuted images: real pictures whose pixels come in a new order, task after task."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.problems.stream import in_pieces, Stream


@dataclass(frozen=True, eq=False)
class PermutedImages(Stream):
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
        def piece(t, most):  # within one pass of one task
            task, within = divmod(t, self.task_length)
            a_pass, first = divmod(within, len(self.images))
            length = min(most, self.task_length - within, len(self.images) - first)
            pixels, order = _task(tuple(seeds.tolist()), seeds.device, self.inputs,
                                  len(self.images), self.permutation(task), task, a_pass)
            chosen = order[:, first:first + length]
            return (self.images[chosen[:, :, None], pixels[:, None, :]].transpose(0, 1),
                    self.labels[chosen].T)

        return in_pieces(piece, start, count)


@lru_cache(maxsize=4)
def _task(seeds: tuple, device, pixels: int, images: int, permutation: int, task: int, a_pass: int):
    """Order of the pixels of a task and of the images of one of its passes, for every run."""
    seeds = torch.tensor(seeds, device=device)
    return (random.permutation(seeds, pixels, random.PIXELS, permutation),
            random.permutation(seeds, images, random.ORDER, task, a_pass))
