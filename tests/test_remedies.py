"""Remedies on every weight against numpy and torch.optim; noise as wide as asked, and its own."""

import numpy as np
import pytest
import reference
import reference_remedies
import torch
from test_learners import assert_same_network, double, examples, follow, live, SEED

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop, least_useful
from dyndl_lite.algorithms.optimisers import adam, l2, l2_init, momentum, noise, upgd
from dyndl_lite.algorithms.regularisers import weight_clipping, with_noise
from dyndl_lite.experiment import ensemble
from dyndl_lite.learning import cross_entropy, sgd
from dyndl_lite.models import mlp
from dyndl_lite.problems.regression import SlowlyChangingRegression

SIZES = (6, 5, 4, 2)
RIVALS = {"sgd": (sgd, torch.optim.SGD, {}), "adam": (adam, torch.optim.Adam, {}),
          "momentum": (momentum, torch.optim.SGD, {"momentum": 0.9})}


def plain_loop(X, Y, step_size, weight_decay, width=0.0):
    """Learn as the textbook does: gradient plus decay, then noise."""
    W, b = reference.initial_weights(SEED, SIZES, "relu")
    for t, (x, y) in enumerate(zip(X, Y)):
        z, h = reference.forward(W, b, x, "relu")
        _, _, slope = reference.loss_and_slope(z[-1], y, "cross_entropy")
        gW, gb = reference.backward(W, z, h, slope, "relu")
        arrays = [a for pair in zip(W, b) for a in pair]
        stir = reference_remedies.noise(SEED, t, arrays)
        for array, g, e in zip(arrays, [g for pair in zip(gW, gb) for g in pair], stir):
            array += -step_size * (g + weight_decay * array) + width * e
    return W, b


