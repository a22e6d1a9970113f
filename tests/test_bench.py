"""The bench: that it runs, that what it compares against really does the same work."""

import pytest
import torch

from dyndl_lite import bench
from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.bench import plain_loops, supervised
from dyndl_lite.experiment import drivers


def test_measure_gives_a_row_for_each_learner(monkeypatch):
    monkeypatch.setattr(supervised, "WORKS", [("tiny", supervised.SCR, 2, [0.01, 0.001], 200, 100)])
    monkeypatch.setattr(drivers, "choose", lambda *_: "eager")
    threads = torch.get_num_threads()
    rows = supervised.measure(rounds=1, quick=True)
    assert [(r["work"], r["learner"], r["runs"]) for r in rows] == [
        ("tiny", "backprop", 4), ("tiny", "continual_backprop", 4)]
    for row in rows:
        assert set(row) == {"work", "learner", "runs", "rate", "loop_rate", "ratio"}
        assert 10 < row["loop_rate"] < 1e6 and 10 < row["rate"] < 1e9
        assert row["ratio"] == pytest.approx(row["rate"] / row["loop_rate"])
    assert torch.get_num_threads() == threads


def test_a_growing_network_is_timed_beside_its_own_step(monkeypatch):
    monkeypatch.setattr(supervised, "WORKS", [("grow", supervised.GROWING[0], 2, [0.03], 50, 20)])
    monkeypatch.setattr(drivers, "choose", lambda *_: "eager")
    row, = supervised.measure(rounds=1)
    assert (row["learner"], row["runs"]) == ("dynamic", 2) and row["ratio"] > 0


def test_the_median_round_counts(monkeypatch):
    monkeypatch.setattr(supervised, "WORKS", [("tiny", supervised.SCR, 1, [0.01], 100, 10)])
    seconds = iter([9.0, 1.0, 2.0, 4.0] * 2)  # the first time does not count
    monkeypatch.setattr(supervised, "_ours", lambda *_: lambda: next(seconds))
    monkeypatch.setattr(supervised, "_plain", lambda *_: lambda: 0.5)
    monkeypatch.setattr(bench, "seconds", lambda work: work())
    for row in supervised.measure(rounds=3):
        assert (row["rate"], row["loop_rate"], row["ratio"]) == (50.0, 20.0, 2.5)


def side_by_side(learner, plain, sizes, steps):
    """Let our learner and the plain loop start from one network; give both their errors."""
    stream, seed = supervised._stream(sizes), torch.tensor([5])
    X, Y = stream.examples(seed, 0, steps)
    net = learner.start(seed[0])
    with torch.no_grad():
        for layer, (W, b) in zip(plain.layers, net["params"]):
            layer.weight.copy_(W)
            layer.bias.copy_(b)
    hyper = {k: torch.tensor(float(v)) for k, v in
             {**learner.settings, "step_size": plain.STEP_SIZE}.items()}
    ours, theirs = [], []
    for x, y in zip(X, Y):
        net, score = learner.step(net, hyper, x[0], y[0])
        ours.append(float(score))
        theirs.append(plain.learn(x, y))
    return net, ours, theirs


def test_the_plain_loop_makes_the_errors_of_our_backprop():
    plain = plain_loops.PlainBackprop(supervised.SCR)
    _, ours, theirs = side_by_side(backprop(supervised.SCR), plain, supervised.SCR, 100)
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_the_plain_loop_makes_the_errors_of_our_continual_backprop(monkeypatch):
    sizes = (20, 5, 4, 1)
    monkeypatch.setattr(supervised, "_stream", lambda _: supervised.SlowlyChangingRegression())
    plain = plain_loops.PlainContinualBackprop(sizes)
    net, ours, theirs = side_by_side(continual_backprop(sizes), plain, sizes, 150)
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    for units, u, f, due in zip(net["after"][0]["units"], plain.utility, plain.mean, plain.due):
        torch.testing.assert_close(units["utility"], u, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(units["mean_activity"], f, rtol=1e-3, atol=1e-4)
        assert float(units["accumulator"]) == pytest.approx(due, rel=1e-3)


def test_the_plain_loop_really_replaces_units(monkeypatch):
    """With much to replace it takes the same units, and leaves them in the same state."""
    monkeypatch.setattr(plain_loops.PlainContinualBackprop, "REPLACEMENT_RATE", 1 / 32)
    monkeypatch.setattr(plain_loops.PlainContinualBackprop, "MATURITY", 20)
    learner = continual_backprop(supervised.SCR)
    learner.settings.update(replacement_rate=1 / 32, maturity_threshold=20)
    plain = plain_loops.PlainContinualBackprop(supervised.SCR)
    net, ours, theirs = side_by_side(learner, plain, supervised.SCR, 27)  # one is due now
    age = net["after"][0]["units"][0]["age"]
    assert (age < 27).sum() == 1 and torch.equal(age, plain.age[0])
    k = int(age.argmin())
    assert age[k] == 0 and plain.layers[1].weight[0, k] == 0 and plain.layers[0].bias[k] == 0
    assert plain.utility[0][k] == plain.mean[0][k] == 0
    torch.testing.assert_close(plain.layers[1].bias.detach(), net["params"][1][1])
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
