"""How fast are we, beside the per-example torch loop that people write?

`measure` lets both do the same work in one process, in turns, and compares their rates.
The plain loops stand here in full, so that a reader can judge whether they are fair.
"""

import time
from collections.abc import Callable

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from dyndl_lite.algorithms.backprop import backprop, conv_backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop, conv_continual_backprop
from dyndl_lite.bench import row
from dyndl_lite.bench.plain_convolution import PlainConvBackprop, PlainConvContinualBackprop
from dyndl_lite.dynamic.network import dynamic_network
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.learning import cross_entropy, Learner, squared_error
from dyndl_lite.models.cnn import Layout
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassPairs
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

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
STEP_SIZE, REPLACEMENT_RATE, DECAY, MATURITY = 0.003, 1e-4, 0.99, 100


class PlainBackprop:
    """Backprop as people write it: an nn.Module, autograd, an optimiser, one example."""

    def __init__(self, sizes: tuple[int, ...]):
        layers = [nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])]
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.optimiser = torch.optim.SGD(self.layers.parameters(), lr=STEP_SIZE)

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Take one gradient step; give the loss before it."""
        h, self.features = x, []
        for layer in self.layers[:-1]:
            h = torch.relu(layer(h))
            self.features.append(h)
        output = self.layers[-1](h)
        loss = F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


class PlainContinualBackprop(PlainBackprop):
    """Continual backprop (contribution utility) in the same style, replacing when it is due."""

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__(sizes)
        self.utility = [torch.zeros(n) for n in sizes[1:-1]]
        self.mean = [torch.zeros(n) for n in sizes[1:-1]]
        self.age = [torch.zeros(n) for n in sizes[1:-1]]
        self.due = [0.0 for n in sizes[1:-1]]

    @torch.no_grad()
    def generate_and_test(self) -> None:
        """Update the utilities; replace the least useful mature unit of a layer that owes one."""
        for i, features in enumerate(self.features):
            layer, after, h = self.layers[i], self.layers[i + 1], features[0]
            self.age[i] += 1
            correction = 1 - DECAY ** self.age[i]
            self.mean[i] = DECAY * self.mean[i] + (1 - DECAY) * h
            contribution = h.abs() * after.weight.abs().sum(0)
            self.utility[i] = DECAY * self.utility[i] + (1 - DECAY) * contribution
            mature = torch.where(self.age[i] > MATURITY)[0]
            self.due[i] += REPLACEMENT_RATE * len(mature)
            if self.due[i] >= 1:
                self.due[i] -= 1
                k = mature[(self.utility[i] / correction)[mature].argmin()]
                nn.init.kaiming_uniform_(layer.weight[k:k + 1], nonlinearity="relu")
                layer.bias[k] = 0
                after.bias += after.weight[:, k] * self.mean[i][k] / correction[k]
                after.weight[:, k] = 0
                self.utility[i][k] = self.mean[i][k] = self.age[i][k] = 0

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Take one gradient step, then one generate-and-test step."""
        loss = super().learn(x, y)
        self.generate_and_test()
        return loss


class PlainDynamic:
    """The dynamic network. Nobody has published a loop of it: this is our own step, uncompiled."""

    def __init__(self, sizes: tuple[int, ...]):
        learner = dynamic_network(*sizes)
        self.step, self.net = learner.step, learner.start(torch.tensor(0))
        self.hyper = {name: torch.tensor(float(v)) for name, v in learner.settings.items()}

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Take one step of one network; give its squared error."""
        self.net, score = self.step(self.net, self.hyper, x[0], y[0])
        return score.item()


def _pairs(sizes: tuple[int, ...]) -> list[tuple]:
    """Give the learners of a work, each with the plain loop that does the same."""
    if sizes in GROWING:
        return [(dynamic_network(*sizes), PlainDynamic(sizes))]
    if isinstance(sizes, Layout):
        return [(conv_backprop(sizes), PlainConvBackprop(sizes)),
                (conv_continual_backprop(sizes), PlainConvContinualBackprop(sizes))]
    loss = squared_error if sizes == SCR else cross_entropy
    return [(backprop(sizes, loss=loss), PlainBackprop(sizes)),
            (continual_backprop(sizes, loss=loss), PlainContinualBackprop(sizes))]


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
    """Give a function that takes `steps` steps of all learners and returns its seconds."""
    stream, seeds = _stream(sizes), torch.arange(seeds)
    settings = ensemble.grid(learner, step_size=step_sizes)
    nets, hypers = ensemble.start(learner, settings, seeds)
    kind = drivers.choose(torch.device("cpu"), nets, drivers.WORTH_COMPILING, stream.inputs)
    advance = drivers.make(kind, ensemble.batched(learner.step))
    chunk = min(steps, 1_000)

    def go() -> float:
        nonlocal nets
        begin = time.perf_counter()
        for t in range(0, steps, chunk):
            X, Y = stream.examples(seeds, t, chunk)
            nets, _ = advance(nets, hypers, X, Y)
        return time.perf_counter() - begin

    go()  # compile, and reach a steady state
    return go


def _plain(loop: PlainBackprop | PlainDynamic, sizes: tuple[int, ...], steps: int) -> Callable:
    """Give a function that takes `steps` steps of the plain loop; the data is made before."""
    X, Y = _stream(sizes).examples(torch.zeros(1, dtype=torch.int64), 0, steps)

    def go() -> float:
        begin = time.perf_counter()
        for x, y in zip(X, Y):
            loop.learn(*((x[0], y[0]) if isinstance(sizes, Layout) else (x, y)))
        return time.perf_counter() - begin

    go()
    return go


def measure(rounds: int = 5, quick: bool = False) -> list[dict]:
    """Time our learners beside the plain loop on the same work, in turns.

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
            ours = _ours(learner, sizes, seeds, step_sizes, steps)
            plain = _plain(loop, sizes, plain_steps)
            pairs = [(runs * steps / ours(), plain_steps / plain()) for _ in range(rounds)]
            rows.append(row(work, learner.description.split()[0], runs, pairs))
    torch.set_num_threads(threads)
    return rows
