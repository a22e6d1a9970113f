"""Dynamic deep learning against the textbook in `reference_dynamic`, invariants, small examples."""

from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import pytest
import reference_dynamic
import torch
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.dynamic import backbone, credit, network, population, shadow
from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.experiment.compare import window_mean
from dyndl_lite.learning import cross_entropy, squared_error
from dyndl_lite.problems.regression import SlowlyChangingRegression

# torch's own, when it compiles.
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")

LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}
SEED = 11
# Everything happens every few dozen examples. No test leans on a default of the learner.
BUSY = {
    "step_size": 0.1, "newcomer_step_size": 0.05, "meta_step_size": 0.02, "bound": 0.6,
    "joint": 1.0, "tau": 200.0, "mean_decay": 0.98, "input_mean_decay": 0.96,
    "utility_decay": 0.95, "growth_rate": 0.03, "replacement_rate": 0.02,
    "maturity_threshold": 60.0, "join": 0.7, "leave": 0.6,
    "shadow": 1.0, "imprint": 1.0, "noise": 0.5, "centring": 1.0, "random_master": 0.0,
    "propagation": 1.0, "hungry_births": 1.0, "patience": 1.0,
    "levelling": 0.7, "fringe": 0.0, "forgetting": 0.2, "hidden_forgetting": 0.1, "l1": 0.005,
    "as_if": 1.0, "protection": 0.0, "bound_rate": 0.01,
}
# The other way at every fork.
OTHERWISE = [{"shadow": 0.6, "imprint": 0.4, "noise": 1.0, "centring": 0.0, "random_master": 1.0},
             {"propagation": 0.0, "joint": 0.0, "hungry_births": 0.0, "patience": 0.0},
             {"levelling": 0.0, "forgetting": 0.0, "hidden_forgetting": 0.0, "as_if": 0.0},
             {"l1": 0.0, "protection": 1.0, "bound_rate": 0.0},
             {"fringe": 2.0, "growth_rate": 0.1, "leave": 0.65, "maturity_threshold": 20.0}]


def double(tree):
    """Turn all float32 of a net into float64, so that only real differences are seen."""
    return tree_map(lambda a: a.double() if a.is_floating_point() else a, tree)


def tensors(setting, precision=torch.float64):
    return {name: torch.tensor(float(value), dtype=precision) for name, value in setting.items()}


def problem(steps, inputs, outputs, loss, every=400):
    """Make a problem that a few rectifiers solve, others after a while: so units rise and fall."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(steps, inputs)) * 0.7
    X[:, 0] += 0.5  # one input has a mean
    Y = np.zeros((steps, outputs))
    for start in range(0, steps, every):
        W, V = rng.normal(size=(4, inputs)), rng.normal(size=(outputs, 4))
        now = slice(start, start + every)
        Y[now] = 1.5 * np.maximum(X[now] @ W.T, 0) @ V.T
    Y = Y - Y.mean(0)
    return X, (Y.argmax(1) if loss == "cross_entropy" else Y)


def torches(X, Y, precision=torch.float64):
    Y = torch.tensor(Y) if Y.dtype.kind == "i" else torch.tensor(Y, dtype=precision)
    return torch.tensor(X, dtype=precision), Y


@contextmanager
def exact_draws():
    """Draw in float64: draws are multiples of 2^-24, and only what is made of them would round."""
    with pytest.MonkeyPatch.context() as patch:
        uniform = random.uniform
        patch.setattr(random, "uniform", lambda *where: uniform(*where).double())
        yield


def live(learner, X, Y, setting):
    """Let one network live, eagerly; give its states [steps + 1, ...], the first before all."""
    net, hyper = double(learner.start(torch.tensor(SEED))), tensors(setting)
    nets, scores = [net], []
    for x, y in zip(*torches(X, Y)):
        net, score = learner.step(net, hyper, x, y)
        nets.append(net)
        scores.append(float(score))
    return tree_map(lambda *states: torch.stack(states), *nets), scores


class Life:
    """One learner and its textbook, side by side for thousands of examples."""

    def __init__(self, loss, depth, steps=2_600, **other):
        self.inputs, self.places, self.depth = 4, 6, depth
        self.count = 3 if loss == "cross_entropy" else 2
        sizes = self.inputs, self.places, self.count
        self.learner = network.dynamic_network(*sizes, LOSSES[loss], depth)
        self.setting = {**self.learner.settings, **BUSY, **other}
        self.X, self.Y = problem(steps, self.inputs, self.count, loss)
        with exact_draws():
            self.nets, self.scores = live(self.learner, self.X, self.Y, self.setting)
        self.textbook = reference_dynamic.Dynamic(SEED, *sizes, loss, depth, **self.setting)
        self.expected, self.snapshots = [], {}
        for t, (x, y) in enumerate(zip(self.X, self.Y), 1):
            self.expected.append(self.textbook.learn(x, y))
            if t % 100 == 0:
                self.snapshots[t] = self.textbook.state()

    def events(self, what, **more):
        return [(t, place) for t, kind, place, about in self.textbook.log
                if kind == what and more.items() <= about.items()]

    def at(self, t):
        """Give the net after t examples."""
        return tree_map(lambda a: a[t], self.nets)

    def before(self):
        """Give the nets as every example found them."""
        return tree_map(lambda a: a[:-1], self.nets)

    def after(self):
        return tree_map(lambda a: a[1:], self.nets)

    def births(self):
        """Give the time and place of every birth: only then is a unit's age 0."""
        level, age = self.nets["units"]["level"], self.nets["units"]["age"][:, self.inputs:]
        return [(int(t), int(k)) for t, k in ((level > 0) & (age == 0)).nonzero()]

    def activities(self, nets):
        """Give s [steps, sources] that the nets answer to the examples with."""
        X = torch.tensor(self.X)
        return vmap(lambda net, x: network.run(net["params"], net["units"]["level"], x,
                                               self.depth))(nets, X)

    def outputs(self, nets):
        s = self.activities(nets)
        heard = torch.cat([s, torch.ones_like(s[:, :1])], 1)
        return (nets["params"]["output"] @ heard[:, :, None])[:, :, 0]

    def watched(self):
        """Give what was known of the sources when each example had been seen, before births."""
        hyper = tensors(self.setting)
        nets = self.before()
        return vmap(lambda units, s: population.update_statistics(units, s, hyper))(nets["units"],
                                                                    self.activities(nets))

    def received(self, **rest):
        """Give the utility [steps, units] at each example."""
        hyper = tensors(self.setting)
        return vmap(lambda params, units: population.utility(params, units, self.depth, hyper, **rest))(
            self.before()["params"], self.watched())


