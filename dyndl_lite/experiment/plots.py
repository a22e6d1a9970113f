"""The house style of the figures: colour-blind safe, line styles too, a text for every picture."""

import inspect
import io
from base64 import b64encode
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Code, display
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dyndl_lite.experiment import compare
from dyndl_lite.files import atomic

LABELS = {
    "squared_error": "squared error (mean over the bin)",
    "accuracy": "online accuracy (share correct)",
    "dead_units": "dead units (share)",
    "rarely_active_units": "units active under 1 % of the time (share)",
    "weight_magnitude": "mean weight magnitude",
    "effective_rank": "effective rank (dimensions)",
    "stable_rank": "stable rank, 99 % of the sum (dimensions)",
    "stable_rank_frobenius": "stable rank, Frobenius (dimensions)",
}
# Lengths of dash and gap, in widths of the line: lines differ in more than their colour.
DASHES = [(), (4, 1.5), (1, 1), (3, 1.25, 1.5, 1.25), (5, 1, 1, 1)]


def style() -> None:
    """Set the house style for all figures that follow."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind",
                  rc={"figure.figsize": (8, 4.5), "figure.dpi": 100, "savefig.dpi": 100})


def curves(frame: pd.DataFrame, metric: str, by: str, ax: Axes | None = None,
           x: str = "step", xlabel: str = "examples", log: bool = False) -> Axes:
    """Draw the mean over runs with its 95 % interval, one line for each value of a column.

    Parameters
    ----------
    frame : DataFrame
        As `ensemble.run` gives it. Rows of one run at one place are averaged first.
    metric, by : str
        What to draw, and the column whose values get a line each (colour and line style).
    ax : Axes, optional
    x, xlabel : str
        Column and label of the horizontal axis.
    log : bool
        Whether the vertical axis is logarithmic, and the band made on its scale.

    Returns
    -------
    Axes
        Where a run has no finite value the line ends, and the legend says "2 of 3 runs".
    """
    ax = ax or plt.subplots()[1]
    names = list(dict.fromkeys(frame[by]))
    colours = sns.color_palette(None if len(names) <= 10 else "husl", len(names))
    for name, colour, dashes in zip(names, colours, cycle(DASHES)):
        runs = compare.run_means(frame[frame[by] == name], metric, [x, "seed"])
        runs = runs.fillna(np.inf).unstack("seed")  # what is not in the frame stays NaN: not missing
        mean, low, high = band(runs, log)
        whole = compare.complete(runs.max())
        label = f"{name} ({whole} runs)" if isinstance(whole, str) else str(name)
        ax.plot(mean.index, mean, color=colour, dashes=dashes, label=label)
        ax.fill_between(mean.index, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=LABELS.get(metric, metric), yscale="log" if log else ax.get_yscale())
    ax.legend(title=by)
    if x == "step":
        ax.xaxis.set_major_formatter(lambda v, _: f"{v / 1e6:g} M" if v >= 1e6 else f"{v / 1e3:g} k")
    return ax


def band(runs: pd.DataFrame, log: bool = False) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Mean and ends of Student's 95 % interval in each row of a table with a column for each run.

    On the log scale the half width is that of the mean's logarithm, half / mean (delta method).
    """
    mean, count = runs.mean(axis=1).replace(np.inf, np.nan), runs.count(axis=1)
    half = compare.half_width(runs.where(mean.notna(), axis=0).std(axis=1), count)
    if log:
        factor = np.exp(half / mean)
        return mean, mean / factor, mean * factor
    return mean, mean - half, mean + half


def show(figure: Figure, name: str, alt: str, out: str | Path) -> None:
    """Save a figure as OUT/name.png and show it, with a text for who does not see the picture."""
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")  # legends may stand outside
    plt.close(figure)
    with atomic(Path(out) / f"{name}.png") as path:
        path.write_bytes(picture.getvalue())
    display({"image/png": picture.getvalue(), "text/plain": alt}, raw=True,
            metadata={"image/png": {"alt": alt}})


def source(*things: Callable) -> None:
    """Show the source of functions, highlighted: the code that runs, not a copy of it."""
    for thing in things:
        display(Code(inspect.getsource(thing), language="python"))


def film(figure: Figure, draw: Callable[[int], None], frames: int, name: str, alt: str,
         out: str | Path) -> None:
    """Save an animation as OUT/name.gif and show it, as `show` does.

    `draw` draws the frame of a number into the figure, from an empty one.
    """
    with atomic(Path(out) / f"{name}.gif") as path:
        writer = PillowWriter(fps=5)
        with writer.saving(figure, str(path), dpi=70):
            for frame in range(frames):
                draw(frame)
                writer.grab_frame()
        moving = path.read_bytes()
    plt.close(figure)
    picture = f'<img alt="{alt}" src="data:image/gif;base64,{b64encode(moving).decode()}">'
    display({"text/html": picture, "text/plain": alt}, raw=True)
