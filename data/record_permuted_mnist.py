"""Record the long runs on permuted MNIST that notebooks 02, 04 and 06 show.

    DYNDL_DATA=folder-of-IDX-files python data/record_permuted_mnist.py

The 10 000 test images of MNIST, 6 000 of them a task in random order, each seen once; three
hidden layers of ReLU units. Writes data/results/permuted_mnist.csv (one row a learner,
setting, seed and task) after every part, and goes on after an interruption: each part keeps
its checkpoints under build/record/. Hours on one core; see `seconds` in the provenance file.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.experiment import diagnostics, ensemble, provenance
from dyndl_lite.learning import cross_entropy
from dyndl_lite.problems import datasets
from dyndl_lite.problems.images import PermutedImages

HERE = Path(__file__).resolve().parent
TABLE = HERE / "results/permuted_mnist.csv"
TASK = 6_000
# part, learner, width, values, seeds, tasks
PARTS = [
    ("step sizes", backprop, 100, {"step_size": [0.01, 0.003, 0.001]}, 5, 150),
    ("replacement rates", continual_backprop, 100,
     {"step_size": [0.01, 0.003], "replacement_rate": [1e-4, 1e-5]}, 5, 150),
    ("width 30", backprop, 30, {"step_size": [0.01]}, 5, 100),
    ("width 300", backprop, 300, {"step_size": [0.01]}, 2, 100),
    ("width 1000", backprop, 1_000, {"step_size": [0.01]}, 2, 30),
]


def record(part: str, make, width: int, values: dict, seeds: int, tasks: int) -> pd.DataFrame:
    """Run one part, from its checkpoint if there is one."""
    images, labels = datasets.mnist("t10k")
    stream = PermutedImages(images, labels, TASK, "permuted MNIST")
    learner = make((784, width, width, width, 10), loss=cross_entropy)
    name = make.__name__
    frame = ensemble.run(stream, {name: (learner, values)}, range(seeds), tasks * TASK, TASK,
                         probe=diagnostics.probe(),
                         folder=HERE.parent / "build/record" / part.replace(" ", "_"))
    frame.insert(1, "width", width)
    frame.insert(0, "part", part)
    frame["task"] = frame.pop("step") // TASK
    return frame


def main() -> None:
    """Record all parts, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="parts to record (default: all)")
    chosen = parser.parse_args().parts or [p[0] for p in PARTS]
    for part in (p for p in PARTS if p[0] in chosen):
        begin = time.monotonic()
        frame = record(*part)
        frame = frame.drop(columns=["utility_decay", "maturity_threshold"], errors="ignore")
        provenance.keep(TABLE, part[0], {"part": part[0]}, frame,
                        command=f"python data/record_permuted_mnist.py {part[0]!r}",
                        data=f"MNIST t10k, SHA-256 {datasets.MNIST_TEST_SHA256} (pixels, labels)",
                        threads=torch.get_num_threads(),
                        seconds=round(time.monotonic() - begin))


if __name__ == "__main__":
    main()
