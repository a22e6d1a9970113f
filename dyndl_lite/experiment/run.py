"""The loop that every experiment runs in: bins, chunks, checkpoints, progress, a tidy table.

What it runs is a `Job`: how it starts and how it advances. Supervised learners (`ensemble`), agents
that learn as they act (`rl.train_streaming`) and PPO (`rl.train_ppo`) are jobs.
"""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import torch
from torch import Tensor

from dyndl_lite.experiment import checkpoint, compiler, drivers
from dyndl_lite.experiment.fingerprint import fingerprint, Unknowable
from dyndl_lite.experiment.progress import progress


class Job:
    """Something with a course in time, for many rows of a table side by side.

    All that changes while it runs is in its state, a tree of dicts, lists, tensors and numbers; a
    simulator that keeps a state of its own is seen to by `pack`, `unpack`.
    """

    name: str  # for the progress, the checkpoint and messages
    rows: list[dict]  # what tells the rows of the table apart: learner, settings, seed
    ends: list[int]  # where the bins end, in steps
    chunk: int = 1  # steps at a time
    facts: tuple = ()  # all that its course depends on, beside its class
    device: torch.device = torch.device("cpu")
    one_thread: bool = True  # of small nets: threads cost more than they bring

    def start(self) -> dict:
        """Give the state at step 0."""
        raise NotImplementedError

    def advance(self, state: dict, t: int, steps: int) -> tuple[dict, dict, object]:
        """Advance from step t; give the state, sums of the bin, and what `measure` may look at."""
        raise NotImplementedError

    def measure(self, state: dict, t: int, sums: dict, steps: int, seen) -> dict[str, Tensor]:
        """Give the measurements of a bin that ends at step t, each as many numbers as rows."""
        raise NotImplementedError

    def when(self, end: int) -> dict:
        """Give the columns that say when a bin ended."""
        return {"step": end}

    def pack(self, state: dict) -> dict:
        """Give what a checkpoint keeps of a state; raise ValueError if that cannot be known."""
        return state

    def unpack(self, packed: dict) -> dict:
        """Give the state again, after `start`."""
        return packed

    def close(self) -> None:
        """Let go of what `start` took."""


def bin_ends(steps: int, bin: int) -> list[int]:
    """Give the ends of the bins of a run; the last one takes what is left: half to one and a half."""
    if steps < 1 or bin < 1:
        raise ValueError(f"steps {steps} and bin {bin}: both must be at least 1")
    return [*range(bin, bin * max(1, round(steps / bin)), bin), steps]


def chunk_of(bin: int, most: int) -> int:
    """Cut a bin into equal chunks of at most so many steps; a few steps may be left over."""
    return max(1, bin // -(-bin // max(1, most)))


def seeds_of(seeds: Iterable[int], device: torch.device = torch.device("cpu")) -> Tensor:
    """Give the seeds as a tensor; ValueError if there is none."""
    seeds = torch.tensor(list(seeds), dtype=torch.int64, device=device)
    if len(seeds) == 0:
        raise ValueError("seeds is empty: give at least one")
    return seeds


def run(job: Job, folder: str | Path | None = None, save_every: float = 30.0
        ) -> tuple[dict, pd.DataFrame]:
    """Run a job to its end.

    Parameters
    ----------
    job : Job
    folder, save_every : path, optional, and float
        Where a checkpoint is kept: at the start, every so many seconds, and at the end. A run that
        is started again, or for longer, goes on from there, bit for bit.

    Returns
    -------
    state : dict, at the end
    table : DataFrame, one row for each of the job's rows and each bin

    Raises
    ------
    ValueError, OSError
        Before any work, if a checkpoint cannot be kept.
    """
    path = Path(folder) / f"{quote(job.name, safe='')}.pt" if folder else None
    threads = torch.get_num_threads()
    if job.one_thread:
        torch.set_num_threads(1)
    try:
        return _run(job, path, save_every)
    finally:
        torch.set_num_threads(threads)
        job.close()


def _run(job: Job, path: Path | None, save_every: float) -> tuple[dict, pd.DataFrame]:
    state, t, sums, bins = job.start(), 0, None, []
    mark = _mark(job) if path else None

    def kept() -> dict:
        return {"fingerprint": mark, "t": t, "state": job.pack(state), "sums": sums, "bins": bins,
                "ends": job.ends[:len(bins)]}

    if mark:
        saved = checkpoint.load(path, mark, job.ends, job.device)
        if saved:
            t, sums, bins = saved["t"], saved["sums"], saved["bins"]
            state = job.unpack(saved["state"])
        else:
            checkpoint.check(kept(), job.name)
            checkpoint.save(path, kept())
    last_save = time.monotonic()
    with progress(job.ends[-1], job.name) as bar:
        bar.update(t)
        while len(bins) < len(job.ends):
            end = job.ends[len(bins)]
            steps = (end - t) % job.chunk or job.chunk  # what does not fill a chunk comes first
            state, more, seen = job.advance(state, t, steps)
            sums = {k: sums[k] + v for k, v in more.items()} if sums else more
            t += steps
            bar.update(steps)
            if t == end:
                length = end - (job.ends[len(bins) - 1] if bins else 0)
                measured = job.measure(state, t, sums, length, seen)
                bins.append({k: v.flatten().cpu() for k, v in measured.items()})
                sums = None
            if mark and (time.monotonic() - last_save >= save_every or t == job.ends[-1]):
                checkpoint.save(path, kept())
                last_save = time.monotonic()
    table = pd.DataFrame([{**row, **job.when(end)} for row in job.rows for end in job.ends])
    for name in bins[0]:
        table[name] = torch.stack([one[name] for one in bins], 1).flatten().double().numpy()
    return state, table


def _mark(job: Job) -> str | None:
    """Digest all that a job's course depends on: then another one cannot continue it."""
    try:
        return fingerprint(type(job), job.facts, job.chunk, str(job.device), drivers, compiler,
                           sys.modules[__name__])
    except Unknowable as error:
        print(f"[dyndl_lite] {job.name!r} is run without a checkpoint: whether one is of the same "
              f"code cannot be known ({error})", flush=True)
        return None
