"""Streaming learners against a plain loop in numpy, and what must hold whatever they learn."""

import math
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from reference_streaming import live
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.continual_backprop import least_useful
from dyndl_lite.algorithms.resets import unit_reset
from dyndl_lite.bench import rl
from dyndl_lite.dynamic.network import dynamic_network
from dyndl_lite.experiment import checkpoint, ensemble
from dyndl_lite.files import UserError
from dyndl_lite.learning import Learner
from dyndl_lite.rl import gymnasium_adapters, interaction, stream_x, train_streaming
from dyndl_lite.rl.dqn import dqn, ppo_of_one
from dyndl_lite.rl.environments import cart_pole, pendulum, signed_permutation
from dyndl_lite.rl.policies import categorical, gaussian
from dyndl_lite.rl.streaming import dynamic_q, stream_ac, stream_q, stream_td

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data"))
import record_streaming  # noqa: E402
import recording  # noqa: E402

AGENTS = {"q": stream_q(4, 2, (8, 6)), "ac": stream_ac(4, 2, (8, 6)), "td": stream_td(4, (8, 6))}


def hyper_of(agent, **changed):
    return {k: torch.tensor(float(v)) for k, v in (agent.settings | changed).items()}


def double(life):
    return tree_map(lambda a: a.double() if a.is_floating_point() else a, life)


@pytest.mark.parametrize("who, steps, changed", [
    ("q", 1_200, {"exploration": 500, "epsilon": 0.1}),
    ("q", 300, {"exploration": 500, **stream_x.CLASSIC, "step_size": 0.003, "cut": 0}),
    ("ac", 1_000, {}),
    ("ac", 300, {"normalise": 0, "sparsity": 0, "bounded": 0, "step_size": 0.01}),
    ("td", 300, {}),
    ("td", 200, {"layer_norm": 0, "scale_rewards": 0, "kappa": 1}),
])
def test_the_same_life_as_a_plain_loop(who, steps, changed):
    """Agent and world, time limits and ends, over thousands of steps in all: the same numbers."""
    agent, seed, world = AGENTS[who], 4, cart_pole._replace(limit=40)
    hyper = hyper_of(agent, **changed)
    start, step = interaction.interaction(agent, world)
    now = double(start(torch.tensor(seed), hyper))
    numbers = {name: float(value) for name, value in hyper.items()}
    record, nets, x = live(who, now, numbers, seed, steps, 40)
    hyper = {name: value.double() for name, value in hyper.items()}
    for t in range(steps):
        now, report = step(now, hyper)
        assert (float(report[0]), bool(report[1])) == record[t], t
    assert sum(over for _, over in record) > 3
    np.testing.assert_allclose(now["x"], x, rtol=1e-4, atol=1e-6)
    for name, net in zip(["critic", "actor"], nets):
        for (W, b), W_ref, b_ref in zip(now["agent"][name]["params"], net.W, net.b):
            np.testing.assert_allclose(W, W_ref, rtol=1e-3, atol=1e-5)  # 1 200 steps amplify rounding
            np.testing.assert_allclose(b, b_ref, rtol=1e-3, atol=1e-5)


def test_a_bounded_step_never_corrects_more_than_the_error():
    """For a linear function |delta z . g| <= |delta| wherever M counts, at any step size and scale."""
    g = torch.Generator().manual_seed(0)
    for scale in (1e-2, 1.0, 1e2):
        params = [(scale * torch.randn(3, 5, generator=g), torch.randn(3, generator=g))]
        gradient = tree_map(lambda w: scale * torch.randn(w.shape, generator=g), params)
        trace = tree_map(torch.zeros_like, params)
        delta, hyper = torch.tensor(7.0), hyper_of(AGENTS["q"], step_size=10.0)
        new, z = stream_x.obgd(params, trace, gradient, delta, torch.tensor(0.9), hyper, hyper["kappa"])
        moved = sum(((a - b).abs()).sum() for a, b in zip(tree_leaves(new), tree_leaves(params)))
        assert moved <= 1 / hyper["kappa"] + 1e-3  # |dw|_1 = alpha |delta| |z|_1 / M <= 1 / kappa


@pytest.mark.parametrize("fan_in, sparsity, kept", [(32, 0.9, 3), (10, 0.9, 1), (4, 0.9, 1),
                                                    (20, 0.0, 20), (20, 0.5, 10)])
