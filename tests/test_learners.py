"""Every learner against the textbook in `reference`, gradients against autograd, invariants."""

import numpy as np
import pytest
import reference
import torch
from torch import nn
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import (
    AS_IN_NATURE,
    AS_RELEASED,
    continual_backprop,
    update_utility,
    UTILITIES,
)
from dyndl_lite.algorithms.optimisers import adam, momentum
from dyndl_lite.algorithms.replace_units import reinitialise
from dyndl_lite.experiment import ensemble
from dyndl_lite.learning import cross_entropy, sgd, squared_error
from dyndl_lite.models import mlp

ACTIVATIONS = list(mlp.ACTIVATIONS)
OPTIMISERS = {"sgd": sgd, "momentum": momentum, "adam": adam}
LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}
# Replaces a unit of a layer every few examples, and often two layers at once.
BUSY = {"replacement_rate": 0.05, "utility_decay": 0.9, "maturity_threshold": 5}
SEED = 3


def examples(steps, inputs, outputs, loss="squared_error"):
    """Make noise to learn from, in float64."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(steps, inputs))
    if loss == "cross_entropy":
        return X, rng.integers(outputs, size=steps)
    return X, np.sin(3 * X[:, :outputs]) + 0.1 * rng.normal(size=(steps, outputs))


def double(tree):
    """Turn all float32 of a net into float64, so that only real differences are seen."""
    return tree_map(lambda a: a.double() if a.is_floating_point() else a, tree)


def live(learner, X, Y, precision=torch.float64, **setting):
    """Let one network live through the examples, eagerly."""
    net = learner.start(torch.tensor(SEED))
    net = double(net) if precision == torch.float64 else net
    hyper = {k: torch.tensor(float(v), dtype=precision)
             for k, v in {**learner.settings, **setting}.items()}
    X = torch.tensor(X, dtype=precision)
    Y = torch.tensor(Y) if Y.dtype.kind == "i" else torch.tensor(Y, dtype=precision)
    scores = []
    for x, y in zip(X, Y):
        net, score = learner.step(net, hyper, x, y)
        scores.append(float(score))
    return net, scores


def follow(textbook, X, Y):
    """Let the reference live through the same examples."""
    return [textbook.learn(x, y) for x, y in zip(X, Y)]


def assert_same_network(net, textbook, tolerance):
    for (W, b), W_ref, b_ref in zip(net["params"], textbook.W, textbook.b, strict=True):
        np.testing.assert_allclose(W.numpy(), W_ref, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(b.numpy(), b_ref, rtol=tolerance, atol=tolerance)


def assert_same_units(net, textbook, tolerance=1e-6):
    for units, u, f, age, due in zip(net["after"][0]["units"], textbook.utility, textbook.mean, textbook.age,
                                     textbook.due, strict=True):
        np.testing.assert_allclose(units["utility"], u, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(units["mean_activity"], f, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(units["age"], age)
        np.testing.assert_allclose(units["accumulator"], due, atol=1e-9)


def one_line(raised):
    """Give the message, after seeing that it is one line."""
    message = str(raised.value)
    assert message and "\n" not in message
    return message


# Random numbers ---------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31, 2**32 - 1])
def test_the_hash_has_the_same_bits_in_torch_and_numpy(seed):
    where = np.array([0, 1, 2, 1000, 2**20, 2**31, 2**32 - 1])
    for counters in [(where,), (3, where), (where[:, None], 2**32 - 1, where)]:
        ours = random.bits(torch.tensor(seed),
                          *(torch.tensor(c) if np.ndim(c) else c for c in counters))
        np.testing.assert_array_equal(ours.numpy().astype(np.uint64),
                                      reference.draw_bits(seed, *counters))


def test_uniform_draws_are_uniform_and_unrelated():
    u = random.uniform(torch.arange(4)[:, None], random.PIXELS, torch.arange(50_000)).double()
    assert u.min() >= 0 and u.max() < 1
    assert (u.mean(1) - 0.5).abs().max() < 0.006  # 4.6 standard errors
    assert (u.var(1) - 1 / 12).abs().max() < 0.002
    between = torch.corrcoef(u) - torch.eye(4)
    assert between.abs().max() < 0.02
    following = torch.corrcoef(torch.stack([u[0, :-1], u[0, 1:]]))[0, 1]
    assert abs(following) < 0.02


def test_no_two_large_layers_share_a_stretch_of_random_numbers():
    # With 32 bits of state, one of these layers was another one, shifted by a few weights.
    where = torch.arange(2_000_000)
    for (seed, layer), (other, its) in [((8, 1), (9, 1)), ((8, 1), (9, 2)), ((57, 1), (57, 2)),
                                        ((72, 1), (72, 2)), ((235, 1), (235, 2))]:
        ours, theirs = (random.bits(torch.tensor(s), random.WEIGHTS, k, where)
                        for s, k in ((seed, layer), (other, its)))
        both = torch.isin(ours, theirs).sum()  # by chance 2e6^2 / 2^32 = 931
        assert both < 1_300


def test_the_purposes_of_draws_are_those_of_the_reference():
    for name in ("WEIGHTS", "REBIRTH", "RANDOM_UTILITY", "TARGET", "SLOW_BITS", "FAST_BITS"):
        assert getattr(random, name) == getattr(reference, name)


# The network ------------------------------------------------------------------------------------

@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights_fill_kaimings_interval(activation):
    sizes = (50, 40, 1)
    params = mlp.initialise(torch.tensor(SEED), sizes, activation)
    W_ref, _ = reference.initial_weights(SEED, sizes, activation)
    for (W, b), w in zip(params, W_ref, strict=True):
        np.testing.assert_allclose(W.numpy(), w, rtol=1e-5, atol=1e-7)
        assert not b.any()
    gain = reference.GAINS[activation]
    assert gain * (3 / 50) ** 0.5 * 0.99 < params[0][0].abs().max() <= gain * (3 / 50) ** 0.5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_agrees_with_the_textbook(activation):
    sizes = (6, 5, 4, 2)
    net = double(mlp.initialise(torch.tensor(SEED), sizes, activation))
    W, b = [w.numpy() for w, _ in net], [v.numpy() for _, v in net]
    for x in examples(20, 6, 2)[0] * 3:
        output, features = mlp.forward(net, torch.tensor(x), activation)
        z, h = reference.forward(W, b, x, activation)
        np.testing.assert_allclose(output, z[-1], rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(features, h[1:], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


MODULES = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "swish": nn.SiLU,
           "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_an_ordinary_torch_module(activation, loss):
    sizes = (6, 5, 4, 3)
    X, Y = examples(1, 6, 3, loss)
    x, y = torch.tensor(X[0]), torch.tensor(Y[0])
    net = double(backprop(sizes, activation).start(torch.tensor(SEED)))
    hyper = {"step_size": torch.tensor(1.0, dtype=torch.float64)}
    params = backprop(sizes, activation, LOSSES[loss]).step(net, hyper, x, y)[0]["params"]

    layers = [nn.Linear(i, o).double() for i, o in zip(sizes, sizes[1:])]
    for layer, (W, b) in zip(layers, net["params"]):
        layer.weight.data, layer.bias.data = W.clone(), b.clone()
    f = MODULES[activation]()
    output = layers[2](f(layers[1](f(layers[0](x)))))
    of = nn.functional.cross_entropy if loss == "cross_entropy" else nn.functional.mse_loss
    of(output, y).backward()
    for layer, before, after in zip(layers, net["params"], params):
        torch.testing.assert_close(before[0] - after[0], layer.weight.grad)
        torch.testing.assert_close(before[1] - after[1], layer.bias.grad)


# Backprop ---------------------------------------------------------------------------------------

SAMPLE = [(a, o, "squared_error") for a in ACTIVATIONS for o in OPTIMISERS]
SAMPLE += [("relu", o, "cross_entropy") for o in OPTIMISERS]


@pytest.mark.parametrize("activation, optimiser, loss", SAMPLE)
def test_backprop_agrees_with_the_textbook(activation, optimiser, loss):
    sizes, X, Y = (6, 5, 4, 2), *examples(150, 6, 2, loss)
    hyper = {"step_size": 0.02, "momentum": 0.8, "beta_1": 0.9, "beta_2": 0.99}
    learner = backprop(sizes, activation, LOSSES[loss], OPTIMISERS[optimiser])
    hyper = {k: v for k, v in hyper.items() if k in learner.settings}
    net, scores = live(learner, X, Y, **hyper)
    textbook = reference.Backprop(SEED, sizes, activation, loss, optimiser, **hyper)
    np.testing.assert_allclose(scores, follow(textbook, X, Y), rtol=1e-5, atol=1e-6)
    assert_same_network(net, textbook, 1e-5)


def test_backprop_agrees_with_the_textbook_in_float32_too():
    sizes, X, Y = (6, 5, 1), *examples(300, 6, 1)
    net, scores = live(backprop(sizes), X, Y, torch.float32, step_size=0.02)
    textbook = reference.Backprop(SEED, sizes, step_size=0.02)
    np.testing.assert_allclose(scores, follow(textbook, X, Y), rtol=1e-3, atol=1e-4)
    assert_same_network(net, textbook, 1e-4)


def test_without_hidden_layers_backprop_is_least_mean_squares():
    X, Y = examples(200, 6, 1)
    net, _ = live(backprop((6, 1)), X, Y, step_size=0.02)
    w, b = reference.initial_weights(SEED, (6, 1), "relu")[0][0][0], 0.0
    for x, y in zip(X, Y[:, 0]):
        error = y - (w @ x + b)
        w, b = w + 0.02 * 2 * error * x, b + 0.02 * 2 * error
    np.testing.assert_allclose(net["params"][0][0][0], w, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(net["params"][0][1][0], b, rtol=1e-6, atol=1e-6)


def test_the_score_of_a_classification_is_whether_the_right_class_was_on_top():
    output = torch.tensor([0.1, 2.0, -1.0])
    for y, score in [(0, 0.0), (1, 1.0), (2, 0.0)]:
        loss, found = cross_entropy(output, torch.tensor(y))
        assert found == score
        torch.testing.assert_close(loss, nn.functional.cross_entropy(output, torch.tensor(y)))


# Continual backprop -----------------------------------------------------------------------------

CONTINUAL = [("contribution", "sgd", sizes) for sizes in ((6, 5, 2), (6, 5, 4, 2), (6, 5, 4, 3, 2))]
CONTINUAL += [("contribution", o, (6, 5, 4, 2)) for o in ("momentum", "adam")]
CONTINUAL += [(u, "sgd", (6, 5, 4, 2)) for u in UTILITIES if u != "contribution"]
CONTINUAL += [("adaptable_contribution", "adam", (6, 5, 4, 3, 2))]


def both(sizes, utility, optimiser, steps=150, activation="relu", loss="squared_error",
         as_released=False):
    """Let continual backprop and its textbook live side by side, replacing often."""
    X, Y = examples(steps, sizes[0], sizes[-1], loss)
    learner = continual_backprop(sizes, activation, LOSSES[loss], OPTIMISERS[optimiser], utility,
                                 **(AS_RELEASED if as_released else {}))
    setting = {**learner.settings, **BUSY, "step_size": 0.02}
    net, scores = live(learner, X, Y, **setting)
    textbook = reference.ContinualBackprop(SEED, sizes, utility, as_released,
                                           activation=activation, loss=loss, optimiser=optimiser,
                                           **setting)
    return net, scores, textbook, follow(textbook, X, Y)


@pytest.mark.parametrize("utility, optimiser, sizes", CONTINUAL)
def test_continual_backprop_agrees_with_the_textbook(utility, optimiser, sizes):
    net, scores, textbook, expected = both(sizes, utility, optimiser)
    for layer in range(len(sizes) - 2):
        assert sum(where == layer for _, where, _ in textbook.replaced) >= 8
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert_same_network(net, textbook, 1e-5)
    assert_same_units(net, textbook, 1e-5)


@pytest.mark.parametrize("utility", UTILITIES)
def test_a_utility_that_is_a_setting_is_the_same_utility(utility):
    sizes, X, Y = (6, 5, 4, 2), *examples(80, 6, 2)
    net, scores = live(continual_backprop(sizes, utility=utility), X, Y, **BUSY)
    other, same = live(continual_backprop(sizes, utility=None), X, Y, **BUSY,
                       utility=list(UTILITIES).index(utility))
    np.testing.assert_allclose(same, scores, rtol=1e-9)
    for ours, theirs in zip(net["after"][0]["units"], other["after"][0]["units"], strict=True):
        assert torch.equal(ours["age"], theirs["age"]) and ours["age"].min() < 20


@pytest.mark.parametrize("activation", ["tanh", "swish"])
def test_continual_backprop_classifies_with_other_activations(activation):
    net, _, textbook, _ = both((6, 5, 4, 3), "mean_corrected_contribution", "sgd",
                               activation=activation, loss="cross_entropy")
    assert len(textbook.replaced) > 20
    assert_same_network(net, textbook, 1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
def test_continual_backprop_as_released(optimiser):
    net, _, textbook, _ = both((6, 5, 4, 2), "contribution", optimiser, as_released=True)
    assert len(textbook.replaced) > 20
    assert_same_network(net, textbook, 1e-5)
    published, *_ = both((6, 5, 4, 2), "contribution", optimiser)
    assert not torch.allclose(net["params"][-1][1], published["params"][-1][1], atol=1e-4)


def test_several_layers_replace_at_one_example_and_the_newborns_row_wins():
    """Where both ends of a weight are reborn at once, it takes its fresh value."""
    *_, textbook, _ = both((6, 5, 4, 2), "contribution", "sgd")
    times = [t for t, _, _ in textbook.replaced]
    assert len(times) > len(set(times))
    params = [(torch.ones(3, 2), torch.ones(3)), (torch.ones(2, 3), torch.ones(2)),
              (torch.ones(1, 2), torch.ones(1))]
    yes = torch.tensor(True)
    chosen = [(torch.tensor(1), yes), (torch.tensor(0), yes)]
    fresh = [torch.full((2,), 5.0), torch.full((3,), 7.0)]
    means = [torch.full((3,), 0.5), torch.full((2,), 0.25)]
    (W1, b1), (W2, b2), (W3, b3) = reinitialise(params, chosen, fresh, means)
    assert W1.tolist() == [[1, 1], [5, 5], [1, 1]] and b1.tolist() == [1, 0, 1]
    assert W2.tolist() == [[7, 7, 7], [1, 0, 1]] and b2.tolist() == [0, 1.5]
    assert W3.tolist() == [[0, 1]] and b3.tolist() == [1.25]


def first_replacement(optimiser="sgd", as_released=False):
    """Take the first unit replaced that had something to say.

    Give the net before, the example, the net after its gradient and at the end, the unit.
    """
    sizes = (6, 5, 2)
    learner = continual_backprop(sizes, optimiser=OPTIMISERS[optimiser],
                                 **(AS_RELEASED if as_released else {}))
    plain = backprop(sizes, optimiser=OPTIMISERS[optimiser])
    X, Y = (torch.tensor(a) for a in examples(100, 6, 2))
    hyper = {k: torch.tensor(float(v)).double()
             for k, v in {**learner.settings, **BUSY, "step_size": 0.02}.items()}
    net = double(learner.start(torch.tensor(SEED)))
    for x, y in zip(X, Y):
        before = net
        after_gradient = plain.step({**net, "after": []}, hyper, x, y)[0]
        net = learner.step(net, hyper, x, y)[0]
        reborn = (net["after"][0]["units"][0]["age"] == 0).nonzero()
        if len(reborn) and before["after"][0]["units"][0]["mean_activity"][reborn[0]] > 0.02:
            return before, x, after_gradient, net, int(reborn[0])
    raise AssertionError("nothing was replaced")


def test_a_removed_unit_leaves_its_mean_in_its_listeners_biases():
    before, x, gradient, after, k = first_replacement()
    h = mlp.forward(before["params"], x)[1][0][k]
    averages, eta = before["after"][0]["units"][0], torch.tensor(BUSY["utility_decay"]).double()
    mean = eta * averages["mean_activity"][k] + (1 - eta) * h
    mean = mean / (1 - eta ** (averages["age"][k] + 1))
    assert mean > 0.01
    (_, _), (W, b) = gradient["params"]
    torch.testing.assert_close(after["params"][1][1], b + W[:, k] * mean, rtol=1e-6, atol=1e-9)
    others = [i for i in range(5) if i != k]
    assert torch.equal(after["params"][1][0][:, others], W[:, others])


def test_on_average_over_its_past_the_output_does_not_change_at_a_replacement():
    """With frozen weights and eta near 1 the unit's mean is a plain mean over its life."""
    sizes = (6, 5, 1)
    learner = continual_backprop(sizes)
    X, Y = (torch.tensor(a) for a in examples(51, 6, 1))
    setting = {"step_size": 0.0, "utility_decay": 1 - 1e-9, "maturity_threshold": 50,
               "replacement_rate": 0.2}
    hyper = {k: torch.tensor(v, dtype=torch.float64) for k, v in setting.items()}
    net = first = double(learner.start(torch.tensor(SEED)))
    for x, y in zip(X, Y):
        net = learner.step(net, hyper, x, y)[0]
    assert (net["after"][0]["units"][0]["age"] == 0).sum() == 1
    assert not torch.equal(net["params"][0][0], first["params"][0][0])

    def mean_output(params):
        return torch.stack([mlp.forward(params, x)[0] for x in X]).mean()

    torch.testing.assert_close(mean_output(net["params"]), mean_output(first["params"]),
                               rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimiser, names", [("momentum", ["trace"]),
                                              ("adam", ["m", "v", "m1", "v1"])])
