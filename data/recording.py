"""What the recorders of sweeps share: cut a sweep into ensembles, run them, find the best."""

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from dyndl_lite.experiment import ensemble, provenance
from dyndl_lite.learning import Learner

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


def lives(folder: Path, who: str, learner: Learner, values: dict, stream, units: int,
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
        mark = "_".join(f"{v:g}" for v in itertools.chain(*some.values()))
        frame = ensemble.run(stream, {who: (learner, some)}, seeds, steps, bin, probe=probe,
                             folder=folder / f"{mark}_from_{seeds[0]}")
        yield frame.assign(setting=named(frame, values))


def named(frame: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Name the setting of each row by the values that a sweep varies."""
    return [" ".join(f"{name}={value:g}" for name, value in zip(names, row))
            for row in frame[list(names)].itertuples(index=False)]


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


def of_learners(about: str, learners: Iterable[str], record: Callable, table: Path, problem: str,
                script: str) -> None:
    """Record the learners of one problem that the command line names, and say how each ended."""
    for who in asked(about, learners, "learner"):
        begin = time.monotonic()
        rows = record(who)
        provenance.keep(table, f"{problem}/{who}", {"problem": problem, "learner": who}, rows,
                        command=f"python {script} {who}", seconds=round(time.monotonic() - begin))
        last = rows[(rows.task == rows.task.max()) & (rows.metric == "test_accuracy")]
        print(last.groupby("setting").value.agg(["mean", "sem", "count"]), flush=True)


def values_of(setting: str) -> dict[str, list[float]]:
    """Give the sweep that holds one setting alone."""
    return {name: [float(value)] for name, value in (pair.split("=") for pair in setting.split())}


def best(rows: pd.DataFrame, metric: str, count: int) -> list[str]:
    """Name the settings with the best mean of a metric; one that ever diverged comes last."""
    chosen = rows[rows.metric == metric]
    means = chosen.groupby("setting").value.apply(lambda v: v.mean(skipna=False))
    means = means.sort_values(ascending=not metric.startswith(("accuracy", "online", "test")),
                              na_position="last")
    return list(means.index[:count])


def warn_of_an_edge(name: str, best_setting: str, values: dict) -> None:
    """Say so when the best setting is at the end of a sweep of three values or more."""
    for of, (value,) in values_of(best_setting).items():
        if len(values[of]) > 2 and value in (min(values[of]), max(values[of])):
            print(f"{name}: the best {of}, {value:g}, is at the edge of the sweep: widen it", flush=True)
