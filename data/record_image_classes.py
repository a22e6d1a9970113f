"""Record the long runs on sequences of image classes that notebook 03 shows.

    python data/record_image_classes.py backprop continual_backprop linear

Writes data/results/image_classes.csv: one row a measurement, with the columns problem, units
(hidden units in all), learner, setting, seed, task (the last of ten), metric, value: the test
accuracy at the end of a task, mean over ten tasks. Goes on after an interruption from its
checkpoints under build/record/image_classes/.
"""

from pathlib import Path

import pandas as pd
import recording

from dyndl_lite.algorithms.backprop import conv_backprop
from dyndl_lite.algorithms.continual_backprop import conv_continual_backprop
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.experiment import ensemble
from dyndl_lite.models.cnn import held_back_accuracy, Layout
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassPairs

HERE = Path(__file__).resolve().parent
TABLE = HERE / "results/image_classes.csv"
COLUMNS = ["problem", "units", "learner", "setting", "seed", "task", "metric", "value"]
PROBLEM, TASKS, RUNS, BLOCK = "fractal_pairs", 300, 5, 10
LAYOUT = Layout(16, 2, (8, 16, 32), (3, 3, 2), (32, 32))
LINEAR = Layout(16, 2, (), (), ())
# learner: (layout, maker, sweep)
LEARNERS = {
    "backprop": (LAYOUT, conv_backprop, {"step_size": [0.003, 0.01, 0.03, 0.05, 0.07, 0.1]}),
    "continual_backprop": (LAYOUT, conv_continual_backprop,
                           {"step_size": [0.01, 0.03, 0.07], "replacement_rate": [3e-4, 1e-3, 1e-2]}),
    "linear": (LINEAR, conv_backprop, {"step_size": [0.001, 0.01, 0.03]}),
}


def problem() -> ClassPairs:
    """Pairs of 1 000 classes of generated images: 100 a class to learn from, 5 times each."""
    return ClassPairs(Fractals(16, images=200), train=100, minibatch=20, epochs=5)


def record(who: str) -> pd.DataFrame:
    """Run all settings of one learner."""
    layout, make, sweep = LEARNERS[who]
    stream = problem()
    learner = renewed(make(layout), "heads", stream.begins)
    frame = ensemble.run(stream, {who: (learner, sweep)}, range(RUNS), TASKS * stream.task_length,
                         stream.task_length, probe=held_back_accuracy,
                         folder=HERE.parent / "build/record/image_classes")
    task = frame.step // stream.task_length
    frame["task"] = (task - 1) // BLOCK * BLOCK + BLOCK
    frame["setting"] = recording.named(frame, sweep)
    rows = frame.groupby(["setting", "seed", "task"], sort=False).test_accuracy.mean()
    rows = rows.reset_index(name="value")
    units = sum(layout.channels) + sum(layout.hidden)
    return rows.assign(problem=PROBLEM, units=units, learner=who, metric="test_accuracy")[COLUMNS]


if __name__ == "__main__":
    recording.of_learners(__doc__, LEARNERS, record, TABLE, PROBLEM, "data/record_image_classes.py")
