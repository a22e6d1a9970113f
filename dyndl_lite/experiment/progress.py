"""How far a long computation has come: tqdm's bar for a person, a few plain lines for a log."""

from __future__ import annotations

import math
import os
import re
import sys
import warnings
from pathlib import Path

import psutil
from tqdm import tqdm

# What `Lines` prints: a notebook that is kept for readers does without it.
LINE = re.compile(r".+ \d+ %  \d+ s, about \d+ s left$")
BATCH_PROGRAMS = {"papermill", "nbconvert", "jupyter-nbconvert", "jupyter-execute", "nbgrader"}


class Lines(tqdm):
    """A bar for a log: one whole line on stdout for each tenth of the work."""

    monitor_interval = 0  # no thread that prints when nothing was done

    def __init__(self, total: int, desc: str) -> None:
        super().__init__(total=total, desc=desc, miniters=total / 10, mininterval=0, delay=1e-9,
                         maxinterval=math.inf,  # else another bar's monitor lets every update print
                         bar_format="{desc} {percentage:.0f} %  {elapsed_s:.0f} s, about "
                                    "{remaining_s:.0f} s left")

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print where it stands."""
        print(self, flush=True)

    def close(self) -> None:
        """Print nothing more: the last line was ended."""
        self.disable = True


def progress(total: int, label: str) -> tqdm:
    """Show the progress of `total` units of work, in a `with` block: ``.update(n)`` after each `n`.

    In a terminal and in a notebook with a reader it is a bar; in batch it prints `Lines`.
    """
    if not someone_watches():
        return Lines(total, label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets tqdm falls back to text; fine
        from tqdm.auto import tqdm as bar
    return bar(total=total, desc=label, unit_scale=True)


def someone_watches() -> bool:
    """Is a person looking on? Under a kernel stdout is never a terminal, so look who began it."""
    if os.environ.get("DYNDL_BATCH"):
        return False
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return sys.stderr.isatty()
    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:  # it has ended, or belongs to someone else
        return True
    return not BATCH_PROGRAMS & {Path(word).name for word in words}
