"""Convolutional learners against the textbook, and what happens when a task begins."""

import numpy as np
import pytest
import torch
from reference_convolution import Textbook
from reference_torch import driven
from test_learners import double, one_line

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.backprop import conv_backprop
from dyndl_lite.algorithms.continual_backprop import conv_continual_backprop
from dyndl_lite.algorithms.optimisers import adam, momentum
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.bench import supervised
from dyndl_lite.bench.plain_loops import PlainConvBackprop, PlainConvContinualBackprop
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.models.cnn import forward, held_back_accuracy, initialise, Layout
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassPairs

SEED = 3
TINY = Layout(12, 2, (3, 4), (3, 2), (5,))  # the last convolution feeds its listeners from 2 x 2
LINEAR = Layout(12, 2, (), (), ())
BUSY = {"replacement_rate": 0.06, "utility_decay": 0.9, "maturity_threshold": 5.0}


def minibatches(steps, side=12, size=4):
    """Make noise to learn from, brighter for one class."""
    rng = np.random.default_rng(0)
    Y = rng.integers(2, size=(steps, size))
    return rng.normal(size=(steps, size, 3, side, side)) + 0.3 * Y[:, :, None, None, None], Y


def live(learner, X, Y, **setting):
    """Let one network live through minibatches, in float64."""
    net = double(learner.start(torch.tensor(SEED)))
    hyper = {k: torch.tensor(float(v), dtype=torch.float64)
             for k, v in {**learner.settings, **setting}.items()}
    scores = []
    for x, y in zip(torch.tensor(X), torch.tensor(Y)):
        net, score = learner.step(net, hyper, x, y)
        scores.append(float(score))
    return net, scores


