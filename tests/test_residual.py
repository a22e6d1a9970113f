"""Residual networks against torch.nn and torch.optim, and what a replaced channel leaves."""

import pytest
import torch
from reference_torch import driven
from test_image_files import archive
from test_learners import double, one_line
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.incremental import (
    held_back_accuracy,
    incremental,
    residual_backprop,
    residual_continual_backprop,
    with_new_norms,
)
from dyndl_lite.algorithms.replace_units import overwrite, reinitialise
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.learning import Learner
from dyndl_lite.models.resnet import BLOCKS, forward, initialise, Layout
from dyndl_lite.problems.datasets import Cifar100
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassIncremental

SEED = torch.tensor(3)
TINY = Layout(6, (3, 4), 2)
SMALLEST = Layout(6, (4,), 1)
BUSY = {"replacement_rate": 0.08, "utility_decay": 0.9, "maturity_threshold": 4.0}
STREAM = ClassIncremental(Fractals(8, images=12), train=8, held_back=4, minibatch=4, epochs=2,
                        together=2, tasks=3)


class Block(nn.Module):
    def __init__(self, heard, n):
        super().__init__()
        stride = 1 if heard == n else 2
        self.first = nn.Sequential(nn.Conv2d(heard, n, 3, stride, 1), nn.BatchNorm2d(n))
        self.second = nn.Sequential(nn.Conv2d(n, n, 3, 1, 1), nn.BatchNorm2d(n))
        if heard != n:
            self.shortcut = nn.Sequential(nn.Conv2d(heard, n, 1, 2), nn.BatchNorm2d(n))

    def forward(self, x):
        around = self.shortcut(x) if hasattr(self, "shortcut") else x
        return (self.second(self.first(x).relu()) + around).relu()


class Reference(nn.Module):
    """The network of He et al. as people write it, with the weights of ours."""

    def __init__(self, layout, params):
        super().__init__()
        n = layout.channels[0]
        heard = [n, *(c for c in layout.channels for _ in range(layout.blocks))]
        self.stem = nn.Sequential(nn.Conv2d(3, n, 3, 1, 1), nn.BatchNorm2d(n))
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(heard, heard[1:])))
        self.head = nn.Linear(heard[-1], layout.outputs)
        self.double()
        with torch.no_grad():
            for theirs, ours in zip(self.convolutions(), convolutions(params), strict=True):
                for own, (weight, bias) in zip(theirs, ours):
                    own.weight.copy_(weight)
                    own.bias.copy_(bias)
            self.head.weight.copy_(params["head"][0])
            self.head.bias.copy_(params["head"][1])

    def convolutions(self):
        return [self.stem, *(block.get_submodule(name) for block in self.blocks
                             for name in ("first", "second", "shortcut") if hasattr(block, name))]

    def forward(self, x):
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


def convolutions(tree):
    return [tree["stem"], *(block[name] for block in tree["blocks"]
                            for name in ("first", "second", "shortcut") if name in block)]


def minibatches(steps, classes=6, size=5, side=8):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(steps, size, 3, side, side, generator=generator, dtype=torch.float64)
    return X, torch.randint(classes, (steps, size), generator=generator)


def hyper_of(learner, **setting):
    return {k: torch.tensor(float(v), dtype=torch.float64)
            for k, v in {**learner.settings, **setting}.items()}


def live(learner, X, Y, **setting):
    net, hyper, scores = double(learner.start(SEED)), hyper_of(learner, **setting), []
    for x, y in zip(X, Y):
        net, score = learner.step(net, hyper, x, y)
        scores.append(float(score))
    return net, scores


def same(a, b):
    leaves, others = tree_leaves(a), tree_leaves(b)
    return len(leaves) == len(others) and all(map(torch.equal, leaves, others))


def assert_agrees(net, reference):
    running = convolutions(net["layers"]["norms"])
    for ours, norm, theirs in zip(convolutions(net["params"]), running, reference.convolutions(),
                                  strict=True):
        for (weight, bias), own in zip(ours, theirs):
            torch.testing.assert_close(weight, own.weight.detach())
            torch.testing.assert_close(bias, own.bias.detach())
        torch.testing.assert_close(norm[0], theirs[1].running_mean)
        torch.testing.assert_close(norm[1], theirs[1].running_var)
    torch.testing.assert_close(net["params"]["head"][0], reference.head.weight.detach())


