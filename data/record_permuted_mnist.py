"""Record the long runs on permuted MNIST that notebooks 02, 04 and 06 show.

    DYNDL_DATA=folder-of-IDX-files python data/record_permuted_mnist.py 'step sizes' 'width 30' ...

The 10 000 test images of MNIST, 6 000 of them a task in random order, each seen once; three
hidden layers of ReLU units. Writes data/results/permuted_mnist.csv (one row a learner, setting, seed
and task) after every part, and goes on after an interruption: each part keeps its checkpoints
under build/record/. Hours on one core; see `seconds` in the provenance file.
"""

import pandas as pd
import recording
import torch

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.experiment import compare, diagnostics, ensemble
from dyndl_lite.learning import cross_entropy
from dyndl_lite.problems import datasets
from dyndl_lite.problems.images import PermutedImages

TASK = 6_000
# part: learner, width, values, seeds that choose and all seeds, tasks
PARTS = {
    "step sizes": (backprop, 100, {"step_size": [0.01, 0.003, 0.001]}, (5, 10), 150),
    "replacement rates": (continual_backprop, 100,
                          {"step_size": [0.01, 0.003], "replacement_rate": [1e-4, 1e-5]}, (5, 10), 150),
    "width 30": (backprop, 30, {"step_size": [0.01]}, (0, 5), 100),
    "width 300": (backprop, 300, {"step_size": [0.01]}, (0, 2), 100),
    "width 1000": (backprop, 1_000, {"step_size": [0.01]}, (0, 2), 30),
}


def record(part: str) -> pd.DataFrame:
    """Run one part, from its checkpoints if there are any."""
    make, width, values, seeds, tasks = PARTS[part]
    images, labels = datasets.mnist("t10k")
    stream = PermutedImages(images, labels, TASK, "permuted MNIST")
    learner = make((784, width, width, width, 10), loss=cross_entropy)

    def run(values, seeds, _):
        frame = ensemble.run(
            stream, {make.__name__: (learner, values)}, seeds, tasks * TASK, TASK,
            probe=diagnostics.probe(),
            folder=recording.CHECKPOINTS / f"{part.replace(' ', '_')}_from_{seeds[0]}")
        return frame.assign(setting=recording.named(frame, values))

    def winner(rows):
        late = compare.window_mean(rows, "accuracy", ["setting"], 1 - 10 / tasks, 1)
        return compare.ranked(late, larger=True)[:1]

    frame = recording.choose_and_report(run, values, seeds, winner)
    frame.insert(1, "width", width)
    frame.insert(0, "part", part)
    frame["task"] = frame.pop("step") // TASK
    return frame.drop(columns=["setting", "utility_decay", "maturity_threshold"], errors="ignore")


if __name__ == "__main__":
    recording.main(__file__, __doc__, PARTS, "part", record, "permuted_mnist.csv", ["part"],
                   data="MNIST t10k, by the SHA-256 of its IDX files", threads=torch.get_num_threads())
