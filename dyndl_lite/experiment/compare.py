"""Say how sure a comparison is: means over runs with 95 % intervals, and paired differences.

One policy for tables and bands: Student's t over independent runs, and a mean is over *all* runs or
it is not shown. A run that diverged (NaN or infinite) is never left out of a mean in silence.
"""

import numpy as np
import pandas as pd
from scipy import stats


def window_mean(frame: pd.DataFrame, metric: str, by: list[str], first: float, last: float,
                weights: str | None = None) -> pd.Series:
    """Average a metric over a window of every run.

    Parameters
    ----------
    frame : DataFrame
        As `ensemble.run` gives it.
    metric : str
    by : list of str
        Columns that tell learners and settings apart.
    first, last : float
        The window as shares of the run: 0 and 0.1 are its first tenth, but at least one bin.
    weights : str, optional
        Column with the weight of a bin, "episodes" for returns: their mean is then over episodes.

    Returns
    -------
    Series indexed by `by` and seed
        NaN for a run that has a bin without a finite value.
    """
    steps = frame.groupby(by).step
    bins, index = steps.transform("nunique"), steps.rank("dense") - 1
    begin = np.floor(first * bins + 1e-9)  # 0.3 of 10 bins are 3, whatever floats say
    end = np.maximum(np.floor(last * bins + 1e-9), begin + 1)
    return run_means(frame[(index >= begin) & (index < end)], metric, [*by, "seed"], weights)


def run_means(frame: pd.DataFrame, metric: str, keys: list[str],
              weights: str | None = None) -> pd.Series:
    """Average the rows of each group; NaN where one of them has no finite value."""
    weight = frame[weights] if weights else pd.Series(1.0, frame.index)
    value = frame[metric].where(np.isfinite(frame[metric]), np.inf)  # infinity spoils a sum
    by = [frame[key] for key in keys]  # not by name: a key may be called like a column here
    total = (value * weight).where(weight > 0, 0.0).groupby(by).sum()
    means = (total / weight.groupby(by).sum()).rename(metric)
    return means.where(np.isfinite(means))


def remembered(frame: pd.DataFrame, metric: str, by: list[str], cycle: int, visit: int,
               cycles: int = 2) -> pd.DataFrame:
    """Measure retention and plasticity of runs whose tasks return.

    Parameters
    ----------
    frame, metric, by
        As for `window_mean`; the bins are of 100 examples.
    cycle, visit, cycles : int
        Visits a cycle, examples a visit, and how many of the last cycles count.

    Returns
    -------
    DataFrame indexed by `by` and seed
        Means of the metric. Over the last cycles: ``visit``, ``first_100`` (retention) and
        ``last_1000`` of each visit; over the first cycle: ``plasticity``.
    """
    within = (frame.step - 1) % visit
    last = frame.step > frame.step.max() - cycles * cycle * visit
    parts = {"visit": last, "first_100": last & (within < 100),
             "last_1000": last & (within >= visit - 1_000),
             "plasticity": frame.step <= cycle * visit}
    return pd.DataFrame({name: run_means(frame[part], metric, [*by, "seed"])
                         for name, part in parts.items()})


def interval(values) -> tuple[float, float, float]:
    """Mean of independent runs, with the ends of its 95 % confidence interval (Student's t).

    All three are NaN if a run is missing, the ends if there are fewer than two.
    """
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        return (np.nan,) * 3
    mean = float(values.mean())
    half = float(half_width(values.std(ddof=1), len(values))) if len(values) > 1 else np.nan
    return mean, mean - half, mean + half


def half_width(deviation, runs):
    """Half of the 95 % interval (Student's t) of a mean over runs with this standard deviation."""
    return stats.t.ppf(0.975, runs - 1) * deviation / np.sqrt(runs)


def paired(a: pd.Series, b: pd.Series) -> tuple[float, float, float]:
    """Mean of a - b over the seeds that both have, with its 95 % interval.

    Parameters
    ----------
    a, b : Series indexed by seed

    Raises
    ------
    ValueError
        If they have no seed in common.
    """
    both = pd.concat([a, b], axis=1, join="inner").to_numpy()
    if len(both) == 0:
        raise ValueError("no seed is in both series: a paired comparison needs the same seeds")
    return interval(both[:, 0] - both[:, 1])


def complete(values) -> int | str:
    """Number of runs; "2 of 3" if one of three is missing (diverged)."""
    there = int(np.isfinite(np.asarray(values, dtype=float)).sum())
    return there if there == len(values) else f"{there} of {len(values)}"


def table(series: pd.Series, name: str = "mean") -> pd.DataFrame:
    """Give one row for each setting: mean over seeds, 95 % interval, and the number of runs.

    Where a run is missing there is no mean, and ``runs`` says "2 of 3".
    """
    groups = series.groupby([level for level in series.index.names if level != "seed"])
    rows = [(*interval(values), complete(values)) for _, values in groups]
    return pd.DataFrame(rows, groups.size().index, [name, "low", "high", "runs"])


def means(series: pd.Series) -> pd.Series:
    """Mean over seeds for each setting; NaN, so never the least or largest, where a run is missing."""
    by = [level for level in series.index.names if level != "seed"]
    name = "mean over seeds"  # no level is called that
    return run_means(series.rename(name).reset_index(), name, by)


def ranked(series: pd.Series, larger: bool = False) -> list:
    """Order settings by their mean over seeds, best first; those with a missing run come last.

    Choose with some seeds and report with others: the mean that won is too good on its own seeds.
    `larger` says whether a larger value is better.
    """
    return list(means(series).sort_values(ascending=not larger, kind="stable").index)
