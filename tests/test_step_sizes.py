"""Learned step sizes against the textbook in `reference_step_sizes`, bounds, tracking problems."""

import numpy as np
import pytest
import reference_step_sizes as textbooks
import torch
from torch.func import hessian
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms import step_sizes
from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.algorithms.replace_units import overwrite
from dyndl_lite.algorithms.step_sizes import adapt, linear, per_unit
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.learning import cross_entropy, CURVATURE, squared_error
from dyndl_lite.models import mlp
from dyndl_lite.problems.tracking import FlippingSigns, normal, RandomWalks

RULES = {name: getattr(step_sizes, name) for name in textbooks.RULES}
LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}
BUSY = {"replacement_rate": 0.02, "utility_decay": 0.9, "maturity_threshold": 20}
SEED = 3


def double(tree):
    """Turn all float32 of a net into float64, so that only real differences are seen."""
    return tree_map(lambda a: a.double() if a.is_floating_point() else a, tree)


def live(learner, X, Y, after=lambda net: None, **setting):
    """Let one network live through the examples, eagerly, in float64."""
    net = double(learner.start(torch.tensor(SEED)))
    hyper = {k: torch.tensor(float(v), dtype=torch.float64)
             for k, v in {**learner.settings, **setting}.items()}
    scores = []
    for x, y in zip(torch.tensor(X), torch.tensor(Y)):
        net, score = learner.step(net, hyper, x, y)
        scores.append(float(score))
        after(net)
    return net, scores


def tracking(steps, inputs=6, scale=1.0):
    """Make a linear problem with a drifting target and one input that is often silent."""
    rng = np.random.default_rng(0)
    X = scale * rng.normal(size=(steps, inputs))
    X[:, 0] *= rng.random(steps) < 0.2
    w = np.cumsum(0.05 * rng.normal(size=(steps, inputs)), 0)
    return X, (w * X).sum(1, keepdims=True) + 0.3 * rng.normal(size=(steps, 1))


