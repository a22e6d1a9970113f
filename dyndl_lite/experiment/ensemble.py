"""Run one learner as thousands: many seeds, many settings, one stream, tidy results.

`run` vmaps the learner's step over runs and settings, drives it through the stream in
chunks, and gives one row for each learner, setting, seed and bin of examples.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite.experiment import checkpoint, drivers
from dyndl_lite.experiment.progress import progress
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
    hypers = {name: torch.tensor([float(s[name]) for s in settings], device=seeds.device)
              for name in learner.settings}
    return nets, hypers


def run(stream, learners: dict[str, tuple[Learner, dict]], seeds: Iterable[int], steps: int,
        bin: int, probe: Callable | None = None, probe_examples: int = 500,
        folder: str | Path | None = None, device: str = "auto", chunk: int = CHUNK,
        save_every: float = 30.0) -> pd.DataFrame:
    """Run learners side by side on a stream.

    Parameters
    ----------
    stream
        One of `streams`, or anything like it.
    learners : dict of name -> (learner, values)
        The values as `grid` takes them, for example ``{"step_size": [.01, .001]}``.
    seeds : iterable of int
        One run each. All learners and settings meet the same examples and, where their
        sizes agree, start from the same network.
    steps, bin : int
        Examples a run, and examples a row of the result; bin must divide steps.
    probe : function of (net, X), optional
        Gives a dict of scalars to record at the end of each bin, from the net and the last
        `probe_examples` examples of the bin (fewer if the bin is shorter). If the stream has
        a method ``test(seeds, t)`` it is a function of (net, X, Y), what that gives for a run.
    folder : path, optional
        Where to keep a checkpoint of each learner, every `save_every` seconds and at its end.
        A run that is started again goes on from there, bit for bit.
    device : str
        "auto" (CUDA if there is a GPU), or a torch device.
    chunk : int
        Examples at a time at most.

    Returns
    -------
    pandas.DataFrame
        Columns learner, each setting, seed, step (the end of the bin, in examples),
        squared_error or accuracy (mean over the bin), and what the probe gives.

    Raises
    ------
    ValueError
        If a name, a size or the data is wrong: before the run where it can be known.
    """
    lives = _lives(stream, learners, seeds, steps, bin, probe, probe_examples, device, chunk)
    return pd.concat([life.run(_file(folder, life.name), save_every) for life in lives],
                     ignore_index=True)


def live(stream, learner: Learner, values: dict, seeds: Iterable[int], steps: int,
         name: str = "nets", folder: str | Path | None = None, device: str = "auto") -> dict:
    """Let one learner's ensemble live, and give its nets as they are at the end.

    Parameters are those of `run`.

    Returns
    -------
    dict
        What the learner remembers, each tensor [settings, runs, ...].
    """
    life, = _lives(stream, {name: (learner, values)}, seeds, steps, steps, None, 0, device, CHUNK)
    life.run(_file(folder, name), 30.0)
    return life.nets


def _file(folder: str | Path | None, name: str) -> Path | None:
    """Where the checkpoint of a learner is kept."""
    return Path(folder) / f"{quote(name, safe='')}.pt" if folder else None


def _lives(stream, learners, seeds, steps, bin, probe, probe_examples, device, chunk):
    """Make the ensembles of all learners, one by one, after all have been tried."""
    if steps < 1 or bin < 1 or steps % bin:
        raise ValueError(f"bin {bin} does not divide steps {steps}: choose a bin that does")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    seeds = torch.tensor(list(seeds), dtype=torch.int64, device=device)
    if len(seeds) == 0:
        raise ValueError("seeds is empty: give at least one")
    stream = stream.to(device)
    plan = {name: (learner, grid(learner, **values))
            for name, (learner, values) in learners.items()}
    for name, (learner, settings) in plan.items():
        _try(name, learner, settings, stream, seeds)
    for name, (learner, settings) in plan.items():
        yield _Life(name, learner, settings, stream, seeds, steps, bin, probe,
                    min(probe_examples, bin), _chunk(stream, len(seeds), bin, chunk))


def _chunk(stream, runs: int, bin: int, most: int) -> int:
    """Find the largest divisor of the bin that is at most a chunk."""
    most = max(1, min(most, CHUNK_BYTES // (4 * runs * stream.inputs)))
    return max(d for d in range(1, min(bin, most) + 1) if bin % d == 0)


def _try(name: str, learner: Learner, settings: list[dict], stream, seeds: Tensor) -> None:
    """Let one network see one example, so that a misfit is found before any work starts."""
    X, Y = stream.examples(seeds[:1], 0, 1)
    check_examples(stream, X, Y, 0)
    nets, hypers = start(learner, settings[:1], seeds[:1])
    try:
        batched(learner.step)(nets, hypers, X[0], Y[0])
        if learner.outputs < stream.outputs:  # a label without an output would go unnoticed
            raise ValueError(f"it has {learner.outputs} outputs")
    except Exception as error:
        raise ValueError(f"learner {name!r} ({learner.description}) does not fit stream "
                         f"{stream.name!r} ({stream.inputs} inputs, {stream.outputs} outputs): "
                         f"{str(error).splitlines()[0]}") from error


def _about(probe: Callable | None) -> tuple:
    """Say what a probe is, so that another one does not continue its checkpoint."""
    cells = getattr(probe, "__closure__", None) or ()
    return getattr(probe, "__qualname__", None), [repr(cell.cell_contents) for cell in cells]


class _Life:
    """One learner's ensemble on its way through a stream."""

    def __init__(self, name, learner, settings, stream, seeds, steps, bin, probe,
                 probe_examples, chunk):
        self.name, self.learner, self.settings, self.stream = name, learner, settings, stream
        self.seeds, self.steps, self.bin, self.chunk = seeds, steps, bin, chunk
        self.probe, self.probe_examples = probe, probe_examples
        self.nets, self.hypers = start(learner, settings, seeds)
        self.driver = drivers.choose(seeds.device, self.nets, steps, stream.inputs)
        self.t = 0
        self.total = torch.zeros(len(settings), len(seeds), dtype=torch.float64,
                                 device=seeds.device)
        self.rows = []  # for each bin a dict of metric -> [settings, runs]
        self.mark = checkpoint.fingerprint(
            learner.description, settings, stream, getattr(stream, "digest", ""), seeds.tolist(),
            steps, bin, chunk, _about(probe), probe_examples, str(seeds.device), self.driver)

    def save(self, path: Path) -> None:
        checkpoint.save(path, {"fingerprint": self.mark, "t": self.t, "nets": self.nets,
                               "total": self.total, "rows": self.rows})

    def resume(self, path: Path) -> None:
        state = checkpoint.load(path, self.mark, self.seeds.device)
        if state:
            self.t, self.nets, self.total, self.rows = (
                state[k] for k in ("t", "nets", "total", "rows"))

    def run(self, path: Path | None, save_every: float) -> pd.DataFrame:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.resume(path)
        threads = torch.get_num_threads()
        if self.driver in ("scan", "eager"):
            torch.set_num_threads(1)  # small nets: threads cost more than they bring
        advance = drivers.reused(self.driver, batched, self.learner.step)
        saved = time.monotonic()
        try:
            with progress(self.steps, self.name) as bar:
                bar.update(self.t)
                while self.t < self.steps:
                    self.advance(advance)
                    bar.update(self.chunk)
                    due = time.monotonic() - saved >= save_every or self.t == self.steps
                    if path and due:
                        self.save(path)
                        saved = time.monotonic()
        finally:
            torch.set_num_threads(threads)
        return self.frame()

    def advance(self, advance: Callable) -> None:
        """Let the ensemble live through one chunk of examples."""
        X, Y = self.stream.examples(self.seeds, self.t, self.chunk)
        check_examples(self.stream, X, Y, self.t, (self.chunk, len(self.seeds)))
        self.nets, scores = advance(self.nets, self.hypers, X, Y)
        metric = "squared_error" if Y.is_floating_point() else "accuracy"
        self.total += scores.double().sum(0)
        self.t += self.chunk
        if self.t % self.bin == 0:
            row = {metric: (self.total / self.bin).float()}
            self.rows.append({k: v.cpu() for k, v in (row | self.look()).items()})
            self.total.zero_()

    def look(self) -> dict[str, Tensor]:
        """Apply the probe to every net, and to what the stream holds back or the last examples."""
        if self.probe is None:
            return {}
        if hasattr(self.stream, "test"):
            over_runs = vmap(self.probe)
            X, Y = self.stream.test(self.seeds, self.t)
            return vmap(over_runs, in_dims=(0, None, None))(self.nets, X, Y)
        n = self.probe_examples
        X, _ = self.stream.examples(self.seeds, self.t - n, n)
        over_runs = vmap(self.probe, in_dims=(0, 1))
        return vmap(over_runs, in_dims=(0, None))(self.nets, X)

    def frame(self) -> pd.DataFrame:
        """Give the tidy table: one row for each setting, seed and bin."""
        index = itertools.product(enumerate(self.settings), enumerate(self.seeds.tolist()))
        frames = []
        for (s, setting), (r, seed) in index:
            frame = pd.DataFrame({k: [float(row[k][s, r]) for row in self.rows]
                                  for k in self.rows[0]})
            frame.insert(0, "step", [self.bin * (i + 1) for i in range(len(self.rows))])
            about = {"learner": self.name, **setting, "seed": seed}
            for i, (k, v) in enumerate(about.items()):
                frame.insert(i, k, v)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)
