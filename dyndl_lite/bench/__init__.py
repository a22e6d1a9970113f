"""How fast is it, beside the loops that people write? Learners come in, rates go out."""

import statistics


def row(work: str, learner: str, runs: int, pairs: list[tuple[float, float]]) -> dict:
    """Give the medians of our rates, of theirs, and of their ratios."""
    return {"work": work, "learner": learner, "runs": runs,
            "rate": statistics.median(a for a, _ in pairs),
            "loop_rate": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs)}