def test_sparse_weights(fan_in, sparsity, kept):
    (W, b), _ = stream_x.sparse_init(torch.tensor(3), (fan_in, 50, 2), torch.tensor(sparsity))
    assert ((W != 0).sum(1) == kept).all() and W.abs().max() <= 1 / math.sqrt(fan_in)
    assert (b == 0).all() and len({tuple(row) for row in W.tolist()}) == 50
    if kept < fan_in:
        assert ((W != 0).float().mean(0) > 0).float().mean() > 0.7  # not always the same inputs


def test_statistics_are_those_of_all_values():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1)).double() * 5 + 2
    known = stream_x.new_statistics(x[0])
    for row in x:
        known = stream_x.update_statistics(known, row, torch.tensor(1e9))
    np.testing.assert_allclose(known["mean"], x.mean(0))
    np.testing.assert_allclose(stream_x.deviation(known) ** 2, x.var(0), rtol=1e-6)
    for row in torch.full((400, 3), 9.0).double():  # with a horizon, what is past fades
        known = stream_x.update_statistics(known, row, torch.tensor(50.0))
    np.testing.assert_allclose(known["mean"], 9.0, atol=1e-2)


def test_distributions_against_torch():
    output, action = torch.tensor([0.3, -1.0, 2.0, 0.5]), torch.tensor([0.7, -0.2])
    normal = torch.distributions.Normal(output[:2], torch.nn.functional.softplus(output[2:]))
    policy = gaussian(2, "output")
    assert torch.isclose(policy.log_probability(output, {}, action), normal.log_prob(action).sum())
    assert torch.isclose(policy.entropy(output, {}), normal.entropy().sum())
    softmax, policy = torch.distributions.Categorical(logits=output), categorical(4)
    assert torch.isclose(policy.log_probability(output, {}, torch.tensor(2)),
                         softmax.log_prob(torch.tensor(2)))
    assert torch.isclose(policy.entropy(output, {}), softmax.entropy())


def test_actions_follow_their_distributions():
    agent, t = stream_ac(3, 3, (4,)), torch.arange(4_000)
    hyper, seed = hyper_of(agent), torch.tensor(0)
    mind, x = agent.start(seed, hyper), torch.tensor([1.0, -1.0, 0.5])
    actions = vmap(lambda t: agent.act(mind, hyper, x, seed, t)[0])(t)
    output, _ = stream_x.apply(mind["actor"]["params"], x, hyper["layer_norm"])
    share = torch.bincount(actions, minlength=3) / 4_000
    assert torch.allclose(share, torch.softmax(output, 0), atol=0.03)
    agent = stream_ac(3, 0, (4,), reals=2)
    mind = agent.start(seed, hyper_of(agent))
    actions = vmap(lambda t: agent.act(mind, hyper, x, seed, t)[0])(t)
    output, _ = stream_x.apply(mind["actor"]["params"], x, hyper["layer_norm"])
    assert torch.allclose(actions.mean(0), output[:2], atol=0.06)
    assert torch.allclose(actions.std(0), torch.nn.functional.softplus(output[2:]), atol=0.05)
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.05


def transition(**changed):
    return {"x": torch.tensor([1.0, 0.5, -1.0, 0.2]), "action": torch.tensor(1),
            "reward": torch.tensor(2.0), "next_x": torch.tensor([0.5, 0.1, 1.0, 0.3]),
            "terminal": torch.tensor(False), "over": torch.tensor(False),
            "explored": torch.tensor(False)} | {k: torch.tensor(v) for k, v in changed.items()}


@pytest.mark.parametrize("who", AGENTS)
def test_a_time_limit_is_bootstrapped_and_an_end_is_not(who):
    agent, seed, t = AGENTS[who], torch.tensor(1), torch.tensor(0)
    hyper = hyper_of(agent)
    mind = agent.start(seed, hyper)
    mind["critic"]["params"][-1] = (mind["critic"]["params"][-1][0],
                                    torch.full_like(mind["critic"]["params"][-1][1], 3.0))
    after = {name: agent.learn(mind, hyper, transition(**changed), seed, t)[0]["critic"]
             for name, changed in {"on": {}, "cut": {"over": True},
                                   "end": {"over": True, "terminal": True}}.items()}
    same = [torch.equal(a, b) for a, b in zip(tree_leaves(after["on"]["params"]),
                                              tree_leaves(after["cut"]["params"]))]
    assert all(same)  # a cut teaches what going on teaches
    assert after["end"]["params"][-1][1].max() < after["on"]["params"][-1][1].max()
    assert all((z == 0).all() for name in ("cut", "end") for z in tree_leaves(after[name]["memory"]))
    assert any((z != 0).any() for z in tree_leaves(after["on"]["memory"]))


