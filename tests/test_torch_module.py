"""Other people's networks: the drop-in against the library's own learners, and what it refuses."""

import copy
import doctest

import pytest
import torch
from test_convolution import minibatches, TINY
from test_convolution import live as live_images
from test_learners import BUSY, double, examples, live, one_line, SEED
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms import torch_module
from dyndl_lite.algorithms.continual_backprop import (
    continual_backprop,
    conv_continual_backprop,
    least_useful,
    UTILITIES,
)
from dyndl_lite.algorithms.optimisers import adam, momentum
from dyndl_lite.algorithms.replace_units import fresh_weights
from dyndl_lite.algorithms.torch_module import ContinualBackprop
from dyndl_lite.experiment import ensemble
from dyndl_lite.learning import learner, optimizer_state, Optimiser, sgd, squared_error
from dyndl_lite.models.from_module import from_module, links

SIZES = (6, 5, 4, 2)
RAPID = {"replacement_rate": 0.1, "utility_decay": 0.9, "maturity_threshold": 3}


def mlp(sizes=SIZES, activation=nn.ReLU):
    layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


class Images(nn.Module):
    """The library's TINY layout, in another hand: nested, functional activation and pooling."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(inplace=True)),
                                   nn.MaxPool2d(2))
        self.second, self.full, self.head = nn.Conv2d(3, 4, 2), nn.Linear(16, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.second(self.trunk(x))), 2)
        return self.head(F.relu(self.full(h.view(len(h), -1))))


class PerWeightAdam(torch.optim.Optimizer):
    """The library's Adam, which corrects each weight's bias by that weight's own steps."""

    def __init__(self, params, lr):
        super().__init__(params, {"step_size": lr, "beta_1": 0.9, "beta_2": 0.999})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            state = self.state[p] or adam.init([p], None)["per_weight"]
            state = {key: v if isinstance(v, list) else [v] for key, v in state.items()}
            new, memory = adam.update([p], [p.grad], {"per_weight": state}, self.param_groups[0])
            p.copy_(new[0])
            self.state[p] = {key: v[0] for key, v in memory["per_weight"].items()}


def adam_that_counts_steps_for_all():
    """torch's Adam as an optimiser of the library: a new weight inherits the count of the others."""
    steps = 0

    def update(params, gradients, state, hyper, context=None):
        nonlocal steps
        steps += 1
        ones = [tree_map(lambda p: torch.full_like(p, 1 - beta ** (steps - 1)), params)
                for beta in (hyper["beta_1"], hyper["beta_2"])]
        past = {**state["per_weight"], "m1": ones[0], "v1": ones[1]}
        return adam.update(params, gradients, {**state, "per_weight": past}, hyper)

    return Optimiser(optimizer_state("m", "v", "m1", "v1"), update, adam.settings, "torch_adam")


