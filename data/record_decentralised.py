"""Record the long comparisons of decentralised networks that notebook 13 shows.

    python data/record_decentralised.py scr permuted_digits

Writes data/results/decentralised.csv: one row a measurement, with the columns of dynamic.csv and
`wires`, the inputs that each hidden unit hears. Of the rivals' sweep a few seeds choose the best, the
others report. Goes on after an interruption from its checkpoints
under build/record/decentralised/.
"""

import pandas as pd
import recording
from torch import Tensor
from torch.func import vmap

from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.dynamic.decentralised import decentralised, LEVELS, switched_on
from dyndl_lite.experiment import compare, diagnostics, ensemble
from dyndl_lite.learning import cross_entropy, squared_error
from dyndl_lite.models.mlp import forward
from dyndl_lite.problems import datasets
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

DIGITS = 1_797
CHOOSING = 10  # seeds that choose from the rivals' sweep
# stream, hidden units, loss, examples, bin, runs, our step size, the rivals' sweep
PROBLEMS = {
    "scr": (SlowlyChangingRegression, 20, squared_error, 400_000, 10_000, 30, 0.01,
            {"step_size": [0.001, 0.003, 0.005, 0.01],
             "replacement_rate": [0.0, 3e-5, 1e-4, 3e-4]}),
    "permuted_digits": (
        lambda: PermutedImages(*datasets.digits(), 2 * DIGITS, "permuted digits"), 100,
        cross_entropy, 20 * 2 * DIGITS, 2 * DIGITS, 10, 0.03,
        {"step_size": [0.01, 0.03, 0.05], "replacement_rate": [0.0, 1e-4]}),
}


def inside(net: dict, X: Tensor) -> dict[str, Tensor]:
    """Shares of dead and of rarely active units on the last examples of a bin."""
    H = vmap(lambda x: forward(net["params"], x)[1][0])(X)
    return {"dead_units": diagnostics.dead_units(H),
            "rarely_active_units": diagnostics.rarely_active_units(H)}


def learners(name: str) -> dict:
    """Name everyone who takes part: (wires, learner) -> (Learner, values)."""
    make, units, loss, *_, step_size, sweep = PROBLEMS[name]
    stream = make()
    sizes = (stream.inputs, units, stream.outputs)
    sparse, full = (decentralised(sizes, wires, loss) for wires in (sizes[0] // 2, sizes[0]))
    ours = {(sizes[0] // 2, level): (sparse, {**switched_on(level), "step_size": step_size})
            for level in LEVELS}
    on = switched_on("+ step sizes")
    ours[sizes[0] // 2, "all but be listened to"] = (
        sparse, {**on, "patience": float("inf"), "step_size": step_size})
    ours[sizes[0], "all wires, + be listened to"] = (
        full, {**switched_on("+ be listened to"), "step_size": step_size})
    ours[sizes[0], "all wires, + step sizes"] = (full, {**on, "step_size": step_size})
    return ours | {(sizes[0], "continual backprop"): (continual_backprop(sizes, loss=loss), sweep)}


def record(name: str) -> pd.DataFrame:
    """Run one problem."""
    make, units, _, steps, bin, runs, _, sweep = PROBLEMS[name]
    metric, tables = "squared_error" if name == "scr" else "accuracy", []

    def live(who, learner, values, seeds):
        frame = ensemble.run(
            make(), {who: (learner, values)}, seeds, steps, bin, probe=inside,
            folder=recording.CHECKPOINTS / f"decentralised/{name}_from_{seeds[0]}")
        names = list(sweep) if who == "continual backprop" else ["step_size"]
        frame["setting"] = recording.named(frame, names)
        measures = {f"{metric}_first_tenth": (metric, 0, 0.1),
                    f"{metric}_last_half": (metric, 0.5, 1),
                    "dead_units": ("dead_units", 0.9, 1),
                    "rarely_active_units": ("rarely_active_units", 0.9, 1)}
        table = pd.DataFrame({key: compare.window_mean(frame, column, ["setting"], a, b)
                              for key, (column, a, b) in measures.items()})
        return table.reset_index().melt(["setting", "seed"], None, "metric")

    def winners(rows):
        plain = rows.setting.str.endswith("rate=0")
        return [setting for some in (rows[plain], rows[~plain])
                for setting in recording.best(some, f"{metric}_last_half")]

    for (wires, who), (learner, values) in learners(name).items():
        table = recording.choose_and_report(
            lambda values, seeds, _: live(who, learner, values, seeds), values, (CHOOSING, runs), winners)
        if who == "continual backprop":
            plain = table.setting.str.endswith("rate=0")
            table["learner"] = plain.map({True: "backprop", False: who})
        else:
            table["learner"] = who
        tables.append(table.assign(problem=name, units=units, wires=wires))
    columns = ["problem", "units", "wires", "learner", "setting", "seed", "metric", "value", "use"]
    return pd.concat(tables)[columns]


if __name__ == "__main__":
    recording.main(__file__, __doc__, PROBLEMS, "problem", record, "decentralised.csv", ["problem"])
