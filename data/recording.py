"""What the recorders share: cut a sweep into ensembles, choose with some seeds, report with others."""

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from dyndl_lite.experiment import compare, ensemble, provenance
from dyndl_lite.learning import Learner

HERE = Path(__file__).resolve().parent
RESULTS, CHECKPOINTS = HERE / "results", HERE.parent / "build/record"
TOGETHER = 2**26  # bytes of weights in one ensemble: more would leave the processor's cache


def batches(learner: Learner, stream, units: int, runs: int, values: dict) -> Iterator[dict]:
    """Cut a sweep into ensembles that fit the cache, along its first setting."""
    one = 4 * units * (stream.inputs + 2 + learner.outputs) * runs
    first, *others = values
    rest = {name: values[name] for name in others}
    others = len(list(itertools.product(*rest.values())))
    size = max(1, int(TOGETHER / (one * others)))
    for i in range(0, len(values[first]), size):
        yield {first: values[first][i:i + size], **rest}


def ensembles(folder: Path, who: str, learner: Learner, values: dict, stream, units: int,
              seeds: range, steps: int, bin: int, probe: Callable | None = None
              ) -> Iterator[pd.DataFrame]:
    """Run some settings with some seeds, from the checkpoints if there are any.

    Yields
    ------
    DataFrame
        Of one ensemble, as `ensemble.run` gives it, and the column setting, which names the
        values that the sweep varies.
    """
    for some in batches(learner, stream, units, len(seeds), values):
        key = "_".join(f"{v:g}" for v in itertools.chain(*some.values()))
        frame = ensemble.run(stream, {who: (learner, some)}, seeds, steps, bin, probe=probe,
                             folder=folder / f"{key}_from_{seeds[0]}")
        yield frame.assign(setting=named(frame, values))


def named(frame: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Name the setting of each row by the values that a sweep varies."""
    return [" ".join(f"{name}={value:g}" for name, value in zip(names, row))
            for row in frame[list(names)].itertuples(index=False)]


def swept(**values) -> Callable:
    """Give the function of a problem's name that gives its sweep: lists, or a dict of them by name."""
    return lambda problem: {name: of[problem] if isinstance(of, dict) else of
                            for name, of in values.items()}


def values_of(setting: str) -> dict[str, list[float]]:
    """Give the sweep that holds one setting alone."""
    return {name: [float(value)] for name, value in (pair.split("=") for pair in setting.split())}


def choose_and_report(run: Callable, values: dict, seeds: tuple[int, int],
                      winners: Callable) -> pd.DataFrame:
    """Run a sweep with some seeds, then what won with others: a winner is too good on its own seeds.

    Parameters
    ----------
    run : function of (values, seeds, whether to report)
        Gives rows with a column ``setting``.
    values : dict
        The sweep: lists of values, or a value.
    seeds : (int, int)
        Seeds below the first number choose, those from there to the second report.
    winners : function of the rows that choose
        Gives the settings that go on.

    Returns
    -------
    DataFrame
        All rows; column ``use`` says "choice" or "report". Without a choice all seeds report.
    """
    few, every = seeds
    if not any(isinstance(v, list) and len(v) > 1 for v in values.values()):
        return run(values, range(every), True).assign(use="report")
    rows = run(values, range(few), False).assign(use="choice")
    reports = [run({**values, **values_of(setting)}, range(few, every), True)
               for setting in dict.fromkeys(winners(rows))]
    return pd.concat([rows, *(one.assign(use="report") for one in reports)])


def best(rows: pd.DataFrame, metric: str, count: int = 1) -> list[str]:
    """Name the settings with the best mean of a metric; one that ever diverged comes last."""
    series = rows[rows.metric == metric].set_index(["setting", "seed"]).value
    return compare.ranked(series, metric.startswith(("accuracy", "online", "test")))[:count]


def warn_of_an_edge(name: str, best_setting: str, values: dict) -> None:
    """Say so when the best setting is at the end of a sweep of three values or more."""
    for of, (value,) in values_of(best_setting).items():
        if len(values[of]) > 2 and value in (min(values[of]), max(values[of])):
            print(f"{name}: the best {of}, {value:g}, is at the edge of the sweep: widen it", flush=True)


def asked(about: str, known: Iterable[str], form: str) -> list[str]:
    """Read from the command line which parts to record; `--list` prints all that are known."""
    parser, known = argparse.ArgumentParser(description=about.splitlines()[0]), list(known)
    parser.add_argument("parts", nargs="*", metavar="part", help=form)
    parser.add_argument("--list", action="store_true", help="name all parts")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in known]
    if unknown:
        parser.error(f"no part {unknown[0]!r}: see --list")
    if not given.parts and not given.list:
        parser.error("name a part or more: see --list")
    if given.list:
        print("\n".join(known))
    return given.parts


def main(script: str, about: str, parts: Iterable[str], form: str, record: Callable, table: str,
         key: list[str], **made) -> None:
    """Record the parts that the command line names.

    Parameters
    ----------
    script, about : str
        The recorder's ``__file__`` and ``__doc__``.
    parts, form
        What can be asked for, and how it is written.
    record : function of a part's name
        Gives its rows, or yields all that are known so far.
    table : str
        Name of the CSV file under results/.
    key : list of str
        Columns by which the rows of one entry of the JSON file are known.
    **made
        What else to note there.
    """
    for name in asked(about, parts, form):
        begin, rows = time.monotonic(), record(name)
        for known in [rows] if isinstance(rows, pd.DataFrame) else rows:
            for values, mine in known.groupby(key, sort=False):
                provenance.keep(RESULTS / table, "/".join(map(str, values)),
                                dict(zip(key, values)), mine, **made,
                                command=f"python data/{Path(script).name} '{name}'",
                                seconds=round(time.monotonic() - begin))
            if "metric" in known:
                told = known.groupby([*key, "metric", "setting", "use"], sort=False).value
                print(f"{name}:\n{told.agg(['mean', 'sem', 'count']).to_string()}", flush=True)
