"""Decentralised networks: against plain loops, and every unit keeps to its own weights."""

import math

import numpy as np
import pytest
import reference
import torch
from test_learners import double, examples, live, LOSSES, one_line, SEED
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.dynamic import decentralised as module
from dyndl_lite.dynamic.decentralised import decentralised
from dyndl_lite.experiment import drivers, ensemble

SIZES, CAPACITY = (8, 5, 2), 4
LEVELS = {"rewiring": 0.02, "meta_step_size": 0.02, "step_size": 0.005}
GOALS = {"homeostasis": 0.002, "least_active": 0.4, "most_active": 0.6, "enough": 0.9,
         "patience": 30.0, "decay": 0.95}


class Textbook:
    """One decentralised network, unit by unit and wire by wire."""

    def __init__(self, seed, sizes, capacity, loss="squared_error", **hyper):
        self.seed, self.capacity, self.loss, self.hyper, self.t = seed, capacity, loss, hyper, 0
        inputs, units, _ = sizes
        self.W, self.b = reference.initial_weights(seed, sizes, "relu")
        keys = reference.draw_bits(seed, 25, np.arange(units * inputs)).reshape(units, inputs)
        self.wires = [set(np.argsort(row)[:capacity]) for row in keys]
        for i in range(units):
            for j in range(inputs):
                self.W[0][i, j] *= math.sqrt(inputs / capacity) if j in self.wires[i] else 0
        self.memory = [{part: np.zeros((len(W), W.shape[1] + 1)) for part in ("alpha", "v", "h")}
                       for W in self.W]
        self.mean = [np.zeros(inputs), np.zeros(units)]
        self.spread = [np.zeros(inputs), np.zeros(units)]
        self.active, self.power = np.full(units, 0.5), np.ones(units)
        self.unheard, self.due = np.zeros(units), np.zeros(units)
        self.explored = self.rewired = 0

    def pursue(self, layer, i, delta, c, heard):
        """Autostep for one unit, or one fixed step size for all of its weights."""
        H, a = self.hyper, np.append(heard, 1.0)
        if H["meta_step_size"] == 0:
            change = H["step_size"] * delta * a
        else:
            m = self.memory[layer]
            total = 0.0
            for j in range(len(a)):
                alpha = m["alpha"][i, j] or H["step_size"]
                slope = delta * a[j] * m["h"][i, j]
                m["v"][i, j] = max(abs(slope), m["v"][i, j] + alpha * c * a[j] ** 2
                                   * (abs(slope) - m["v"][i, j]) / H["tau"])
                alpha *= math.exp(H["meta_step_size"] * slope / max(m["v"][i, j], 1e-30))
                m["alpha"][i, j] = max(alpha, 1e-10)
                total += m["alpha"][i, j] * c * a[j] ** 2
            change = np.zeros(len(a))
            for j in range(len(a)):
                m["alpha"][i, j] /= max(total, 1.0)
                change[j] = m["alpha"][i, j] * delta * a[j]
                m["h"][i, j] = (m["h"][i, j] * (1 - m["alpha"][i, j] * c * a[j] ** 2) + change[j])
        self.W[layer][i] += change[:-1]
        self.b[layer][i] += change[-1]

    def follow(self, layer, a):
        d = self.hyper["decay"]
        past = 1 - d ** (self.t + 1)
        self.mean[layer] = d * self.mean[layer] + (1 - d) * a
        deviation = np.abs(a - self.mean[layer] / past)
        self.spread[layer] = d * self.spread[layer] + (1 - d) * deviation
        return self.mean[layer] / past, self.spread[layer] / past

    def paid(self, spread):
        V = self.W[1]
        shares = np.zeros(V.shape[1])
        for k in range(len(V)):
            use = [abs(V[k, i]) * spread[i] for i in range(len(spread))]
            for i in range(len(use)):
                shares[i] += use[i] / sum(use) if sum(use) > 0 else 0.0
        return shares * len(shares) / len(V)

    def learn(self, x, y):
        H, units = self.hyper, len(self.b[0])
        z, (_, h) = reference.forward(self.W, self.b, x, "relu")
        _, score, slope = reference.loss_and_slope(z[-1], y, self.loss)
        if self.loss == "squared_error":
            c_out = np.full(len(slope), 2 / len(slope))
        else:
            p = np.exp(z[-1] - z[-1].max()) / np.exp(z[-1] - z[-1].max()).sum()
            c_out = p * (1 - p)
        awake = (z[0] > 0).astype(float)
        hunger, c_hidden = -slope @ self.W[1] * awake, c_out @ self.W[1] ** 2 * awake
        for i in range(units):
            heard = np.array([x[j] if j in self.wires[i] else 0.0 for j in range(len(x))])
            self.pursue(0, i, H["weights"] * hunger[i], H["weights"] * c_hidden[i], heard)
        for k in range(len(slope)):
            self.pursue(1, k, -slope[k], c_out[k], h)

        d = H["decay"]
        for i in range(units):
            self.active[i] = d * self.active[i] + (1 - d) * (h[i] > 0)
            self.power[i] = d * self.power[i] + (1 - d) * h[i] ** 2
            rarely, scale = self.active[i] < H["least_active"], 1.0
            if rarely:
                self.b[0][i] += H["homeostasis"]
            elif self.active[i] > H["most_active"]:
                self.b[0][i] -= H["homeostasis"]
            if self.power[i] > 100:
                scale -= H["homeostasis"]
            elif self.power[i] < 0.01 and not rarely:
                scale += H["homeostasis"]
            self.W[0][i] *= scale
            self.b[0][i] *= scale

        mean_x, spread_x = self.follow(0, x)
        mean_h, spread_h = self.follow(1, h)
        for i, paid in enumerate(self.paid(spread_h)):
            self.unheard[i] = self.unheard[i] + 1 if paid < H["enough"] else 0
            self.due[i] += H["rewiring"]
        i = self.t % units
        free = [j for j in range(len(x)) if j not in self.wires[i]]
        if self.due[i] >= 1:
            self.due[i] -= 1
            if free:
                self.rewire(i, free, mean_x, spread_x)
        if self.unheard[i] > H["patience"]:
            self.explore(i, mean_h[i])
        self.t += 1
        return score

    def rewire(self, i, free, mean, spread):
        least = min(self.wires[i], key=lambda j: abs(self.W[0][i, j]) * spread[j])
        wish = reference.draw_uniform(self.seed, 27, self.t, np.arange(len(mean)))
        new = max(free, key=lambda j: wish[j])
        self.b[0][i] += self.W[0][i, least] * mean[least]
        self.wires[i] = self.wires[i] - {least} | {new}
        for j in (least, new):
            self.W[0][i, j] = 0
            for part in self.memory[0].values():
                part[i, j] = 0
        self.rewired += 1

    def explore(self, i, mean):
        u = reference.draw_uniform(self.seed, 26, self.t, np.arange(self.W[0].shape[1]))
        for j in range(len(u)):
            scale = reference.bound(self.capacity, "relu") if j in self.wires[i] else 0.0
            self.W[0][i, j] = scale * (2 * u[j] - 1)
        self.b[0][i] = 0
        self.b[1] += self.W[1][:, i] * mean  # from here on: the listeners' own doing
        self.W[1][:, i] = 0
        for part in ("alpha", "v", "h"):
            self.memory[0][part][i] = 0
            self.memory[1][part][:, i] = 0
        self.active[i], self.power[i], self.unheard[i] = 0.5, 1.0, 0
        self.explored += 1