def test_a_reborn_unit_inherits_nothing(optimiser, names):
    _, _, before, after, k = first_replacement(optimiser)
    (W, b), (V, c) = after["params"]
    assert not V[:, k].any() and b[k] == 0
    assert W[k].abs().max() <= mlp.weight_bound(6, "relu")
    assert not torch.allclose(W[k], before["params"][0][0][k])
    for name in ("utility", "mean_activity", "bias_correction", "age"):
        assert after["after"][0]["units"][0][name][k] == 0
    for name in names:
        (mW, mb), (mV, mc) = after["memory"]["per_weight"][name]
        assert not mW[k].any() and mb[k] == 0 and not mV[:, k].any()
        assert (mc == before["memory"]["per_weight"][name][1][1]).all() and mc.any()
        others = [i for i in range(5) if i != k]
        torch.testing.assert_close(mW[others], before["memory"]["per_weight"][name][0][0][others])


@pytest.mark.parametrize("optimiser, names, survive", [
    ("momentum", ["trace"], True), ("adam", ["m", "v", "m1", "v1"], False)])
def test_as_released_the_mean_is_lost_momentum_survives_and_adam_s_memory_does_not(optimiser, names,
                                                                                    survive):
    _, _, _, after, k = first_replacement(optimiser, as_released=True)
    _, _, gradient, same, _ = first_replacement(optimiser)
    assert not after["params"][1][0][:, k].any()
    for name in names:
        (into, _), (out_of, _) = after["memory"]["per_weight"][name]
        assert bool(into[k].any()) == bool(out_of[:, k].any()) == survive
    assert not torch.equal(after["params"][1][1], same["params"][1][1])  # there the mean went


