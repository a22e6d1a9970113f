"""Record the long run on classes that are added, which notebook 03 shows.

    python data/record_added_classes.py backprop continual_backprop backprop_from_scratch

Adds to data/results/image_classes.csv the problem fractals_added: a small residual network, some
classes of fractals more at each increment. One row a measurement: task is the number of classes so
far, value the best test accuracy within that increment, or the training accuracy over its last
minibatches (as many as the first increment has). Goes on after an interruption from its
checkpoints under build/record/added_classes/.
"""

import pandas as pd
import recording
from record_image_classes import COLUMNS, HERE, TABLE

from dyndl_lite.algorithms.incremental import (
    held_back_accuracy,
    incremental,
    residual_continual_backprop,
)
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.models.resnet import Layout
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassIncremental

PROBLEM, RUNS = "fractals_added", 5
STREAM = ClassIncremental(Fractals(12, images=90, lighter=0.5, noise=0.05), train=30, held_back=60,
                        minibatch=30, epochs=20, together=2, tasks=10)
LAYOUT = Layout(STREAM.outputs, (8, 16), 1)
# learner: sweep. Without replacement continual backprop is backprop.
LEARNERS = {
    "backprop": {"replacement_rate": 0.0},
    "continual_backprop": {"replacement_rate": [3e-4, 3e-3], "maturity_threshold": 100.0},
    "backprop_from_scratch": {"replacement_rate": 0.0, "from_scratch": 1.0},
}


def record(who: str) -> pd.DataFrame:
    """Run all settings of one learner."""
    drivers.WORTH_COMPILING = STREAM.steps + 1  # compiling the step would take longer than the run
    learner = incremental(residual_continual_backprop(LAYOUT), STREAM)
    sweep = LEARNERS[who]
    frame = ensemble.run(STREAM, {who: (learner, sweep)}, range(RUNS), STREAM.steps,
                         STREAM.task_length, probe=held_back_accuracy,
                         folder=HERE.parent / "build/record/added_classes")
    frame["task"] = [STREAM.together * (STREAM.task(step - 1)[0] + 1) for step in frame.step]
    frame["setting"] = recording.named(frame, sweep)
    increments = frame.groupby(["setting", "seed", "task"], sort=False)
    rows = pd.concat({"test_accuracy": increments.test_accuracy.max(),
                      "training_accuracy": increments.accuracy.last()}, names=["metric"])
    return rows.reset_index(name="value").assign(
        problem=PROBLEM, units=sum(LAYOUT.channels) * LAYOUT.blocks, learner=who)[COLUMNS]


if __name__ == "__main__":
    recording.of_learners(__doc__, LEARNERS, record, TABLE, PROBLEM, "data/record_added_classes.py")