def assert_same(net, textbook):
    for (W, b), W_ref, b_ref in zip(net["params"], textbook.W, textbook.b, strict=True):
        np.testing.assert_allclose(W, W_ref, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(b, b_ref, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [TINY, LINEAR], ids=["convolutions", "linear"])
def test_backprop_agrees_with_the_textbook(layout):
    X, Y = minibatches(8)
    textbook = Textbook(SEED, layout.weights(), 0.02)
    expected = [textbook.learn(x, y) for x, y in zip(X, Y)]
    net, scores = live(conv_backprop(layout), X, Y, step_size=0.02)
    assert scores == pytest.approx(expected)
    assert_same(net, textbook)
    for (W, b), W_ref, b_ref in zip(net["memory"]["per_weight"]["trace"], textbook.vW, textbook.vb):
        np.testing.assert_allclose(W, W_ref, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(b, b_ref, rtol=1e-5, atol=1e-6)


def test_continual_backprop_agrees_with_the_textbook():
    X, Y = minibatches(32, size=3)
    textbook = Textbook(SEED, TINY.weights(), 0.02, rate=BUSY["replacement_rate"])
    expected = [textbook.learn(x, y) for x, y in zip(X, Y)]
    assert {layer for _, layer, _ in textbook.replaced} == {0, 1, 2}  # channels of both, a unit
    assert len(textbook.replaced) >= 10
    net, scores = live(conv_continual_backprop(TINY), X, Y, step_size=0.02, **BUSY)
    assert scores == pytest.approx(expected)
    assert_same(net, textbook)
    for (W, _), W_ref in zip(net["memory"]["per_weight"]["trace"], textbook.vW):
        np.testing.assert_allclose(W, W_ref, rtol=1e-5, atol=1e-6)
    for units, u, f, age in zip(net["after"][0]["units"], textbook.utility, textbook.mean, textbook.age):
        np.testing.assert_allclose(units["utility"], u, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(units["mean_activity"], f, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(units["age"], age)


def test_a_replaced_channel_leaves_its_mean_and_no_weights():
    X, Y = minibatches(9)
    setting = BUSY | {"step_size": 0.0, "replacement_rate": 0.099}
    before = double(conv_continual_backprop(TINY).start(torch.tensor(SEED)))
    net, _ = live(conv_continual_backprop(TINY), X, Y, **setting)  # one of 4 channels is due now
    young = [int(units["age"].argmin()) for units in net["after"][0]["units"]]
    assert net["after"][0]["units"][1]["age"][young[1]] < 9
    stay = [k for k in range(5) if net["after"][0]["units"][2]["age"][k] == 9]  # a newborn hears everyone
    listeners = net["params"][2][0].reshape(5, 4, 4)[stay]
    assert len(stay) >= 3 and (listeners[:, young[1]] == 0).all()  # from all four places
    others = [c for c in range(4) if c != young[1]]
    old = before["params"][2][0].reshape(5, 4, 4)[stay]
    torch.testing.assert_close(listeners[:, others], old[:, others])
    assert (net["params"][2][1][stay].abs() > 1e-6).any()  # the mean went into their biases


def test_published_sizes_and_too_large_kernels():
    shapes = Layout().weights()
    assert shapes == [(32, 3, 5, 5), (64, 32, 3, 3), (128, 64, 3, 3), (128, 512), (128, 128),
                      (2, 128)]
    assert LINEAR.weights() == [(2, 432)]
    with pytest.raises(ValueError) as raised:
        Layout(6).weights()
    assert "kernel" in one_line(raised)
    with pytest.raises(ValueError) as raised:
        conv_continual_backprop(LINEAR)
    assert "hidden" in one_line(raised)
    with pytest.raises(ValueError) as raised:
        ensemble.grid(conv_continual_backprop(TINY), replacement_rate=0.5)
    assert "more than one" in one_line(raised)


def test_the_linear_baseline_is_a_linear_function_of_the_pixels():
    W, b = torch.randn(2, 432), torch.randn(2)
    x = torch.randn(5, 3, 12, 12)
    output, features = forward([(W, b)], x)
    assert features == []
    torch.testing.assert_close(output, x.flatten(1) @ W.T + b)


@pytest.mark.parametrize("optimiser", [momentum, adam], ids=["momentum", "adam"])
def test_heads_are_reset_when_a_task_begins_and_only_then(optimiser):
    X, Y = minibatches(7)
    plain = conv_backprop(TINY, optimiser)
    learner = renewed(plain, "heads", lambda t: t % 3 == 0)
    setting = {"step_size": 0.01}
    net, _ = live(learner, X[:3], Y[:3], **setting)
    assert net["params"][-1][0].abs().max() > 0
    net, _ = live(learner, X[:6], Y[:6], **setting)
    after, _ = live(learner, X, Y, **(setting | {"step_size": 0.0}))
    assert (after["params"][-1][0] == 0).all()
    # Until the second task nothing differs; in the last step only the head began at zero.
    short, _ = live(plain, X[:3], Y[:3], **setting)
    same, _ = live(learner, X[:3], Y[:3], **setting)
    for (W, _), (V, _) in zip(short["params"], same["params"]):
        torch.testing.assert_close(W, V)
    short["params"][-1] = tuple(torch.zeros_like(p) for p in short["params"][-1])
    for pairs in short["memory"]["per_weight"].values():
        pairs[-1] = tuple(torch.zeros_like(p) for p in pairs[-1])
    hyper = {k: torch.tensor(float(v)) for k, v in {**plain.settings, **setting}.items()}
    expected, _ = plain.step(short, hyper, torch.tensor(X[3]), torch.tensor(Y[3]))
    found, _ = live(learner, X[:4], Y[:4], **setting)
    for (W, _), (V, _) in zip(expected["params"], found["params"]):
        torch.testing.assert_close(W, V)


def test_from_scratch_and_shrink_and_perturb():
    X, Y = minibatches(4)
    begins = lambda t: t == 3  # noqa: E731
    still = {"step_size": 0.0}
    scratch, _ = live(renewed(conv_backprop(TINY), "all", begins), X, Y, **still)
    old = initialise(torch.tensor(SEED), TINY)
    new = initialise(random.bits(torch.tensor(SEED), random.WEIGHTS, 3, 2**30), TINY)
    shrunk, _ = live(renewed(conv_backprop(TINY), "shrink and perturb", begins), X, Y,
                     **still, shrink=0.5, perturb=0.25)
    for (W, _), (V, _), (A, _), (B, _) in zip(scratch["params"], shrunk["params"], old, new):
        torch.testing.assert_close(W, B.double())
        torch.testing.assert_close(V, 0.5 * A.double() + 0.25 * B.double())


def test_ensembles_agree_with_one_network_alone(tmp_path):
    """Two settings and two runs at once, by two drivers, as each alone; resumed half way, too."""
    stream = ClassPairs(Fractals(12, images=24), train=16, held_back=8, minibatch=8, epochs=2)
    learner = renewed(conv_continual_backprop(TINY), "heads", stream.begins)
    values = BUSY | {"step_size": [0.01, 0.05]}

    def run(seeds, steps=24, **rest):
        return ensemble.run(stream, {"it": (learner, values)}, seeds, steps, 8, device="cpu",
                            probe=held_back_accuracy, **rest)

    both = run([0, 5])
    alone = run([5])
    part = both[both.seed == 5].reset_index(drop=True)
    for metric in ("accuracy", "test_accuracy"):
        np.testing.assert_allclose(part[metric], alone[metric], atol=0.13)  # one image of 8
    assert list(both.columns[-2:]) == ["accuracy", "test_accuracy"] and len(both) == 12
    run([0, 5], folder=tmp_path, chunk=4)
    kept = run([0, 5], folder=tmp_path, chunk=4)
    np.testing.assert_allclose(kept.test_accuracy, both.test_accuracy, atol=0.07)


def test_one_by_one_is_the_eager_loop(monkeypatch):
    monkeypatch.setattr(drivers, "_compile", lambda function, options: function)
    stream = ClassPairs(Fractals(12, images=24), train=16, held_back=8, minibatch=8, epochs=2)
    learner = conv_continual_backprop(TINY)
    seeds = torch.tensor([0, 1])
    X, Y = stream.examples(seeds, 0, 6)
    settings = ensemble.grid(learner, **BUSY, step_size=[0.01, 0.03])
    (nets, scores), (others, other_scores) = (
        driven(kind, learner, settings, seeds, X, Y) for kind in ("eager", "one_by_one"))
    torch.testing.assert_close(scores, other_scores)
    for (W, _), (V, _) in zip(nets["params"], others["params"]):
        torch.testing.assert_close(W, V, rtol=1e-4, atol=1e-5)
    heavy, light = stream.inputs * 100, stream.inputs
    assert drivers.choose(torch.device("cpu"), nets, 10, heavy) == "one_by_one"
    assert drivers.choose(torch.device("cpu"), nets, 10, light) == "eager"


@pytest.mark.parametrize("plain, learner, steps", [
    (PlainConvBackprop, conv_backprop, 12), (PlainConvContinualBackprop, conv_continual_backprop, 12)])
def test_the_plain_loop_does_the_same_work(plain, learner, steps):
    X, Y = minibatches(steps)
    X, Y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y)
    learner, loop = learner(TINY), plain(TINY)
    net = learner.start(torch.tensor(SEED))
    with torch.no_grad():
        for layer, (W, b) in zip(loop.layers, net["params"], strict=True):
            layer.weight.copy_(W)
            layer.bias.copy_(b)
    hyper = {k: torch.tensor(float(v)) for k, v in {**learner.settings, "step_size": 0.01}.items()}
    for x, y in zip(X, Y):
        net, score = learner.step(net, hyper, x, y)
        assert loop.learn(x, y) == pytest.approx(float(score))
    for layer, (W, _) in zip(loop.layers, net["params"]):
        torch.testing.assert_close(layer.weight.detach(), W, rtol=1e-4, atol=1e-5)


def test_the_plain_loop_replaces_the_channels_that_ours_does(monkeypatch):
    monkeypatch.setattr(PlainConvContinualBackprop, "REPLACEMENT_RATE", 1 / 16)
    monkeypatch.setattr(PlainConvContinualBackprop, "MATURITY", 5)
    X, Y = minibatches(9)  # at the ninth minibatch the second layer owes one of its 4 channels
    X, Y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y)
    learner, loop = conv_continual_backprop(TINY), PlainConvContinualBackprop(TINY)
    net = learner.start(torch.tensor(SEED))
    with torch.no_grad():
        for layer, (W, b) in zip(loop.layers, net["params"], strict=True):
            layer.weight.copy_(W)
            layer.bias.copy_(b)
    setting = {**learner.settings, "replacement_rate": 1 / 16, "maturity_threshold": 5}
    hyper = {k: torch.tensor(float(v)) for k, v in setting.items()}
    hyper["step_size"] = torch.tensor(loop.STEP_SIZE)
    for x, y in zip(X, Y):
        net, _ = learner.step(net, hyper, x, y)
        loop.learn(x, y)
    ages = [units["age"] for units in net["after"][0]["units"]]
    assert ages[1].min() == 0 and ages[2].min() == 0 and ages[0].min() == 9
    for age, theirs, units, mean in zip(ages, loop.age, net["after"][0]["units"], loop.mean):
        torch.testing.assert_close(age, theirs)
        torch.testing.assert_close(units["mean_activity"], mean, rtol=1e-4, atol=1e-5)
    k = int(ages[1].argmin())
    after = loop.layers[2].weight.detach().reshape(5, 4, 4)
    assert (after[ages[2] == 9, k] == 0).all()  # the newborn listener hears it
    torch.testing.assert_close(loop.layers[2].bias.detach(), net["params"][2][1], rtol=1e-4,
                               atol=1e-5)


def test_the_bench_times_convolutions(monkeypatch):
    monkeypatch.setattr(supervised, "SMALL_IMAGES", TINY)
    monkeypatch.setattr(supervised, "WORKS", [("tiny", TINY, 2, [0.01], 5, 5)])
    monkeypatch.setattr(drivers, "choose", lambda *_: "eager")
    rows = supervised.measure(rounds=1)
    assert [(r["learner"], r["runs"]) for r in rows] == [("conv_backprop", 2),
                                                         ("conv_continual_backprop", 2)]
    assert all(row["rate"] > 0 and row["loop_rate"] > 0 for row in rows)