# Against torch -----------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", [TINY, Layout(6, (4,), 1), Layout(6, (2, 3, 5), 1)])
def test_learning_agrees_with_torch(layout):
    """Outputs of both modes, running statistics, and steps of SGD with momentum and decay."""
    X, Y = minibatches(4)
    learner = residual_backprop(layout)
    setting = {"step_size": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    reference = Reference(layout, double(learner.start(SEED))["params"])
    optimiser = torch.optim.SGD(reference.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    expected = []
    for x, y in zip(X, Y):
        optimiser.zero_grad()
        output = reference(x)
        expected.append(float((output.argmax(1) == y).double().mean()))
        nn.functional.cross_entropy(output, y).backward()
        optimiser.step()
    net, scores = live(learner, X, Y, **setting)
    assert scores == pytest.approx(expected)
    assert_agrees(net, reference)
    reference.eval()
    torch.testing.assert_close(forward(net["params"], net["layers"]["norms"], X[0])[0],
                               reference(X[0]).detach())
    right = (reference(X[0]).argmax(1) == Y[0]).float().mean()
    assert held_back_accuracy(net, X[0], Y[0])["test_accuracy"] == right
    reference.train()
    ours, _, norms = forward(net["params"], net["layers"]["norms"], X[1], learning=True)
    torch.testing.assert_close(ours, reference(X[1]).detach())
    assert_agrees({**net, "layers": {"norms": norms}}, reference)


def test_outputs_of_classes_to_come_take_no_part():
    X, Y = minibatches(1, classes=4)
    learner = residual_backprop(TINY)
    net = double(learner.start(SEED))
    net = {**net, "layers": {**net["layers"], "classes": torch.tensor(4)}}
    reference = Reference(TINY, net["params"])
    optimiser = torch.optim.SGD(reference.parameters(), 0.1)
    nn.functional.cross_entropy(reference(X[0])[:, :4], Y[0]).backward()
    optimiser.step()
    after, _ = learner.step(net, hyper_of(learner, step_size=0.1, weight_decay=0.0), X[0], Y[0])
    assert_agrees(after, reference)
    assert same([p[4:] for p in after["params"]["head"]], [p[4:] for p in net["params"]["head"]])
    W, b = after["params"]["head"]
    sure = {**after, "params": {**after["params"], "head": (W, b + 1e3 * (torch.arange(6) > 3))}}
    assert held_back_accuracy(sure, X[0], Y[0]) == held_back_accuracy(after, X[0], Y[0])


def test_resnet_18():
    params, norms = initialise(SEED, Layout())
    output, features, _ = forward(params, norms, torch.randn(2, 3, 32, 32))
    assert output.shape == (2, 100) and torch.isfinite(output).all()
    assert [h.shape[1:] for h in features[::2]] == [(64, 1024), (128, 256), (256, 64), (512, 16)]
    params = tree_map(lambda a: a.shape, params)
    shapes = [conv[0][0] for conv in convolutions(params)]
    assert len(shapes) == 20 and sum(shape[-1] == 3 for shape in shapes) == 17  # the head is the 18th
    assert shapes[0] == (64, 3, 3, 3) and shapes[-1] == (512, 512, 3, 3)
    assert (512, 256, 1, 1) in shapes and params["head"][0] == (100, 512)
    # With batch norm (2 x 4 800) and ten outputs (5 130) it has the 11 173 962 that people count.
    assert sum(shape.numel() for shape in shapes) == 11_159_232


def test_weights_have_the_variance_of_he_and_their_own_draws():
    params, norms = initialise(SEED, Layout(10, (16, 32), 1))
    for ((W, b), (scale, shift)), (mean, variance) in zip(convolutions(params), convolutions(norms)):
        assert W.var() == pytest.approx(2 / W[0].numel(), rel=0.25)
        assert (b == 0).all() and (scale == 1).all() and (shift == 0).all()
        assert (mean == 0).all() and (variance == 1).all()
    first, second = (params["blocks"][0][name][0][0] for name in ("first", "second"))
    assert first.shape == second.shape and not torch.equal(first / first.max(), second / second.max())


# Continual backprop ------------------------------------------------------------------------------

def test_nothing_replaced_is_backprop():
    X, Y = minibatches(6)
    plain, _ = live(residual_backprop(TINY), X, Y, step_size=0.05)
    continual, _ = live(residual_continual_backprop(TINY), X, Y, step_size=0.05,
                        replacement_rate=0.0)
    assert all(same(plain[name], continual[name]) for name in ("params", "layers", "memory"))


def replaced(net, k, chosen, row, mean):
    """Replace one channel of block k, with all that belongs to it."""
    def change(tree, how):
        chains = BLOCKS.split(tree)
        chains[k] = how(chains[k])
        return BLOCKS.join(tree, chains)

    params = change(net["params"], lambda chain: reinitialise(chain, [chosen], [row], [mean]))
    memory = {name: change(tree, lambda chain: overwrite(chain, [chosen], [0.0], (0.0, 0.0)))
              for name, tree in net["memory"]["per_weight"].items()}
    units = [{"age": torch.ones(len(chain[0][1]))} for chain in BLOCKS.split(net["params"])]
    index, now = chosen
    units[k]["age"][index] = 1.0 - float(now)
    new = with_new_norms({**net, "after": [{"units": units}]})
    return {**new, "params": params, "memory": {**net["memory"], "per_weight": memory},
            "after": net["after"]}


@pytest.mark.parametrize("due", [True, False])
@pytest.mark.parametrize("k", [0, 2])  # a block with a plain shortcut, one with its own
def test_a_replaced_channel_begins_anew_and_all_others_stay(k, due):
    X, Y = minibatches(5)
    net, _ = live(residual_continual_backprop(TINY), X, Y, step_size=0.05, replacement_rate=0.0)
    block = net["params"]["blocks"][k]
    n, fan_in = len(block["first"][0][0]), block["first"][0][0][0].numel()
    row, mean = torch.rand(fan_in).double(), torch.rand(n).double()
    after = replaced(net, k, (torch.tensor(1), torch.tensor(due)), row, mean)
    if not due:
        assert same(after, net)
        return

    def channel(net):  # all that belongs to channel 1, and to the others
        own, rest = [], []
        for tree in [net["params"], *net["memory"]["per_weight"].values()]:
            (W, b), norm = tree["blocks"][k]["first"]
            (V, _), _ = tree["blocks"][k]["second"]
            own.append([W[1].flatten(), b[1], norm[0][1], norm[1][1], V[:, 1]])
            others = [c for c in range(n) if c != 1]
            rest.append([W[others], b[others], norm[0][others], norm[1][others], V[:, others]])
        return own, rest

    (params, trace), others = channel(after)
    (_, old_trace), old_others = channel(net)
    assert torch.equal(params[0], row) and params[1:4] == [0.0, 1.0, 0.0]
    assert (params[4] == 0).all() and all((a == 0).all() for a in trace)
    assert all((a != 0).any() for i, a in enumerate(old_trace) if i != 1)  # behind batch norm
    assert same(others, old_others)
    (V, b), (_, new_b) = (net["params"]["blocks"][k]["second"][0],
                          after["params"]["blocks"][k]["second"][0])
    torch.testing.assert_close(new_b, b + mean[1] * V[:, 1].sum((1, 2)))
    running, old = (each["layers"]["norms"]["blocks"][k]["first"] for each in (after, net))
    assert running[0][1] == 0 and running[1][1] == 1
    assert torch.equal(running[0][[0, 2]], old[0][[0, 2]])
    for name in ("stem", "head"):
        assert same(after["params"][name], net["params"][name])
    for i in range(4):
        unchanged = {name: part for name, part in net["params"]["blocks"][i].items()
                     if i != k or name == "shortcut"}
        assert same(unchanged, {name: after["params"]["blocks"][i][name] for name in unchanged})
        assert i == k or same(after["layers"]["norms"]["blocks"][i], net["layers"]["norms"]["blocks"][i])


def test_tests_hardly_notice_a_replaced_channel_that_was_constant():
    """What it left in its listeners' biases is what they heard, but for the border of the image."""
    X, Y = minibatches(3)
    net, _ = live(residual_backprop(TINY), X, Y, step_size=0.01)
    (conv, (scale, shift)) = net["params"]["blocks"][1]["first"]
    scale, shift = scale.clone(), shift.clone()
    scale[1], shift[1] = 0.0, 0.7  # it always says 0.7
    net["params"]["blocks"][1]["first"] = (conv, (scale, shift))
    _, features, _ = forward(net["params"], net["layers"]["norms"], X[0])
    mean = features[1].mean((0, 2))
    assert mean[1] == pytest.approx(0.7)
    row = torch.rand(conv[0][0].numel()).double()
    after = replaced(net, 1, (torch.tensor(1), torch.tensor(True)), row, mean)
    inside = {}
    for name, each in (("before", net), ("after", after)):
        (V, b), _ = each["params"]["blocks"][1]["second"]
        _, features, _ = forward(each["params"], each["layers"]["norms"], X[0])
        inside[name] = nn.functional.conv2d(features[1].unflatten(2, (8, 8)), V, b)  # no border
    torch.testing.assert_close(inside["before"], inside["after"])


def test_channels_of_every_block_are_replaced_in_turn():
    X, Y = minibatches(16)
    net, _ = live(residual_continual_backprop(TINY), X, Y, step_size=0.02, **BUSY)
    ages = [units["age"] for units in net["after"][0]["units"]]
    assert [len(age) for age in ages] == [3, 3, 4, 4]
    assert all(age.min() < 16 for age in ages) and any(age.max() == 16 for age in ages)
    assert all(torch.isfinite(leaf).all() for leaf in tree_leaves(net["params"]))
    still, _ = live(residual_continual_backprop(TINY), X[:5], Y[:5], step_size=0.0, **BUSY | {
        "replacement_rate": 0.24})  # after five minibatches one of 4 is not due, nor one of 3
    young, _ = live(residual_continual_backprop(TINY), X[:6], Y[:6], step_size=0.0, **BUSY | {
        "replacement_rate": 0.24})
    assert all((units["age"] == 5).all() for units in still["after"][0]["units"])
    for k, units in enumerate(young["after"][0]["units"]):
        reborn, = (units["age"] == 0).nonzero().flatten().tolist()
        W, V = (young["params"]["blocks"][k][name][0][0] for name in ("first", "second"))
        torch.testing.assert_close(W[reborn].flatten(), still["after"][0]["fresh"][k], check_dtype=False)
        assert (V[:, reborn] == 0).all() and (V != 0).any(0)[[c for c in range(len(W)) if
                                                             c != reborn]].all()


def test_too_high_a_rate_is_refused_in_one_line():
    with pytest.raises(ValueError) as raised:
        ensemble.grid(residual_continual_backprop(TINY), replacement_rate=0.3)
    assert "0 to 2.5e-01" in one_line(raised)


# Classes that are added --------------------------------------------------------------------------

def test_step_sizes_fall_within_an_increment_and_outputs_come_into_use():
    spy = Learner(lambda seed: {"layers": {"classes": seed}, "sum": torch.zeros(())},
                  lambda net, hyper, x, y: ({**net, "sum": net["sum"] + 1},
                                            torch.stack([hyper["step_size"], net["layers"]["classes"]])),
                  {"step_size": 0.1}, "spy", 6)
    stream = ClassIncremental(Fractals(8, images=12), train=10, held_back=2, minibatch=2, epochs=1,
                            together=2, tasks=3)
    for scratch, end in [(False, 60), (True, 30)]:
        learner = incremental(spy, stream, scratch)
        net, seen = learner.start(SEED), []
        hyper = {"step_size": torch.tensor(1.0)}
        for _ in range(stream.steps):
            net, score = learner.step(net, hyper, torch.zeros(1), None)
            seen.append(score)
        sizes, classes = torch.stack(seen).T
        assert classes.tolist() == 10 * [2] + 20 * [4] + 30 * [6]
        expected = [5.0**-d for k in (1, 2, 3) for d, count in [(0, 3), (1, 3), (2, 2), (3, 2)]
                    for _ in range(k * count)]
        torch.testing.assert_close(sizes, torch.tensor(expected))
        assert net["sum"] == end  # a network from scratch counts from its own beginning


def test_from_scratch_is_a_new_network_at_each_increment():
    X, Y = minibatches(5, classes=2, size=4)
    learner, afresh = (incremental(residual_continual_backprop(TINY), STREAM, how)
                       for how in (False, True))
    assert STREAM.task_length == 8 and (8, 16, 24) == tuple(8 * k for k in (1, 2, 3))
    X, Y = X.repeat(3, 1, 1, 1, 1), Y.repeat(3, 1)
    net, _ = live(afresh, X[:9], Y[:9], step_size=0.0, replacement_rate=0.0)
    new, _ = initialise(random.bits(SEED, random.WEIGHTS, 1, 2**30), TINY)
    for a, b in zip(tree_leaves(net["params"]), tree_leaves(new), strict=True):
        torch.testing.assert_close(a, b.double())
    assert net["after"][0]["t"] == 1 and all((units["age"] == 1).all() for units in net["after"][0]["units"])
    kept, _ = live(learner, X[:9], Y[:9], step_size=0.0, replacement_rate=0.0)
    old, _ = initialise(SEED, TINY)
    for a, b in zip(tree_leaves(kept["params"]), tree_leaves(old), strict=True):
        torch.testing.assert_close(a, b.double())
    assert kept["after"][0]["t"] == 9


def test_one_by_one_is_the_eager_loop(monkeypatch):
    monkeypatch.setattr(drivers, "_compile", lambda function, options: function)
    learner = incremental(residual_continual_backprop(SMALLEST), STREAM, True)
    seeds = torch.tensor([0, 1])
    X, Y = STREAM.examples(seeds, 0, 10)  # into the second increment
    settings = ensemble.grid(learner, **BUSY)
    (nets, scores), (others, other_scores) = (
        driven(kind, learner, settings, seeds, X, Y) for kind in ("eager", "one_by_one"))
    torch.testing.assert_close(scores, other_scores)
    for a, b in zip(tree_leaves(nets["params"]), tree_leaves(others["params"]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_published_experiment_begins_on_cifar_100(tmp_path, monkeypatch):
    """The whole stream of the paper, from an archive of that form; only the network is small."""
    monkeypatch.setattr(drivers, "_compile", lambda function, options: function)
    archive(tmp_path, monkeypatch)
    stream = ClassIncremental(Cifar100(tmp_path), train=500, held_back=100, minibatch=100, epochs=200,
                            tasks=20, augmented=True)
    assert stream.outputs == 100 and stream.task_length == 5_000 and stream.steps == 1_050_000
    learner = incremental(residual_continual_backprop(Layout(100, (2,), 1)), stream)
    frame = ensemble.run(stream, {"it": (learner, {})}, [0], 3, 3, device="cpu",
                         probe=held_back_accuracy)
    assert frame.accuracy.between(0, 1).all() and frame.test_accuracy.between(0, 1).all()
    X, Y = stream.test(torch.tensor([0]), 5_000)
    assert X.shape == (1, 500, 3, 32, 32) and Y[0].bincount().tolist() == 5 * [100]


def test_a_run_learns_and_is_tested_on_what_was_held_back(tmp_path):
    learners = {name: (incremental(residual_continual_backprop(SMALLEST), STREAM, scratch), {})
                for name, scratch in (("kept", False), ("from scratch", True))}
    frame = ensemble.run(STREAM, learners, [0, 5],
                         STREAM.steps, 8, device="cpu", probe=held_back_accuracy, folder=tmp_path)
    assert len(frame) == 2 * 2 * 6 and frame.test_accuracy.between(0, 1).all()
    kept = frame.pivot(index=["seed", "step"], columns="learner", values="test_accuracy")
    assert (kept.loc[(slice(None), 8), "kept"] == kept.loc[(slice(None), 8), "from scratch"]).all()
    assert (kept["kept"] != kept["from scratch"]).any()