def trace_of(mind):
    return mind["critic"]["memory"]["per_weight"]["trace"]


def without_trace(mind):
    empty = {"trace": tree_map(torch.zeros_like, trace_of(mind))}
    return {"critic": {**mind["critic"], "memory": {**mind["critic"]["memory"], "per_weight": empty}}}


def test_exploration_cuts_before_it_is_learned_from_or_after_or_never():
    agent, seed, t = AGENTS["q"], torch.tensor(1), torch.tensor(0)
    hyper = hyper_of(agent)
    mind = agent.learn(agent.start(seed, hyper), hyper, transition(), seed, t)[0]

    def learn(mind, cut, explored):
        return agent.learn(mind, hyper | {"cut": torch.tensor(cut)}, transition(explored=explored), seed, t)[0]

    on = learn(mind, 0.0, False)
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(learn(mind, 0.0, True)), tree_leaves(on)))
    before, alone = learn(mind, 1.0, True), learn(without_trace(mind), 1.0, False)
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(before), tree_leaves(alone)))
    after = learn(mind, 2.0, True)  # as released: what came before still learns, then all is forgotten
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(after["critic"]["params"]),
                                                 tree_leaves(on["critic"]["params"])))
    assert all((z == 0).all() for z in tree_leaves(trace_of(after)))
    assert any((z != 0).any() for z in tree_leaves(trace_of(before)))


@pytest.mark.parametrize("tracked", [1.0, 0.0])
def test_the_scale_of_rewards_as_released_and_as_published(tracked):
    """Beside the release's and Algorithm 5's lines; rewards of mean 3 tell them apart."""
    rng = np.random.default_rng(0)
    rewards, ends = 3 + rng.normal(size=60), rng.random(60) < 0.1
    hyper = {name: torch.tensor(value) for name, value in
             {**stream_x.SCALES, "tracked_mean": tracked}.items()}
    scaler, u, n, p, mean = stream_x.new_scaler(torch.tensor(0.0).double()), 0.0, 0, 0.0, 0.0
    for r, over in zip(rewards, ends):
        scaler, scale = stream_x.scale_reward(scaler, torch.tensor(r), torch.tensor(bool(over)), hyper)
        u, n = 0.99 * (1 - over) * u + r, n + 1
        before = mean if tracked else 0.0
        mean = before + (u - before) / n
        p += (u - before) * (u - mean)
        assert float(scale) == pytest.approx(np.sqrt((p / (n - 1) if n > 1 else 1.0) + 1e-8), rel=1e-5)


@pytest.mark.parametrize("make", [stream_q, stream_ac, lambda n, a, h, *after: stream_td(n, h, *after)])
@pytest.mark.parametrize("after, values, message", [
    (least_useful(), {"replacement_rate": 0.9}, "replacement_rate 0.9"),
    (unit_reset("redo"), {"reset_period": 0}, "reset_period 0")])
def test_a_setting_that_cannot_run_is_refused(make, after, values, message):
    agent = make(4, 2, (8, 6), after)
    with pytest.raises(ValueError, match=message):
        train_streaming.train_streaming(agent, cart_pole, {"it": values}, [0], 20, 10)


def test_an_agent_made_for_another_environment_is_refused():
    for agent in (stream_q(4, 3), stream_q(3, 2), stream_ac(4, 0), dqn(4, 3)):
        with pytest.raises(ValueError, match="the agent is made for"):
            train_streaming.train_streaming(agent, cart_pole, {"it": {}}, [0], 20, 10)
        with pytest.raises(ValueError, match="the agent is made for"):
            train_streaming.train_streaming(agent, gymnasium_adapters.find("CartPole-v1"), {"it": {}}, [0], 20, 10)


