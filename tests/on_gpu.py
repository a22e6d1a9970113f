"""The table of `on_gpu.sh`: learners on CUDA beside the CPU, rates, bandwidth."""

import sys
import time

import torch
from test_seam import pictures
from torch.utils._pytree import tree_leaves

from dyndl_lite.algorithms.backprop import backprop, conv_backprop
from dyndl_lite.algorithms.continual_backprop import (
    AS_IN_NATURE, AS_RELEASED, continual_backprop, conv_continual_backprop)
from dyndl_lite.algorithms.incremental import residual_continual_backprop
from dyndl_lite.algorithms.layers import backprop_with, conv_backprop_with, KINDS
from dyndl_lite.algorithms.optimisers import adam, l2, l2_init, momentum, upgd
from dyndl_lite.algorithms.regularisers import weight_clipping, with_noise
from dyndl_lite.algorithms.resets import conv_resetting, resetting
from dyndl_lite.algorithms.step_sizes import autostep, idbd, linear, per_unit, steady
from dyndl_lite.algorithms.task_resets import renewed, RENEWALS
from dyndl_lite.dynamic.decentralised import decentralised
from dyndl_lite.dynamic.network import dynamic_network
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.learning import cross_entropy
from dyndl_lite.models import cnn, resnet
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

SMALL, DEEP, WIDE = (20, 5, 1), (784, 100, 100, 100, 10), (784, 2000, 2000, 2000, 10)
LAYOUT, BLOCKS = cnn.Layout(8, 2, (4, 5), (3, 3), (6,)), resnet.Layout(2, (4, 6), 1)
BUSY = {"replacement_rate": 0.01, "maturity_threshold": 20}
# Every learner of the library that learns from examples. The first are compiled for the card, which
# takes as long as all others together; those step by step. Agents learn in environments on the CPU.
COMPILED = {
    "backprop": (backprop(SMALL), {}),
    "continual backprop": (continual_backprop(SMALL), BUSY),
    "dynamic network": (dynamic_network(20, 20, 1), {}),
}
LEARNERS = COMPILED | {
    **{f"backprop, {optimiser.name}": (backprop(SMALL, optimiser=optimiser), {}) for optimiser in
       (momentum, adam, upgd, l2(), l2_init(), *map(per_unit, (idbd, autostep, steady)))},
    **{f"backprop, {after.name}": (backprop(SMALL, after=(after,)), {})
       for after in (weight_clipping(), with_noise)},
    **{f"backprop with {kind}": (backprop_with(kind, SMALL), {}) for kind in KINDS},
    **{f"begun anew: {renewal}": (renewed(backprop(SMALL), renewal), {"reset_period": 500})
       for renewal in RENEWALS},
    "continual backprop, Nature": (continual_backprop(SMALL, **AS_IN_NATURE), BUSY),
    "continual backprop, released": (continual_backprop(SMALL, optimiser=adam, **AS_RELEASED), BUSY),
    "continual backprop, any utility": (continual_backprop(SMALL, utility=None),
                                        BUSY | {"utility": [0, 3, 5]}),
    "ReDo": (resetting(SMALL, "redo"), {}),
    "self-normalised resets": (resetting(SMALL, "self_normalised"), {}),
    "linear, IDBD": (linear(20, idbd), {}),
    "decentralised": (decentralised(SMALL, 8), {}),
    "convolutions": (conv_backprop(LAYOUT), {}),
    "convolutions, continual backprop": (conv_continual_backprop(LAYOUT), BUSY),
    "convolutions, ReDo": (conv_resetting(LAYOUT, "redo"), {}),
    "convolutions, layer norm": (conv_backprop_with("layer_norm", LAYOUT), {}),
    "residual, continual backprop": (residual_continual_backprop(BLOCKS), BUSY),
}
# name, learner, sizes, runs, steps: the works of `bench.supervised`.
WORKS = [
    ("slowly-changing regression", backprop(SMALL), SMALL, 300, 5_000),
    ("slowly-changing regression", continual_backprop(SMALL), SMALL, 300, 5_000),
    ("slowly-changing regression, 20 units", dynamic_network(20, 20, 1), SMALL, 100, 2_000),
    ("3x100 on 784 inputs", backprop(DEEP, loss=cross_entropy), DEEP, 10, 3_000),
    ("3x2000 on 784 inputs", backprop(WIDE, loss=cross_entropy), WIDE, 1, 500),
    ("3x2000 on 784 inputs", continual_backprop(WIDE, loss=cross_entropy), WIDE, 1, 500),
]
STEPS, EARLY, CHUNK = 1_000, 50, 500
# Two devices add up in another order, and a life in which units are reborn is chaotic: early
# scores are compared one by one, later ones by their mean.
EARLY_TOLERANCE, MEAN_TOLERANCE = 5e-3, 0.05


