"""Record the comparison of continual backprop with the common remedies that notebook 05 shows.

    python data/record_remedies.py scr/5/l2 permuted_digits/100/l2 ...

A part is problem/units/learner, with units in each hidden layer (of a convolutional network, in all);
`--list` names all parts. Each part runs every setting of the learner's sweep with a few seeds, then
the best one with more. Rows go to data/results/remedies.csv: problem, units, learner, setting,
seed, task, metric, value. Task 0 is the whole life and, with metrics that end in _end, its last
fifth; tasks 1 to 10 are its tenths, of the best setting. What made them is noted in remedies.json.
It goes on after an interruption from its checkpoints under build/record/remedies/.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import recording
from record_image_classes import LAYOUT
from record_image_classes import problem as class_pairs
from recording import best, values_of, warn_of_an_edge
from swept_remedies import CHANGES, IMAGE_REMEDIES, REMEDIES

from dyndl_lite.experiment import compare, provenance
from dyndl_lite.learning import cross_entropy, squared_error
from dyndl_lite.problems import datasets
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

HERE = Path(__file__).resolve().parent
TABLE = HERE / "results/remedies.csv"
KEY = ["problem", "units", "learner"]
COLUMNS = [*KEY, "setting", "seed", "task", "metric", "value"]
INSIDE = ["dead_units", "weight_magnitude", "effective_rank"]
LOOKS = [1, 10]  # tenths of the life after which we look inside
CURVES = 5  # seeds of which every tenth is kept
DIGITS = CHANGES["permuted_digits"]  # all of them once: a task
TASKS = 40  # of digits, and of two classes of images


class Problem(NamedTuple):
    """A stream, how long it is lived through, and what counts."""

    stream: Callable  # () -> stream
    steps: int
    bin: int  # examples a row
    metric: str
    loss: Callable
    net: Callable  # units -> sizes or layout, as remedies take it
    units: list[int]
    seeds: tuple[int, int] = (10, 30)  # of the sweep, of the best setting
    remedies: dict = REMEDIES


def permuted_digits() -> PermutedImages:
    """Give the stream of permuted digits, each digit once a task."""
    return PermutedImages(*datasets.digits(), DIGITS, "permuted digits")


PAIR = class_pairs().task_length
PROBLEMS = {
    "scr": Problem(SlowlyChangingRegression, 1_000_000, 100_000, "squared_error", squared_error,
                   lambda units: (20, units, 1), [5, 20]),
    "permuted_digits": Problem(permuted_digits, TASKS * DIGITS, TASKS * DIGITS // 10, "accuracy",
                               cross_entropy, lambda units: (64, units, 10), [100], (4, 30)),
    "image_pairs": Problem(class_pairs, TASKS * PAIR, PAIR, "test_accuracy", cross_entropy,
                           lambda units: LAYOUT, [sum(LAYOUT.channels) + sum(LAYOUT.hidden)],
                           (3, 10), IMAGE_REMEDIES),
}


def measured(frame: pd.DataFrame, problem: Problem, inside: bool = False) -> pd.DataFrame:
    """Reduce the bins of each run to the rows of the table.

    Parameters
    ----------
    inside : bool
        With the tenths of the life, and what is inside the nets, of the first seeds.
    """
    metric, about = problem.metric, ["setting", "seed", "task", "metric"]

    def over(first, name):
        part = compare.window_mean(frame, metric, ["setting"], first, 1).rename("value").reset_index()
        return part.assign(task=0, metric=name)

    rows = [over(0, metric), over(0.8, f"{metric}_end")]
    if inside:
        tenths = frame.assign(task=-(-frame.step * 10 // problem.steps))  # rounded up
        tenths = tenths[tenths.seed < 10].groupby(["setting", "seed", "task"])[[metric, *INSIDE]]
        tenths = tenths.mean().reset_index().melt(["setting", "seed", "task"], None, "metric")
        curve = (tenths.metric == metric) & (tenths.seed < CURVES)
        rows.append(tenths[curve | tenths.task.isin(LOOKS)])
    return pd.concat(rows)[[*about, "value"]]


def live(name: str, values: dict, seeds: range, inside: bool = False) -> pd.DataFrame:
    """Run some settings of a part with some seeds, from the checkpoint if there is one."""
    kind, units, who = name.split("/")
    problem = PROBLEMS[kind]
    remedy = problem.remedies[who]
    frames = recording.lives(HERE.parent / "build/record/remedies" / name, who,
                             remedy.make(problem.net(int(units)), problem.loss), values,
                             problem.stream(), int(units), seeds, problem.steps,
                             problem.bin, remedy.probe())
    return pd.concat(measured(frame, problem, inside) for frame in frames)


def record(name: str) -> pd.DataFrame:
    """Record one part: the sweep with a few seeds, then the best setting with all."""
    kind, units, who = name.split("/")
    metric, values = PROBLEMS[kind].metric, PROBLEMS[kind].remedies[who].sweep(kind)
    few, many = PROBLEMS[kind].seeds
    rows = live(name, values, range(few))
    rows = rows[rows.metric == metric]
    winner, = best(rows, metric, 1)
    warn_of_an_edge(name, winner, values)
    rows = pd.concat([rows[rows.setting != winner],
                      live(name, values_of(winner), range(many), inside=True)])
    return rows.assign(problem=kind, units=int(units), learner=who)[COLUMNS]


def main() -> None:
    """Record the parts that are named."""
    known = [f"{kind}/{units}/{who}" for kind, problem in PROBLEMS.items()
             for units in problem.units for who in problem.remedies]
    for name in recording.asked(__doc__, known, "problem/units/learner"):
        begin = time.monotonic()
        rows = record(name)
        provenance.keep(TABLE, name, dict(zip(KEY, rows[KEY].iloc[0])), rows,
                        command=f"python data/record_remedies.py {name}",
                        seconds=round(time.monotonic() - begin))
        chosen = rows[rows.task == 0].groupby(["metric", "setting"]).value.agg(["mean", "sem",
                                                                                "count"])
        print(f"{name}:\n{chosen.to_string(float_format='{:.4g}'.format)}", flush=True)


if __name__ == "__main__":
    main()
