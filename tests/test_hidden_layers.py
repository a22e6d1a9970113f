"""Normalisation, dropout and concatenated ReLU against plain loops and torch's own layers."""

import numpy as np
import pytest
import reference_remedies
import torch
from reference_torch import Copied
from test_learners import assert_same_network, double, examples, follow, live, one_line, SEED
from torch import nn

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.layers import backprop_with, forward, KINDS
from dyndl_lite.algorithms.optimisers import adam
from dyndl_lite.experiment import diagnostics, ensemble
from dyndl_lite.learning import cross_entropy
from dyndl_lite.problems.regression import SlowlyChangingRegression

SIZES = (6, 5, 4, 2)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_online_normalisation_agrees_with_the_textbook(loss):
    X, Y = examples(2_000, 6, 2, loss)
    hyper = {"step_size": 0.01, "forward_decay": 0.99, "backward_decay": 0.9}
    learner = backprop_with("online_norm", SIZES, loss=cross_entropy) if loss == "cross_entropy" \
        else backprop_with("online_norm", SIZES)
    net, scores = live(learner, X, Y, **hyper)
    textbook = reference_remedies.OnlineNormalised(SEED, SIZES, loss, **hyper)
    np.testing.assert_allclose(scores, follow(textbook, X, Y), rtol=1e-5)
    assert_same_network(net, textbook, 1e-5)
    for own, mean, variance, along, by_mean in zip(
            net["layers"]["layers"], textbook.mean, textbook.variance, textbook.along, textbook.by_mean,
            strict=True):
        for name, value in [("mean", mean), ("variance", variance), ("error_along", along),
                            ("error_mean", by_mean)]:
            np.testing.assert_allclose(own[name], value, rtol=1e-5, atol=1e-6)


def test_online_normalisation_normalises_and_frees_the_gradient_of_scale():
    X, Y = examples(2_000, 6, 2)
    net, _ = live(backprop_with("online_norm", SIZES), 5 * X + 3, Y, step_size=0.0,
                  forward_decay=0.99)
    _, seen = torch.func.vmap(lambda x: forward(net["params"], x, "relu", KINDS["online_norm"],
                                                net["layers"]["layers"]))(torch.tensor(5 * X + 3))
    for _, y, _ in seen:
        assert y.mean(0).abs().max() < 0.3 and (y.var(0) - 1).abs().max() < 0.35


class Torch(Copied):
    """The same networks in torch's own layers."""

    def forward(self, x, kept=(1, 1)):
        h = x
        for W, b, keep in zip(self.W[:-1], self.b[:-1], kept):
            z = W @ h
            if self.kind == "layer_norm":
                z = nn.functional.layer_norm(z, z.shape)
            h = torch.relu(z + b)
            if self.kind == "crelu":
                h = torch.cat([h, torch.relu(-(z + b))])
            h = h * keep
        return self.W[-1] @ h + self.b[-1]


@pytest.mark.parametrize("kind", ["layer_norm", "dropout", "crelu"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_kinds_agree_with_torch(kind, optimiser):
    X, Y = examples(400, 6, 2, "cross_entropy")
    more = {"optimiser": adam} if optimiser == "adam" else {}
    learner = backprop_with(kind, SIZES, loss=cross_entropy, **more)
    setting = {"step_size": 0.01, **({"dropout": 0.3} if kind == "dropout" else {})}
    net, scores = live(learner, X, Y, **setting)
    theirs = Torch(kind, double(learner.start(torch.tensor(SEED)))["params"])
    moves = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser](theirs.parameters(), 0.01)
    expected = []
    for t, (x, y) in enumerate(zip(torch.tensor(X), torch.tensor(Y))):
        expected.append(float(theirs(x).argmax() == y))  # predicted with all units
        kept = [torch.tensor(reference_remedies.kept(SEED, t, layer, n, 0.3))
                if kind == "dropout" else 1 for layer, n in enumerate(SIZES[1:-1])]
        moves.zero_grad()
        cross_entropy(theirs(x, kept), y)[0].backward()
        moves.step()
    assert scores == expected
    for (W, b), V, c in zip(net["params"], theirs.W, theirs.b, strict=True):
        torch.testing.assert_close(W, V.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b, c.detach(), rtol=1e-5, atol=1e-6)


def test_without_dropout_it_is_backprop():
    X, Y = examples(50, 6, 2)
    plain, expected = live(backprop(SIZES), X, Y)
    net, scores = live(backprop_with("dropout", SIZES), X, Y, dropout=0)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    for (W, _), (V, _) in zip(net["params"], plain["params"], strict=True):
        torch.testing.assert_close(W, V)


def test_dropout_silences_the_share_that_was_asked_for():
    hyper = {"dropout": torch.tensor(0.2)}
    kept = torch.stack([KINDS["dropout"].keep(torch.tensor(SEED), torch.tensor(t), 1, 50, hyper)
                        for t in range(200)])
    assert abs((kept == 0).float().mean() - 0.2) < 0.02 and abs(kept.mean() - 1) < 0.03
    assert (kept == 0).any(0).all() and len(kept.unique()) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_sees_what_the_net_does(kind):
    X, Y = examples(200, 6, 2)
    learner = backprop_with(kind, SIZES)
    net, _ = live(learner, X, Y)
    found = diagnostics.probe(kind=kind)(net, torch.tensor(X))
    H = [torch.stack(hs) for hs in zip(*[[h for _, _, h in forward(
        net["params"], x, "relu", KINDS[kind], net["layers"]["layers"])[1]] for x in torch.tensor(X)])]
    assert [h.shape[1] for h in H] == [n * KINDS[kind].multiplicity for n in SIZES[1:-1]]
    expected = sum(float(diagnostics.effective_rank(h)) for h in H) / len(H)
    assert abs(float(found["effective_rank"]) - expected) < 1e-6
    assert found["weight_magnitude"] == diagnostics.weight_magnitude(net["params"])


def test_a_concatenated_unit_is_heard_twice_from_weights_of_the_right_width():
    net = backprop_with("crelu", (30, 20, 40, 1)).start(torch.tensor(SEED))
    shapes = [tuple(W.shape) for W, _ in net["params"]]
    assert shapes == [(20, 30), (40, 40), (1, 80)]
    bounds = [(2 * 3 / 30) ** 0.5, (2 * 3 / 40) ** 0.5, (3 / 80) ** 0.5]
    for (W, _), bound in zip(net["params"], bounds, strict=True):
        assert 0.9 * bound < W.abs().max() <= bound


def test_faults_are_said_in_one_line():
    for make in (lambda: backprop_with("batch_norm", SIZES), lambda: backprop_with("crelu", (6, 2))):
        with pytest.raises(ValueError) as raised:
            make()
        one_line(raised)
    with pytest.raises(ValueError) as raised:
        ensemble.grid(backprop_with("dropout", SIZES), dropout=1.0)
    assert "dropout 1.0" in one_line(raised)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_run_as_an_ensemble_and_alone_the_same(kind):
    learner = backprop_with(kind, (20, 4, 1))
    stream = SlowlyChangingRegression()
    together = ensemble.run(stream, {"it": (learner, {"step_size": [0.01, 0.001]})}, [0, 5], 300,
                            100, probe=diagnostics.probe(kind=kind))
    alone = ensemble.run(stream, {"it": (learner, {"step_size": 0.001})}, [5], 300, 100)
    chosen = together[(together.seed == 5) & (together.step_size == 0.001)]
    np.testing.assert_allclose(chosen.squared_error, alone.squared_error, rtol=1e-4)
    assert together.effective_rank.notna().all()
