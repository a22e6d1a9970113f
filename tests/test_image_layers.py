"""Layers, resets and the other remedies for convolutional networks, against torch and plain ones."""

import numpy as np
import pytest
import torch
from reference_torch import Copied
from test_convolution import LINEAR, live, minibatches, SEED, TINY
from test_learners import double, one_line
from torch.nn import functional as F

from dyndl_lite.algorithms import layers
from dyndl_lite.algorithms.backprop import conv_backprop
from dyndl_lite.algorithms.layers import conv_backprop_with, IMAGE_KINDS
from dyndl_lite.algorithms.optimisers import l2_init, momentum, upgd
from dyndl_lite.algorithms.regularisers import weight_clipping
from dyndl_lite.algorithms.resets import conv_resetting, resetting
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.experiment import diagnostics, ensemble
from dyndl_lite.learning import cross_entropy
from dyndl_lite.models import cnn
from dyndl_lite.models.cnn import initialise, Layout
from dyndl_lite.models.mlp import weight_bound
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassPairs


def forward(params, x, kind, kept=None):
    """Run one network of ReLUs on one image, as [units] or [units, places]."""
    output, seen = layers.forward(params, x, "relu", kind, [{}] * len(params), kept)
    return output, [h if h.ndim == 1 else h.flatten(1) for *_, h in seen]


class Torch(Copied):
    """The networks of two kinds in torch's own layers, on whole minibatches."""

    def forward(self, h):
        for W, b in list(zip(self.W, self.b))[:-1]:
            z = F.conv2d(h, W) if W.ndim == 4 else F.linear(h.flatten(1), W)
            if self.kind == "layer_norm":
                z = F.layer_norm(z, z.shape[1:])
            z = z + (b[:, None, None] if W.ndim == 4 else b)
            h = torch.cat([F.relu(z), F.relu(-z)], 1) if self.kind == "crelu" else F.relu(z)
            if W.ndim == 4 and h.shape[-1] > 1:
                h = F.max_pool2d(h, 2)
        return F.linear(h.flatten(1), self.W[-1], self.b[-1])