lived = lru_cache(Life)  # a life takes seconds, and many tests look at it
CASES = [(loss, depth) for depth in (1, 2) for loss in LOSSES]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def life(request):
    return lived(*request.param)


@pytest.fixture(scope="module")
def deep():
    return lived("squared_error", 2)


def assert_same_state(net, state, tolerance):
    """Compare a net with what the textbook's `state` gives."""
    found = {**net["params"], **net["units"], "shadow": net["shadow"],
             "trials": net["trials"]["weights"], "log": net["trials"]["log"],
             "apart": net["trials"]["apart"]}
    close = {"rtol": tolerance, "atol": tolerance}
    for name in ("hidden", "output", "shadow", "age", "mean", "spread", "level", "backbone",
                 "due", "trials", "log", "apart"):
        np.testing.assert_allclose(found[name], state[name], err_msg=name, **close)
    for name, memory in net["memory"].items():
        alpha, expected = memory["alpha"].numpy(), state[f"{name} alpha"]
        alpha = np.where(alpha > 0, alpha, BUSY["step_size"])
        known = expected > 0  # what is not heard has a step size too, which nobody uses
        np.testing.assert_allclose(alpha[known], expected[known], err_msg=name, **close)
        for part in ("v", "h"):
            np.testing.assert_allclose(memory[part], state[f"{name} {part}"],
                                       err_msg=f"{name} {part}", **close)


# Against the textbook ---------------------------------------------------------------------------

def test_everything_happens_in_the_lives_that_are_compared(life):
    assert len(life.events("born", room=True)) == life.places
    assert len(life.events("born", room=False)) >= 20
    assert len(life.events("joins")) >= 20 and len(life.events("falls")) >= 20
    if life.depth > 1:
        assert len(life.events("orphaned")) >= 1
        assert len(life.events("born", served="Unit")) >= 10
        assert len(life.events("born", served="Output")) >= 10


def test_the_dynamic_network_agrees_with_the_textbook(life):
    for t, state in life.snapshots.items():
        assert_same_state(life.at(t), state, 1e-6)
    np.testing.assert_allclose(life.scores, life.expected, rtol=1e-6, atol=1e-6)


def test_units_are_born_when_and_where_the_textbook_bears_them(life):
    assert life.births() == [(t + 1, place) for t, place in life.events("born")]


@pytest.mark.parametrize("other", OTHERWISE, ids=lambda other: "-".join(other))
def test_with_other_settings_it_agrees_with_the_textbook(other):
    life = Life("squared_error", 2, steps=850, **other)
    assert life.events("falls") and life.events("born", room=False)
    if "fringe" in other:  # somebody is born where one has died
        first, place = life.events("died")[0]
        assert place in [k for t, k in life.events("born", room=True) if t > first]
    else:
        assert life.events("born", served="Unit", room=False)
    for t, state in life.snapshots.items():
        assert_same_state(life.at(t), state, 1e-6)
    np.testing.assert_allclose(life.scores, life.expected, rtol=1e-6, atol=1e-6)


# Utility ----------------------------------------------------------------------------------------

def layered(life, t):
    """Give the net at example t as layers that carry on what later layers hear, and the spreads."""
    net, spread = life.at(t), life.watched()["spread"][t]
    W, level, n = net["params"]["hidden"], net["units"]["level"], life.inputs
    zero, I = torch.zeros(life.places, dtype=W.dtype), torch.eye(n + life.places).double()
    params = []
    for this in range(1, life.depth + 1):
        carried = I.clone()
        carried[n:][level >= this] = 0
        computed = torch.zeros_like(I)
        computed[n:, :W.shape[1] - 1] = torch.where((level == this)[:, None], W[:, :-1], 0.0)
        layer = (carried + computed)[:, :n] if this == 1 else carried + computed
        params.append((layer, torch.cat([torch.zeros(n).double(), zero])))
    V = net["params"]["output"]
    params.append((V[:, :-1], V[:, -1]))
    return params, [spread[:n], *[spread] * life.depth]


