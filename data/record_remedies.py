"""Record the comparison of continual backprop with the common remedies that notebook 05 shows.

    python data/record_remedies.py scr/5/l2 permuted_digits/100/l2 ...

A part is problem/units/learner, with units in each hidden layer (of a convolutional network, in all);
`--list` names all parts. Each part runs every setting of the learner's sweep with a few seeds, which
choose, then the best one with others, which report. Rows go to data/results/remedies.csv: problem,
units, learner, setting, seed, task, metric, value, use. Task 0 is the whole life and, with metrics that
end in _end, its last fifth; tasks 1 to 10 are its tenths, of the best setting. What made them is noted
in remedies.json. It goes on after an interruption from its checkpoints under build/record/remedies/.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import recording
from baselines import CHANGES, IMAGE_REMEDIES, REMEDIES
from record_image_classes import LAYOUT
from record_image_classes import problem as class_pairs
from recording import best, warn_of_an_edge

from dyndl_lite.experiment import compare
from dyndl_lite.learning import cross_entropy, squared_error
from dyndl_lite.problems import datasets
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

KEY = ["problem", "units", "learner"]
COLUMNS = [*KEY, "setting", "seed", "task", "metric", "value", "use"]
INSIDE = ["dead_units", "weight_magnitude", "effective_rank"]
LOOKS = [1, 10]  # tenths of the life after which we look inside
CURVES, LOOKED_INTO = 5, 10  # seeds that report of which every tenth, and the looks, are kept
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
    seeds: tuple[int, int] = (10, 30)  # those that choose, and all with those that report
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
        tenths["nth"] = tenths.seed - tenths.seed.min()
        tenths = tenths[tenths.nth < LOOKED_INTO]
        keys = ["setting", "seed", "task", "nth"]
        tenths = pd.concat([compare.run_means(tenths, one, keys) for one in (metric, *INSIDE)], axis=1)
        tenths = tenths.reset_index().melt(keys, None, "metric")
        curve = (tenths.metric == metric) & (tenths.nth < CURVES)
        rows.append(tenths[curve | tenths.task.isin(LOOKS)])
    return pd.concat(rows)[[*about, "value"]]


def live(name: str, values: dict, seeds: range, inside: bool = False) -> pd.DataFrame:
    """Run some settings of a part with some seeds, from the checkpoint if there is one."""
    kind, units, who = name.split("/")
    problem = PROBLEMS[kind]
    remedy = problem.remedies[who]
    frames = recording.ensembles(
        recording.CHECKPOINTS / "remedies" / name, who,
        remedy.make(problem.net(int(units)), problem.loss), values, problem.stream(), int(units),
        seeds, problem.steps, problem.bin, remedy.probe())
    return pd.concat(measured(frame, problem, inside) for frame in frames)


def record(name: str) -> pd.DataFrame:
    """Record one part: the sweep with a few seeds, then the best setting with the others."""
    kind, units, who = name.split("/")
    problem = PROBLEMS[kind]
    values = problem.remedies[who].sweep(kind)

    def winner(rows):
        chosen = best(rows, problem.metric)
        warn_of_an_edge(name, chosen[0], values)
        return chosen

    rows = recording.choose_and_report(
        lambda values, seeds, report: live(name, values, seeds, inside=report), values,
        problem.seeds, winner)
    rows = rows[(rows.use == "report") | (rows.metric == problem.metric)]
    return rows.assign(problem=kind, units=int(units), learner=who)[COLUMNS]


if __name__ == "__main__":
    recording.main(__file__, __doc__, [f"{kind}/{units}/{who}" for kind, problem in PROBLEMS.items()
                                       for units in problem.units for who in problem.remedies],
                   "problem/units/learner", record, "remedies.csv", KEY)