@pytest.mark.parametrize("kind", ["layer_norm", "crelu"])
def test_kinds_agree_with_torch(kind):
    X, Y = minibatches(6)
    net, scores = live(conv_backprop_with(kind, TINY), X, Y, step_size=0.05)
    start = initialise(torch.tensor(SEED), TINY, IMAGE_KINDS[kind].multiplicity)
    rival = Torch(kind, [(W.double(), b.double()) for W, b in start])
    optimiser = torch.optim.SGD(rival.parameters(), lr=0.05, momentum=0.9)
    for x, y, score in zip(torch.tensor(X), torch.tensor(Y), scores):
        output = rival(x)
        assert float((output.argmax(1) == y).double().mean()) == pytest.approx(score)
        optimiser.zero_grad()
        F.cross_entropy(output, y).backward()
        optimiser.step()
    for (W, b), W_ref, b_ref in zip(net["params"], rival.W, rival.b, strict=True):
        np.testing.assert_allclose(W, W_ref.detach(), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(b, b_ref.detach(), rtol=1e-5, atol=1e-7)


def test_without_dropout_it_is_backprop():
    X, Y = minibatches(5)
    plain, _ = live(conv_backprop(TINY), X, Y)
    none, _ = live(conv_backprop_with("dropout", TINY), X, Y, dropout=0.0)
    some, _ = live(conv_backprop_with("dropout", TINY), X, Y, dropout=0.5)
    for (W, _), (V, _), (U, _) in zip(plain["params"], none["params"], some["params"]):
        np.testing.assert_allclose(W, V, rtol=1e-9)
        assert not torch.equal(W, U)


def test_a_channel_that_drops_out_is_silent_everywhere_and_the_others_louder():
    params = [(W.double(), b.double()) for W, b in initialise(torch.tensor(SEED), TINY)]
    x = torch.tensor(minibatches(1)[0][0, 0])
    kept = [torch.tensor([0.0, 2.0, 2.0]), torch.ones(4), torch.ones(5)]
    _, with_all = forward(params, x, IMAGE_KINDS["plain"])
    _, dropped = forward(params, x, IMAGE_KINDS["plain"], [k.double() for k in kept])
    assert (dropped[0][0] == 0).all()
    torch.testing.assert_close(dropped[0][1:], 2 * with_all[0][1:])
    _, expected = cnn.forward(params, x[None])
    for h, whole in zip(with_all, expected, strict=True):
        torch.testing.assert_close(h, whole[0])


@pytest.mark.parametrize("criterion, setting", [
    ("redo", {"reset_period": 5.0, "dormancy": 0.5}),
    ("self_normalised", {"rejection": 0.3, "maturity_threshold": 2.0})])
def test_resets_of_one_image_at_a_time_are_the_fully_connected_ones(criterion, setting):
    layout, sizes = Layout(4, 2, (), (), (5, 4)), (48, 5, 4, 2)
    X, Y = minibatches(300, side=4, size=1)
    ours, _ = live(conv_resetting(layout, criterion), X, Y, step_size=0.02, **setting)
    plain = resetting(sizes, criterion, loss=cross_entropy, optimiser=momentum)
    net = double(plain.start(torch.tensor(SEED)))
    net["params"] = double(initialise(torch.tensor(SEED), layout))
    hyper = {k: torch.tensor(float(v), dtype=torch.float64)
             for k, v in {**plain.settings, "step_size": 0.02, **setting}.items()}
    replaced = 0
    for x, y in zip(torch.tensor(X)[:, 0].flatten(1), torch.tensor(Y)[:, 0]):
        before = net["after"][0]["units"]
        net, _ = plain.step(net, hyper, x, y)
        replaced += sum(any((new[k] < old[k]).any() for k in ("age", "marked") if k in new)
                        for old, new in zip(before, net["after"][0]["units"]))
    assert replaced >= 5
    for (W, b), (W_ref, b_ref) in zip(ours["params"], net["params"], strict=True):
        torch.testing.assert_close(W, W_ref)
        torch.testing.assert_close(b, b_ref)


def test_a_dead_channel_is_replaced_and_heard_by_nobody_at_first():
    learner = conv_resetting(TINY, "redo")
    net = double(learner.start(torch.tensor(SEED)))
    W, b = net["params"][0]
    b[1] = -1e3  # never fires
    for _, later in net["params"][1:3]:
        later += 9.0  # nobody else is dormant
    hyper = {k: torch.tensor(float(v)) for k, v in
             {**learner.settings, "reset_period": 3.0, "dormancy": 0.0, "step_size": 0.0}.items()}
    for x, y in zip(*map(torch.tensor, minibatches(3))):
        net, _ = learner.step(net, hyper, x, y)
    (W, b), (V, _) = net["params"][:2]
    assert b[1] == 0 and (V[:, 1] == 0).all() and (V[:, [0, 2]] != 0).any()


def test_clipping_knows_how_many_weights_come_into_a_channel():
    X, Y = minibatches(5)
    net, _ = live(conv_backprop(TINY, momentum, (weight_clipping(),)), X, Y, step_size=3.0, clip=0.5)
    for (W, _), last in zip(net["params"], [False, False, False, True]):
        most = 0.5 * weight_bound(W[0].numel(), "linear" if last else "relu")
        assert float(W.abs().max()) == pytest.approx(most, rel=1e-5)


@pytest.mark.parametrize("learner", [
    conv_backprop(TINY, l2_init(momentum)), conv_backprop(TINY, upgd),
    conv_backprop_with("crelu", TINY), conv_backprop_with("dropout", TINY),
    conv_resetting(TINY, "self_normalised")], ids=lambda l: l.description[:20])
def test_remedies_live_through_pairs_with_new_heads(learner):
    stream = ClassPairs(Fractals(12, images=20, classes=20), train=10, held_back=10, minibatch=5,
                        epochs=2)
    kind = learner.description.split()[1] if "with" in learner.description else "plain"
    frame = ensemble.run(stream, {"one": (renewed(learner, "heads", stream.begins), {})},
                         [0, 1], 3 * stream.task_length, stream.task_length,
                         probe=diagnostics.held_back_probe(kind))
    assert frame.test_accuracy.between(0, 1).all() and (frame.weight_magnitude > 0).all()
    assert frame.dead_units.between(0, 1).all() and frame.effective_rank.notna().all()


def test_faults_are_said_in_one_line():
    for make, words in [(lambda: conv_backprop_with("batch_norm", TINY), "batch_norm"),
                        (lambda: conv_backprop_with("crelu", LINEAR), "hidden layer"),
                        (lambda: conv_resetting(TINY, "age"), "age"),
                        (lambda: conv_resetting(LINEAR, "redo"), "hidden layer")]:
        with pytest.raises(ValueError, match=words) as error:
            make()
        one_line(error)
    with pytest.raises(ValueError, match="dropout"):
        conv_backprop_with("dropout", TINY).check({"dropout": 1.0})
