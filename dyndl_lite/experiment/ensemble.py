"""Run one learner as thousands: many seeds, many settings, one stream, tidy results.

`run` vmaps the learner's step over runs and settings, drives it through the stream in
chunks, and gives one row for each learner, setting, seed and bin of examples.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite.experiment import drivers
from dyndl_lite.experiment import run as loop
from dyndl_lite.learning import Learner
from dyndl_lite.problems.stream import check as check_examples

# Examples handed to a driver at a time, and the most memory their inputs may take.
CHUNK, CHUNK_BYTES = 1_000, 64 * 2**20


def grid(learner: Learner, **values: float | list[float]) -> list[dict[str, float]]:
    """Give every combination of some settings' values, the others at their defaults.

    Raises
    ------
    ValueError
        If a setting is unknown to the learner or cannot run.
    """
    for name in values:
        if name not in learner.settings:
            raise ValueError(f"setting {name!r} is unknown to {learner.description.split()[0]}: "
                             f"use {', '.join(learner.settings)}")
    lists = [v if isinstance(v, (list, tuple)) else [v] for v in values.values()]
    if [] in map(list, lists):
        raise ValueError(f"a setting of {values} has no value: give one or more")
    settings = [{**learner.settings, **dict(zip(values, choice))}
                for choice in itertools.product(*lists)]
    for setting in settings:
        learner.check(setting)
    return settings


def batched(step: Callable) -> Callable:
    """Turn one network's step into that of an ensemble.

    Nets [settings, runs, ...] and scores [settings, runs]; hypers [settings]; the examples
    x [runs, ...] and y [runs, ...] are shared by all settings, so that comparisons are paired.
    """
    over_runs = vmap(step, in_dims=(0, None, 0, 0))
    return vmap(over_runs, in_dims=(0, 0, None, None))


def start(learner: Learner, settings: list[dict], seeds: Tensor) -> tuple[dict, dict]:
    """Make the nets [settings, runs, ...] and the hypers [settings] of an ensemble."""
    one = vmap(learner.start)(seeds)
    nets = tree_map(lambda a: torch.stack([a] * len(settings)), one)
    return nets, hypers_of(settings, seeds.device)


def hypers_of(settings: list[dict], device: torch.device = torch.device("cpu")) -> dict:
    """Give the values of each setting as a tensor [settings]."""
    return {name: torch.tensor([float(s[name]) for s in settings], device=device)
            for name in settings[0]}


def run(stream, learners: dict[str, tuple[Learner, dict]], seeds: Iterable[int], steps: int,
        bin: int, probe: Callable | None = None, probe_examples: int = 500,
        folder: str | Path | None = None, device: str = "auto", chunk: int = CHUNK,
        save_every: float = 30.0, driver: str | None = None, metric: str | None = None
        ) -> pd.DataFrame:
    """Run learners side by side on a stream.

    Parameters
    ----------
    stream
        One of `problems`, or anything like it (`problems.stream.Stream`).
    learners : dict of name -> (learner, values)
        The values as `grid` takes them, for example ``{"step_size": [.01, .001]}``.
    seeds : iterable of int
        One run each. All learners and settings meet the same examples and, where their
        sizes agree, start from the same network.
    steps, bin : int
        Examples a run, and a row of the result; the last row is of half a bin to one and a half.
    probe : function of (net, X), optional
        Gives a dict of scalars to record at the end of each bin, from the net and the last
        `probe_examples` examples of the bin (fewer if it is shorter). If the stream has a method
        ``test(seeds, t)`` it is a function of (net, X, Y), what that gives for a run.
    folder, save_every : path, optional, and float
        Where and how often to keep a checkpoint of each learner, as for `run.run`.
    device : str
        "auto" (CUDA if there is a GPU), or a torch device.
    chunk, driver : int, and str, optional
        Examples at a time at most, and one of `drivers`; by default what suits the work.
    metric : str, optional
        What the learners' score is called; by default squared_error where the targets are real
        numbers, accuracy where they are labels.

    Returns
    -------
    pandas.DataFrame
        Columns learner, each setting, seed, step (the end of the bin, in examples), the metric
        (mean over the bin), and what the probe gives.

    Raises
    ------
    ValueError
        If a name, a size or the data is wrong: before the run where it can be known.
    """
    jobs = _jobs(stream, learners, seeds, steps, bin, device, chunk, probe=probe,
                 probe_examples=probe_examples, driver=driver, metric=metric)
    return pd.concat([loop.run(job, folder, save_every)[1] for job in jobs], ignore_index=True)


def live(stream, learner: Learner, values: dict, seeds: Iterable[int], steps: int,
         name: str = "nets", folder: str | Path | None = None, device: str = "auto") -> dict:
    """Run one learner's ensemble, and give its nets as they are at the end.

    Parameters are those of `run`.

    Returns
    -------
    dict
        What the learner remembers, each tensor [settings, runs, ...].
    """
    job, = _jobs(stream, {name: (learner, values)}, seeds, steps, steps, device)
    return loop.run(job, folder)[0]


def _jobs(stream, learners, seeds, steps, bin, device, chunk=CHUNK, **how) -> Iterator:
    """Make the jobs of all learners, one by one, after all have been tried."""
    ends = loop.bin_ends(steps, bin)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    seeds, stream = loop.seeds_of(seeds, device), stream.to(device)
    plan = [(name, learner, grid(learner, **values))
            for name, (learner, values) in learners.items()]
    for each in plan:
        _try(*each, stream, seeds)
    most = min(chunk, CHUNK_BYTES // (4 * len(seeds) * stream.inputs))
    for each in plan:
        yield _Supervised(*each, stream, seeds, ends, loop.chunk_of(bin, most), **how)


def _try(name: str, learner: Learner, settings: list[dict], stream, seeds: Tensor) -> None:
    """Let one network see one example, so that a misfit is found before any work starts."""
    X, Y = stream.examples(seeds[:1], 0, 1)
    check_examples(stream, X, Y, 0)
    nets, hypers = start(learner, settings[:1], seeds[:1])
    try:
        batched(learner.step)(nets, hypers, X[0], Y[0])
        if learner.outputs < stream.outputs:  # a label without an output would go unnoticed
            raise ValueError(f"it has {learner.outputs} outputs")
    except (ValueError, RuntimeError, IndexError) as error:  # other kinds speak for themselves
        raise ValueError(f"learner {name!r} ({learner.description}) fails on an example of stream "
                         f"{stream.name!r} ({stream.inputs} inputs, {stream.outputs} outputs): "
                         f"{str(error).splitlines()[0]}") from error


class _Supervised(loop.Job):
    """One learner's ensemble on its way through a stream."""

    def __init__(self, name, learner, settings, stream, seeds, ends, chunk, probe=None,
                 probe_examples=500, driver=None, metric=None):
        self.name, self.learner, self.settings, self.stream = name, learner, settings, stream
        self.seeds, self.ends, self.chunk, self.device = seeds, ends, chunk, seeds.device
        self.probe, self.probe_examples, self.metric = probe, probe_examples, metric
        self.rows = [{"learner": name, **setting, "seed": seed} for setting in settings
                     for seed in seeds.tolist()]
        nets, self.hypers = start(learner, settings, seeds)
        kind = driver or drivers.choose(seeds.device, nets, ends[-1], stream.inputs)
        self.one_thread = kind in ("scan", "eager")
        self.go = drivers.reused(kind, batched(learner.step))
        self.facts = (learner, settings, stream, seeds.tolist(), probe, probe_examples, metric, kind)

    def start(self):
        return start(self.learner, self.settings, self.seeds)[0]

    def advance(self, nets, t, steps):
        X, Y = self.stream.examples(self.seeds, t, steps)
        check_examples(self.stream, X, Y, t, (steps, len(self.seeds)))
        nets, scores = self.go(nets, self.hypers, X, Y)
        metric = self.metric or ("squared_error" if Y.is_floating_point() else "accuracy")
        return nets, {metric: scores.double().sum(0)}, None

    def measure(self, nets, t, sums, steps, seen):
        found = {name: (total / steps).float() for name, total in sums.items()}
        if self.probe is None:
            return found
        if hasattr(self.stream, "test"):
            X, Y = self.stream.test(self.seeds, t)
            return found | vmap(vmap(self.probe), in_dims=(0, None, None))(nets, X, Y)
        n = min(self.probe_examples, steps)
        X, _ = self.stream.examples(self.seeds, t - n, n)
        return found | vmap(vmap(self.probe, in_dims=(0, 1)), in_dims=(0, None))(nets, X)
