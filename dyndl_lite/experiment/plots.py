"""The house style of the figures: colour-blind safe, line styles too, a text for every picture."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def style() -> None:
    """Set the house style for all figures that follow."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind",
                  rc={"figure.figsize": (8, 4.5), "figure.dpi": 100, "savefig.dpi": 100})


def curves(frame: pd.DataFrame, metric: str, by: str, ax: Axes | None = None,
           x: str = "step", xlabel: str = "examples") -> Axes:
    """Draw the mean over runs with its 95 % interval, one line for each value of a column.

    Parameters
    ----------
    frame : DataFrame
        As `ensemble.run` gives it.
    metric, by : str
        What to draw, and the column whose values get a line each (colour and line style).
    ax : Axes, optional
    x, xlabel : str
        Column and label of the horizontal axis.

    Returns
    -------
    Axes
    """
    ax = ax or plt.subplots()[1]
    order = list(dict.fromkeys(frame[by]))
    sns.lineplot(frame, x=x, y=metric, hue=by, style=by, hue_order=order, style_order=order,
                 errorbar=_band, estimator="mean", ax=ax)
    ax.set(xlabel=xlabel, ylabel=LABELS.get(metric, metric))
    if x == "step":
        ax.xaxis.set_major_formatter(lambda v, _: f"{v / 1e6:g} M" if v >= 1e6 else f"{v / 1e3:g} k")
    return ax


def _band(values: pd.Series) -> tuple[float, float]:
    """Normal 95 % interval of a mean over runs: what the eye needs, without resampling."""
    half = 1.96 * values.sem() if len(values) > 1 else 0.0
    return values.mean() - half, values.mean() + half


def show(figure: Figure, name: str, alt: str, out: str | Path) -> None:
    """Save a figure as OUT/name.png and show it with its text alternative.

    Parameters
    ----------
    figure : Figure
    name : str
        Of the file, without suffix.
    alt : str
        What a reader who does not see the picture should know.
    out : path
        The notebook's folder.
    """
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
    import inspect

    from IPython.display import Code

    for thing in things:
        display(Code(inspect.getsource(thing), language="python"))


def film(figure: Figure, draw: Callable[[int], None], frames: int, name: str, alt: str,
         out: str | Path) -> None:
    """Save an animation as OUT/name.gif and show it with its text alternative.

    Parameters
    ----------
    figure : Figure
    draw : function of the number of a frame
        Draws that frame into the figure, from an empty one.
    frames : int
    name, alt, out
        As for `show`.
    """
    from base64 import b64encode

    from matplotlib.animation import PillowWriter

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
