"""The backbone: each way against plain loops, utility conserved, the fringe of no consequence."""

import numpy as np
import pytest
import reference
import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.dynamic import backbone
from dyndl_lite.experiment import ensemble
from dyndl_lite.learning import cross_entropy, squared_error
from dyndl_lite.models import mlp
from dyndl_lite.problems.regression import SlowlyChangingRegression

SIZES = [(6, 5, 2), (6, 5, 4, 3), (6, 5, 4, 3, 2), (6, 2)]
LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}


def net(sizes, activation="relu", seed=3):
    """A network in float64 with biases, and the same in numpy."""
    rng = np.random.default_rng(seed)
    params = [(W.double(), torch.tensor(rng.normal(size=len(b)) / 3))
              for W, b in mlp.initialise(torch.tensor(seed), sizes, activation)]
    return params, [W.numpy() for W, _ in params], [b.numpy() for _, b in params]


def examples(inputs, n=40):
    return np.random.default_rng(1).normal(size=(n, inputs)) + 0.5


def labels(outputs, n=40):
    return np.random.default_rng(2).integers(outputs, size=n)


def textbook_outputs(W, b, X, activation="relu"):
    return np.array([reference.forward(W, b, x, activation)[0][-1] for x in X])


def textbook_activities(W, b, X, activation="relu"):
    """One array [examples, units] for the inputs and each hidden layer."""
    rows = [reference.forward(W, b, x, activation)[1] for x in X]
    return [np.array([row[layer] for row in rows]) for layer in range(len(W))]


def hidden(W):
    """Every hidden unit: (layer, unit)."""
    return [(layer, i) for layer in range(len(W) - 1) for i in range(len(W[layer]))]


# Against plain loops ----------------------------------------------------------------------------

@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_perturbation_moves_one_unit_at_a_time(sizes, activation):
    params, W, b = net(sizes, activation)
    X = examples(sizes[0])
    scores = backbone.perturbation(params, torch.tensor(X), activation, size=0.01)
    before = textbook_outputs(W, b, X, activation)
    for layer, i in hidden(W):
        W2, b2 = [w.copy() for w in W], [v.copy() for v in b]
        W2[layer][i] *= 1.01
        b2[layer][i] *= 1.01
        change = textbook_outputs(W2, b2, X, activation) - before
        np.testing.assert_allclose(scores[layer][i], np.sqrt(np.mean(change**2)) / 0.01,
                                   rtol=1e-6)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("loss", LOSSES)
def test_mean_squared_gradient(sizes, loss):
    params, W, b = net(sizes)
    X = examples(sizes[0])
    Y = labels(sizes[-1]) if loss == "cross_entropy" else examples(sizes[-1])
    scores = backbone.mean_squared_gradient(params, torch.tensor(X), torch.tensor(Y), LOSSES[loss])
    totals = [np.zeros(len(w)) for w in W]
    for x, y in zip(X, Y):
        z, h = reference.forward(W, b, x, "relu")
        gW, gb = reference.backward(W, z, h, reference.loss_and_slope(z[-1], y, loss)[2], "relu")
        for layer, i in hidden(W):
            totals[layer][i] += (sum(g**2 for g in gW[layer][i]) + gb[layer][i] ** 2) / len(X)
    for score, total in zip(scores, totals):
        np.testing.assert_allclose(score, total, rtol=1e-10)


def widest(W, layer, i):
    """Width of the widest path from a unit to an output, by trying every path."""
    if layer == len(W) - 1:
        return np.inf
    return max(min(abs(W[layer + 1][j, i]), widest(W, layer + 1, j))
               for j in range(len(W[layer + 1])))


@pytest.mark.parametrize("sizes", SIZES)
def test_reachability(sizes):
    params, W, _ = net(sizes)
    scores = backbone.reachability(params)
    for layer, i in hidden(W):
        assert float(scores[layer][i]) == widest(W, layer, i)


