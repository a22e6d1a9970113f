"""How fast is it, beside the loops that people write? Learners come in, rates go out."""

import statistics
import time
from collections.abc import Callable


def row(work: str, learner: str, runs: int, rounds: int, ours: tuple[int, Callable],
        theirs: tuple[int, Callable]) -> dict:
    """Let two take turns; give the medians of our rates, of theirs, and of their ratios.

    `ours` and `theirs` are the steps of a round and the function that takes them.
    """
    ours[1](), theirs[1]()  # compile, and reach a steady state
    pairs = [(ours[0] / seconds(ours[1]), theirs[0] / seconds(theirs[1])) for _ in range(rounds)]
    return {"work": work, "learner": learner, "runs": runs,
            "rate": statistics.median(a for a, _ in pairs),
            "loop_rate": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs)}


def seconds(work: Callable) -> float:
    """Time one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
