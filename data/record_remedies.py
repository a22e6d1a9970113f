"""Record the comparison of continual backprop with the common remedies that notebook 05 shows.

    python data/record_remedies.py scr/5/l2 permuted_digits/100/l2 ...

A part is problem/units/learner, with units in each hidden layer; `--list` names all parts. Each
part runs every setting of the learner's sweep with 10 seeds, then the best one with 30. Rows go to
data/results/remedies.csv: problem, units, learner, setting, seed, task, metric, value. Task 0 is the
whole life and, with metrics that end in _end, its last fifth; tasks 1 to 10 are its tenths, of the
best setting and 10 seeds. What made them is noted in remedies.json. It goes on after an
interruption from its checkpoints under build/record/remedies/.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import recording
from recording import best, values_of, warn_of_an_edge

from dyndl_lite import compare, datasets, diagnostics, hidden_layers, provenance
from dyndl_lite.backprop import adam, backprop, cross_entropy, squared_error
from dyndl_lite.continual_backprop import continual_backprop
from dyndl_lite.hidden_layers import backprop_with
from dyndl_lite.remedies import clipped, l2, l2_init, perturbed, upgd
from dyndl_lite.resets import heads_reset, resetting
from dyndl_lite.streams import PermutedImages, SlowlyChangingRegression

HERE = Path(__file__).resolve().parent
TABLE = HERE / "results/remedies.csv"
KEY = ["problem", "units", "learner"]
COLUMNS = [*KEY, "setting", "seed", "task", "metric", "value"]
FEW, ALL = 10, 30  # seeds of the sweep, of the best setting
INSIDE = ["dead_units", "weight_magnitude", "effective_rank"]
LOOKS = [1, 4, 7, 10]  # tenths of the life after which we look inside
DIGITS, TASKS = 1_797, 40


class Problem(NamedTuple):
    """A stream, how long it is lived through, and what counts."""

    stream: Callable  # () -> stream
    steps: int
    metric: str
    loss: Callable
    task: int  # examples between two changes: what is told to who resets its heads
    layers: int
    units: list[int]


def permuted_digits() -> PermutedImages:
    """Give the stream of permuted digits, each digit once a task."""
    return PermutedImages(*datasets.digits(), DIGITS, "permuted digits")


PROBLEMS = {
    "scr": Problem(SlowlyChangingRegression, 1_000_000, "squared_error", squared_error, 10_000, 1,
                   [5, 20]),
    "permuted_digits": Problem(permuted_digits, TASKS * DIGITS, "accuracy", cross_entropy,
                               DIGITS, 1, [100]),
    "permuted_digits_deep": Problem(permuted_digits, TASKS * DIGITS, "accuracy", cross_entropy,
                                    DIGITS, 3, [100]),
}
STEPS = {"scr": [0.001, 0.003, 0.01, 0.03], "permuted_digits": [0.015, 0.03, 0.06],
         "permuted_digits_deep": [0.003, 0.01, 0.03]}
# Where activities are normalised or gradients damped, the best step size may be a larger one.
LARGER = {"scr": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
          "permuted_digits": [0.01, 0.02, 0.03, 0.06, 0.1],
          "permuted_digits_deep": [0.003, 0.01, 0.03, 0.1]}
ADAM = {"scr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "permuted_digits": [3e-4, 1e-3, 3e-3, 1e-2],
        "permuted_digits_deep": [1e-4, 3e-4, 1e-3, 3e-3]}
DECAYS = {"scr": [1e-4, 1e-3, 1e-2, 3e-2, 1e-1], "permuted_digits": [3e-4, 1e-3, 3e-3, 1e-2],
          "permuted_digits_deep": [1e-4, 3e-4, 1e-3, 3e-3]}
NOISES = {"scr": [1e-4, 1e-3, 1e-2], "permuted_digits": [1e-3, 3e-3],
          "permuted_digits_deep": [3e-4, 1e-3]}


class Remedy(NamedTuple):
    """A learner, its sweep, and how to look inside it."""

    make: Callable  # sizes, loss -> Learner
    sweep: Callable  # problem name -> values
    probe: Callable = diagnostics.probe


def with_steps(**more) -> Callable:
    """Give the sweep of the step size with the values of other settings."""
    return lambda problem: {"step_size": STEPS[problem], **more}


def with_decays(problem: str) -> dict:
    """Give the sweep of the step size and of the weight decay."""
    return {"step_size": STEPS[problem], "weight_decay": DECAYS[problem]}


def with_larger_steps(**more) -> Callable:
    """Give the same with a larger step size added."""
    return lambda problem: {"step_size": LARGER[problem], **more}


def of_kind(kind: str, **more) -> Remedy:
    """Give a remedy that changes the hidden layers."""
    return Remedy(lambda sizes, loss: backprop_with(kind, sizes, loss=loss),
                  with_larger_steps(**more), lambda: hidden_layers.probe(kind))


def descent(optimiser, sweep: Callable) -> Remedy:
    """Give a remedy that changes the optimiser."""
    return Remedy(lambda sizes, loss: backprop(sizes, loss=loss, optimiser=optimiser), sweep)


def replacing(criterion: str, **more) -> Remedy:
    """Give a remedy that replaces units."""
    return Remedy(lambda sizes, loss: resetting(sizes, criterion, loss=loss), with_steps(**more))


REMEDIES = {
    "bp": Remedy(lambda sizes, loss: backprop(sizes, loss=loss), with_larger_steps()),
    "cbp": Remedy(lambda sizes, loss: continual_backprop(sizes, loss=loss),
                  with_steps(replacement_rate=[1e-5, 1e-4, 1e-3])),
    "l2": descent(l2, with_decays),
    "shrink_perturb": Remedy(
        lambda sizes, loss: perturbed(backprop(sizes, loss=loss, optimiser=l2)),
        lambda problem: {"step_size": STEPS[problem], "weight_decay": DECAYS[problem][1:-1],
                         "noise": NOISES[problem]}),
    "dropout": of_kind("dropout", dropout=[0.01, 0.1, 0.3]),
    "online_norm": of_kind("online_norm", forward_decay=[0.99, 0.999], backward_decay=[0.9, 0.99]),
    "layer_norm": of_kind("layer_norm"),
    "adam": descent(adam, lambda problem: {"step_size": ADAM[problem]}),
    "adam_proper": descent(adam, lambda problem: {"step_size": ADAM[problem], "beta_1": [0.99],
                                                  "beta_2": [0.99]}),
    "head_reset": Remedy(lambda sizes, loss: heads_reset(backprop(sizes, loss=loss)),
                         lambda problem: {"step_size": LARGER[problem],
                                          "reset_period": [PROBLEMS[problem].task]}),
    "l2_init": descent(l2_init, with_decays),
    "redo": replacing("redo", reset_period=[1_000, 10_000], dormancy=[0.0, 0.025, 0.1]),
    "self_normalised": replacing("self_normalised", rejection=[1e-2, 1e-4, 1e-8],
                                 maturity_threshold=[100, 1_000]),
    "upgd": Remedy(lambda sizes, loss: upgd(sizes, loss=loss),
                   lambda problem: {"step_size": STEPS[problem][-3:],
                                    "weight_decay": [0.0, DECAYS[problem][1]],
                                    "noise": [1e-3, 1e-2, 1e-1]}),
    "crelu": of_kind("crelu"),
    "clipping": descent(clipped(), with_steps(clip=[1.0, 2.0, 3.0, 5.0])),
}


def measured(frame: pd.DataFrame, problem: Problem, inside: bool = False) -> pd.DataFrame:
    """Reduce ten bins of each run to the rows of the table.

    Parameters
    ----------
    inside : bool
        With the tenths of the life, and what is inside the nets, of the first seeds.
    """
    metric, about = problem.metric, ["setting", "seed", "task", "metric"]

    def over(first, name):
        part = compare.stretch(frame, metric, ["setting"], first, 1).rename("value").reset_index()
        return part.assign(task=0, metric=name)

    rows = [over(0, metric), over(0.8, f"{metric}_end")]
    if inside:
        tenths = frame.assign(task=frame.step * 10 // problem.steps)
        tenths = tenths[tenths.seed < FEW].melt(["setting", "seed", "task"], [metric, *INSIDE],
                                                "metric")
        rows.append(tenths[(tenths.metric == metric) | tenths.task.isin(LOOKS)])
    return pd.concat(rows)[[*about, "value"]]


def live(name: str, values: dict, seeds: range, inside: bool = False) -> pd.DataFrame:
    """Run some settings of a part with some seeds, from the checkpoint if there is one."""
    kind, units, who = name.split("/")
    problem, remedy, stream = PROBLEMS[kind], REMEDIES[who], PROBLEMS[kind].stream()
    sizes = (stream.inputs, *[int(units)] * problem.layers, stream.outputs)
    frames = recording.lives(HERE.parent / "build/record/remedies" / name, who,
                             remedy.make(sizes, problem.loss), values, stream,
                             int(units) * problem.layers, seeds, problem.steps,
                             problem.steps // 10, remedy.probe())
    return pd.concat(measured(frame, problem, inside) for frame in frames)


def record(name: str) -> pd.DataFrame:
    """Record one part: the sweep with a few seeds, then the best setting with all."""
    kind, units, who = name.split("/")
    metric, values = PROBLEMS[kind].metric, REMEDIES[who].sweep(kind)
    rows = live(name, values, range(FEW))
    rows = rows[rows.metric == metric]
    winner, = best(rows, metric, 1)
    warn_of_an_edge(name, winner, values)
    rows = pd.concat([rows[rows.setting != winner],
                      live(name, values_of(winner), range(ALL), inside=True)])
    return rows.assign(problem=kind, units=int(units), learner=who)[COLUMNS]


def main() -> None:
    """Record the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [f"{kind}/{units}/{who}" for kind, problem in PROBLEMS.items()
             for units in problem.units for who in REMEDIES]
    parser.add_argument("parts", nargs="*", metavar="part", help="problem/units/learner")
    parser.add_argument("--list", action="store_true", help="name all parts")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in known]
    if unknown:
        parser.error(f"no part {unknown[0]!r}: see --list")
    if given.list:
        print("\n".join(known))
    for name in given.parts:
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