@pytest.mark.parametrize("changed", [{}, {"over": True}, {"over": True, "terminal": True}])
def test_a_dynamic_network_is_told_of_one_action_what_it_was_worth(changed):
    """It learns what `dynamic` learns from r + gamma max q(s'), by hand; other actions have no error."""
    agent, learner, g = dynamic_q(4, 3, 6), dynamic_network(4, 6, 3), torch.Generator().manual_seed(0)
    seed, hyper = torch.tensor(1), hyper_of(agent, growth_rate=0.5)
    net = agent.start(seed, hyper)
    for t in range(40):  # some units, some values
        net, _ = learner.step(net, hyper, torch.randn(4, generator=g), torch.randn(3, generator=g))

    def q(x):  # of one level of units, with nothing of the library
        W, V = net["params"]["hidden"], net["params"]["output"]
        h = torch.clamp(W[:, :-1] @ x + W[:, -1], min=0) * (net["units"]["level"] == 1)
        return V[:, :-1] @ torch.cat([x, h]) + V[:, -1]

    seen = transition(**changed)
    target = q(seen["x"])
    assert (target != 0).all() and (net["units"]["level"] == 1).sum() > 3
    target[1] = 2.0 + (0 if "terminal" in changed else 0.99 * q(seen["next_x"]).max())
    wanted, _ = learner.step(net, hyper, seen["x"], target)
    found, v = agent.learn(net, hyper, seen, seed, torch.tensor(0))
    assert v == pytest.approx(float(q(seen["x"])[1]), rel=1e-4)
    for a, b in zip(tree_leaves(found), tree_leaves(wanted)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    change = (found["params"]["output"] - net["params"]["output"]).abs().sum(1)
    assert change[1] > 1e-4 and change[[0, 2]].max() < 1e-5
    choices = vmap(lambda t: agent.act(net, hyper, seen["x"], seed, t)[0])(torch.arange(10_000, 10_200))
    assert (choices == q(seen["x"]).argmax()).float().mean() > 0.95


def test_a_reborn_unit_inherits_nothing_and_leaves_its_mean():
    agent = stream_q(4, 2, (8, 6), least_useful())
    hyper = hyper_of(agent, replacement_rate=0.02, maturity_threshold=3)
    seed = torch.tensor(1)
    mind, g, reborn = agent.start(seed, hyper), torch.Generator().manual_seed(0), 0
    for t in range(30):
        seen = transition() | {"x": torch.randn(4, generator=g), "next_x": torch.randn(4, generator=g)}
        before, mind = mind, agent.learn(mind, hyper, seen, seed, torch.tensor(t))[0]
        for layer, (old, new) in enumerate(zip(before["critic"]["after"][0]["units"],
                                              mind["critic"]["after"][0]["units"])):
            for unit in torch.where(new["age"] < old["age"])[0].tolist():
                reborn += 1
                (W, b), (W_next, _) = mind["critic"]["params"][layer:layer + 2]
                (z, z_b), (z_next, _) = mind["critic"]["memory"]["per_weight"]["trace"][layer:layer + 2]
                assert b[unit] == 0 and (W_next[:, unit] == 0).all() and (z_next[:, unit] == 0).all()
                assert (z[unit] == 0).all() and z_b[unit] == 0
                if layer == 0:  # one weight of four, as at birth
                    assert torch.equal(W[unit], before["critic"]["after"][0]["fresh"][0])
                    assert (W[unit] != 0).sum() == 1
    assert reborn >= 4


def test_no_replacement_is_no_change():
    plain, replacing = AGENTS["ac"], stream_ac(4, 2, (8, 6), least_useful())
    found = [train_streaming.rollout(agent, cart_pole, {"it": {}}, [3], 60)[1]
             for agent in (plain, replacing)]
    assert torch.equal(*found)


@pytest.mark.parametrize("make", [stream_q, stream_ac, dqn, ppo_of_one, dynamic_q,
                                  lambda n, a: stream_td(n)])
def test_an_agent_s_course_depends_on_its_seed_alone(make, monkeypatch):
    agent = make(4, 2)
    _, alone = train_streaming.rollout(agent, cart_pole, {"it": {}}, [7], 25)
    variants = {"it": {}, "other": {"discount": [0.9, 0.5]}}
    monkeypatch.setattr(train_streaming, "CHUNK", 10)
    settings, together = train_streaming.rollout(agent, cart_pole, variants, [3, 7], 25)
    assert [name for name, _ in settings] == ["it", "other", "other"]
    assert torch.allclose(alone[:, 0, 0], together[:, 0, 1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:, 0, 0], together[:, 0, 1])


@pytest.mark.parametrize("place", ["ours", "gymnasium's"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys, place):
    environment = cart_pole if place == "ours" else gymnasium_adapters.find("CartPole-v1")

    def run(**more):
        return train_streaming.train_streaming(
            AGENTS["q"], environment, {"a": {"kappa": [2, 3]}}, range(2), 60, 20,
            probes=[interaction.probe()], **more)

    whole, saved = run(), []
    save = checkpoint.save

    def killed(path, state):
        save(path, state)
        saved.append(state["t"])
        if state["t"] == 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path, name="q", save_every=0)
    again = run(folder=tmp_path, name="q")
    assert saved == [0, 20, 40, 60] and "afresh" not in capsys.readouterr().out
    assert whole.equals(again) and (tmp_path / "q.pt").exists()
    assert {"return", "reward", "episodes", "value", "critic_effective_rank"} <= set(again)
    assert len(again) == 2 * 2 * 3


def test_other_changes_do_not_continue_a_checkpoint(tmp_path, capsys):
    """They are told apart by what they do, so that a corrected mistake takes effect."""
    def recoded(period):
        return lambda seed, t: {"code": signed_permutation(seed, t // period, 4)}

    def run(period, **more):
        return train_streaming.train_streaming(AGENTS["q"], cart_pole, {"a": {}}, [0], 60, 60,
                                               recoded(period), **more)

    run(10, folder=tmp_path)
    same = run(10, folder=tmp_path)
    assert "afresh" not in capsys.readouterr().out
    other = run(20, folder=tmp_path)
    assert "afresh" in capsys.readouterr().out
    assert other.equals(run(20)) and not other.equals(same)


def test_a_simulator_that_cannot_be_saved_is_refused_before_it_is_stepped(tmp_path):
    class Secret(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, **given):
            super().reset(**given)
            return np.zeros(4, np.float32), {}

        def step(self, action):
            raise AssertionError("stepped")

    with pytest.raises((ValueError, UserError), match="state") as raised:
        train_streaming.train_streaming(AGENTS["q"], Secret, {"a": {}}, range(2), 60, 20,
                                        folder=tmp_path)
    assert "checkpoint" in str(raised.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["ours", "gymnasium's"])
def test_a_run_says_what_is_wrong_before_it_begins(place):
    environment = cart_pole if place == "ours" else gymnasium_adapters.find("CartPole-v1")

    def train(agent, variants, seeds, steps, bin):
        train_streaming.train_streaming(agent, environment, variants, seeds, steps, bin)

    with pytest.raises(ValueError, match="bin 0: both must be at least 1"):
        train(AGENTS["q"], {"a": {}}, [0], 20, 0)
    with pytest.raises(ValueError, match="kapa.*unknown"):
        train(AGENTS["q"], {"a": {"kapa": 1}}, [0], 20, 10)
    with pytest.raises(ValueError, match="seeds is empty"):
        train(AGENTS["q"], {"a": {}}, [], 20, 10)
    with pytest.raises(ValueError, match="replacement_rate"):
        train(stream_q(4, 2, (4,), least_useful()), {"a": {"replacement_rate": 0.9}}, [0], 20, 10)


def test_a_changing_world_changes_at_the_first_start_after_it():
    def changes(seed, t):
        return {"code": signed_permutation(seed, t // 50, 4)}

    start, step = interaction.interaction(AGENTS["q"], cart_pole, changes)
    hyper, seed = hyper_of(AGENTS["q"]), torch.tensor(2)
    now = start(seed, hyper)
    for t in range(160):
        code = now["environment"]["code"]
        now, report = step(now, hyper)
        wanted = signed_permutation(seed, (t + 1) // 50, 4)
        assert torch.equal(now["environment"]["code"], wanted if report[1] else code)


def test_dqn_keeps_the_last_transitions_and_can_be_left_with_one():
    agent, seed = dqn(4, 2, (6,), capacity=8, batch=16), torch.tensor(0)
    hyper = hyper_of(agent, buffer=1, warm_up=0, target_period=3)
    mind = agent.start(seed, hyper)
    for t in range(11):
        seen = transition(reward=float(t))
        mind = agent.learn(mind, hyper, seen, seed, torch.tensor(t))[0]
        fresh = torch.equal(mind["target"][0][0], mind["critic"]["params"][0][0])
        assert fresh == ((t + 1) % 3 == 0)
    assert sorted(mind["buffer"][:, -2].tolist()) == list(range(3, 11))
    # With a buffer of 1 a batch is 16 times the last transition: another capacity is the same.
    other = dqn(4, 2, (6,), capacity=3, batch=1)
    twin = other.start(seed, hyper)
    for t in range(11):
        twin = other.learn(twin, hyper, transition(reward=float(t)), seed, torch.tensor(t))[0]
    assert torch.allclose(twin["critic"]["params"][0][0], mind["critic"]["params"][0][0], atol=1e-5)


def test_agents_in_gymnasium_and_in_our_environment_fare_alike():
    """Returns of untrained agents agree, ends and rewards are counted."""
    train = train_streaming.train_streaming
    make = gymnasium_adapters.find("CartPole-v1")
    assert gymnasium_adapters.sizes(make) == (4, 2, 0)
    theirs = train(AGENTS["q"], make, {"a": {}}, range(8), 80, 40)
    ours = train(AGENTS["q"], cart_pole, {"a": {}}, range(8), 80, 40)
    assert list(theirs.columns) == list(ours.columns)
    assert (theirs.reward == 1).all() and theirs.episodes.sum() > 10
    assert abs(theirs["return"].mean() - ours["return"].mean()) < 6
    pendulum_s = gymnasium_adapters.find("Pendulum-v1")
    moves = train(stream_ac(3, 0, (4,)), pendulum_s, {"a": {}}, [0], 200, 200)
    assert moves.episodes.item() == 1 and -2500 < moves["return"].item() < -300
    assert gymnasium_adapters.sizes(pendulum_s) == (3, 0, 1)


def test_a_missing_simulator_is_told_in_one_line(monkeypatch):
    with pytest.raises(UserError, match="no environment 'Nope-v1'"):
        gymnasium_adapters.find("Nope-v1")
    monkeypatch.setattr(gymnasium_adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install MinAtar"):
        gymnasium_adapters.find("MinAtar/Breakout-v1")


def test_the_pendulum_is_swung_by_real_numbers():
    _, reports = train_streaming.rollout(stream_ac(3, 0, (4,)), pendulum, {"it": {}}, [0], 5)
    assert torch.isfinite(reports).all() and (reports[..., 0] < 0).all()
    assert random.ACTION != random.EXPLORE


def test_the_plain_loop_of_the_bench_learns_as_ours_does():
    plain, agent, seed = rl.PlainStreamQ(), stream_q(4, 2), torch.tensor(0)
    hyper, g = hyper_of(agent), torch.Generator().manual_seed(0)
    mind = agent.start(seed, hyper)
    with torch.no_grad():
        for layer, (W, b) in zip(plain.layers, mind["critic"]["params"]):
            layer.weight.copy_(W), layer.bias.copy_(b)
    for t in range(40):
        seen = transition(over=t % 7 == 6, terminal=t % 14 == 6, explored=t % 5 == 0) | {
            "x": torch.randn(4, generator=g), "next_x": torch.randn(4, generator=g)}
        mind = agent.learn(mind, hyper, seen, seed, torch.tensor(t))[0]
        plain.learn(seen["x"], 1, 2.0, seen["next_x"], bool(seen["terminal"]), bool(seen["over"]),
                    bool(seen["explored"]))
    for layer, (W, b) in zip(plain.layers, mind["critic"]["params"]):
        torch.testing.assert_close(layer.weight.detach(), W, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(layer.bias.detach(), b, rtol=1e-3, atol=1e-5)
    plain.live(200)
    row, = rl.measure(rounds=1, quick=True)
    assert (row["learner"], row["runs"]) == ("stream_q", 30)
    assert row["ratio"] == pytest.approx(row["rate"] / row["loop_rate"]) and row["ratio"] > 0


def test_ppo_is_timed_beside_a_library_if_it_is_there(monkeypatch):
    pytest.importorskip("stable_baselines3")
    row, = rl.measure_ppo(rounds=1, quick=True)
    assert (row["learner"], row["runs"]) == ("ppo", 10) and row["rate"] > 0 and row["loop_rate"] > 0
    monkeypatch.setattr(rl.importlib.util, "find_spec", lambda name: None)
    assert rl.measure_ppo() == []


@pytest.mark.parametrize("name", record_streaming.PARTS)
def test_every_recorded_part_can_run(name):
    part = record_streaming.PARTS[name]
    sizes = (part.world.observations, part.world.actions, 1) if part.world else (
        (11, 0, 3) if "Hopper" in name else (400, 3, 0))
    agent = part.make(*sizes)
    like = Learner(None, None, agent.settings, agent.description, 0)
    for values in part.variants.values():
        assert ensemble.grid(like, **values)
    assert part.steps % 10 == 0


@pytest.mark.parametrize("make", [record_streaming.q, record_streaming.dynamic])
def test_who_begins_anew_remembers_nothing(make, monkeypatch):
    monkeypatch.setattr(record_streaming, "PERIOD", 5)
    agent, g, seed = record_streaming.afresh(make)(4, 2, 1), torch.Generator().manual_seed(0), torch.tensor(3)
    hyper = hyper_of(agent)
    mind = first = agent.start(seed, hyper)
    seen = [transition() | {"x": torch.randn(4, generator=g), "next_x": torch.randn(4, generator=g)}
            for _ in range(9)]
    for t in range(9):
        mind, _ = agent.learn(mind, hyper, seen[t], seed, torch.tensor(t))
    plain, newborn = make(4, 2, 1), first["first"]
    for t in range(5, 9):  # what was learned from before has left no trace
        newborn, _ = plain.learn(newborn, hyper, seen[t], seed, torch.tensor(t))
    same = [torch.equal(a, b) for a, b in zip(tree_leaves(mind["now"]), tree_leaves(newborn))]
    assert all(same)
    moved = [not torch.equal(a, b) for a, b in zip(tree_leaves(mind["now"]), tree_leaves(first["now"]))]
    assert any(moved)
    x = seen[0]["x"]
    assert torch.equal(agent.act(mind, hyper, x, seed, torch.tensor(9))[0],
                       plain.act(newborn, hyper, x, seed, torch.tensor(9))[0])


def test_rows_of_a_recorded_part(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "CHECKPOINTS", tmp_path)
    part = record_streaming.Part(
        lambda n, a, r: stream_q(n, a, (4,)),
        {"stream": {}, "classic": {**stream_x.CLASSIC, "step_size": [0.1, 0.01]}}, 250, cart_pole,
        seeds=3)
    monkeypatch.setitem(record_streaming.PARTS, "CartPole-v1/q", part)
    monkeypatch.setattr(record_streaming, "FEW", range(2))
    monkeypatch.setattr(record_streaming, "CURVES", range(2, 3))
    rows = record_streaming.record("CartPole-v1/q")
    assert list(rows.columns) == record_streaming.COLUMNS and set(rows.env) == {"CartPole-v1"}
    end = rows[rows.metric == "return_end"].set_index(["learner", "setting", "seed"])
    assert len(end) == 3 * 2 + 2 and ("classic", "step_size=0.01", 1) in end.index
    # The sweep chose with seeds 0 and 1; seed 2 reports, by itself or beside others the same.
    assert set(end.loc["classic"].groupby("seed").use.agg(set).map(tuple)) == {("choice",), ("report",)}
    assert (end.loc["stream"].use == "report").all()
    alone = record_streaming.live("again", part, {"stream": {}}, [2])
    late = alone[alone.step > 200]
    expected = (late["return"] * late.episodes).sum() / late.episodes.sum()
    assert end.value["stream", "step_size=1", 2] == pytest.approx(expected, rel=1e-4)
    choosing = end[end.use == "choice"].loc["classic"].value
    best = choosing.groupby("setting").mean().idxmax()
    curves = rows[rows.metric == "return"]
    assert set(curves[curves.learner == "classic"].setting) == {best}
    assert len(curves) == 2 * 10 and sorted(set(curves.step)) == list(range(25, 251, 25))
