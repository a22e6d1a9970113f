"""What a problem is, and which examples no learner should see."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Stream(Protocol):
    """A problem, for many runs at once; its ``repr`` tells two of them apart.

    It may also have ``shape`` and ``label_shape`` where one example is a whole minibatch,
    ``digest`` where it holds data, and ``test(seeds, t)``, which gives X and Y that are held back.
    """

    name: str
    inputs: int
    outputs: int

    def to(self, device: torch.device) -> "Stream":
        """Give the same stream on a device: itself, unless it holds data."""
        return self

    def examples(self, seeds: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Give X [count, runs, inputs] and Y [count, runs, outputs] from time `start` on.

        Of a classification Y are labels [count, runs], int64.
        """


def in_pieces(piece: Callable, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Join examples that `piece(t, most)` gives, at least one and at most `most` from time t on."""
    pieces, t = [], start
    while t < start + count:
        pieces.append(piece(t, start + count - t))
        t += len(pieces[-1][0])
    X, Y = zip(*pieces)
    return torch.cat(X), torch.cat(Y)


def check(stream, X: Tensor, Y: Tensor, start: int, asked: tuple[int, int] | None = None) -> None:
    """Refuse examples that no learner should see.

    X and Y are what the stream's ``examples`` gave, from time `start` on, when `asked` for so many
    steps and runs. A number that is NaN or infinite, a wrong shape, or a label out of range is a
    ValueError that names the stream and the step.
    """
    where, runs = f"stream {stream.name!r}, step", asked or tuple(X.shape[:2])
    # An example may be a whole minibatch (`image_classes`): then x and the labels have a shape.
    x_shape, label_shape = shapes(stream)
    if X.shape != (*runs, *x_shape) or Y.shape[:2] != runs:
        expected = ", ".join(map(str, [*(asked or ("steps", "runs")), *x_shape]))
        raise ValueError(f"{where} {start}: examples of shape X {tuple(X.shape)}, Y {tuple(Y.shape)}; "
                         f"expected [{expected}] and the same steps and runs in Y")
    real = Y.is_floating_point()
    y_shape = (stream.outputs,) if real else label_shape
    if Y.shape[2:] != y_shape:
        expected = ", ".join(map(str, ["steps", "runs", *y_shape]))
        kind, hint = ("targets", "") if real else ("labels", " (or targets in floating point)")
        raise ValueError(f"{where} {start}: {kind} of shape {tuple(Y.shape)}; expected "
                         f"[{expected}]{hint}")
    in_range = torch.isfinite(Y.sum()) if real else (Y.min() >= 0) & (Y.max() < stream.outputs)
    if torch.isfinite(X.sum()) & in_range:  # as good as a look at each number, and faster
        return
    fit = torch.isfinite(Y) if real else (Y >= 0) & (Y < stream.outputs)
    good = torch.isfinite(X).flatten(2).all(2) & fit.reshape(*runs, -1).all(2)
    if not good.all():  # a sum may also overflow where all is well
        step, run = (~good).nonzero()[0].tolist()
        wrong = "input or target" if real else f"input, or a label outside 0..{stream.outputs - 1}"
        raise ValueError(f"{where} {start + step}, run {run}: NaN or infinite {wrong}; mend the data "
                         "and run again")


def shapes(stream) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the shapes of one x and of one label: [inputs] and a number, unless the stream says."""
    return getattr(stream, "shape", (stream.inputs,)), getattr(stream, "label_shape", ())