def test_utility_is_that_of_the_backbone_s_propagation(life):
    """As layers: what is heard from afar is carried on by units that keep nothing for it."""
    ours = life.received(keep=0.0)
    for t in (150, 1_000, 2_345):
        theirs = backbone.propagate(*layered(life, t), keep=0.0).utility
        level = life.at(t)["units"]["level"]
        for this in range(1, life.depth + 1):
            at = level == this
            torch.testing.assert_close(ours[t][at], theirs[this - 1][life.inputs:][at])


def test_utility_is_conserved(life):
    """Received and kept by units, delivered to inputs, leaked: all that was put on the outputs."""
    keep, received, spread = 0.1, life.received(keep=0.1), life.watched()["spread"]
    for t in range(5, len(received), 97):
        net = life.at(t)
        level, W = net["units"]["level"], net["params"]["hidden"]
        arrived = 0.0
        for row in net["params"]["output"]:
            use = row[:-1].abs() * spread[t]
            arrived += use[:life.inputs].sum() / use.sum()
        kept = torch.where(level == 1, received[t], keep * received[t]).sum()
        for k in (level == 2).nonzero()[:, 0]:
            use = W[k, :-1].abs() * spread[t]
            arrived += (1 - keep) * received[t, k] * use[:life.inputs].sum() / use.sum()
        torch.testing.assert_close(kept + arrived, torch.tensor(float(life.count)).double())
        assert not received[t][level == 0].any()


def test_the_textbook_s_ledger_balances_too(life):
    book = life.textbook
    assert book.kept + book.delivered + book.leaked == pytest.approx(life.count)


# The boundary -----------------------------------------------------------------------------------

def test_a_unit_joins_over_one_threshold_and_leaves_under_another(life):
    was, now = life.before()["units"]["backbone"] > 0, life.after()["units"]["backbone"] > 0
    alive = life.before()["units"]["level"] > 0
    share = life.received() * alive.sum(1, keepdim=True) / life.count
    born = torch.zeros_like(now)
    for t, place in life.births():
        born[t - 1, place] = True
    joined, left = now & ~was, was & ~now & ~born
    assert joined.sum() > 10 and left.sum() > 5
    join, leave = life.setting["join"], life.setting["leave"]
    assert (share[joined] > join).all() and (share[left] < leave).all()
    assert (share[alive & ~was & ~now & ~born] <= join).all() and (share[was & now] >= leave).all()
    between = (share > leave) & (share < join)
    assert (between & was & now).any() and (between & alive & ~was & ~now).any()


@pytest.mark.parametrize("fringe, due, place, room, dies", [
    (0, 1.0, 3, True, False), (3, 1.0, 3, True, False), (2, 1.0, 1, False, False), (2, 0.0, -1, False, False),
    (1, 0.0, 1, False, True), (1, 1.0, 1, False, False)])
def test_a_fringe_of_a_given_size_finds_room_and_leaves_it(fringe, due, place, room, dies):
    """One unit of the backbone, two of the fringe, and an empty place."""
    units = {**population.new_units(4, 2), "level": torch.tensor([1.0, 1.0, 1.0, 0.0]),
             "due": torch.tensor(due), "age": torch.full((6,), 99.0),
             "backbone": torch.tensor([1.0, 0.0, 0.0, 0.0])}
    hyper = tensors({**BUSY, "fringe": fringe, "protection": 1.0}, torch.float32)
    received, one = torch.tensor([0.3, 0.1, 0.2, 0.0]), torch.tensor(1.0)
    _, where, is_room, leaves = population.births(units, received, one, one, hyper)
    assert (where, is_room, leaves) == (place, room, dies)


@pytest.mark.parametrize("protection, backbone, place", [
    (0.0, [1, 1, 0], 0), (1.0, [1, 1, 0], 2), (1.0, [1, 0, 0], 1), (1.0, [1, 1, 1], -1)])
def test_with_protection_only_the_fringe_makes_way(protection, backbone, place):
    """Three mature units, of which the first is the least useful."""
    units = {**population.new_units(3, 2), "level": torch.ones(3), "due": torch.tensor(1.0),
             "age": torch.full((5,), 99.0), "backbone": torch.tensor(backbone).float()}
    hyper = tensors({**BUSY, "protection": protection}, torch.float32)
    received = torch.tensor([0.1, 0.2, 0.3])
    one = torch.tensor(1.0)
    after, born, room, _ = population.births(units, received, one, one, hyper)
    assert born == place and not room
    may = 3 if not protection else backbone.count(0)  # and they alone count for how often it happens
    slower, *_ = population.births(units, received, one, torch.tensor(0.1), hyper)
    hasty, *_ = population.births(units, received, one, torch.tensor(1e6), hyper)
    kept = 1 - (place >= 0)
    assert hasty["due"].item() - kept == pytest.approx(min(may, 1), abs=1e-6)
    assert slower["due"].item() - kept == pytest.approx(0.1 * (after["due"].item() - kept), abs=1e-6)
    owed = 1 + may * BUSY["replacement_rate"] - (place >= 0)
    assert after["due"].item() == pytest.approx(owed, abs=1e-6)