def test_as_in_nature_averages_are_not_corrected_and_no_mean_is_moved():
    X, Y = examples(150, 6, 2)
    setting = {**BUSY, "step_size": 0.02}
    nature, _ = live(continual_backprop((6, 5, 2), **AS_IN_NATURE), X, Y, **setting)
    # u and f themselves decide: the same as if all were divided by 1.
    stats = {"utility": torch.tensor([0.5, 0.2]), "mean_activity": torch.zeros(2),
             "bias_correction": torch.tensor([0.9, 0.1]), "age": torch.tensor([9.0, 1.0])}
    hyper = {"utility_decay": torch.tensor(0.9)}
    h, w = torch.tensor([[1.0, 1.0]]), torch.ones(2)
    _, plain, mean = update_utility(stats, h, w, w, hyper, "contribution", bias_correction=False)
    torch.testing.assert_close(plain, torch.tensor([0.55, 0.28]))
    torch.testing.assert_close(mean, torch.tensor([0.1, 0.1]))
    _, corrected, _ = update_utility(stats, h, w, w, hyper, "contribution")
    torch.testing.assert_close(corrected, torch.tensor([0.55 / 0.91, 0.28 / 0.19]))
    whole, _ = live(continual_backprop((6, 5, 2)), X, Y, **setting)
    assert not torch.allclose(nature["params"][1][1], whole["params"][1][1])


