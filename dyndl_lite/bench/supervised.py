"""How fast are we, beside the per-example torch loop that people write (`plain_loops`)?"""

from collections.abc import Callable

import torch

from dyndl_lite import (backprop, continual_backprop, conv_backprop, cross_entropy,
                        dynamic_network, Learner, PermutedImages, SlowlyChangingRegression,
                        squared_error)
from dyndl_lite.algorithms.continual_backprop import conv_continual_backprop
from dyndl_lite.bench import plain_loops, row
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.models.cnn import Layout
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassPairs

SCR, GROWING = (20, 5, 1), [(20, 20, 1), (20, 80, 1)]
# Convolutions 32-64-128 on minibatches of 100 images 32x32, and small ones on 20 images 16x16.
IMAGES, SMALL_IMAGES = Layout(), Layout(16, 2, (8, 16, 32), (3, 3, 2), (32, 32))
# work, sizes, seeds, step sizes, our steps a round, the plain loop's steps a round
WORKS = [
    ("slowly-changing regression", SCR, 100, [0.01, 0.003, 0.001], 10_000, 2_000),
    ("slowly-changing regression", SCR, 1, [0.01], 100_000, 2_000),
    ("3x100 on 784 inputs", (784, 100, 100, 100, 10), 10, [0.003], 3_000, 1_000),
    ("3x2000 on 784 inputs", (784, 2000, 2000, 2000, 10), 1, [0.003], 100, 40),
    ("slowly-changing regression, 20 units", GROWING[0], 100, [0.03], 10_000, 100),
    ("slowly-changing regression, 80 units", GROWING[1], 25, [0.03], 10_000, 100),
    ("100 images 32x32, convolutions", IMAGES, 1, [0.01], 40, 40),
    ("100 images 32x32, convolutions", IMAGES, 4, [0.01], 10, 40),
    ("20 images 16x16, small convolutions", SMALL_IMAGES, 1, [0.01], 500, 500),
    ("20 images 16x16, small convolutions", SMALL_IMAGES, 10, [0.01], 50, 500),
]


def _pairs(sizes: tuple[int, ...]) -> list[tuple]:
    """Give the learners of a work, each with the plain loop that does the same."""
    if sizes in GROWING:
        return [(dynamic_network(*sizes), plain_loops.PlainDynamic(sizes))]
    if isinstance(sizes, Layout):
        return [(conv_backprop(sizes), plain_loops.PlainConvBackprop(sizes)),
                (conv_continual_backprop(sizes), plain_loops.PlainConvContinualBackprop(sizes))]
    loss = squared_error if sizes == SCR else cross_entropy
    return [(backprop(sizes, loss=loss), plain_loops.PlainBackprop(sizes)),
            (continual_backprop(sizes, loss=loss), plain_loops.PlainContinualBackprop(sizes))]


def _stream(sizes: tuple[int, ...]):
    """Give the problem of that size; random pictures do where only speed is asked."""
    if sizes in (SCR, *GROWING):
        return SlowlyChangingRegression()
    if isinstance(sizes, Layout):
        return ClassPairs(Fractals(sizes.side, images=120), train=100, held_back=20, epochs=100,
                          minibatch=100 if sizes == IMAGES else 20)
    images = torch.rand(1_000, sizes[0], generator=torch.Generator().manual_seed(0))
    return PermutedImages(images, torch.arange(1_000) % sizes[-1], 1_000, "random images")


def _ours(learner: Learner, sizes: tuple[int, ...], seeds: int, step_sizes: list[float],
          steps: int) -> Callable:
    """Give a function that takes `steps` steps of all learners."""
    stream, seeds = _stream(sizes), torch.arange(seeds)
    nets, hypers = ensemble.start(learner, ensemble.grid(learner, step_size=step_sizes), seeds)
    kind = drivers.choose(torch.device("cpu"), nets, drivers.WORTH_COMPILING, stream.inputs)
    advance = drivers.make(kind, ensemble.batched(learner.step))
    chunk = min(steps, 1_000)

    def go() -> None:
        nonlocal nets
        for t in range(0, steps, chunk):
            nets, _ = advance(nets, hypers, *stream.examples(seeds, t, chunk))

    return go


def _plain(loop, sizes: tuple[int, ...], steps: int) -> Callable:
    """Give a function that takes `steps` steps of the plain loop; the data is made before."""
    X, Y = _stream(sizes).examples(torch.zeros(1, dtype=torch.int64), 0, steps)
    if isinstance(sizes, Layout):  # one seed's minibatches, not minibatches of one example
        X, Y = X[:, 0], Y[:, 0]

    def go() -> None:
        for x, y in zip(X, Y):
            loop.learn(x, y)

    return go


def measure(rounds: int = 5, quick: bool = False) -> list[dict]:
    """Time our learners beside the plain loop on the same work, in one process, in turns.

    Parameters
    ----------
    rounds : int
        Interleaved rounds; the median of each one's rate, and of their ratio, is given.
    quick : bool
        A tenth of the steps and the smallest work only: to see that it runs.

    Returns
    -------
    list of dict
        work, learner, runs (learners at once: seeds x step sizes), rate and loop_rate
        (learner-steps per second), ratio. Both use one thread, or all threads for the wide
        net, as is best for either; making the examples counts for ours only.
    """
    rows, threads = [], torch.get_num_threads()
    for work, sizes, seeds, step_sizes, steps, plain_steps in WORKS[:1] if quick else WORKS:
        wide = sizes == IMAGES if isinstance(sizes, Layout) else max(sizes) > 1_000
        torch.set_num_threads(threads if wide else 1)
        if quick:
            steps, plain_steps = steps // 10, plain_steps // 10
        for learner, loop in _pairs(sizes):
            runs = seeds * len(step_sizes)
            ours = runs * steps, _ours(learner, sizes, seeds, step_sizes, steps)
            plain = plain_steps, _plain(loop, sizes, plain_steps)
            rows.append(row(work, learner.description.split()[0], runs, rounds, ours, plain))
    torch.set_num_threads(threads)
    return rows