def test_a_fringe_unit_says_no_more_than_its_listeners_admit(life):
    nets = life.before()
    units, W, V = nets["units"], nets["params"]["hidden"], nets["params"]["output"]
    outputs, s = life.outputs(nets), life.activities(nets)[:, life.inputs:]
    compared = 0
    for k in range(life.places):
        fringe_ = (units["level"][:, k] > 0) & (units["backbone"][:, k] == 0)
        level = units["level"].clone()
        level[:, k] = 0
        without = {**nets, "units": {**units, "level": level}}
        admitted = V[:, :, life.inputs + k].abs()
        if life.depth > 1:  # heard by outputs, and by way of units that hear it
            admitted = admitted + (V[:, :, life.inputs:-1].abs()
                                   @ W[:, :, life.inputs + k].abs()[:, :, None])[:, :, 0]
        moved = (outputs - life.outputs(without)).abs()
        assert (moved <= admitted * s[:, k, None] + 1e-9)[fringe_].all()
        unheard = fringe_ & (admitted.sum(1) == 0)
        assert not moved[unheard].any()
        compared += int(unheard.sum())
    assert compared > 0


def test_the_net_stays_feed_forward(deep):
    W, level = deep.nets["params"]["hidden"][:, :, deep.inputs:-1], deep.nets["units"]["level"]
    upwards = (level[:, None, :] > 0) & (level[:, None, :] < level[:, :, None])
    backwards = (W != 0) & ~upwards
    assert not backwards.any(), f"{backwards.nonzero()[0].tolist()} (time, listener, heard)"
    assert (W != 0).any()


# Births -----------------------------------------------------------------------------------------

def test_a_reborn_unit_inherits_nothing(life):
    reborn = [(t, k) for t, k in life.births() if life.at(t - 1)["units"]["level"][k] > 0]
    assert len(reborn) >= 20
    for t, k in reborn:
        net, source = life.at(t), life.inputs + k
        units = net["units"]
        for name in ("age", "mean", "spread"):
            assert units[name][source] == 0
        assert units["backbone"][k] == 0
        assert not net["params"]["output"][:, source].any()
        into, out_of = net["memory"]["hidden"], [net["memory"]["output"]]
        if life.depth > 1:
            assert not net["params"]["hidden"][:, source].any()
            others = [i for i in range(life.places) if i != k]
            out_of.append({name: value[others] for name, value in into.items()})
        for part in ("alpha", "v", "h"):
            assert not into[part][k].any()
        for memory in out_of:
            assert (memory["alpha"][:, source] == life.setting["newcomer_step_size"]).all()
            assert not memory["v"][:, source].any() and not memory["h"][:, source].any()
        assert net["shadow"][:, k].abs().sum() == 1


def test_a_reborn_unit_inherits_no_servants(deep):
    """Units that wanted to serve who was here before do not serve the newcomer."""
    for t, k in deep.births():
        assert not deep.at(t)["shadow"][deep.count + k].any(), (t, k)


def test_no_unit_is_its_own_master(deep):
    served = deep.nets["shadow"][:, deep.count:]
    assert not torch.diagonal(served, dim1=1, dim2=2).any()


def test_a_newborn_is_one_level_below_its_master_who_is_of_the_backbone(life):
    for t, k in life.births():
        net, before = life.at(t), life.at(t)["units"]
        master = int(net["shadow"][:, k].abs().argmax())
        if master < life.count:
            assert before["level"][k] == life.depth
        else:
            master -= life.count
            assert before["level"][k] == before["level"][master] - 1
            assert before["backbone"][master] == 1


def test_who_falls_serves_an_output_or_a_unit_of_the_backbone(deep):
    """At depth 2 a unit that nobody hears may listen to it, too; it is no master."""
    backbone = deep.nets["units"]["backbone"] > 0
    for t, kind, k, _ in deep.textbook.log:
        if kind == "falls":
            master = int(deep.at(t + 1)["shadow"][:, k].abs().argmax()) - deep.count
            assert master < 0 or backbone[t + 1, master], (t, k)