def nonlinear(steps, inputs, outputs, loss="squared_error"):
    """Make something for a net to learn."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(steps, inputs))
    if loss == "cross_entropy":
        return X, np.argmax(X[:, :outputs] * X[:, 1:outputs + 1], 1)
    return X, np.sin(2 * X[:, :outputs] + X[:, 1:2])


# Against the textbook ---------------------------------------------------------------------------

LINEAR = {"idbd": dict(step_size=0.05, meta_step_size=0.003),
          "autostep": dict(step_size=0.01, meta_step_size=0.02, tau=50),
          "steady": dict(step_size=0.1, meta_step_size=0.02, tau=50),
          "swift": dict(step_size=0.01, meta_step_size=0.003, bound=0.7, decay=0.99),
          "meta_optimize": dict(step_size=0.01, meta_step_size=0.002, discount=0.95)}


@pytest.mark.parametrize("rule", RULES)
def test_a_linear_unit_agrees_with_the_textbook(rule):
    X, Y = tracking(2000)
    net, scores = live(linear(6, RULES[rule]), X, Y, **LINEAR[rule])
    textbook = textbooks.Linear(rule, 6, **LINEAR[rule])
    expected = [textbook.learn(x, y) for x, y in zip(X, Y[:, 0])]
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(net["w"], textbook.w, rtol=1e-6)
    alpha = net["memory"]["alpha"].numpy()
    np.testing.assert_allclose(alpha, textbook.step_sizes(), rtol=1e-6)
    assert (np.abs(np.log(alpha / LINEAR[rule]["step_size"])) > 0.01).all()  # they learned


DEEP = [("autostep", "squared_error", "relu"), ("autostep", "cross_entropy", "relu"),
        ("autostep", "squared_error", "tanh"), ("autostep", "squared_error", "swish"),
        ("steady", "squared_error", "relu"), ("steady", "cross_entropy", "tanh"),
        ("idbd", "squared_error", "tanh"), ("swift", "squared_error", "relu"),
        ("swift", "cross_entropy", "tanh"), ("meta_optimize", "cross_entropy", "relu")]
SETTINGS = {"idbd": dict(step_size=0.01, meta_step_size=0.01),
            "autostep": dict(step_size=0.02, meta_step_size=0.02, tau=100),
            "steady": dict(step_size=0.1, meta_step_size=0.02, tau=100),
            "swift": dict(step_size=0.02, meta_step_size=0.0003, bound=0.8, decay=0.99),
            "meta_optimize": dict(step_size=0.01, meta_step_size=0.002, discount=0.95)}


def both(rule, loss, activation, continual=False, steps=150):
    """Let a deep net and its textbook live side by side."""
    sizes = (5, 4, 3, 2)
    X, Y = nonlinear(steps, 5, 2, loss)
    make = continual_backprop if continual else backprop
    learner = make(sizes, activation, LOSSES[loss], per_unit(RULES[rule]))
    setting = {**SETTINGS[rule], **(BUSY if continual else {})}
    net, scores = live(learner, X, Y, **setting)
    kind = textbooks.ContinualDeep if continual else textbooks.Deep
    textbook = kind(SEED, sizes, rule=rule, activation=activation, loss=loss, **setting)
    return net, scores, textbook, [textbook.learn(x, y) for x, y in zip(X, Y)]


def assert_same(net, scores, textbook, expected):
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)
    for layer, (W, b) in enumerate(net["params"]):
        np.testing.assert_allclose(W, textbook.W[layer], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(b, textbook.b[layer], rtol=1e-5, atol=1e-7)
        of_weights, of_bias = net["memory"]["per_weight"]["alpha"][layer]
        alpha = torch.cat([of_weights, of_bias[:, None]], 1).numpy()
        alpha = np.where(alpha > 0, alpha, textbook.hyper["step_size"])  # 0 is a new weight's
        np.testing.assert_allclose(alpha, textbook.step_sizes(layer), rtol=1e-5)


@pytest.mark.parametrize("rule, loss, activation", DEEP)
def test_a_deep_net_agrees_with_the_textbook(rule, loss, activation):
    assert_same(*both(rule, loss, activation))


@pytest.mark.parametrize("rule, loss", [("autostep", "squared_error"), ("swift", "squared_error"),
                                        ("autostep", "cross_entropy")])
def test_a_deep_net_with_rebirths_agrees_with_the_textbook(rule, loss):
    net, scores, textbook, expected = both(rule, loss, "relu", continual=True, steps=300)
    assert len(textbook.replaced) > 20
    assert_same(net, scores, textbook, expected)


def test_autostep_agrees_with_the_textbook_over_thousands_of_steps():
    assert_same(*both("autostep", "squared_error", "tanh", continual=True, steps=2000))


# Curvature --------------------------------------------------------------------------------------

@pytest.mark.parametrize("loss, y", [("squared_error", torch.tensor([0.3, -1.0, 2.0])),
                                     ("cross_entropy", torch.tensor(1))])
def test_the_curvature_of_a_loss_is_the_diagonal_of_its_hessian(loss, y):
    output = torch.tensor([0.5, -0.2, 1.5])
    expected = hessian(lambda o: LOSSES[loss](o, y)[0])(output).diagonal()
    torch.testing.assert_close(CURVATURE[LOSSES[loss]](output), expected)


def test_with_one_unit_a_layer_the_curvature_is_the_square_of_the_output_s_slope():
    params = double(mlp.initialise(torch.tensor(SEED), (3, 1, 1, 1), "tanh"))
    x = torch.tensor([0.3, -0.2, 0.8], dtype=torch.float64)
    _, (h1, h2) = mlp.forward(params, x, "tanh")
    c = mlp.curvatures(params, [x, h1, h2], torch.ones(1, dtype=torch.float64), "tanh")
    slope = params[2][0][0, 0] * (1 - h2**2)
    torch.testing.assert_close(c[1], slope**2)
    torch.testing.assert_close(c[0], (slope * params[1][0][0, 0] * (1 - h1**2)) ** 2)


# Bounds -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule, setting", [
    ("autostep", dict(step_size=10.0, meta_step_size=0.5)),
    ("autostep", dict(step_size=1e-3, meta_step_size=0.1)),
    ("steady", dict(step_size=10.0, meta_step_size=0.5)),
    ("swift", dict(step_size=1.0, meta_step_size=0.1, bound=1.0, decay=0.9)),
    ("swift", dict(step_size=0.01, meta_step_size=0.01, bound=0.5, decay=0.999))])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_a_linear_unit_never_corrects_more_than_its_whole_error(rule, setting, scale):
    X, Y = (torch.tensor(a) for a in tracking(500, scale=scale))
    learner = linear(6, RULES[rule])
    hyper = {k: torch.tensor(float(v)).double() for k, v in {**learner.settings, **setting}.items()}
    net = double(learner.start(torch.tensor(SEED)))
    most = setting.get("bound", 1.0)
    for x, y in zip(X, Y):
        before = y - net["w"] @ x
        net, _ = learner.step(net, hyper, x, y)
        left = (y - net["w"] @ x) / before
        assert 1 - most - 1e-9 <= left <= 1 + 1e-9


def test_every_unit_of_a_layer_has_its_own_bound():
    memory = {part: torch.zeros(2, 3) for part in step_sizes.autostep.memory}
    hyper = {"step_size": torch.tensor(0.5), "meta_step_size": torch.tensor(0.01),
             "tau": torch.tensor(1e4)}
    a, c = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 0.01])
    memory, change = adapt(step_sizes.autostep, memory, torch.tensor([1.0, 1.0]), a, c, hyper)
    torch.testing.assert_close(memory["alpha"], torch.tensor([[1 / 6] * 3, [0.5] * 3]))
    torch.testing.assert_close(change, memory["alpha"] * a)


def test_the_bound_of_a_steady_unit_leaves_its_step_sizes_alone():
    memory = {part: torch.zeros(1, 3) for part in step_sizes.steady.memory}
    hyper = {"step_size": torch.tensor(0.5), "meta_step_size": torch.tensor(0.01),
             "tau": torch.tensor(1e4)}
    a = torch.tensor([1.0, 2.0, 1.0])
    memory, change = adapt(step_sizes.steady, memory, torch.ones(1), a, torch.ones(1), hyper)
    torch.testing.assert_close(memory["alpha"], torch.full((1, 3), 0.5))
    torch.testing.assert_close(change, a[None] / 6)


def test_a_steady_step_size_does_not_run_away_unseen():
    """An input that all but stands still asks for ever larger steps; then, one day, it moves."""
    found = {}
    for name in ("autostep", "steady"):
        memory = {part: torch.zeros(1) for part in RULES[name].memory}
        hyper = {"step_size": torch.tensor(0.03), "meta_step_size": torch.tensor(0.05),
                 "tau": torch.tensor(1e4)}
        for _ in range(500):
            memory, _ = RULES[name].update(memory, torch.tensor(1.0), torch.tensor([1e-4]),
                                           torch.tensor(1.0), hyper)
        found[name] = memory["alpha"].item()
    assert found["steady"] <= 1 < 1e3 < found["autostep"]


def test_a_centred_unit_learns_around_the_mean_of_what_it_hears():
    rng = np.random.default_rng(5)
    rule = step_sizes.centred(step_sizes.lms)
    hyper = {"step_size": torch.tensor(0.05, dtype=torch.float64),
             "mean_decay": torch.tensor(0.9, dtype=torch.float64)}
    memory = {part: torch.zeros(3).double() for part in rule.memory}
    w, v, b, mean = np.zeros(3), np.zeros(2), 0.0, np.zeros(2)  # w x + b = v (x - mean) + b'
    for t in range(1, 200):
        x, delta = rng.normal(3, 1, 2), rng.normal()
        a = torch.tensor([*x, 1.0]).double()
        memory, change = rule.update(memory, torch.tensor(delta, dtype=a.dtype), a, torch.tensor(1.0),
                                     hyper)
        w += change.numpy()
        mean += max(1 / t, 0.1) * (x - mean)
        v += 0.05 * delta * (x - mean)
        b += 0.05 * delta - 0.05 * delta * (x - mean) @ mean
        np.testing.assert_allclose(w, [*v, b], rtol=1e-6, atol=1e-9)


def test_a_unit_that_nobody_hears_keeps_its_weights_and_its_step_sizes():
    memory = {part: torch.rand(2, 3) + 0.1 for part in step_sizes.autostep.memory}
    hyper = {k: torch.tensor(v) for k, v in step_sizes.autostep.settings.items()}
    after, change = adapt(step_sizes.autostep, memory, torch.zeros(2), torch.ones(3),
                          torch.zeros(2), hyper)
    assert not change.any()
    for part, value in memory.items():
        torch.testing.assert_close(after[part], value)


# New weights ------------------------------------------------------------------------------------

def test_clearing_a_unit_s_memory_makes_its_step_sizes_the_initial_ones():
    learner = continual_backprop((5, 4, 2), optimiser=per_unit(step_sizes.autostep))
    X, Y = nonlinear(300, 5, 2)
    net, _ = live(learner, X, Y, **SETTINGS["autostep"], replacement_rate=0)
    chosen = [(torch.tensor(2), torch.tensor(True))]
    memory = {part: overwrite(pairs, chosen, [0.0])
              for part, pairs in net["memory"]["per_weight"].items()}
    for pairs in memory.values():
        (into, _), (out_of, _) = pairs
        assert not into[2].any() and not out_of[:, 2].any()
        assert into[[0, 1, 3]].any() and out_of[:, [0, 1, 3]].all()
    hyper = {k: torch.tensor(float(v)).double()
             for k, v in {**learner.settings, **SETTINGS["autostep"]}.items()}
    alpha = step_sizes._alpha({"alpha": memory["alpha"][0][0]}, hyper)
    assert (alpha[2] == hyper["step_size"]).all() and (alpha[0] != hyper["step_size"]).all()


def test_a_step_size_that_shrinks_for_ever_is_not_taken_for_a_new_one():
    hyper = {k: torch.tensor(v) for k, v in step_sizes.idbd.settings.items()}
    memory = {"alpha": torch.tensor([1e-9]), "h": torch.tensor([-1e6])}
    for _ in range(3):
        memory = {**step_sizes.idbd.update(memory, torch.tensor(1.0), torch.ones(1),
                                           torch.tensor(1.0), hyper)[0], "h": memory["h"]}
        assert 0 < memory["alpha"] < 1e-9


# The engine -------------------------------------------------------------------------------------

@pytest.mark.slow
def test_compiled_and_plain_loops_agree():
    learner = backprop((5, 4, 2), optimiser=per_unit(step_sizes.autostep))
    settings = ensemble.grid(learner, step_size=[0.01, 0.1])
    X, Y = (torch.tensor(a, dtype=torch.float32) for a in nonlinear(200, 5, 2))
    X, Y = torch.stack([X, X.flip(0)], 1), torch.stack([Y, Y.flip(0)], 1)
    results = []
    for make in (drivers.eager, drivers.scan):
        nets, hypers = ensemble.start(learner, settings, torch.arange(2))
        results.append(make(ensemble.batched(learner.step))(nets, hypers, X, Y))
    (one, scores), (other, same) = results
    torch.testing.assert_close(scores, same, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one["memory"]["per_weight"]["alpha"],
                               other["memory"]["per_weight"]["alpha"], rtol=1e-3,
                               atol=1e-5)


# Tracking problems ------------------------------------------------------------------------------

def test_normal_draws_are_normal():
    x = normal(torch.arange(3)[:, None], 20, torch.arange(100_000)).double()
    assert x.mean(1).abs().max() < 0.015 and (x.var(1) - 1).abs().max() < 0.02
    assert ((x**4).mean(1) - 3).abs().max() < 0.2 and torch.isfinite(x).all()


@pytest.mark.parametrize("stream", [FlippingSigns(), RandomWalks()])
def test_a_stream_is_the_same_in_any_pieces_and_any_company(stream):
    seeds = torch.arange(4)
    X, Y = stream.examples(seeds, 0, 130)
    for start, count in [(0, 1), (37, 50), (129, 1)]:
        x, y = stream.examples(seeds[2:3], start, count)
        torch.testing.assert_close(x[:, 0], X[start:start + count, 2])
        torch.testing.assert_close(y[:, 0], Y[start:start + count, 2])


def test_one_sign_flips_each_period():
    stream = FlippingSigns(flip_period=20)
    signs = stream.signs(torch.arange(5), torch.arange(200))
    assert (signs.abs() == 1).all() and (signs[0] == 1).all()
    assert ((signs[1:] != signs[:-1]).sum(2) == 1).all()
    X, Y = stream.examples(torch.arange(5), 0, 60)
    torch.testing.assert_close(Y[45, :, 0], (signs[2] * X[45, :, :5]).sum(1))


def test_kalman_s_gain_is_the_best_fixed_step_size():
    stream = RandomWalks()
    for drift, best, least in zip(stream.drifts, stream.best_step_sizes, stream.least_errors):
        def error(step_size):
            lag = drift**2 + step_size**2 * stream.noise**2
            return lag / (1 - (1 - step_size) ** 2) + stream.noise**2
        assert error(best) < min(error(0.98 * best), error(1.02 * best))
        assert abs(error(best) - least) < 1e-9


def test_a_weight_walks_by_its_drift_each_time_it_is_seen():
    stream = RandomWalks(noise=0.0)
    X, Y = stream.examples(torch.arange(3), 0, 400)
    assert (X.sum(2) == 1).all() and X[37, :, 17].all()
    y = Y[17::20, :, 0]
    torch.testing.assert_close((y[1:] - y[:-1]).abs(), torch.full_like(y[1:], stream.drifts[17]),
                               rtol=1e-3, atol=1e-5)