OPTIMISERS = {
    "sgd": (lambda: sgd, lambda p: torch.optim.SGD(p, 0.01)),
    "momentum": (lambda: momentum, lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    "per_weight_adam": (lambda: adam, lambda p: PerWeightAdam(p, 0.01)),
    "torch_adam": (adam_that_counts_steps_for_all, lambda p: torch.optim.Adam(p, 0.01)),
}


def copied(model, params):
    """Give a torch model our weights, in float64."""
    model.double()
    with torch.no_grad():
        for p, value in zip(model.parameters(), [a for pair in params for a in pair], strict=True):
            p.copy_(value)
    return model


def ours_as_fresh(links_of, fan_ins):
    """The library's own source of fresh weights, for the drop-in."""
    names = [link.layer for link in links_of]
    return lambda layer, t: fresh_weights(torch.tensor(SEED), torch.tensor(t), fan_ins,
                                          "relu")[names.index(layer)]


def assert_same(model, cbp, net):
    for p, value in zip(model.parameters(), [a for pair in net["params"] for a in pair]):
        torch.testing.assert_close(p.detach(), value, rtol=1e-7, atol=1e-9)
    for ours, theirs in zip(net["after"][0]["units"], cbp.units.values(), strict=True):
        for name in ours:
            torch.testing.assert_close(theirs[name], ours[name], rtol=1e-7, atol=1e-9)


def learned(model, optimizer, cbp, X, Y, loss=F.mse_loss):
    """Let a torch model learn; give how many units were replaced, and the losses."""
    count, losses = 0, []
    for x, y in zip(X, Y):
        value = loss(model(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        count += len(cbp.step()) if cbp else 0
        losses.append(value.item())
    return count, losses


# The same arithmetic as the library's own ------------------------------------------------------------

@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution", "random"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_it_is_the_librarys_continual_backprop(optimiser, utility):
    ours, theirs = OPTIMISERS[optimiser]
    X, Y = examples(120, 6, 2)
    made = continual_backprop(SIZES, optimiser=ours(), utility=utility)
    model = copied(mlp(), double(made.start(torch.tensor(SEED)))["params"])
    net, _ = live(made, X, Y, **BUSY, step_size=0.01)
    optimizer = theirs(model.parameters())
    example = torch.zeros(1, 6, dtype=torch.float64)
    cbp = ContinualBackprop(model, optimizer, example, **BUSY, utility=utility, seed=SEED,
                            fresh=ours_as_fresh(links(model, example), SIZES[:-2]))
    count, _ = learned(model, optimizer, cbp, torch.tensor(X)[:, None], torch.tensor(Y)[:, None])
    assert count > 20
    assert_same(model, cbp, net)


@pytest.mark.parametrize("optimiser", ["momentum", "torch_adam"])
def test_it_is_the_librarys_continual_backprop_of_channels(optimiser):
    ours, theirs = OPTIMISERS[optimiser]
    X, Y = minibatches(40)
    made = conv_continual_backprop(TINY, ours())
    model = copied(Images(), double(made.start(torch.tensor(SEED)))["params"])
    net, _ = live_images(made, X, Y, **BUSY, step_size=0.01)
    optimizer = theirs(model.parameters())
    X, Y = torch.tensor(X), torch.tensor(Y)
    fan_ins = [W[0].numel() for W, _ in net["params"][:-1]]
    cbp = ContinualBackprop(model, optimizer, X[0], **BUSY, seed=SEED,
                            fresh=ours_as_fresh(links(model, X[0]), fan_ins))
    assert learned(model, optimizer, cbp, X, Y, F.cross_entropy)[0] >= 5
    assert_same(model, cbp, net)


def test_several_forwards_before_a_step_are_one_minibatch():
    torch.manual_seed(0)
    whole = mlp()
    parts = copy.deepcopy(whole)
    for model, sizes in [(whole, [6]), (parts, [1, 5])]:
        model.cbp = ContinualBackprop(model, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(1, 6))
        for _ in range(3):
            for x in torch.arange(36.0).reshape(6, 6).split(sizes):
                model(x)
            model.cbp.step()
    for a, b in zip(whole.cbp.units.values(), parts.cbp.units.values()):
        for name in a:
            torch.testing.assert_close(a[name], b[name])


def test_only_training_forwards_count():
    model = mlp()
    cbp = ContinualBackprop(model, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(1, 6))
    with torch.no_grad():
        model(torch.ones(3, 6))
    model.eval()(torch.ones(3, 6))
    with pytest.raises(RuntimeError) as raised:
        cbp.step()
    assert "has heard nothing" in one_line(raised)
    model.train()(torch.ones(3, 6))
    cbp.step()


# What becomes of a unit ------------------------------------------------------------------------------

class Normalised(nn.Module):
    """Batch norms everywhere, of channels and of what they are flattened to; no bias before them."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 2, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.flat = nn.BatchNorm1d(24)
        self.head = nn.Linear(24, 2)

    def forward(self, x):
        h = torch.relu(self.norm1(self.conv1(x)))
        h = F.max_pool2d(torch.relu(self.norm2(self.conv2(h))), 2)
        return self.head(self.flat(h.flatten(1)))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW,
                                  torch.optim.RMSprop, torch.optim.Adagrad])
def test_a_reborn_unit_inherits_nothing(kind):
    torch.manual_seed(0)
    model = Normalised()
    more = {"momentum": 0.9} if kind in (torch.optim.SGD, torch.optim.RMSprop) else \
        {"amsgrad": True} if kind is torch.optim.Adam else {}
    with torch.no_grad():
        for name in ("norm1", "norm2", "flat"):
            model.get_submodule(name).weight.uniform_(0.5, 0.9)
            model.get_submodule(name).bias.uniform_(0.5, 0.9)
    optimizer = kind(model.parameters(), lr=0.01, **more)
    cbp = ContinualBackprop(model, optimizer, torch.zeros(1, 1, 7, 7), 1 / 6, maturity_threshold=4,
                            fresh=lambda layer, t: torch.full((4, 2, 2), 7.0) if layer == "conv2"
                            else torch.full((1, 3, 3), 7.0))
    found = {link.layer: link for link in cbp.links}
    assert found["conv1"].norms == ("norm1",) and found["conv1"].listener_norm == "norm2"
    assert found["conv2"].norms == ("norm2", "flat") and found["conv2"].listener == "head"
    X, Y = torch.randn(5, 8, 1, 7, 7), torch.randint(2, (5, 8))
    assert learned(model, optimizer, cbp, X[:4], Y, F.cross_entropy)[0] == 0
    before = copy.deepcopy(model.state_dict())
    cbp.settings["replacement_rate"] = 1 / 4
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.param_groups[0]["weight_decay"] = 0.0
    loss = F.cross_entropy(model(X[4]), Y[4])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    chosen = cbp.step()
    assert set(chosen) == {"conv1", "conv2"}
    i, j = chosen["conv1"], chosen["conv2"]
    assert (model.conv1.weight[i] == 7).all() and (model.conv2.weight[j] == 7).all()
    others = [k for k in range(6) if k != j]
    assert not model.conv2.weight[others, i].any() and model.conv2.weight[others].any()
    assert not model.head.weight[:, 4 * j:4 * j + 4].any()
    for norm, units in [("norm1", [i]), ("norm2", [j]), ("flat", range(4 * j, 4 * j + 4))]:
        norm, units = model.get_submodule(norm), list(units)
        rest = [k for k in range(norm.num_features) if k not in units]
        for own, start in [(norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0),
                           (norm.running_var, 1)]:
            assert (own[units] == start).all() and (own[rest] != start).all()
    cleared = 0
    for p, units in [(model.conv1.weight, [i]), (model.conv2.weight, [j]), (model.norm1.weight, [i]),
                     (model.norm2.bias, [j]), (model.flat.weight, list(range(4 * j, 4 * j + 4)))]:
        for value in optimizer.state[p].values():
            if isinstance(value, torch.Tensor) and value.shape == p.shape:
                cleared += 1
                assert not value[units].any() and value.any()
    assert cleared >= 5
    for value in optimizer.state[model.head.weight].values():
        if isinstance(value, torch.Tensor) and value.ndim:
            assert not value[:, 4 * j:4 * j + 4].any() and value.any()
    for value in optimizer.state[model.head.bias].values():  # the listener's own bias is not new
        assert not isinstance(value, torch.Tensor) or value.ndim == 0 or value.all()
    for layer, unit in chosen.items():
        for name in ("utility", "mean_activity", "bias_correction", "age"):
            assert cbp.units[layer][name][unit] == 0
    assert any(not torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))


@pytest.mark.parametrize("bias", [True, False])
def test_a_replacement_leaves_the_mean_output_as_it_was(bias):
    """With a bias the listener keeps the mean in it; without, in the batch norm that follows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Sigmoid(), nn.Linear(6, 4, bias=bias),
                          *([] if bias else [nn.BatchNorm1d(4)])).double()
    X = torch.randn(50, 3, dtype=torch.float64)
    cbp = ContinualBackprop(model, torch.optim.SGD(model.parameters(), 0.0), X[:1], 1 / 6,
                            maturity_threshold=2, utility_decay=0.0)
    with torch.no_grad():
        for _ in range(300):  # until the running mean and variance have settled
            model(X)
    before = model.eval()(X)
    model.train()
    for _ in range(3):
        model(X)
        chosen = cbp.step()
    assert list(chosen) == ["0"] and not model[2].weight[:, chosen["0"]].any()
    after = model.eval()(X)
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after.mean(0), before.mean(0))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_rate_0_is_plain_training_bit_for_bit(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
                          nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 1))
    plain = copy.deepcopy(model)
    X, Y = torch.randn(20, 8, 2, 8), torch.randn(20, 8, 1)
    finals = []
    for net, rate in [(plain, None), (model, 0.0)]:
        torch.manual_seed(1)
        optimizer = kind(net.parameters(), 0.01)
        cbp = rate is not None and ContinualBackprop(net, optimizer, X[0], rate, maturity_threshold=2)
        learned(net, optimizer, cbp, X, Y)
        finals.append(net.state_dict())
    assert finals[0].keys() == finals[1].keys()
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW,
                                  torch.optim.RMSprop])