def assert_same(net, W, b):
    for (ours, bias), theirs, their_bias in zip(net["params"], W, b, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(bias, their_bias, rtol=1e-5, atol=1e-7)


def test_l2_agrees_with_the_textbook():
    X, Y = examples(200, 6, 2, "cross_entropy")
    net, _ = live(backprop(SIZES, loss=cross_entropy, optimiser=l2()), X, Y, step_size=0.05,
                  weight_decay=0.02)
    assert_same(net, *plain_loop(X, Y, 0.05, 0.02))


def test_shrink_and_perturb_agrees_with_the_textbook():
    X, Y = examples(200, 6, 2, "cross_entropy")
    learner = backprop(SIZES, loss=cross_entropy, optimiser=l2(), after=(with_noise,))
    net, _ = live(learner, X, Y, step_size=0.05, weight_decay=0.02, noise=0.01)
    assert_same(net, *plain_loop(X, Y, 0.05, 0.02, 0.01))


@pytest.mark.parametrize("name", RIVALS)
def test_decay_agrees_with_torch_optim(name):
    ours, theirs, more = RIVALS[name]
    X, Y = examples(100, 6, 2, "cross_entropy")
    learner = backprop(SIZES, loss=cross_entropy, optimiser=l2(ours))
    net, _ = live(learner, X, Y, step_size=0.01, weight_decay=0.1)
    params = [p.clone().requires_grad_()
              for pair in double(learner.start(torch.tensor(SEED)))["params"] for p in pair]
    optimiser = theirs(params, lr=0.01, weight_decay=0.1, **more)
    for x, y in zip(torch.tensor(X), torch.tensor(Y)):
        optimiser.zero_grad()
        output, _ = mlp.forward(list(zip(params[::2], params[1::2])), x)
        cross_entropy(output, y)[0].backward()
        optimiser.step()
    for a, b in zip([p for pair in net["params"] for p in pair], params, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-7)


def test_decay_towards_the_start_agrees_with_the_textbook():
    X, Y = examples(500, 6, 2, "cross_entropy")
    hyper = {"step_size": 0.05, "weight_decay": 0.1}
    net, scores = live(backprop(SIZES, loss=cross_entropy, optimiser=l2_init()), X, Y, **hyper)
    textbook = reference_remedies.TowardsStart(SEED, SIZES, loss="cross_entropy", **hyper)
    assert scores == follow(textbook, X, Y)
    assert_same_network(net, textbook, 1e-6)


def test_decay_towards_the_start_keeps_what_the_optimiser_remembers():
    X, Y = examples(50, 6, 2)
    off, _ = live(backprop(SIZES, optimiser=l2_init(adam)), X, Y, weight_decay=0)
    plain, _ = live(backprop(SIZES, optimiser=adam), X, Y)
    assert_same(off, *zip(*plain["params"]))


def test_decay_towards_the_start_holds_weights_there():
    X, Y = examples(200, 6, 2)
    moved = []
    for decay in (0, 9):
        net, _ = live(backprop(SIZES, optimiser=l2_init()), X, Y, step_size=0.05, weight_decay=decay)
        moved.append(max(float((W - V).abs().max()) for (W, _), (V, _) in
                         zip(net["params"], net["memory"]["initial"]["w_0"], strict=True)))
    assert moved[1] < 0.25 * moved[0]


def test_clipping_agrees_with_the_textbook():
    X, Y = examples(500, 6, 2, "cross_entropy")
    hyper = {"step_size": 0.05, "clip": 0.8}
    net, scores = live(backprop(SIZES, loss=cross_entropy, after=(weight_clipping(),)), X, Y, **hyper)
    textbook = reference_remedies.Clipped(SEED, SIZES, loss="cross_entropy", **hyper)
    np.testing.assert_allclose(scores, follow(textbook, X, Y))
    assert_same_network(net, textbook, 1e-6)
    assert textbook.touched > 30


def test_upgd_agrees_with_the_textbook():
    X, Y = examples(1_000, 6, 2)
    hyper = {"step_size": 0.02, "utility_decay": 0.9, "weight_decay": 0.01, "noise": 0.1}
    net, scores = live(backprop(SIZES, optimiser=upgd), X, Y, **hyper)
    textbook = reference_remedies.UtilityProtected(SEED, SIZES, **hyper)
    np.testing.assert_allclose(scores, follow(textbook, X, Y), rtol=1e-5)
    assert_same_network(net, textbook, 1e-5)


def test_upgd_spares_what_is_useful_and_stirs_the_rest():
    X, Y = np.zeros((300, 6)), np.zeros((300, 2))
    net, _ = live(backprop((6, 2), optimiser=upgd), X, Y, noise=0.1, step_size=0.1)
    start = mlp.initialise(torch.tensor(SEED), (6, 2))
    moved = net["params"][0][0] - start[0][0]  # no gradient, so no utility: each step is noise
    expected = 0.1 * 0.1 * 300**0.5
    assert 0.5 * expected < moved.std() < 1.6 * expected


def test_without_decay_and_noise_a_remedy_is_backprop():
    X, Y = examples(50, 6, 2)
    plain, scores = live(backprop(SIZES), X, Y)
    for learner, off in [(backprop(SIZES, optimiser=l2()), {"weight_decay": 0}),
                         (backprop(SIZES, after=(with_noise,)), {"noise": 0})]:
        net, same = live(learner, X, Y, **off)
        assert same == scores
        for (W, b), (V, c) in zip(net["params"], plain["params"], strict=True):
            assert torch.equal(W, V) and torch.equal(b, c)


def test_noise_is_nearly_normal_and_new_for_every_weight_and_time():
    params = mlp.initialise(torch.tensor(SEED), (200, 100, 10))
    e = torch.cat([torch.cat([n.flatten() for pair in noise(torch.tensor(SEED), torch.tensor(t),
                                                            params) for n in pair])[None]
                   for t in range(3)]).double()
    assert e.mean(1).abs().max() < 0.035 and (e.var(1) - 1).abs().max() < 0.04  # 5 s. e.
    within = (e.abs() < 1).double().mean()
    assert abs(within - 0.683) < 0.02
    assert (torch.corrcoef(e) - torch.eye(3)).abs().max() < 0.035
    assert abs(torch.corrcoef(torch.stack([e[0, 1:], e[0, :-1]]))[0, 1]) < 0.035


@pytest.mark.parametrize("learner", [backprop((20, 3, 1), optimiser=l2(), after=(with_noise,)),
                                     backprop((20, 3, 1), optimiser=l2_init()),
                                     backprop((20, 3, 1), after=(weight_clipping(),)),
                                     backprop((20, 3, 1), optimiser=upgd),
                                     backprop((20, 3, 1), after=(least_useful(), with_noise)),
                                     continual_backprop((20, 3, 1), optimiser=l2(adam))],
                         ids=lambda learner: learner.description.split(" (")[0])
def test_remedies_run_as_an_ensemble_and_alone_the_same(learner):
    stream = SlowlyChangingRegression()
    together = ensemble.run(stream, {"it": (learner, {"step_size": [0.01, 0.001]})}, [0, 5], 300,
                            100)
    alone = ensemble.run(stream, {"it": (learner, {"step_size": 0.001})}, [5], 300, 100)
    chosen = together[(together.seed == 5) & (together.step_size == 0.001)]
    np.testing.assert_allclose(chosen.squared_error, alone.squared_error, rtol=1e-4)