class Minibatches:
    """The pictures of `test_seam` as a stream."""

    def to(self, device):
        return self

    def examples(self, seeds, t, steps):
        X, Y = map(torch.stack, zip(*pictures(steps * len(seeds), seed=t)))
        X, Y = (a.unflatten(0, (steps, len(seeds))) for a in (X, Y))
        return X.to(seeds.device), Y.to(seeds.device)


def problem(sizes):
    """Give a stream with that many inputs; random pictures do where only speed is asked."""
    if sizes == SMALL:
        return SlowlyChangingRegression(flip_period=500)
    if sizes == LAYOUT:
        return Minibatches()
    images = torch.rand(1_000, sizes[0], generator=torch.Generator().manual_seed(0))
    return PermutedImages(images, torch.arange(1_000) % sizes[-1], 1_000, "random images")


def life(learner, values, kind, device, runs, steps, sizes=SMALL):
    """Give scores [steps, 1, runs], the seconds of all chunks but the first, and the bytes."""
    seeds, stream = torch.arange(runs, device=device), problem(sizes).to(torch.device(device))
    nets, hypers = ensemble.start(learner, ensemble.grid(learner, **values), seeds)
    advance, scores, seconds = drivers.make(kind, ensemble.batched(learner.step)), [], 0.0
    chunk = min(steps, CHUNK) if steps > CHUNK else steps // 2
    for t in range(0, steps, chunk):
        X, Y = stream.examples(seeds, t, chunk)
        finish(device)
        begin = time.perf_counter()
        nets, score = advance(nets, hypers, X, Y)
        finish(device)
        seconds += (time.perf_counter() - begin) * (t > 0)
        scores.append(score.cpu())
    size = sum(a.numel() * a.element_size() for a in tree_leaves(nets))
    return torch.cat(scores), seconds / (steps - chunk), size


def finish(device):
    if device == "cuda":
        torch.cuda.synchronize()


def copying():
    """Measure the card's own bandwidth in bytes a second: a copy reads and writes."""
    a = torch.empty(2**28, device="cuda")
    b = torch.empty_like(a)
    b.copy_(a)
    finish("cuda")
    begin = time.perf_counter()
    for _ in range(10):
        b.copy_(a)
    finish("cuda")
    return 20 * a.numel() * 4 / (time.perf_counter() - begin)


def main() -> int:
    """Print the table; give how many learners differ."""
    card, differing = torch.cuda.is_available(), 0
    print(torch.cuda.get_device_name() if card else
          "no CUDA device. Skipped: learners on CUDA, rates and bandwidth; learners on the CPU only")
    print(f"{'learner':40}{'early difference':>18}{'mean CUDA':>12}{'mean CPU':>12}")
    for name, (learner, values) in LEARNERS.items():
        sizes = SMALL if learner.outputs == 1 else LAYOUT
        steps = (STEPS if sizes == SMALL else STEPS // 10) if card else 4
        there = life(learner, values, "eager", "cpu", 3, steps, sizes)[0]
        if not card:
            print(f"{name:40}{'skipped':>18}{'skipped':>12}{there.mean():12.4f}")
            continue
        here = life(learner, values, "cuda" if name in COMPILED else "eager", "cuda", 3, steps, sizes)[0]
        gap = ((here - there)[:EARLY].abs() / (1 + there[:EARLY].abs())).max()
        means = here.mean(), there.mean()
        good = gap < EARLY_TOLERANCE and abs(means[0] / means[1] - 1) < MEAN_TOLERANCE
        differing += not good
        print(f"{name:40}{gap:18.1e}{means[0]:12.4f}{means[1]:12.4f}{'' if good else '  DIFFERS'}")
    if not card:
        return 0
    peak = copying()
    print(f"\n{'work':40}{'learner':>22}{'runs':>6}{'steps/s':>14}{'GB/s':>8}{'of a copy':>11}")
    for name, learner, sizes, runs, steps in WORKS:
        _, seconds, size = life(learner, {}, "cuda", "cuda", runs, steps, sizes)
        moved = 2 * size / seconds  # each number is read once and written once, at the least
        print(f"{name:40}{learner.description.split()[0]:>22}{runs:6}{runs / seconds:14,.0f}"
              f"{moved / 1e9:8.0f}{moved / peak:11.0%}")
    return differing


if __name__ == "__main__":
    sys.exit(min(main(), 1))
