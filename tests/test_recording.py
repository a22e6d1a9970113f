"""The recorders: sweeps that can run, ensembles that fit, rows that say what was asked."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._pytree import tree_flatten

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.experiment import compare, ensemble
from dyndl_lite.learning import squared_error
from dyndl_lite.problems.regression import SlowlyChangingRegression

DATA = Path(__file__).resolve().parent.parent / "data"
sys.path.insert(0, str(DATA))
import record_decentralised  # noqa: E402
import record_dynamic  # noqa: E402
import record_remedies  # noqa: E402
import record_streaming  # noqa: E402
import recording  # noqa: E402


def test_a_sweep_is_cut_without_loss(monkeypatch):
    learner, stream = backprop((20, 5, 1)), SlowlyChangingRegression()
    values = {"step_size": [0.1, 0.01, 0.001], "other": [1, 2]}
    assert list(recording.batches(learner, stream, 5, 10, values)) == [values]
    monkeypatch.setattr(recording, "TOGETHER", 1)
    parts = list(recording.batches(learner, stream, 5, 10, values))
    assert [p["step_size"] for p in parts] == [[0.1], [0.01], [0.001]]
    assert all(p["other"] == [1, 2] for p in parts)


def test_ensembles_are_cut_and_go_on_from_their_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "TOGETHER", 1)
    learner, stream, values = backprop((20, 5, 1)), SlowlyChangingRegression(), {
        "step_size": [0.01, 0.001]}
    found = pd.concat(recording.ensembles(tmp_path, "bp", learner, values, stream, 5, range(2, 4), 40, 20))
    whole = ensemble.run(stream, {"bp": (learner, values)}, range(2, 4), 40, 20)
    assert list(found.setting.unique()) == ["step_size=0.01", "step_size=0.001"]
    np.testing.assert_allclose(found.squared_error, whole.squared_error, rtol=1e-5)
    assert sorted(p.parent.name for p in tmp_path.glob("*/*.pt")) == ["0.001_from_2", "0.01_from_2"]
    assert recording.values_of("step_size=0.01 noise=1e-05") == {"step_size": [0.01], "noise": [1e-5]}


@pytest.mark.parametrize("metric, order", [("mse", ["b", "a"]), ("accuracy", ["a", "b"])])
def test_the_best_is_the_best_on_average_and_never_one_that_diverged(metric, order):
    rows = pd.DataFrame({"metric": metric, "seed": [0, 1] * 3,
                         "setting": ["a", "a", "b", "b", "c", "c"],
                         "value": [3.0, 5.0, 3.5, 3.5, np.nan, 1.0]})
    assert recording.best(rows, metric, 3) == [*order, "c"]


@pytest.mark.parametrize("swept", [True, False])
def test_a_winner_is_reported_on_seeds_that_did_not_choose_it(swept):
    """Noise alone: what wins on the seeds that choose is too good there, and not on fresh ones."""
    noise = np.random.default_rng(0).normal(size=(30, 40))
    values = {"step_size": [float(v) for v in range(30)] if swept else [3.0], "other": 2.0}
    calls = []

    def run(values, seeds, report):
        calls.append((len(values["step_size"]), seeds, report))
        return pd.DataFrame([(f"step_size={v:g} other=2", seed, "mse", noise[int(v), seed])
                             for v in values["step_size"] for seed in seeds],
                            columns=["setting", "seed", "metric", "value"])

    rows = recording.choose_and_report(run, values, (10, 40), lambda rows: recording.best(rows, "mse"))
    reported = rows[rows.use == "report"]
    if not swept:
        assert calls == [(1, range(40), True)] and len(rows) == len(reported) == 40
        return
    assert calls == [(30, range(10), False), (1, range(10, 40), True)]
    assert set(rows.use) == {"choice", "report"} and reported.setting.nunique() == 1
    chosen = rows[(rows.use == "choice") & (rows.setting == reported.setting.iloc[0])]
    assert set(chosen.seed).isdisjoint(reported.seed)
    assert chosen.value.mean() < -0.5 and abs(reported.value.mean()) < 0.4


@pytest.mark.parametrize("table", sorted((DATA / "results").glob("*.csv")), ids=lambda p: p.stem)
def test_each_recorded_part_says_which_commit_recorded_it(table):
    made = json.loads(table.with_suffix(".json").read_text())
    assert made and all(len(one["commit"]) >= 7 for one in made.values())
    assert all("random_numbers" in one or "use" in pd.read_csv(table, nrows=1) for one in made.values())


def test_an_edge_is_told(capsys):
    for setting, told in [("step_size=0.1", True), ("step_size=0.01", False)]:
        recording.warn_of_an_edge("part", setting, {"step_size": [0.1, 0.01, 0.001]})
        assert ("edge" in capsys.readouterr().out) == told
    recording.warn_of_an_edge("part", "beta=0.99", {"beta": [0.99]})
    assert capsys.readouterr().out == ""


def test_every_sweep_of_both_recorders_can_run():
    for kind, problem in record_remedies.PROBLEMS.items():
        for who, remedy in problem.remedies.items():
            learner = remedy.make(problem.net(5), problem.loss)
            assert 1 < len(ensemble.grid(learner, **remedy.sweep(kind))) < 60, who
    for kind, problem in record_dynamic.PROBLEMS.items():
        for make, sweep in list(record_dynamic.LEARNERS.values())[:5]:
            assert ensemble.grid(make((20, 5, 10), problem.loss), **sweep(kind))


def test_rows_of_a_remedy(tmp_path, monkeypatch):
    problem = record_remedies.PROBLEMS["scr"]._replace(steps=200, bin=20)
    monkeypatch.setitem(record_remedies.PROBLEMS, "scr", problem)
    monkeypatch.setattr(recording, "CHECKPOINTS", tmp_path)
    values = {"step_size": [0.01, 0.001], "dropout": [0.1]}
    rows = record_remedies.live("scr/5/dropout", values, range(3), inside=True)
    assert set(rows.setting) == {"step_size=0.01 dropout=0.1", "step_size=0.001 dropout=0.1"}
    counts = rows[rows.seed == 0].groupby(["metric", "task"]).size().unstack()
    assert list(counts.loc["squared_error"].dropna().index) == list(range(11))
    assert list(counts.loc["squared_error_end"].dropna().index) == [0]
    for look in record_remedies.INSIDE:
        assert list(counts.loc[look].dropna().index) == record_remedies.LOOKS
    one = rows[(rows.setting == "step_size=0.01 dropout=0.1") & (rows.seed == 1)]
    tenths = one[(one.metric == "squared_error") & (one.task > 0)].set_index("task").value
    assert np.isclose(one[(one.metric == "squared_error") & (one.task == 0)].value, tenths.mean())
    assert np.isclose(one[one.metric == "squared_error_end"].value, tenths[[9, 10]].mean())
    frame = ensemble.run(SlowlyChangingRegression(), {"it": (
        record_remedies.REMEDIES["dropout"].make((20, 5, 1), problem.loss), values)}, range(3), 200, 20)
    same = compare.window_mean(frame[frame.step_size == 0.01], "squared_error", ["step_size"], 0, 1)
    assert np.isclose(same[0.01, 1], tenths.mean(), rtol=1e-4)


@pytest.mark.parametrize("who", record_remedies.REMEDIES)
def test_a_net_comes_back_in_the_form_it_was_given(who):
    learner = record_remedies.REMEDIES[who].make((6, 4, 3, 1), squared_error)
    net = learner.start(torch.tensor(0))
    hyper = {name: torch.tensor(float(value)) for name, value in learner.settings.items()}
    new, _ = learner.step(net, hyper, torch.ones(6), torch.ones(1))
    (old_leaves, old_form), (new_leaves, new_form) = tree_flatten(net), tree_flatten(new)
    assert old_form == new_form  # the compiled loop asks for it, to the order of the keys
    assert [(a.shape, a.dtype) for a in old_leaves] == [(a.shape, a.dtype) for a in new_leaves]


def test_recorders_report_on_seeds_that_did_not_choose(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "CHECKPOINTS", tmp_path)
    small = record_dynamic.PROBLEMS["scr"]._replace(steps=40, bin=4, seeds=(2, 3))
    monkeypatch.setitem(record_dynamic.PROBLEMS, "scr", small)
    rows = record_dynamic.record("scr/5/bp")
    assert list(rows.columns) == record_dynamic.COLUMNS
    assert rows.groupby("use").seed.unique().map(set).to_dict() == {"choice": {0, 1}, "report": {2}}
    assert rows[rows.use == "report"].setting.nunique() == 2  # the best two

    make, units, loss, *_ = record_decentralised.PROBLEMS["scr"]
    sweep = {"step_size": [0.001, 0.01], "replacement_rate": [0.0, 1e-4]}
    monkeypatch.setitem(record_decentralised.PROBLEMS, "scr",
                        (make, units, loss, 40, 4, 3, 0.01, sweep))
    monkeypatch.setattr(record_decentralised, "CHOOSING", 2)
    rows = record_decentralised.record("scr")
    last = rows[rows.metric == "squared_error_last_half"]
    assert last[last.learner.str.startswith("+")].use.unique().tolist() == ["report"]
    rivals = last[last.learner.isin(["backprop", "continual backprop"]) & (last.use == "report")]
    assert rivals.groupby("learner").seed.unique().map(list).to_dict() == {
        "backprop": [2], "continual backprop": [2]}


def test_streams_report_on_seeds_that_did_not_choose(monkeypatch):
    def live(name, part, variants, seeds):
        return pd.DataFrame([
            {"env": "w", "learner": who, "setting": f"step_size={size:g}" if size else "", "step_size": size,
             "seed": seed, "step": step, "return": 1.0 + size * (seed < 10), "episodes": 2}
            for who, values in variants.items()
            for size in np.atleast_1d(values.get("step_size", 0.0)) for seed in seeds
            for step in (50, 100)])

    part = record_streaming.Part(None, {"plain": {}, "swept": {"step_size": [1.0, 3.0, 2.0]}}, 100)
    monkeypatch.setattr(record_streaming, "live", live)
    monkeypatch.setitem(record_streaming.PARTS, "w/q", part)
    rows = record_streaming.record("w/q")
    end = rows[(rows.metric == "return_end") & (rows.use == "report")]
    seeds = end.groupby(["learner", "setting"]).seed.unique().map(set).to_dict()
    assert seeds == {("plain", ""): set(range(30)), ("swept", "step_size=3"): set(range(10, 30))}
    assert set(rows[rows.metric == "return"].seed) == set(range(10, 20))


@pytest.mark.parametrize("problem", record_dynamic.PROBLEMS)
def test_an_ablation_changes_what_it_names_and_nothing_else(problem):
    whole = record_dynamic.LEARNERS["dynamic"][1](problem)
    for name, change in {**record_dynamic.ABLATIONS, **record_dynamic.RANDOM}.items():
        values = record_dynamic.LEARNERS[name][1](problem)
        differing = {key for key in values if values[key] != whole.get(key)}
        assert differing <= set(change) and values.keys() >= whole.keys() - {"growth_rate"}