def flow(W, A, keep):
    """Utility propagation, edge by edge; A: activities of the inputs and each hidden layer."""
    utility, kept, leaked, received = np.ones(len(W[-1])), [], 0.0, []
    for layer in reversed(range(len(W))):
        below, kept_here = np.zeros(W[layer].shape[1]), np.zeros(len(utility))
        for j in range(len(utility)):
            r = [np.mean([abs(W[layer][j, i] * (a[i] - A[layer][:, i].mean()))
                          for a in A[layer]]) for i in range(len(below))]
            kept_here[j] = keep * utility[j]
            rest = utility[j] - kept_here[j]
            if sum(r) == 0:
                leaked += rest
            for i in range(len(below)):
                below[i] += rest * r[i] / sum(r) if sum(r) > 0 else 0
        kept.insert(0, kept_here)
        received.insert(0, below)
        utility = below
    return received[1:], kept, utility, leaked


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_utility_flows_as_edge_by_edge_and_none_is_lost(sizes, keep):
    params, W, b = net(sizes)
    X = examples(sizes[0])
    ledger = backbone.propagate(params, backbone.spreads(params, torch.tensor(X)), keep)
    utility, kept, delivered, leaked = flow(W, textbook_activities(W, b, X), keep)
    for ours, theirs in zip([*ledger.utility, *ledger.kept], [*utility, *kept], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ledger.delivered, delivered, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ledger.leaked, leaked, atol=1e-12)
    total = sum(k.sum() for k in ledger.kept) + ledger.delivered.sum() + ledger.leaked
    np.testing.assert_allclose(total, sizes[-1], rtol=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_oracle_is_the_rise_of_the_loss_without_the_unit(sizes, loss):
    params, W, b = net(sizes)
    X = examples(sizes[0])
    Y = labels(sizes[-1]) if loss == "cross_entropy" else examples(sizes[-1])
    scores = backbone.rise_without(params, torch.tensor(X), torch.tensor(Y), LOSSES[loss])

    def mean_loss(silenced=None, mean=0.0):
        losses = []
        for x, y in zip(X, Y):
            h = x
            for layer in range(len(W)):
                z = W[layer] @ h + b[layer]
                h = np.maximum(z, 0)
                if silenced and silenced[0] == layer:
                    h[silenced[1]] = mean
            losses.append(reference.loss_and_slope(z, y, loss)[0])
        return np.mean(losses)

    A = textbook_activities(W, b, X)
    for layer, i in hidden(W):
        rise = mean_loss((layer, i), A[layer + 1][:, i].mean()) - mean_loss()
        np.testing.assert_allclose(scores[layer][i], rise, rtol=1e-8, atol=1e-12)


def test_the_running_spread_is_that_of_plain_running_averages():
    A, decay = examples(5, 300), 0.98
    trace, f, s = backbone.new_trace(5), np.zeros(5), np.zeros(5)
    trace = tree_map(torch.Tensor.double, trace)
    for t, a in enumerate(A, 1):
        trace, spread = backbone.follow(trace, torch.tensor(a), decay)
        f = decay * f + (1 - decay) * a
        s = decay * s + (1 - decay) * np.abs(a - f / (1 - decay**t))
        np.testing.assert_allclose(spread, s / (1 - decay**t), rtol=1e-9, atol=1e-12)


def test_a_long_running_spread_comes_near_the_mean_over_examples():
    A = torch.tensor(examples(3, 20_000))
    trace = tree_map(torch.Tensor.double, backbone.new_trace(3))
    for a in A:
        trace, spread = backbone.follow(trace, a, 0.9995)
    torch.testing.assert_close(spread, (A - A.mean(0)).abs().mean(0), rtol=0.05, atol=0)


# By hand ----------------------------------------------------------------------------------------

# Two inputs, units A B C, output A + 2 B + 0 C. A hears input 1, B input 2, C both.
HAND = [(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.zeros(3)),
        (torch.tensor([[1.0, 2.0, 0.0]]), torch.zeros(1))]
CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def test_a_network_worked_out_by_hand():
    spreads = backbone.spreads(HAND, CORNERS)
    assert spreads[0].tolist() == [0.5, 0.5] and spreads[1].tolist() == [0.5, 0.5, 0.5]
    ledger = backbone.propagate(HAND, spreads, keep=0.25)
    # the output keeps 1/4; of 3/4 a third goes to A (use 1/2) and two thirds to B (use 1)
    torch.testing.assert_close(ledger.utility[0], torch.tensor([0.25, 0.5, 0.0]))
    torch.testing.assert_close(ledger.kept[0], torch.tensor([0.0625, 0.125, 0.0]))
    torch.testing.assert_close(ledger.delivered, torch.tensor([0.1875, 0.375]))
    assert ledger.leaked == 0
    assert backbone.reachability(HAND)[0].tolist() == [1.0, 2.0, 0.0]
    # A is active on half of the examples: root of 1/2; B the same, heard twice as loud
    torch.testing.assert_close(backbone.perturbation(HAND, CORNERS)[0],
                               torch.tensor([0.5**0.5, 2 * 0.5**0.5, 0.0]), rtol=1e-4, atol=1e-6)
    Y = CORNERS @ torch.tensor([[1.0], [2.0]])  # the output is right
    # without A, half of its examples are wrong by +1/2 and half by -1/2
    torch.testing.assert_close(backbone.rise_without(HAND, CORNERS, Y)[0],
                               torch.tensor([0.25, 1.0, 0.0]))
    assert [m.tolist() for m in backbone.members(ledger.utility)] == [[True, True, False]]


def test_what_hears_nothing_leaks_its_utility():
    deaf = [(torch.zeros(2, 3), torch.ones(2)), (torch.tensor([[1.0, 1.0]]), torch.zeros(1))]
    X = torch.tensor(examples(3)).float()
    ledger = backbone.propagate(deaf, backbone.spreads(deaf, X), keep=0.25)
    assert ledger.leaked == 0.75  # constant units: the output finds nobody to pay
    assert not ledger.utility[0].any() and not ledger.delivered.any()
    assert not any(mask.any() for mask in backbone.members(ledger.utility))


def test_a_dead_unit_is_fringe_to_all_but_reachability():
    params, *_ = net((6, 5, 2))
    (W, b), last = params
    W[1], b[1] = -W[1].abs(), -1.0
    params, X = [(W, b), last], torch.tensor(examples(6)).abs()
    Y = torch.tensor(examples(2))
    for scores in (backbone.perturbation(params, X), backbone.mean_squared_gradient(params, X, Y),
                   backbone.propagate(params, backbone.spreads(params, X)).utility,
                   backbone.rise_without(params, X, Y)):
        assert scores[0][1] == 0 and (scores[0][[0, 2, 3, 4]] != 0).all()
    assert backbone.reachability(params)[0][1] > 0


def test_a_constant_unit_is_fringe_to_propagation_and_the_oracle_only():
    params, *_ = net((6, 5, 2))
    (W, b), last = params
    W[1], b[1] = 0.0, 1.0
    params, X, Y = [(W, b), last], torch.tensor(examples(6)), torch.tensor(examples(2))
    ledger = backbone.propagate(params, backbone.spreads(params, X))
    assert ledger.utility[0][1] == 0
    assert abs(backbone.rise_without(params, X, Y)[0][1]) < 1e-15
    assert backbone.perturbation(params, X)[0][1] > 0.01
    assert backbone.mean_squared_gradient(params, X, Y)[0][1] > 0.01


# Pruning ----------------------------------------------------------------------------------------

def test_pruning_unreachable_units_changes_no_output_at_all():
    params, *_ = net((6, 8, 7, 2))
    W, b = params[2]
    W[:, 3] = 0.0  # unit 3 of layer 2 is not heard
    params[1][0][:, 5] = 0.0
    params[1][0][3, 5] = 2.0  # and is the only one that hears unit 5 of layer 1
    masks = [width > 0 for width in backbone.reachability(params)]
    assert [(~mask).nonzero().flatten().tolist() for mask in masks] == [[5], [3]]
    X = torch.tensor(examples(6))
    means = [A.mean(0) for A in backbone.activities(params, X)[1:]]
    pruned = backbone.prune(params, masks, means)
    for x in X:
        assert torch.equal(mlp.forward(params, x)[0], mlp.forward(pruned, x)[0])
    assert not pruned[0][0][5].any() and not pruned[1][0][3].any() and not pruned[1][0][:, 5].any()


def test_pruning_the_last_layer_keeps_the_mean_of_every_output():
    params, *_ = net((6, 5, 4, 2))
    X = torch.tensor(examples(6))
    means = [A.mean(0) for A in backbone.activities(params, X)[1:]]
    masks = [torch.ones(5, dtype=bool), torch.tensor([True, False, False, True])]
    pruned = backbone.prune(params, masks, means)
    before, after = (torch.stack([mlp.forward(p, x)[0] for x in X]) for p in (params, pruned))
    assert (before - after).abs().max() > 0.01
    torch.testing.assert_close(before.mean(0), after.mean(0))


def test_pruning_nothing_changes_nothing():
    params, *_ = net((6, 5, 4, 2))
    masks = [torch.ones(n, dtype=bool) for n in (5, 4)]
    pruned = backbone.prune(params, masks, [torch.ones(n).double() for n in (5, 4)])
    for old, new in zip(params, pruned):
        assert torch.equal(old[0], new[0]) and torch.equal(old[1], new[1])


# Ensembles --------------------------------------------------------------------------------------

def test_live_gives_the_nets_and_each_way_works_on_all_of_them():
    stream, seeds = SlowlyChangingRegression(), [5, 6, 7]
    learner = backprop((20, 4, 3, 1))
    nets = ensemble.live(stream, learner, {"step_size": [0.01, 0.001]}, seeds, 20, device="cpu")
    assert nets["params"][0][0].shape == (2, 3, 4, 20)
    X, Y = stream.examples(torch.tensor(seeds), 20, 50)
    alone = learner.start(torch.tensor(6))
    hyper = {"step_size": torch.tensor(0.001)}
    past, targets = stream.examples(torch.tensor([6]), 0, 20)
    for x, y in zip(past[:, 0], targets[:, 0]):
        alone, _ = learner.step(alone, hyper, x, y)
    of_all = tree_map(lambda a: a[1], nets["params"])
    x, y = X[:, 1], Y[:, 1]
    for way in (lambda p, x, y: backbone.perturbation(p, x),
                backbone.mean_squared_gradient,
                lambda p, x, y: backbone.reachability(p),
                lambda p, x, y: backbone.propagate(p, backbone.spreads(p, x)).utility,
                backbone.rise_without):
        together = vmap(way, in_dims=(0, 1, 1))(of_all, X, Y)
        for many, one in zip(together, way(alone["params"], x, y), strict=True):
            torch.testing.assert_close(many[1], one, rtol=1e-3, atol=1e-6)