def test_what_is_due_stays_a_fraction_and_replacements_come_at_their_rate():
    sizes, steps = (6, 5, 4, 2), 400
    learner = continual_backprop(sizes)
    X, Y = (torch.tensor(a) for a in examples(steps, 6, 2))
    hyper = {k: torch.tensor(float(v)).double()
             for k, v in {**learner.settings, **BUSY, "maturity_threshold": 0}.items()}
    net, reborn = double(learner.start(torch.tensor(SEED))), [0, 0]
    for x, y in zip(X, Y):
        net = learner.step(net, hyper, x, y)[0]
        for layer, units in enumerate(net["after"][0]["units"]):
            assert 0 <= units["accumulator"] < 1
            reborn[layer] += int((units["age"] == 0).sum())
    # Every unit is mature after its first example: rate x units a step.
    assert abs(reborn[0] - 0.05 * 5 * steps) <= 1 and abs(reborn[1] - 0.05 * 4 * steps) <= 1


def test_a_unit_is_safe_until_it_is_older_than_the_threshold():
    *_, textbook, _ = both((6, 5, 4, 2), "contribution", "sgd")
    born = {}
    for t, layer, unit in textbook.replaced:
        assert t + 1 - born.get((layer, unit), 0) > BUSY["maturity_threshold"]
        born[layer, unit] = t + 1
    assert min(t for t, _, _ in textbook.replaced) >= BUSY["maturity_threshold"]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_at_replacement_rate_zero_continual_backprop_is_backprop(optimiser):
    sizes, X, Y = (6, 5, 4, 2), *examples(100, 6, 2)
    one, scores = live(backprop(sizes, optimiser=OPTIMISERS[optimiser]), X, Y, torch.float32)
    other, same = live(continual_backprop(sizes, optimiser=OPTIMISERS[optimiser]), X, Y,
                       torch.float32, replacement_rate=0, maturity_threshold=0)
    assert scores == same
    for ours, theirs in zip(one["params"], other["params"]):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


# Bad requests -----------------------------------------------------------------------------------

@pytest.mark.parametrize("ask, names", [
    (lambda: backprop((2, 3, 1), "softplus").start(torch.tensor(0)), ["softplus", "relu"]),
    (lambda: backprop((2,)).start(torch.tensor(0)), ["(2,)"]),
    (lambda: backprop((2, 0, 1)).start(torch.tensor(0)), ["(2, 0, 1)"]),
    (lambda: continual_backprop((2, 3, 1), utility="luck"), ["luck", "contribution"]),
    (lambda: ensemble.grid(continual_backprop((2, 3, 1), utility=None), utility=6),
     ["utility 6", "adaptation"]),
    (lambda: continual_backprop((2, 1)), ["(2, 1)", "hidden layer"]),
    (lambda: ensemble.grid(backprop((2, 3, 1)), stepsize=0.1), ["stepsize", "step_size"]),
    (lambda: ensemble.grid(continual_backprop((2, 4, 1)), replacement_rate=[1e-4, 0.3]),
     ["replacement_rate 0.3", "4 units"]),
])
def test_a_bad_request_gives_one_clear_line(ask, names):
    with pytest.raises(ValueError) as raised:
        ask()
    message = one_line(raised)
    assert all(name in message for name in names), message
