"""Resets against plain loops, over thousands of steps; heads; errors; an ensemble and one alone."""

import numpy as np
import pytest
import reference_remedies
import torch
from test_learners import assert_same_network, examples, follow, live, one_line, SEED

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.optimisers import adam, momentum
from dyndl_lite.algorithms.resets import CRITERIA, resetting
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.experiment import ensemble
from dyndl_lite.learning import cross_entropy, sgd
from dyndl_lite.problems.regression import SlowlyChangingRegression

SIZES = (6, 5, 4, 2)
# Settings under which units of both layers are replaced now and then, several at once.
BUSY = {"redo": {"reset_period": 20, "dormancy": 0.7},
        "self_normalised": {"rejection": 0.3, "maturity_threshold": 4}}
TEXTBOOKS = {"redo": reference_remedies.ReDo, "self_normalised": reference_remedies.SelfNormalised}
OPTIMISERS = {"sgd": sgd, "momentum": momentum, "adam": adam}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_resets_agree_with_the_textbook_for_thousands_of_steps(criterion, optimiser):
    X, Y = examples(2_000, 6, 2)
    learner = resetting(SIZES, criterion, optimiser=OPTIMISERS[optimiser])
    hyper = {**learner.settings, "step_size": 0.01, **BUSY[criterion]}
    net, scores = live(learner, X, Y, **hyper)
    textbook = TEXTBOOKS[criterion](SEED, SIZES, optimiser=optimiser, **hyper)
    np.testing.assert_allclose(scores, follow(textbook, X, Y), rtol=1e-5, atol=1e-8)
    assert_same_network(net, textbook, 1e-5)
    layers = [layer for _, layer, _ in textbook.replaced]
    assert min(layers.count(0), layers.count(1)) > 20
    assert len(textbook.replaced) < 1_500


def test_a_dead_unit_is_found_by_both_and_a_living_one_by_neither():
    X = np.abs(np.random.default_rng(0).normal(size=(400, 6)))
    for criterion, hyper in [("redo", {"reset_period": 100, "dormancy": 0.01}),
                             ("self_normalised", {"maturity_threshold": 50})]:
        learner = resetting((6, 3, 2), criterion)
        net = learner.start(torch.tensor(SEED))
        (W, b), out = net["params"]
        W = W.abs()
        W[1] = -W[1]  # silent on all positive inputs
        net["params"] = [(W, b), out]
        hyper = {k: torch.tensor(float(v)) for k, v in
                 {**learner.settings, **hyper, "step_size": 0}.items()}
        for x in torch.tensor(X).float():
            net, _ = learner.step(net, hyper, x, torch.zeros(2))
        (V, _), (out, _) = net["params"]
        assert torch.equal(V[0], W[0]) and torch.equal(V[2], W[2])
        assert not torch.equal(V[1], W[1]) and not out[:, 1].any()


def test_a_frequent_unit_is_suspected_sooner_than_a_rare_one():
    judge, hyper = CRITERIA["self_normalised"].judge, {"rejection": torch.tensor(1e-3),
                                                       "maturity_threshold": torch.tensor(5.0)}
    watch = {name: torch.zeros(2) for name in CRITERIA["self_normalised"].stats}
    suspected = {}
    for t in range(1_000):
        h = torch.tensor([t % 2, t % 20 == 0]).float() * (t < 600)
        watch, wanted = judge(watch, h, t, hyper)
        for unit in wanted.nonzero().flatten().tolist():
            if t >= 600:
                suspected.setdefault(unit, t)
    assert 605 < suspected[0] < 625  # about 10 times the mean gap of 2
    assert 700 < suspected[1] < 760  # about 7 times the mean gap of 20


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_heads_start_again_and_nothing_else_does(optimiser):
    X, Y = examples(90, 6, 2, "cross_entropy")
    plain = backprop(SIZES, loss=cross_entropy, optimiser=OPTIMISERS[optimiser])
    learner = renewed(plain)
    reset, scores = live(learner, X, Y, reset_period=30)
    net = plain.start(torch.tensor(SEED))
    net = torch.utils._pytree.tree_map(lambda a: a.double(), net)
    hyper = {k: torch.tensor(v, dtype=torch.float64) for k, v in plain.settings.items()}
    expected = []
    for t, (x, y) in enumerate(zip(torch.tensor(X), torch.tensor(Y))):
        if t in (30, 60):
            for pairs in [net["params"], *net["memory"]["per_weight"].values()]:
                pairs[-1] = tuple(torch.zeros_like(a) for a in pairs[-1])
        net, score = plain.step(net, hyper, x, y)
        expected.append(float(score))
    assert scores == expected
    for (W, b), (V, c) in zip(reset["params"], net["params"], strict=True):
        assert torch.equal(W, V) and torch.equal(b, c)


def test_faults_are_said_in_one_line():
    for make in (lambda: resetting((6, 3, 2), "boredom"), lambda: resetting((6, 2), "redo")):
        with pytest.raises(ValueError) as raised:
            make()
        one_line(raised)
    for learner, fault in [(resetting(SIZES, "redo"), {"reset_period": 0}),
                           (resetting(SIZES, "self_normalised"), {"rejection": 0.0}),
                           (resetting(SIZES, "self_normalised"), {"maturity_threshold": 0}),
                           (renewed(backprop(SIZES)), {"reset_period": 0})]:
        with pytest.raises(ValueError) as raised:
            ensemble.grid(learner, **fault)
        assert str(next(iter(fault.values()))) in one_line(raised)


@pytest.mark.parametrize("learner, setting", [
    (resetting((20, 4, 1), "redo"), {"reset_period": [30.0, 50.0], "dormancy": 0.5}),
    (resetting((20, 4, 1), "self_normalised"), {"rejection": [0.1, 0.5], "maturity_threshold": 4.0}),
    (renewed(backprop((20, 4, 1))), {"reset_period": [30.0, 100.0]})],
    ids=["redo", "self_normalised", "heads"])
def test_resets_run_as_an_ensemble_and_alone_the_same(learner, setting):
    stream = SlowlyChangingRegression()
    together = ensemble.run(stream, {"it": (learner, setting)}, [0, 5], 300, 100)
    name, values = next(iter(setting.items()))
    alone = ensemble.run(stream, {"it": (learner, {**setting, name: values[1]})}, [5], 300, 100)
    chosen = together[(together.seed == 5) & (together[name] == values[1])]
    np.testing.assert_allclose(chosen.squared_error, alone.squared_error, rtol=1e-4)
    other = together[(together.seed == 5) & (together[name] == values[0])]
    assert not np.allclose(other.squared_error, alone.squared_error, rtol=1e-4)