CASES = {
    "weights only": {},
    "no weights": {"weights": 0.0},
    "step sizes": {"meta_step_size": 0.02, "step_size": 0.005},
    "connections": {"rewiring": 0.02},
    "goals": GOALS,
    "all": {**LEVELS, **GOALS},
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_textbook(case, loss):
    steps = {"squared_error": 2_000, "cross_entropy": 500}[loss] if case == "all" else 120
    X, Y = examples(steps, SIZES[0], SIZES[-1], loss)
    learner = decentralised(SIZES, CAPACITY, LOSSES[loss])
    setting = {**learner.settings, **CASES[case]}
    net, scores = live(learner, X, Y, **setting)
    textbook = Textbook(SEED, SIZES, CAPACITY, loss, **setting)
    theirs = [textbook.learn(x, y) for x, y in zip(X, Y)]
    np.testing.assert_allclose(scores, theirs, rtol=1e-4, atol=1e-5)
    for (W, b), W_ref, b_ref in zip(net["params"], textbook.W, textbook.b, strict=True):
        np.testing.assert_allclose(W, W_ref, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(b, b_ref, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(net["memory"], textbook.memory, strict=True):
        for part in theirs:
            np.testing.assert_allclose(ours[part], theirs[part], rtol=1e-3, atol=1e-7)
    for wires, heard in zip(net["wires"], textbook.wires, strict=True):
        assert set(wires.nonzero().flatten().tolist()) == heard
    np.testing.assert_array_equal(net["unheard"], textbook.unheard)
    if case == "all":
        assert textbook.explored > steps / 100 and textbook.rewired > steps / 20


# Each to its own --------------------------------------------------------------------------------

def at(steps, **setting):
    """Give a net after some busy steps, the settings, and one more example, in float64."""
    learner = decentralised(SIZES, CAPACITY)
    X, Y = examples(steps + 1, SIZES[0], SIZES[-1])
    setting = {**learner.settings, **LEVELS, **GOALS, **setting}
    net, _ = live(learner, X[:-1], Y[:-1], **setting)
    hyper = {k: torch.tensor(float(v), dtype=torch.float64) for k, v in setting.items()}
    return learner, net, hyper, torch.tensor(X[-1]), torch.tensor(Y[-1])


@pytest.mark.parametrize("steps", range(100, 105))
def test_who_explores_or_rewires_changes_its_own_incoming_weights_only(steps):
    learner, net, hyper, x, y = at(steps, enough=1e9)
    i = steps % SIZES[1]
    others = [j for j in range(SIZES[1]) if j != i]
    net["unheard"], net["due"] = torch.full((5,), 1e3).double(), torch.full((5,), 2.0).double()
    quiet = {**hyper, "patience": torch.tensor(torch.inf), "rewiring": torch.tensor(-10.0)}
    active, _ = learner.step(net, hyper, x, y)
    passive, _ = learner.step(net, quiet, x, y)
    for one, other in ((active["params"][0][0], passive["params"][0][0]),
                       (active["params"][0][1], passive["params"][0][1]),
                       (active["wires"], passive["wires"])):
        assert torch.equal(one[others], other[others]) and not torch.equal(one[i], other[i])
    # Its listeners answer, with their own weights: only to it, and only by hearing it no more.
    V, W = active["params"][1][0], passive["params"][1][0]
    assert torch.equal(V[:, others], W[:, others]) and not V[:, i].any() and W[:, i].all()


def test_rewiring_alone_changes_nothing_in_the_listeners():
    learner, net, hyper, x, y = at(100, patience=torch.inf)
    net["due"] = torch.full((5,), 2.0).double()
    one, _ = learner.step(net, hyper, x, y)
    other, _ = learner.step(net, {**hyper, "rewiring": torch.tensor(-10.0)}, x, y)
    assert not torch.equal(one["wires"], other["wires"])
    for a, b in zip(one["params"][1], other["params"][1]):
        assert torch.equal(a, b)


def test_a_unit_that_serves_moves_its_own_weights_only():
    rng = np.random.default_rng(0)
    W, heard = torch.tensor(rng.normal(size=(2, 5, 8)))
    b, delta = torch.zeros(5).double(), torch.tensor(rng.normal(size=5))
    memory = {part: torch.zeros(5, 9).double() for part in ("alpha", "v", "h")}
    hyper = {"step_size": 0.01, "meta_step_size": torch.tensor(0.01), "tau": 1e4}
    only = torch.where(torch.arange(5) == 3, delta, 0.0)
    moved, bias, _ = module.pursue(W, b, memory, only, heard, torch.ones(5).double(), hyper)
    assert (moved != W).any(1).tolist() == [False, False, False, True, False]
    assert (bias != b).tolist() == [False, False, False, True, False]


def test_wires_stay_as_many_and_no_weight_is_without_one():
    learner = decentralised(SIZES, CAPACITY)
    X, Y = examples(300, SIZES[0], SIZES[-1])
    for upto in (1, 50, 300):
        net, _ = live(learner, X[:upto], Y[:upto], **{**learner.settings, **LEVELS, **GOALS})
        assert (net["wires"].sum(1) == CAPACITY).all()
        assert not (net["params"][0][0] * (1 - net["wires"])).any()


# Levels and goals switched off ------------------------------------------------------------------

OFF = {
    "weights": ({"weights": 0.0, "homeostasis": 0.0, "rewiring": 0.0, "patience": torch.inf},
                lambda net: net["params"][0]),
    "connections": ({"rewiring": 0.0}, lambda net: net["wires"]),
    "step sizes": ({"meta_step_size": 0.0}, lambda net: net["memory"]),
}


@pytest.mark.parametrize("level", OFF)
def test_a_level_that_is_off_stays_as_it_was(level):
    learner = decentralised(SIZES, CAPACITY)
    X, Y = examples(150, SIZES[0], SIZES[-1])
    first = double(learner.start(torch.tensor(SEED)))
    off, look = OFF[level]
    for setting, same in ((off, True), ({}, False)):
        net, _ = live(learner, X, Y, **{**learner.settings, **LEVELS, **GOALS, **setting})
        for before, after in zip(tree_leaves(look(first)), tree_leaves(look(net)), strict=True):
            assert torch.equal(before, after) is same


def test_with_all_wires_and_weights_only_it_is_backprop():
    X, Y = examples(300, SIZES[0], SIZES[-1])
    learner = decentralised(SIZES, SIZES[0])
    ours, scores = live(learner, X, Y, **{**learner.settings, "step_size": 0.02})
    theirs, expected = live(backprop(SIZES), X, Y, step_size=0.02)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    for (W, b), (W_ref, b_ref) in zip(ours["params"], theirs["params"]):
        torch.testing.assert_close(W, W_ref)
        torch.testing.assert_close(b, b_ref)


# By hand ----------------------------------------------------------------------------------------

def test_attention_is_divided_by_use():
    V = torch.tensor([[1.0, -3.0, 0.0], [0.0, 0.0, 2.0]])
    paid = module.attention(V, torch.tensor([1.0, 1.0, 0.5]))
    # 1/4 and 3/4 of the first listener, all of the second; a fair share of 2 among 3 is 2/3
    torch.testing.assert_close(paid, torch.tensor([0.25, 0.75, 1.0]) * 1.5)
    assert not module.attention(V, torch.zeros(3)).any()  # nobody says anything


def test_a_unit_drops_what_it_uses_least():
    w, wires = torch.tensor([3.0, 0.0, 0.5, 0.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    mean, spread = torch.tensor([0.0, 0.0, 4.0, 0.0]), torch.tensor([0.1, 1.0, 1.0, 1.0])
    wish = torch.tensor([0.9, 0.2, 0.8, 0.3])
    inputs = w, torch.tensor(1.0), wires, mean, spread, wish
    w2, b2, wires2, touched = module.rewire(*inputs, torch.tensor(True))
    assert wires2.tolist() == [0, 0, 1, 1] and touched.tolist() == [True, False, False, True]
    assert w2.tolist() == [0.0, 0.0, 0.5, 0.0] and b2 == 1.0  # the mean of what it dropped was 0
    w3, b3, wires3, touched3 = module.rewire(*inputs, torch.tensor(False))
    assert torch.equal(w3, w) and b3 == 1.0 and torch.equal(wires3, wires) and not touched3.any()
    *same, touched4 = module.rewire(w, torch.tensor(1.0), torch.ones(4), mean, spread, wish,
                                    torch.tensor(True))
    assert torch.equal(same[0], w) and not touched4.any()  # no input is free


def test_a_stranger_is_met_with_its_predecessor_s_mean_and_no_weight():
    V, c, mean = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2), torch.tensor([5.0, 6.0])
    V2, c2 = module.welcome(V, c, mean, torch.tensor([False, True]))
    assert V2.tolist() == [[1.0, 0.0], [3.0, 0.0]] and c2.tolist() == [12.0, 24.0]


def test_a_silent_unit_wakes_up_and_a_restless_one_calms_down():
    hyper = {"homeostasis": 0.1, "least_active": 0.2, "most_active": 0.8}
    W, b = torch.ones(4, 2), torch.zeros(4)
    active, power = torch.tensor([0.0, 1.0, 0.5, 0.5]), torch.tensor([0.0, 1.0, 1e-3, 1e3])
    W2, b2 = module.normalise(W, b, active, power, hyper)
    torch.testing.assert_close(b2, torch.tensor([0.1, -0.1, 0.0, 0.0]))
    torch.testing.assert_close(W2[:, 0], torch.tensor([1.0, 1.0, 1.1, 0.9]))


# The rest ---------------------------------------------------------------------------------------

@pytest.mark.slow
def test_compiled_it_is_the_same():
    learner, (X, Y) = decentralised(SIZES, CAPACITY), examples(200, SIZES[0], SIZES[-1])
    nets, hypers = ensemble.start(learner, ensemble.grid(learner, **LEVELS, **{
        **GOALS, "patience": [30.0, torch.inf]}), torch.tensor([SEED, 4]))
    X, Y = (torch.tensor(a).float()[:, None].expand(-1, 2, -1).contiguous() for a in (X, Y))
    step = ensemble.batched(learner.step)
    by_hand, scores = drivers.eager(step)(tree_map(torch.clone, nets), hypers, X, Y)
    compiled, same = drivers.scan(step)(nets, hypers, X, Y)
    torch.testing.assert_close(scores, same, rtol=1e-3, atol=1e-3)
    assert torch.equal(by_hand["wires"], compiled["wires"])
    torch.testing.assert_close(by_hand["params"], compiled["params"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sizes, capacity", [((8, 2), 4), ((8, 5, 5, 2), 4), ((8, 5, 2), 9),
                                             ((8, 5, 2), 0)])
def test_what_cannot_be_is_refused(sizes, capacity):
    with pytest.raises(ValueError) as raised:
        decentralised(sizes, capacity)
    one_line(raised)