def test_it_learns(kind):
    torch.manual_seed(0)
    model = nn.Sequential(mlp((6, 20, 20), nn.GELU), nn.SiLU(), nn.Linear(20, 1))
    optimizer = kind(model.parameters(), 0.1 if kind is torch.optim.SGD else 0.005)
    cbp = ContinualBackprop(model, optimizer, torch.zeros(6), 1e-3, maturity_threshold=20)
    X = torch.randn(400, 16, 6)
    count, losses = learned(model, optimizer, cbp, X, torch.sin(X[..., :1] + X[..., 1:2]))
    assert count > 10
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


# Its state, its compilation, its device --------------------------------------------------------------

def test_a_run_goes_on_from_its_saved_state_bit_for_bit(tmp_path):
    X, Y = torch.randn(60, 4, 6), torch.randn(60, 4, 2)

    def made(seed):
        torch.manual_seed(seed)
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        return model, optimizer, ContinualBackprop(model, optimizer, X[0], **RAPID, seed=seed)

    through, first, second = made(0), made(0), made(1)
    assert learned(*through, X, Y)[0] > 20
    learned(*first, X[:30], Y)
    torch.save([part.state_dict() for part in first], tmp_path / "state.pt")
    for part, state in zip(second, torch.load(tmp_path / "state.pt", weights_only=True)):
        part.load_state_dict(state)
    learned(*second, X[30:], Y[30:])
    for a, b in zip(through[0].parameters(), second[0].parameters()):
        assert torch.equal(a, b)
    assert through[2].t == second[2].t == 60
    with pytest.raises(ValueError) as raised:
        other = mlp((6, 5, 2))
        ContinualBackprop(other, torch.optim.SGD(other.parameters(), 0.1), X[0]).load_state_dict(
            through[2].state_dict())
    assert "'0', '2'" in one_line(raised)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_network_is_heard(backend):
    torch.manual_seed(0)
    model = Images()
    eager = copy.deepcopy(model)
    X, Y = torch.randn(12, 4, 3, 12, 12), torch.randint(2, (12, 4))
    made = []
    for net in (eager, torch.compile(model, backend=backend)):
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        cbp = ContinualBackprop(net, optimizer, X[0], **{**RAPID, "replacement_rate": 0.2})
        assert learned(net, optimizer, cbp, X, Y, F.cross_entropy)[0] >= 5
        made.append((net, cbp))
    (_, ours), (net, theirs) = made
    for a, b in zip(eager.parameters(), model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for name in ours.units:
        assert torch.equal(ours.units[name]["age"], theirs.units[name]["age"])
    net.eval()(X[0])
    with torch.no_grad():
        net.train()(X[0])
    with pytest.raises(RuntimeError):
        theirs.step()


@pytest.mark.parametrize("dtype, device", [
    (torch.bfloat16, "cpu"), pytest.param(torch.float32, "cuda", marks=pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no GPU"))])
def test_other_numbers_and_devices(dtype, device):
    torch.manual_seed(0)
    model = Images().to(device, dtype)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    X = torch.randn(20, 4, 3, 12, 12, device=device, dtype=dtype)
    cbp = ContinualBackprop(model, optimizer, X[0], **RAPID)
    Y = torch.randint(2, (20, 4), device=device)
    assert learned(model, optimizer, cbp, X, Y, F.cross_entropy)[0] >= 5
    assert all(p.isfinite().all() and p.dtype == dtype for p in model.parameters())
    for units in cbp.units.values():
        assert all(v.dtype == torch.float32 and v.device.type == device for v in units.values())


def test_fresh_weights_are_spread_as_the_layers_were_and_follow_from_the_seed():
    torch.manual_seed(0)
    model = mlp((300, 200, 2))
    with torch.no_grad():
        model[0].weight.normal_(0, 0.3)
    cbps = [ContinualBackprop(model, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(300), seed=s)
            for s in (0, 0, 1)]
    a, b, c = (torch.stack([cbp.fresh("0", t) for t in range(50)]) for cbp in cbps)
    assert torch.equal(a, b) and not torch.equal(a, c) and len(a.unique(dim=0)) == 50
    assert a.std() == pytest.approx(0.3, rel=0.03) and abs(a.mean()) < 0.01


def test_the_example_in_the_docstring():
    assert doctest.testmod(torch_module).attempted > 5
    assert doctest.testmod(torch_module).failed == 0


# What it refuses -------------------------------------------------------------------------------------

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.d(h + torch.relu(self.c(torch.relu(self.b(h)))))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.policy, self.value = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 1)

    def forward(self, x):
        h = torch.relu(self.trunk(x))
        return self.policy(h), self.value(h)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(6, 2), nn.Linear(2, 1)

    def forward(self, x):
        h = x.new_zeros(len(x), 2)
        for _ in range(3):
            h = torch.tanh(self.cell(torch.cat([x, h], 1)))
        return self.head(h)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.lstm, self.b = nn.Linear(4, 4), nn.LSTM(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.lstm(torch.relu(self.a(x)))[0])


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    model[2].weight = model[0].weight
    return model


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 3, 1), nn.Linear(12, 1)

    def forward(self, x):
        return self.head(self.conv(x[:, :, None].expand(-1, -1, 4)).transpose(1, 2).flatten(1))


REFUSED = {
    "residual": (Residual(), "'a' is heard by 'b', 'd'"),
    "heads": (Heads(), "is heard by 'policy', 'value'"),
    "recurrent": (Recurrent(), "called twice"),
    "gated": (Gated(), "lstm.weight_hh_l0"),
    "tied": (tied(), "shares its weights"),
    "transformer": (nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8)),
                    "in_proj_weight"),
    "layer_norm": (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1)), "'1.bias'"),
    "plain_layer_norm": (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False),
                                       nn.Linear(4, 1)), "depends on other units"),
    "softmax": (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 1)), "other units"),
    "order": (ChannelsLast(), "other units"),
    "no_bias": (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)), "no bias"),
    "gate": (nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 1)), "multiple of the units"),
    "linear": (nn.Linear(4, 1), "Linear has no hidden layer"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_it_cannot_handle_is_refused_at_once(name):
    model, words = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(ValueError) as raised:
        ContinualBackprop(model, torch.optim.SGD(model.parameters(), 0.1), torch.randn(3, 4))
    assert words in one_line(raised)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_pairs_name_the_hidden_layers_of_a_network_that_is_no_chain():
    torch.manual_seed(0)
    for model, pair in [(Residual(), ("b", "c")),
                        (nn.TransformerEncoderLayer(4, 2, 8), ("linear1", "linear2"))]:
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        x = torch.randn(3, 5, 4)
        cbp = ContinualBackprop(model, optimizer, x, 0.1, maturity_threshold=2, pairs=[pair])
        target = model(x).detach() + 1
        count, losses = learned(model, optimizer, cbp, [x] * 30, [target] * 30)
        assert [link[:2] for link in cbp.links] == [pair] and count > 5 and losses[-1] < losses[0]
    for pairs, words in [([("b", "nobody")], "'nobody' is no"), ([("a", "b")], "is heard by 'b', 'd'")]:
        model = Residual()
        with pytest.raises(ValueError) as raised:
            ContinualBackprop(model, torch.optim.SGD(model.parameters(), 0.1), x, pairs=pairs)
        assert words in one_line(raised)


def test_bad_settings_are_refused():
    model = mlp()
    for kind, setting, words in [
            (torch.optim.SGD, {"utility": "vanity"}, "'vanity' is unknown"),
            (torch.optim.SGD, {"replacement_rate": 0.3}, "more than one of 5"),
            (torch.optim.LBFGS, {}, "L-BFGS")]:
        with pytest.raises(ValueError) as raised:
            ContinualBackprop(model, kind(model.parameters(), 0.1), torch.zeros(6), **setting)
        assert words in one_line(raised)
    assert set(UTILITIES) >= {"contribution", "random"}


# In an ensemble --------------------------------------------------------------------------------------

def test_somebody_elses_network_runs_as_an_ensemble():
    torch.manual_seed(0)
    module = nn.Sequential(mlp((6, 5, 4), nn.Tanh), nn.Hardtanh(), nn.LayerNorm(4), nn.Linear(4, 2))
    model = from_module(module, torch.zeros(6), pairs=[("0.0", "0.2")])
    seeds = torch.arange(3)
    params = vmap(model.init)(seeds)
    assert set(params) == {name for name, _ in module.named_parameters()} and model.hidden == (5,)
    for name, p in module.named_parameters():
        own = params[name]
        assert torch.equal(model.init(torch.tensor(2))[name], own[2])
        if name.startswith("2."):
            assert (own == p).all()  # a layer norm's scale and shift
        else:
            assert not torch.equal(own[0], own[1])
            assert own.mean() == pytest.approx(p.mean().item(), abs=0.3)
    X, Y = (torch.tensor(a, dtype=torch.float32) for a in examples(150, 6, 2))

    def step(params, x, y):
        def objective(params):
            return squared_error(model.apply(params, x)[0], y)

        gradients, loss = grad(objective, has_aux=True)(params)
        return tree_map(lambda w, g: w - 0.1 * g, params, gradients), loss

    nets = params
    for x, y in zip(X, Y):
        nets, _ = vmap(step, (0, None, None))(nets, x, y)
    for run in range(3):  # each as torch trains it
        alone = copy.deepcopy(module)
        alone.load_state_dict({name: p[run] for name, p in params.items()})
        optimizer = torch.optim.SGD(alone.parameters(), 0.1)
        learned(alone, optimizer, None, X[:, None], Y[:, None])
        for name, p in alone.named_parameters():
            torch.testing.assert_close(nets[name][run], p.detach(), rtol=1e-3, atol=1e-4)


def test_the_librarys_learner_takes_somebody_elses_chain():
    torch.manual_seed(0)
    module = mlp()
    model = from_module(module, torch.zeros(6))
    made = learner(model, squared_error, sgd, least_useful())
    own = continual_backprop(SIZES)
    X, Y = examples(60, 6, 2)
    net = double(made.start(torch.tensor(SEED)))
    assert [W.shape for W, _ in net["params"]] == [(5, 6), (4, 5), (2, 4)]
    copy_of_it = {**double(own.start(torch.tensor(SEED))), "params": net["params"]}
    hyper = {k: torch.tensor(float(v), dtype=torch.float64)
             for k, v in {**made.settings, **BUSY}.items()}
    for x, y in zip(torch.tensor(X), torch.tensor(Y)):
        net, copy_of_it = made.step(net, hyper, x, y)[0], own.step(copy_of_it, hyper, x, y)[0]
    assert any(units["age"].min() < 50 for units in net["after"][0]["units"])
    for (W, b), (V, c) in zip(net["params"], copy_of_it["params"]):
        torch.testing.assert_close(W, V)
        torch.testing.assert_close(b, c)


def test_features_are_those_of_the_librarys_networks():
    torch.manual_seed(0)
    module = Images()
    model = from_module(module, torch.zeros(3, 12, 12))
    params = model.init(torch.tensor(0))
    assert isinstance(params, list) and model.outputs == 2 and model.hidden == (3, 4, 5)
    from dyndl_lite.models.cnn import forward
    x = torch.randn(4, 3, 12, 12)
    for ours, theirs in zip(tree_map(lambda a: a, model.apply(params, x)), forward(params, x)):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
    output, features = model.apply(params, x[1])
    torch.testing.assert_close(output, forward(params, x)[0][1])
    assert [h.shape for h in features] == [(1, 3, 25), (1, 4, 4), (5,)]


@pytest.mark.slow
def test_the_ensemble_compiles_and_runs_through_a_scan():
    module = mlp((6, 3, 2))
    made = learner(from_module(module, torch.zeros(6)), squared_error, sgd)
    from reference_torch import driven
    X, Y = (torch.tensor(a, dtype=torch.float32)[:, None].repeat(1, 2, 1)
            for a in examples(20, 6, 2))
    results = [driven(kind, made, ensemble.grid(made, step_size=[0.1, 0.01]), torch.arange(2), X, Y)
               for kind in ("eager", "scan")]
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][1].shape[:3] == (20, 2, 2)


def test_modules_that_are_no_functions_are_refused():
    for layer in (nn.BatchNorm1d(4), nn.Dropout(0.5)):
        with pytest.raises(ValueError) as raised:
            from_module(nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 1)), torch.zeros(4))
        assert type(layer).__name__ in one_line(raised)
