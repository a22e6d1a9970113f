"""Say how sure a comparison is: means over runs with 95 % intervals, and paired differences."""

import numpy as np
import pandas as pd
from scipy import stats


def stretch(frame: pd.DataFrame, metric: str, by: list[str], first: float,
            last: float) -> pd.Series:
    """Average a metric over a stretch of every run.

    Parameters
    ----------
    frame : DataFrame
        As `ensemble.run` gives it.
    metric : str
    by : list of str
        Columns that tell learners and settings apart.
    first, last : float
        The stretch as shares of the run: 0 and 0.1 are its first tenth. It holds at least
        one bin, however few there are.

    Returns
    -------
    Series indexed by `by` and seed
    """
    steps = frame.groupby(by).step
    bins, index = steps.transform("nunique"), steps.rank("dense") - 1
    begin = np.floor(first * bins + 1e-9)  # 0.3 of 10 bins are 3, whatever floats say
    end = np.maximum(np.floor(last * bins + 1e-9), begin + 1)
    chosen = frame[(index >= begin) & (index < end)]
    return chosen.groupby([*by, "seed"])[metric].mean()


def interval(values) -> tuple[float, float, float]:
    """Mean of independent runs, with the ends of its 95 % confidence interval (Student's t)."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return mean, mean - float(half), mean + float(half)


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


def table(series: pd.Series, name: str = "mean") -> pd.DataFrame:
    """Give one row for each setting: mean over seeds, 95 % interval, number of runs."""
    by = [level for level in series.index.names if level != "seed"]
    rows = {}
    for key, values in series.groupby(by):
        mean, low, high = interval(values)
        rows[key] = {name: mean, "low": low, "high": high, "runs": len(values)}
    result = pd.DataFrame.from_dict(rows, orient="index")
    result.index = (pd.MultiIndex.from_tuples(rows, names=by) if len(by) > 1
                    else pd.Index([k[0] if isinstance(k, tuple) else k for k in rows],
                                  name=by[0]))
    return result
