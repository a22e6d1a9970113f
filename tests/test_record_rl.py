"""The recorder of PPO agents: arms that can run, rows that say what was asked."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dyndl_lite.algorithms.optimisers import adam, l2
from dyndl_lite.experiment.ensemble import grid
from dyndl_lite.rl import train_ppo
from dyndl_lite.rl.policies import gaussian
from dyndl_lite.rl.ppo import ppo

DATA = Path(__file__).resolve().parent.parent / "data"
sys.path.insert(0, str(DATA))
import record_rl  # noqa: E402


@pytest.mark.parametrize("part", ["replacement", "random", "shrink_perturb", "redo"])
def test_every_arm_of_navigation_can_run(part):
    kind, arms = record_rl.of_navigation(part)
    agent = ppo(16, gaussian(2, 0.5), (4,), "relu", l2(adam), kind)
    assert len(arms) >= 3
    for (env, learner, setting), arm in arms.items():
        given, = grid(agent, **arm.settings)
        assert arm.stationary == env.endswith("stationary") and learner
        for pair in setting.split():
            name, value = pair.split("=")
            assert given[name] == float(value)


def test_rows_of_navigation(tmp_path, monkeypatch):
    monkeypatch.setattr(record_rl, "CHECKPOINTS", tmp_path)
    monkeypatch.setattr(record_rl, "TASKS", 2)
    monkeypatch.setattr(record_rl, "GROUP", 2)
    monkeypatch.setattr(record_rl, "ITERATIONS", 5)
    monkeypatch.setattr(record_rl, "FEW", range(1))
    seen, train = [], train_ppo.train_ppo
    monkeypatch.setattr(train_ppo, "train_ppo",
                        lambda *given, **more: seen.append(train(*given, **more)) or seen[0])
    rows = record_rl.navigate("random", range(2), lambda key: key[2] == "replacement_rate=0.01")
    assert list(rows.columns) == record_rl.COLUMNS
    assert set(rows.env) == {"navigation"} and set(rows.learner) == {"random_replacement"}
    assert set(rows.setting) == {"replacement_rate=0.01"}
    steps = 2 * record_rl.ITERATIONS * 256
    assert set(rows.step) == {steps // 2, steps}
    ends = seen[0][seen[0].step.isin([steps // 2, steps])]  # the last third of both tasks
    for seed in range(2):
        value = rows[(rows.seed == seed) & (rows.metric == "return")].value
        mine = ends[ends.seed == seed]
        expected = np.average(mine["return"], weights=mine.episodes)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        first = rows[(rows.seed == seed) & (rows.metric == "return_first_task")].value
        np.testing.assert_allclose(first, ends[ends.seed == seed]["return"].iloc[0], rtol=1e-6)
    assert set(rows[rows.metric.isin(record_rl.INSIDE)].seed) == {0}


def test_the_best_of_each_learner_goes_on_and_is_looked_into(monkeypatch):
    def navigate(part, seeds, chosen=lambda key: True):
        return pd.DataFrame([("navigation", who, f"rate={rate}", seed, step, metric, value, "report")
                             for who, rate, value in [("a", 1, 0.1), ("a", 2, 0.3), ("b", 1, 0.2)]
                             if chosen(("navigation", who, f"rate={rate}")) for seed in seeds
                             for step in (100, 200) for metric in ("return", record_rl.INSIDE[0])],
                            columns=record_rl.COLUMNS)

    monkeypatch.setattr(record_rl, "navigate", navigate)
    first, last = record_rl.record_navigation("redo")
    seeds = last[last.metric == "return"].groupby(["learner", "setting"]).seed.nunique().to_dict()
    assert seeds == {("a", "rate=1"): 10, ("a", "rate=2"): 30, ("b", "rate=1"): 30}
    reported = last[last.use == "report"]
    assert {who: set(mine.seed) for who, mine in reported.groupby("learner")} == {
        "a": set(range(10, 30)), "b": set(range(30))}  # b has no choice
    inside = first[first.metric != "return"]
    assert set(zip(inside.learner, inside.setting)) == {("a", "rate=2"), ("b", "rate=1")}