def test_at_its_birth_a_unit_would_be_active_and_is_silent_on_average():
    """An imprint without noise: the summed input is the length of what is unusual."""
    learner = network.dynamic_network(4, 3, 2)
    X, Y = problem(100, 4, 2, "squared_error")
    setting = {**learner.settings, **BUSY, "noise": 0.0, "imprint": 0.7, "growth_rate": 0.05}
    nets, _ = live(learner, X, Y, setting)
    births = ((nets["units"]["level"] > 0) & (nets["units"]["age"][:, 4:] == 0)).nonzero()
    assert len(births) == 3
    for t, k in births:
        mean, x = nets["units"]["mean"][t, :4], torch.tensor(X[t - 1])
        w, b = nets["params"]["hidden"][t, k, :-1], nets["params"]["hidden"][t, k, -1]
        torch.testing.assert_close(w @ x + b, 0.7 * (x - mean).norm(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(w @ mean + b, torch.zeros_like(b), rtol=0, atol=1e-12)


def hidden_by_hand(outputs=2):
    """A net of depth 1 with 4 inputs and 5 units, with weights, without a past."""
    learner = network.dynamic_network(4, 5, outputs)
    net, rng = double(learner.start(torch.tensor(SEED))), torch.Generator().manual_seed(0)
    for name, w in net["params"].items():
        net["params"][name] = torch.randn(w.shape, generator=rng, dtype=torch.float64)
    net["units"]["level"] = torch.ones(5, dtype=torch.float64)
    return learner, net


def test_a_unit_that_makes_way_leaves_its_mean_with_its_listeners():
    """With frozen weights and a plain mean the mean output stays what it was."""
    learner, first = hidden_by_hand()
    X, Y = torches(*problem(51, 4, 2, "squared_error"))
    hyper = tensors({**learner.settings, **BUSY, "step_size": 1e-10, "newcomer_step_size": 1e-10,
                     "meta_step_size": 0.0, "mean_decay": 1.0, "input_mean_decay": 1.0,
                     "maturity_threshold": 50, "replacement_rate": 0.2})
    net = first
    for x, y in zip(X, Y):
        net, _ = learner.step(net, hyper, x, y)
    reborn = (net["units"]["age"][4:] == 0).nonzero()[:, 0]
    assert len(reborn) == 1

    def mean_output(net):
        s = torch.stack([network.run(net["params"], net["units"]["level"], x, 1) for x in X])
        V = net["params"]["output"]
        return (s @ V[:, :-1].T + V[:, -1]).mean(0)

    assert (first["params"]["output"][:, 4 + reborn] != 0).all()
    assert not net["params"]["output"][:, 4 + reborn].any()
    torch.testing.assert_close(mean_output(net), mean_output(first), rtol=0, atol=1e-6)


def test_what_makes_way_is_the_least_useful_mature_unit(life):
    age, received = life.watched()["age"][:, life.inputs:], life.received()
    for t, k in life.births():
        alive = life.at(t - 1)["units"]["level"] > 0
        if alive.all():
            mature = age[t - 1] > life.setting["maturity_threshold"]
            assert mature[k] and received[t - 1, k] == received[t - 1][mature].min()
        else:
            assert k == int((~alive).nonzero()[0])


@pytest.mark.parametrize("depth", [1, 2])
def test_empty_places_influence_nothing(depth):
    learner = network.dynamic_network(4, 5, 2, depth=depth)
    X, Y = torches(*problem(200, 4, 2, "squared_error"))
    hyper = tensors({**learner.settings, **BUSY})
    clean = double(learner.start(torch.tensor(SEED)))
    rng = torch.Generator().manual_seed(0)
    rubbish = {**clean, "params": dict(clean["params"]), "memory": dict(clean["memory"])}
    for name, w in clean["params"].items():
        waste = torch.rand(w.shape, generator=rng, dtype=torch.float64)
        empty = torch.zeros_like(w)
        empty[:, 4:-1] = 1
        if name == "hidden":
            empty[:] = 1
        rubbish["params"][name] = w + empty * waste
        rubbish["memory"][name] = {part: value + empty * waste
                                   for part, value in clean["memory"][name].items()}
    for x, y in zip(X, Y):
        clean, score = learner.step(clean, hyper, x, y)
        rubbish, same = learner.step(rubbish, hyper, x, y)
        assert score == pytest.approx(float(same), rel=1e-9, abs=1e-12)
    assert (clean["units"]["level"] > 0).all()
    for a, b in zip(tree_leaves(clean), tree_leaves(rubbish), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("patience", [0.0, 1.0])
def test_births_come_at_their_rates(patience):
    """While there is room, growth_rate an example; then replacement_rate a mature unit, if need be
    times what was learned of the bound."""
    learner = network.dynamic_network(3, 4, 1)
    setting = {**learner.settings, **BUSY, "growth_rate": 0.1, "replacement_rate": 0.02,
               "maturity_threshold": 0, "hungry_births": 0.0, "patience": patience}
    nets, _ = live(learner, *problem(400, 3, 1, "squared_error"), setting)
    pace = torch.exp(patience * nets["trials"]["log"][42:400])
    assert patience == 0 or not 0.9 < pace.mean() < 1.1  # the bound did move
    age, level = nets["units"]["age"][:, 3:], nets["units"]["level"]
    born = ((age == 0) & (level > 0)).any(1)
    assert level[41].min() == 1 and level[39].min() == 0
    assert abs(int(born[42:].sum()) - 0.02 * 4 * float(pace.sum())) <= 1
    assert (nets["units"]["due"] < 1).all()


# Shadow weights ---------------------------------------------------------------------------------

def changes_unheard(shadow):
    """Give the changes of incoming weights of active units to whom nobody listens yet."""
    learner = network.dynamic_network(4, 6, 2)
    X, Y = problem(250, 4, 2, "squared_error")
    nets, _ = live(learner, X, Y, {**learner.settings, **BUSY, "shadow": shadow})
    before, after = (tree_map(lambda a: a[part], nets) for part in (slice(-1), slice(1, None)))
    s = vmap(lambda net, x: network.run(net["params"], net["units"]["level"], x, 1))(
        before, torch.tensor(X))[:, 4:]
    unheard = (before["params"]["output"][:, :, 4:-1] == 0).all(1) & (s > 0)
    stays = (before["units"]["level"] > 0) & (after["units"]["age"][:, 4:] > 0)
    change = after["params"]["hidden"] - before["params"]["hidden"]
    return change[unheard & stays]


def test_without_a_shadow_weight_nobody_learns_who_is_not_heard():
    change = changes_unheard(0.0)
    assert len(change) > 5 and not change.any()


def test_with_a_shadow_weight_it_learns_before_it_is_heard():
    change = changes_unheard(1.0)
    assert len(change) > 5 and change.any(1).all()


def test_the_shadow_fades_as_the_real_weight_grows():
    links = torch.tensor([[0.0, 0.25, 1.0, 3.0, -0.5, 0.0, -0.25, -2.0, 0.5]])
    wish = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 0.0]])
    wants = shadow.wanting(links, wish)
    assert wants.tolist() == [[1.0, 0.75, 0.0, 0.0, 1.0, -1.0, -0.75, 0.0, 0.0]]
    assert shadow.wanting(links, wish, 0.5).tolist() == [
        [0.5, 0.25, 0.0, 0.0, 0.5, -0.5, -0.25, 0.0, 0.0]]
    assert not shadow.wanting(links, wish, 0.0).any()


