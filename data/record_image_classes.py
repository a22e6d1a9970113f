"""Record the long runs on sequences of image classes that notebook 03 shows.

    python data/record_image_classes.py fractal_pairs/backprop fractals_added/continual_backprop ...

A part is problem/learner; `--list` names all parts. Rows go to data/results/image_classes.csv:
problem, units (hidden units and channels in all), learner, setting, seed, task, metric, value, use.
Of fractal_pairs: the test accuracy at the end of a task, mean over the ten tasks up to `task`. Of
fractals_added (a small residual network, some classes more at each increment): task is the number
of classes so far, value the best test accuracy within that increment, or the training accuracy over
its last minibatches (as many as the first increment has). The recorder goes on after an interruption
from its checkpoints under build/record/.
"""

import pandas as pd
import recording

from dyndl_lite.algorithms.backprop import conv_backprop
from dyndl_lite.algorithms.continual_backprop import conv_continual_backprop
from dyndl_lite.algorithms.incremental import (
    held_back_accuracy as accuracy_of_increment,
)
from dyndl_lite.algorithms.incremental import (
    incremental,
    residual_continual_backprop,
)
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.experiment import compare, ensemble
from dyndl_lite.models import resnet
from dyndl_lite.models.cnn import held_back_accuracy, Layout
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassIncremental, ClassPairs

COLUMNS = ["problem", "units", "learner", "setting", "seed", "task", "metric", "value"]
SEEDS = (5, 10)  # those below the first number choose, the others report
TASKS, BLOCK = 300, 10
LAYOUT = Layout(16, 2, (8, 16, 32), (3, 3, 2), (32, 32))
LINEAR = Layout(16, 2, (), (), ())
ADDED = ClassIncremental(Fractals(12, images=90, lighter=0.5, noise=0.05), train=30, held_back=60,
                         minibatch=30, epochs=20, together=2, tasks=10)
RESIDUAL = resnet.Layout(ADDED.outputs, (8, 16), 1)
# learner: (layout, maker, sweep)
PAIRS = {
    "backprop": (LAYOUT, conv_backprop, {"step_size": [0.003, 0.01, 0.03, 0.05, 0.07, 0.1]}),
    "continual_backprop": (LAYOUT, conv_continual_backprop,
                           {"step_size": [0.01, 0.03, 0.07], "replacement_rate": [3e-4, 1e-3, 1e-2]}),
    "linear": (LINEAR, conv_backprop, {"step_size": [0.001, 0.01, 0.03]}),
}
# Without replacement continual backprop is backprop.
LEARNERS_ADDED = {
    "backprop": {"replacement_rate": 0.0},
    "continual_backprop": {"replacement_rate": [3e-4, 3e-3], "maturity_threshold": 100.0},
    "backprop_from_scratch": {"replacement_rate": 0.0},
}


def problem() -> ClassPairs:
    """Pairs of 1 000 classes of generated images: 100 a class to learn from, 5 times each."""
    return ClassPairs(Fractals(16, images=200), train=100, minibatch=20, epochs=5)


def pairs(who: str, values: dict, seeds: range) -> pd.DataFrame:
    """Run some settings of a learner on pairs of classes."""
    layout, make, _ = PAIRS[who]
    stream = problem()
    learner = renewed(make(layout), "heads", stream.begins)
    frame = ensemble.run(stream, {who: (learner, values)}, seeds, TASKS * stream.task_length,
                         stream.task_length, probe=held_back_accuracy,
                         folder=recording.CHECKPOINTS / f"image_classes/from_{seeds[0]}")
    task = frame.step // stream.task_length
    frame["task"] = (task - 1) // BLOCK * BLOCK + BLOCK
    frame["setting"] = recording.named(frame, values)
    rows = compare.run_means(frame, "test_accuracy", ["setting", "seed", "task"])
    return rows.reset_index(name="value").assign(
        metric="test_accuracy", units=sum(layout.channels) + sum(layout.hidden))


def added(who: str, values: dict, seeds: range) -> pd.DataFrame:
    """Run some settings of a learner on classes that are added."""
    learner = incremental(residual_continual_backprop(RESIDUAL), ADDED,
                          from_scratch=who == "backprop_from_scratch")
    frame = ensemble.run(ADDED, {who: (learner, values)}, seeds, ADDED.steps, ADDED.task_length,
                         probe=accuracy_of_increment,
                         driver="eager",  # compiling the step would take longer than the run
                         folder=recording.CHECKPOINTS / f"added_classes/from_{seeds[0]}")
    frame["task"] = [ADDED.together * (ADDED.task(step - 1)[0] + 1) for step in frame.step]
    frame["setting"] = recording.named(frame, values)
    increments = frame.groupby(["setting", "seed", "task"], sort=False)
    rows = pd.concat({"test_accuracy": increments.test_accuracy.max(),
                      "training_accuracy": increments.accuracy.last()}, names=["metric"])
    return rows.reset_index(name="value").assign(units=sum(RESIDUAL.channels) * RESIDUAL.blocks)


PARTS = {**{f"fractal_pairs/{who}": (pairs, sweep) for who, (_, _, sweep) in PAIRS.items()},
         **{f"fractals_added/{who}": (added, sweep) for who, sweep in LEARNERS_ADDED.items()}}


def record(name: str) -> pd.DataFrame:
    """Record one part: its sweep with some seeds, then the best setting with others."""
    kind, who = name.split("/")
    run, sweep = PARTS[name]
    rows = recording.choose_and_report(lambda values, seeds, _: run(who, values, seeds), sweep, SEEDS,
                                       lambda rows: recording.best(rows, "test_accuracy"))
    return rows.assign(problem=kind, learner=who)[[*COLUMNS, "use"]]


if __name__ == "__main__":
    recording.main(__file__, __doc__, PARTS, "problem/learner", record, "image_classes.csv",
                   ["problem", "learner"])
