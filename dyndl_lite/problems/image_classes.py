"""Tasks that tell classes of images apart, minibatch by minibatch, for many epochs each.

An example of these streams is a whole minibatch: x [minibatch x pixels], y [minibatch]. What
counts is how well the images that were held back are told apart at the end of a task, so these
streams also have a method ``test``, which gives a probe of `ensemble.run` what to look at.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.problems.stream import in_pieces, Stream


@dataclass(frozen=True, eq=False)
class ClassPairs(Stream):
    """Continual ImageNet (Dohare et al. 2024): two new classes at a time, one task after another.

    The classes come in a random order, a new one whenever all have been seen, so tasks are as
    hard as each other on average. The learner's head should be reset at each task (`begins`).

    Parameters
    ----------
    collection
        Classes of images: `fractals.Fractals`, or a folder's (`datasets`). It has ``side``,
        ``classes``, ``name`` and ``of(k)``, uint8 [images, 3, side, side].
    train, held_back : int
        Images of each class to learn from, and to test on.
    minibatch, epochs : int
    together : int
        Classes a task.
    device : str
    """

    collection: object
    train: int = 600
    held_back: int = 100
    minibatch: int = 100
    epochs: int = 250
    together: int = 2
    device: str = field(default="cpu", repr=False)

    kind = "class pairs"

    def __post_init__(self):
        for images in (self.learned_from(task) * self.together for task in (0, 1)):
            if images % self.minibatch:
                raise ValueError(f"minibatch {self.minibatch} does not divide the {images} images "
                                 "of a task: choose one that does")
        if self.together > self.collection.classes:
            raise ValueError(f"{self.collection.name} has {self.collection.classes} classes: "
                             f"{self.together} at a time are too many")

    @property
    def name(self) -> str:
        """The kind of task, and the images."""
        return f"{self.kind} of {self.collection.name}"

    @property
    def digest(self) -> str:
        """Checksum of the images, for the provenance of results, if they come from a file."""
        return getattr(self.collection, "digest", "")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the inputs of one minibatch."""
        return (self.minibatch, 3, self.collection.side, self.collection.side)

    @property
    def inputs(self) -> int:
        """Numbers in one minibatch."""
        return self.minibatch * 3 * self.collection.side**2

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of the labels of one minibatch."""
        return (self.minibatch,)

    @property
    def outputs(self) -> int:
        """Number of outputs that the learner needs."""
        return self.together

    @property
    def task_length(self) -> int:
        """Minibatches a task."""
        return self.epochs * self.train * self.together // self.minibatch

    def to(self, device) -> "ClassPairs":
        """Give the same stream on a device: the images go there task by task."""
        return replace(self, device=str(device))

    def begins(self, t: Tensor) -> Tensor:
        """Say whether a task begins at time t."""
        return t % self.task_length == 0

    def task(self, t: int) -> tuple[int, int]:
        """Give the number of the task at time t, and its first time."""
        number = t // self.task_length
        return number, number * self.task_length

    def classes(self, seeds: Tensor, task: int) -> Tensor:
        """Give the classes of a task, [runs, together]."""
        a_pass, within = divmod(task, self.collection.classes // self.together)
        order = random.permutation(seeds, self.collection.classes, random.CLASSES, a_pass)
        return order[:, within * self.together:(within + 1) * self.together]

    def learned_from(self, task: int) -> int:
        """Give the number of images a class that a task shows."""
        return self.train

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Give X [count, runs, *shape], from -1 to 1, and labels [count, runs, minibatch]."""
        run = torch.arange(len(seeds), device=seeds.device)[:, None, None]

        def piece(t, most):  # within one epoch
            task, began = self.task(t)
            images, labels = _training(self, tuple(seeds.tolist()), task)
            epoch, first = divmod(t - began, images.shape[1] // self.minibatch)
            order = _order(tuple(seeds.tolist()), self.device, images.shape[1], task, epoch)
            order = order.unflatten(1, (-1, self.minibatch))
            length = min(most, order.shape[1] - first)
            chosen = order[:, first:first + length]
            return _scaled(images[run, chosen]).transpose(0, 1), labels[chosen].transpose(0, 1)

        return in_pieces(piece, start, count)

    def test(self, seeds: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Give the held-back images of the task that is over at time t, and their labels.

        They are X [runs, images, 3, side, side], from -1 to 1, and Y [runs, images].
        """
        task, _ = self.task(t - 1)
        pictures = _pictures(self, seeds, task)[:, :, self.train:self.train + self.held_back]
        labels = torch.arange(pictures.shape[1]).repeat_interleave(self.held_back)
        X = _scaled(pictures.flatten(1, 2).to(self.device))
        return X, labels.to(self.device).expand(len(seeds), -1)


@dataclass(frozen=True, eq=False)
class WarmStart(ClassPairs):
    """Warm-starting (Ash and Adams 2020): first half of the images of some classes, then all.

    Both tasks have the same classes and as many minibatches; nothing in the net is reset.
    """

    together: int = 10

    kind = "half, then all,"

    def classes(self, seeds: Tensor, task: int) -> Tensor:
        return super().classes(seeds, 0)

    def learned_from(self, task: int) -> int:
        return self.train if task else self.train // 2


@dataclass(frozen=True, eq=False)
class ClassIncremental(ClassPairs):
    """Class-incremental learning (Dohare et al. 2024): some more classes at each task, none go.

    A task has all classes so far and as many epochs as every other, so it gets longer.

    Parameters
    ----------
    together : int
        Classes that are new at each task.
    tasks : int
        How often there are new ones; the outputs are as many as all of them.
    augmented : bool
        Whether the images to learn from are mirrored and shifted at random (`augment`).
    """

    together: int = 5
    tasks: int = 20
    augmented: bool = False

    kind = "growing classes"

    @property
    def outputs(self) -> int:
        return self.together * self.tasks

    def begins(self, t: Tensor) -> Tensor:
        return self.increment(t)[1] == 0

    def increment(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Give the number of the task at time t, and which share of its minibatches is over."""
        firsts = torch.arange(1, self.tasks, device=t.device)
        number = (t >= self.task_length * firsts * (firsts + 1) // 2).sum()
        began = self.task_length * number * (number + 1) // 2
        return number, (t - began) / (self.task_length * (number + 1))

    def task(self, t: int) -> tuple[int, int]:
        number = began = 0
        while t >= began + (number + 1) * self.task_length:
            number, began = number + 1, began + (number + 1) * self.task_length
        return number, began

    @property
    def steps(self) -> int:
        """Minibatches of all tasks."""
        return self.task_length * self.tasks * (self.tasks + 1) // 2

    def classes(self, seeds: Tensor, task: int) -> Tensor:
        """Give all classes up to a task, [runs, together x (task + 1)]."""
        order = random.permutation(seeds, self.collection.classes, random.CLASSES, 0)
        return order[:, :(task + 1) * self.together]

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        X, Y = super().examples(seeds, start, count)
        return augment(X, seeds, start) if self.augmented else X, Y


def augment(X: Tensor, seeds: Tensor, start: int) -> Tensor:
    """Mirror every image or not, and shift it by up to an eighth of its side, both at random.

    What comes in from outside is the image reflected at its border. Published too, and not done
    here: turns by up to 15 degrees. X is [count, runs, minibatch, 3, side, side], its first
    minibatch that of time `start`.
    """
    count, runs, minibatch, _, side, _ = X.shape
    t = torch.arange(start, start + count, device=X.device)[:, None, None, None]
    image = torch.arange(minibatch, device=X.device)[:, None]
    seeds, most = seeds[:, None, None], side // 8
    shifts = random.uniform(seeds, random.SHIFTED, t, image, torch.arange(2, device=X.device))
    shifts = (shifts * (2 * most + 1)).long() - most  # [count, runs, minibatch, 2]
    where = torch.arange(side, device=X.device) + shifts[..., None]
    where = (side - 1) - ((side - 1) - where.abs()).abs()
    mirrored = random.bits(seeds, random.MIRRORED, t, image) % 2 == 1
    rows, columns = where.unbind(-2)
    columns = torch.where(mirrored, columns.flip(-1), columns)
    X = X.gather(-2, rows[..., None, :, None].expand_as(X))
    return X.gather(-1, columns[..., None, None, :].expand_as(X))


def _scaled(pixels: Tensor) -> Tensor:
    """Turn bytes into numbers from -1 to 1."""
    return pixels.float() / 127.5 - 1


def _pictures(stream: ClassPairs, seeds: Tensor, task: int) -> Tensor:
    """Give the pictures of a task's classes, uint8 [runs, classes, images, 3, side, side]."""
    runs, needed = [], stream.train + stream.held_back
    for classes in stream.classes(seeds.cpu(), task).tolist():
        of = [stream.collection.of(k) for k in classes]
        for k, pictures in zip(classes, of):
            if len(pictures) < needed:
                raise ValueError(f"class {k} of {stream.collection.name} has {len(pictures)} images "
                                 f"where {needed} are needed: ask for fewer")
        runs.append(torch.stack([pictures[:needed] for pictures in of]))
    return torch.stack(runs)


@lru_cache(maxsize=2)
def _training(stream: ClassPairs, seeds: tuple, task: int) -> tuple[Tensor, Tensor]:
    """Give the images [runs, n, 3, side, side] and labels [n] that a task is learned from."""
    pictures = _pictures(stream, torch.tensor(seeds), task)[:, :, :stream.learned_from(task)]
    labels = torch.arange(pictures.shape[1]).repeat_interleave(pictures.shape[2])
    return pictures.flatten(1, 2).to(stream.device), labels.to(stream.device)


@lru_cache(maxsize=2)
def _order(seeds: tuple, device: str, images: int, task: int, epoch: int) -> Tensor:
    """Give the order of the images of an epoch, [runs, images]."""
    seeds = torch.tensor(seeds, device=device)
    return random.permutation(seeds, images, random.ORDER, task, epoch)
