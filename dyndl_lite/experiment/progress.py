"""How far a long computation has come: a bar for a person, a few plain lines for a log."""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# What `Lines` prints: a notebook that is kept for readers does without it.
LINE = re.compile(r".+ \d+ %  \d+ s, about \d+ s left$")
BATCH_PROGRAMS = {"papermill", "nbconvert", "jupyter-nbconvert", "jupyter-execute", "nbgrader"}


@contextmanager
def progress(total: int, label: str) -> Iterator[Bar | Lines]:
    """Show the progress of `total` units of work.

    Parameters
    ----------
    total : int
        How many units there are.
    label : str
        What is being done, in a word or two.

    Yields
    ------
    object
        Call `.update(n)` on it after each `n` units. In a terminal and in a notebook with a
        reader it is a bar; in batch (papermill, a pipe, a log) it prints a line per 10 per cent.
    """
    shown = Bar(total, label) if someone_watches() else Lines(total, label)
    try:
        yield shown
    finally:
        shown.close()


def someone_watches() -> bool:
    """Is a person looking on? Under a kernel stdout is never a terminal, so look who began it."""
    if os.environ.get("DYNDL_BATCH"):
        return False
    if in_kernel():
        return not BATCH_PROGRAMS & parent_words()
    return sys.stderr.isatty()


def in_kernel() -> bool:
    """Does this code run in a Jupyter kernel?"""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def parent_words() -> set[str]:
    """The words of the parent's command line, programs without their folders."""
    try:
        return {Path(word).name for word in psutil.Process(os.getppid()).cmdline()}
    except psutil.Error:  # it has ended, or belongs to someone else
        return set()


class Bar:
    """A tqdm bar, in the terminal or in the notebook."""

    def __init__(self, total: int, label: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets tqdm falls back to text; fine
            from tqdm.auto import tqdm
        self.bar = tqdm(total=total, desc=label, unit_scale=True)

    def update(self, n: int) -> None:
        """Count `n` more units as done."""
        self.bar.update(n)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


class Lines:
    """One printed line per 10 per cent, with the time it took and may still take."""

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label = total, label
        self.done, self.tenth, self.start = 0, 0, time.monotonic()

    def update(self, n: int) -> None:
        """Count `n` more units as done."""
        self.done += n
        tenth = 10 * self.done // max(self.total, 1)
        if tenth > self.tenth:
            self.tenth = tenth
            spent = time.monotonic() - self.start
            rest = spent * max(self.total - self.done, 0) / self.done
            print(f"{self.label} {10 * tenth} %  {spent:.0f} s, about {rest:.0f} s left",
                  flush=True)

    def close(self) -> None:
        """Nothing to tidy up."""