# The talk's small example: output C hears B with weight -1; the target is 2 above its answer ------

def test_hungers_of_the_talk():
    links = torch.tensor([[-1.0, 0.0]])  # of C for B, and for the newborn E
    wants = torch.tensor([[0.0, 1.0]])
    delta, c = credit.hungers(links, wants, torch.tensor([True, True]), torch.zeros(2), torch.ones(2),
                                torch.tensor([2.0]), torch.tensor([1.0]), 1)
    assert delta.tolist() == [2.0, -2.0, 2.0] and c.tolist() == [1.0, 1.0, 1.0]
    delta, _ = credit.hungers(links, wants, torch.tensor([True, False]), torch.zeros(2), torch.ones(2),
                                torch.tensor([2.0]), torch.tensor([1.0]), 1)
    assert delta.tolist() == [2.0, -2.0, 0.0]


def test_the_as_if_error_is_what_the_master_would_still_lack():
    """The newborn E says 1.5 beyond its mean and wants to be heard with 1: of 2, .5 would be left."""
    links, wants = torch.tensor([[-1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    delta, c = credit.hungers(links, wants, torch.tensor([True, True]), torch.tensor([0.0, 1.5]),
                              torch.ones(2), torch.tensor([2.0]), torch.tensor([1.0]), 1)
    assert delta.tolist() == [2.0, -2.0, 0.5] and c.tolist() == [1.0, 1.0, 1.0]
    # As if it were real: the slope of the loss of a net whose weight is what E wants.
    y, weight, said = torch.tensor(2.0), torch.tensor(1.0), torch.tensor(1.5, requires_grad=True)
    (-(y - weight * said)**2 / 2).backward()
    assert said.grad == delta[2]


def test_hungers_reach_a_unit_below_its_master():
    """D serves B with a shadow weight of -1: it is told to be active, as B shall be less so."""
    links = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])  # of C, B and D for B and D
    wants = torch.tensor([[0.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    delta, c = credit.hungers(links, wants, torch.tensor([True, True]), torch.zeros(2), torch.tensor([2.0, 1.0]),
                                torch.tensor([2.0]), torch.tensor([0.5]), 2)
    assert delta.tolist() == [2.0, -2.0, 2.0] and c.tolist() == [0.5, 0.5, 0.5]


def test_where_the_loss_is_saturated_weights_are_forgotten():
    """Two outputs and three units: the first output is sure of the wrong class."""
    delta = torch.tensor([0.9, -0.2, 0.5, 0.0, -0.1])
    c = torch.tensor([0.09, 0.16, 1.0, 1.0, 1.0])
    hyper = tensors({"forgetting": 0.1, "hidden_forgetting": 0.5}, torch.float32)
    forgetting = credit.saturation_decay(delta, c, 2, hyper)
    torch.testing.assert_close(forgetting["output"], torch.tensor([0.081, 0.004]))
    torch.testing.assert_close(forgetting["hidden"], torch.tensor([0.405, 0.0, 0.405]))


@pytest.mark.parametrize("error, forgets", [(0.99, False), (-1.5, True)])
def test_with_a_squared_error_outputs_alone_forget_and_from_over_1(error, forgets):
    """Its slope is -2 error and its curvature 2: it is never saturated."""
    hyper = tensors({"forgetting": 0.1, "hidden_forgetting": 0.5}, torch.float32)
    forgetting = credit.saturation_decay(torch.tensor([2 * error, 1.0]), torch.tensor([2.0, 1.0]), 1, hyper)
    assert (forgetting["output"] > 0) == forgets and forgetting["hidden"] == 0


@pytest.mark.parametrize("l1, silent", [(0.0, False), (0.2, True)])
def test_an_output_lets_go_of_what_it_hardly_uses(l1, silent):
    """Two inputs, and a target that is the first, with noise: the second must say nothing at all."""
    learner = network.dynamic_network(2, 1, 1)
    hyper = tensors({**BUSY, "growth_rate": 0.0, "meta_step_size": 0.0, "step_size": 0.02, "l1": l1},
                    torch.float32)
    rng, net, weights = np.random.default_rng(0), learner.start(torch.tensor(SEED)), []
    for x in rng.choice([-1.0, 1.0], (400, 2)):
        y = x[:1] + 0.1 * rng.normal(size=1)
        net, _ = learner.step(net, hyper, *torches(x, y, torch.float32))
        weights.append(net["params"]["output"][0, :2])
    needed, other = torch.stack(weights[200:]).T
    # What is needed is heard a little less: where the slope of the loss, 2 (w - 1), is as large as l1.
    assert needed.mean() == pytest.approx(1 - l1 / 2, abs=0.01)
    assert (other.median() == 0) == silent


def test_units_are_levelled_and_inputs_are_not():
    units = {"spread": torch.tensor([0.5, 0.0, 0.3, 0.0]), "level": torch.ones(2)}
    level = credit.activity_scaling(units, tensors({"levelling": 0.5}, torch.float32))
    torch.testing.assert_close(level, torch.tensor([1.0, 1.0, 0.4**-0.5, 0.1**-0.5]))


@pytest.mark.parametrize("hunger, may, who, sign", [
    ([2.0, -0.5, 1.0], [True, True, True], 0, 1.0),
    ([2.0, -5.0, 1.0], [True, True, True], 1, -1.0),
    ([2.0, -5.0, 1.0], [True, False, True], 0, 1.0),
    ([0.0, -5.0, 0.0], [True, False, False], 0, 1.0),
])
def test_the_hungriest_becomes_the_master(hunger, may, who, sign):
    master, found = shadow.choose_master(torch.tensor(hunger), torch.tensor(may))
    assert master.nonzero().tolist() == [[who]] and found == sign


def test_an_imprint_is_positive_to_what_is_active_and_negative_to_what_is_silent():
    x, mean = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.full((4,), 0.5)
    weights, bias = shadow.imprint(x, mean, torch.ones(4) > 0, 1.0)
    torch.testing.assert_close(weights, torch.tensor([0.5, -0.5, 0.5, -0.5]))
    assert bias == 0 and weights @ x + bias > 0
    weights, bias = shadow.imprint(x, mean, torch.tensor([True, True, False, False]), 2.0,
                                   torch.full((4,), 0.25))
    torch.testing.assert_close(weights, torch.tensor([2**0.5 + 0.25, 0.25 - 2**0.5, 0.0, 0.0]))
    torch.testing.assert_close(bias, torch.tensor(-0.25))


def test_what_is_unusual_counts_most():
    weights, _ = shadow.imprint(torch.tensor([1.0, 1.0]), torch.tensor([0.9, 0.2]),
                                torch.ones(2) > 0, 1.0)
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor(8.0))


@pytest.mark.parametrize("wish", [1.0, -1.0])
def test_an_imprint_does_not_ask_for_the_sign_of_the_shadow_weight(wish):
    """Whichever way the output errs, the newborn is the same, and only its wish differs."""
    learner, net = hidden_by_hand(outputs=1)
    net["units"]["level"][3] = 0
    net["units"]["due"] += 1
    x = torch.tensor([1.0, 0.0, 1.0, 0.0]).double()
    hyper = tensors({**learner.settings, **BUSY, "noise": 0.0})
    net, _ = learner.step(net, hyper, 0 * x, torch.zeros(1).double() + 1e3 * wish)
    net["units"]["level"][4] = 0
    net["units"]["due"] += 1
    net, _ = learner.step(net, hyper, x, torch.zeros(1).double() + 1e4 * wish)
    assert net["shadow"][0, 3:].tolist() == [wish, wish]
    torch.testing.assert_close(net["params"]["hidden"][4, :4],
                               torch.tensor([1.0, 0.0, 1.0, 0.0]).double() / 2**0.5)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_random_network_to_start_from_is_full_feed_forward_and_heard_by_no_output(depth):
    learner = network.dynamic_network(4, 5, 2, depth=depth, grown=False)
    net, other = (learner.start(torch.tensor(seed)) for seed in (1, 2))
    W, level = net["params"]["hidden"], net["units"]["level"]
    assert level.tolist() == [1 + k % depth for k in range(5)]
    assert not net["params"]["output"].any() and not net["shadow"].any() and not W[:, -1].any()
    may = network._may_hear(level, level, 4)[:, :W.shape[1] - 1]
    assert torch.equal(W[:, :-1] != 0, may)
    bound = network.weight_bound(4, "relu")
    assert bound / 2 < W.abs().max() <= bound and not torch.equal(W, other["params"]["hidden"])
    # With no births, no shadow weights and no levels to climb it is a network that only learns.
    hyper = tensors({**learner.settings, **BUSY, "shadow": 0.0, "replacement_rate": 0.0}, torch.float32)
    for x, y in zip(*torches(*problem(100, 4, 2, "squared_error"), torch.float32)):
        net, _ = learner.step(net, hyper, x, y)
    assert torch.equal(net["units"]["level"], level) and (net["units"]["age"] == 100).all()
    assert net["params"]["output"].any() and not torch.equal(W, net["params"]["hidden"])


# The engine -------------------------------------------------------------------------------------

STREAM = SlowlyChangingRegression(flip_period=2_000)
DYNAMIC = network.dynamic_network(20, 20, 1)
# As one would use it.
CALM = {"step_size": 0.03, "newcomer_step_size": 0.001, "meta_step_size": 0.03, "bound": 0.5,
        "joint": 1.0, "tau": 1e4, "mean_decay": 0.999, "input_mean_decay": 0.995,
        "utility_decay": 0.999, "growth_rate": 0.02,
        "replacement_rate": 5e-4, "maturity_threshold": 300.0, "join": 0.1, "leave": 0.03,
        "shadow": 1.0, "imprint": 1.0, "noise": 0.5, "centring": 1.0, "random_master": 0.0,
        "propagation": 1.0, "hungry_births": 1.0, "patience": 1.0,
        "levelling": 0.5, "forgetting": 0.1, "hidden_forgetting": 0.03, "l1": 3e-3, "fringe": 0.0,
        "as_if": 1.0, "protection": 0.0, "bound_rate": 1e-3}


def test_a_run_is_the_same_alone_and_among_others():
    learner = network.dynamic_network(20, 4, 1, depth=2)
    frames = [ensemble.run(STREAM, {"it": (learner, values)}, seeds, 200, 50, device="cpu")
              for seeds, values in [([3], BUSY), (range(5), {**BUSY, "shadow": [0.0, 1.0]})]]
    among = frames[1].query("seed == 3 and shadow == 1").squared_error
    np.testing.assert_allclose(among, frames[0].squared_error, rtol=1e-3)
    others = frames[1].query("seed == 3 and shadow == 0").squared_error
    assert not np.allclose(others, frames[0].squared_error, rtol=1e-3)


def test_the_compiled_loop_gives_what_the_plain_loop_gives(capsys):
    # Without a limit to the fringe the room is full after 400 examples; with one, units die.
    hasty = {**CALM, "growth_rate": 0.05, "fringe": [0.0, 4.0], "join": 0.7, "leave": 0.6}
    settings, seeds, results, died = ensemble.grid(DYNAMIC, **hasty), torch.arange(5), [], False
    for kind in ("eager", "scan"):
        nets, hypers = ensemble.start(DYNAMIC, settings, seeds)
        advance, scores = drivers.reused(kind, ensemble.batched(DYNAMIC.step)), []
        for t in range(0, 900, 300):
            lived = nets["units"]["level"].clone() > 0
            nets, score = advance(nets, hypers, *STREAM.examples(seeds, t, 300))
            died |= bool((lived & (nets["units"]["level"] == 0)).any())
            scores.append(score)
        results.append((tree_map(torch.clone, nets), torch.cat(scores)))
    assert "uncompiled" not in capsys.readouterr().out
    (one, scores), (other, same) = results
    assert died and torch.equal(one["units"]["age"], other["units"]["age"])  # born at the same moments
    assert (one["units"]["age"][..., 20:] < 150).any()  # after the first ones had filled the room
    torch.testing.assert_close(scores, same, rtol=2e-3, atol=2e-3)
    for a, b in zip(tree_leaves(one["params"]), tree_leaves(other["params"]), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def test_it_learns_what_backprop_with_as_many_units_does_not():
    learners = {"dynamic": (DYNAMIC, CALM),
                "backprop": (backprop((20, 20, 1)), {"step_size": 0.01})}
    frame = ensemble.run(SlowlyChangingRegression(), learners, range(5), 20_000, 1_000,
                         device="cpu", chunk=500)  # compiled above already
    error = window_mean(frame, "squared_error", ["learner"], 0.5, 1.0)
    ours, theirs = error["dynamic"], error["backprop"]
    assert ours.mean() < 0.5 * theirs.mean(), (ours.mean(), theirs.mean())


# Bad requests -----------------------------------------------------------------------------------

@pytest.mark.parametrize("ask, names", [
    (lambda: network.dynamic_network(0, 3, 1), ["inputs 0", "1 or more"]),
    (lambda: network.dynamic_network(2, 0, 1), ["units 0"]),
    (lambda: network.dynamic_network(2, 3, -1), ["outputs -1"]),
    (lambda: network.dynamic_network(2, 3, 1, depth=0), ["depth 0"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), growth_rate=[0.1, 1.5]),
     ["growth_rate 1.5"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), growth_rate=-0.1), ["growth_rate -0.1"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), replacement_rate=0.3),
     ["replacement_rate 0.3", "2.5e-01"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), replacement_rate=float("nan")),
     ["replacement_rate nan"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), bound=0), ["bound 0", "more than 0"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), step_size=[0.1, 0]), ["step_size 0"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), join=0.1, leave=0.2),
     ["leave 0.2", "join 0.1"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), l1=-0.1), ["l1 -0.1"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), fringe=[0, 0.5]), ["fringe 0.5"]),
    (lambda: ensemble.grid(network.dynamic_network(2, 4, 1), shadows=1), ["shadows", "shadow"]),
])
def test_a_bad_request_gives_one_clear_line(ask, names):
    with pytest.raises(ValueError) as raised:
        ask()
    message = str(raised.value)
    assert message and "\n" not in message
    assert all(name in message for name in names), message
