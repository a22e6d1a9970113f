"""Agents at work: worlds in torch, gymnasium environments, frictions, and going on after a kill."""

import builtins
import importlib.util
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap

from dyndl_lite.algorithms.continual_backprop import least_useful
from dyndl_lite.algorithms.optimisers import adam, l2
from dyndl_lite.experiment import checkpoint
from dyndl_lite.files import UserError
from dyndl_lite.rl import gymnasium_adapters, slippery_ant, train_ppo
from dyndl_lite.rl import navigation as navigation_module
from dyndl_lite.rl.environments import cart_pole
from dyndl_lite.rl.navigation import GOAL, navigation, new_code
from dyndl_lite.rl.policies import categorical, gaussian
from dyndl_lite.rl.ppo import ppo, RolloutConfig
from dyndl_lite.rl.rollouts import gymnasium_rollouts, torch_rollouts
from dyndl_lite.rl.train_ppo import Condition

ROOT = Path(__file__).resolve().parent.parent
needs_mujoco = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="no MuJoCo")
SMALL = RolloutConfig(envs=3, steps=8, epochs=2, minibatches=2)


NAVIGATING = torch_rollouts(navigation, new_code)
NAVIGATOR = ppo(16, gaussian(2, 0.5), (8, 8), "relu", l2(adam), least_useful())
BUSY = {"step_size": 1e-2, "replacement_rate": 0.1, "maturity_threshold": 5}


# navigation -------------------------------------------------------------------------------------

def test_navigation_is_what_its_text_says():
    code = navigation.code(torch.tensor(3), 0)
    state = navigation.start(torch.tensor([0.2, 0.9, 0.0, 0.0]), code)
    (W, phase), place = code, np.array([0.2, 0.9])
    np.testing.assert_allclose(navigation.observe(state), np.sqrt(2) * np.cos(
        W.numpy() @ place + phase.numpy()), rtol=1e-4, atol=1e-5)
    for t, action in enumerate([(1.0, 1.0), (-0.5, 0.1), (-9.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 0.0)]):
        state, reward, terminal, truncated = navigation.step(state, torch.tensor(action))
        place = np.clip(place + 0.2 * np.array(action), 0, 1)
        np.testing.assert_allclose(state["place"], place, rtol=1e-5)
        assert float(reward) == pytest.approx(-np.hypot(*(place - GOAL)), rel=1e-4)
        assert not terminal and bool(truncated) == (t == 5)
    new = navigation.restart(state, torch.tensor(True), torch.tensor([0.3, 0.4, 0, 0]))
    assert new["age"] == 0 and torch.equal(new["place"], torch.tensor([0.3, 0.4]))


def test_codes_differ_by_task_and_seed_and_are_equally_rough():
    codes = [navigation.code(torch.tensor(s), n)[0] for s in range(20) for n in range(20)]
    assert len({float(c[0, 0]) for c in codes}) == 400
    assert float(torch.stack(codes).std()) == pytest.approx(4, rel=0.03)


def test_the_ends_of_the_scale_beside_a_simulation_in_numpy():
    rng = np.random.default_rng(0)
    for name, choose in (("aimless", lambda p: 0 * p), ("straight", lambda p: (0.5 - p) / 0.2)):
        place, total = rng.random((20_000, 2)), 0
        for _ in range(6):
            action = choose(place) + 0.5 * rng.standard_normal(place.shape)
            place = np.clip(place + 0.2 * action, 0, 1)
            total -= np.hypot(*(place - 0.5).T).mean()
        found = navigation_module.expected_return(getattr(navigation_module, name))
        assert found == pytest.approx(total, abs=0.02)


# the ensemble -----------------------------------------------------------------------------------

def live(arms, seeds, iterations=4, place=NAVIGATING, agent=NAVIGATOR, **more):
    return train_ppo.train_ppo(place, agent, arms, seeds, iterations, 2, 2, SMALL, **more)


def rows(frame, learner, seed):
    return frame[(frame.learner == learner) & (frame.seed == seed)].drop(columns="learner")


def test_a_run_is_the_same_in_other_company():
    arms = {"a": Condition(BUSY), "b": Condition({**BUSY, "step_size": 1e-3}), "c": Condition(BUSY, "all")}
    together, alone = live(arms, range(3)), live({"b": arms["b"]}, [2])
    np.testing.assert_allclose(rows(together, "b", 2), rows(alone, "b", 2), rtol=1e-3, atol=1e-4)
    assert list(together.columns[:6]) == ["learner", "seed", "step", "task", "reward", "return"]
    assert list(rows(together, "a", 0).step) == [48, 96] and list(rows(together, "a", 0).task) == [1, 2]


def test_conditions_meet_the_same_world_until_they_differ():
    arms = {"plain": Condition(BUSY), "fresh": Condition(BUSY, "all"), "heads": Condition(BUSY, "heads"),
            "stays": Condition(BUSY, stationary=True)}
    frame = live(arms, range(2))
    for name in arms:
        first = rows(frame, name, 1).iloc[0]
        np.testing.assert_array_equal(first, rows(frame, "plain", 1).iloc[0])
    assert rows(frame, "plain", 1)["return"].iloc[1] != rows(frame, "stays", 1)["return"].iloc[1]


def test_what_is_reset():
    agents, fresh = vmap(NAVIGATOR.start)(torch.arange(3)), vmap(NAVIGATOR.start)(torch.arange(5, 8))
    agents["memory"]["per_weight"]["m"]["nets"][-1][0].fill_(9.0)
    new = train_ppo.reinitialise(agents, fresh, torch.tensor([True, False, False]),
                         torch.tensor([False, True, False]))
    for layer in range(3):
        for a, source in enumerate([fresh if layer == 2 else agents, fresh, agents]):
            assert torch.equal(new["params"]["nets"][layer][0][a], source["params"]["nets"][layer][0][a])
    assert [float(m.max()) for m in new["memory"]["per_weight"]["m"]["nets"][-1][0]] == [0, 0, 9]


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    arms = {"a": Condition(BUSY), "b": Condition(BUSY, stationary=True)}
    whole, save, count = live(arms, range(2)), checkpoint.save, []

    def die(path, state):
        save(path, state)
        count.append(state["t"])
        if count[-1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", die)
    with pytest.raises(KeyboardInterrupt):
        live(arms, range(2), folder=tmp_path, save_every=0)
    monkeypatch.setattr(checkpoint, "save", save)
    again = live(arms, range(2), folder=tmp_path)
    assert count == [0, 1] and again.equals(whole)


@pytest.mark.parametrize("given, message", [
    ({"arms": {"a": Condition({"step": 1})}}, "'step' is unknown to ppo"),
    ({"arms": {"a": Condition(BUSY, "head")}}, "resets 'head'"),
    ({"arms": {"a": Condition({"step_size": [1e-2, 1e-3]})}}, "'a' has 2 settings"),
    ({"arms": {}}, "conditions is empty"),
    ({"seeds": []}, "seeds is empty"),
    ({"iterations": 0}, "iterations 0"),
])
def test_what_does_not_fit_is_an_error_before_work(given, message):
    given = {"arms": {"a": Condition(BUSY)}, "seeds": range(1), **given}
    with pytest.raises(ValueError, match=message):
        live(**given)


# gymnasium --------------------------------------------------------------------------------------

def on_gymnasium(name, **more):
    return gymnasium_rollouts(lambda seed: gymnasium.make(name, **more))


class Counting(gymnasium.Env):
    """Tells the time; its end is real after some steps, or, with a wrapper, time runs out."""

    observation_space = gymnasium.spaces.Box(-1, 1_000, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, end):
        self.end, self.episode = end, 0

    def reset(self, **given):
        super().reset(**given)
        self.episode, self.t = self.episode + 1, 0
        return np.array([self.episode, 0], np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.episode, self.t], np.float32), self.t, self.t == self.end, False, {}


@pytest.mark.parametrize("end, limit", [(3, 99), (99, 3)])
def test_ends_and_time_limits_are_told_apart_and_last_observations_kept(end, limit):
    agent, routine = ppo(2, categorical(2), (4,)), RolloutConfig(2, 7, 1, 1)
    place = gymnasium_rollouts(
        lambda seed: gymnasium.wrappers.TimeLimit(Counting(end), limit))(
            agent, torch.tensor([0]), None, routine, False)
    place.begin(0)
    found = place.collect(vmap(agent.start)(torch.tensor([0]))["params"], 0)
    for env in range(2):
        assert found["observation"][:, 0, env].tolist() == [
            [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2], [3, 0]]
        assert found["next_observation"][:, 0, env].tolist() == [
            [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3], [3, 1]]
        assert found["reward"][:, 0, env].tolist() == [1, 2, 3, 1, 2, 3, 1]
        assert found["over"][:, 0, env].tolist() == 2 * [False, False, True] + [False]
        assert torch.equal(found["terminal"][:, 0, env], found["over"][:, 0, env] & (end == 3))


def test_the_loop_meets_what_gymnasium_s_vector_env_meets():
    agent, routine = ppo(4, categorical(2), (4,)), RolloutConfig(3, 60, 1, 1)
    place = on_gymnasium("CartPole-v1", max_episode_steps=15)(
        agent, torch.tensor([2]), None, routine, False)
    place.begin(0)
    found = place.collect(vmap(agent.start)(torch.tensor([2]))["params"], 0)
    theirs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1", max_episode_steps=15)] * 3,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
    seen, _ = theirs.reset(seed=[2_000, 2_001, 2_002])
    limits = 0
    for t in range(60):
        np.testing.assert_array_equal(found["observation"][t, 0], seen)
        seen, reward, terminal, truncated, info = theirs.step(
            found["action"][t, 0, :, 0].long().numpy())
        np.testing.assert_array_equal(found["terminal"][t, 0], terminal)
        np.testing.assert_array_equal(found["over"][t, 0], terminal | truncated)
        limits += (truncated & ~terminal).sum()
        for i in range(3):
            last = info["final_obs"][i] if terminal[i] or truncated[i] else seen[i]
            np.testing.assert_array_equal(found["next_observation"][t, 0, i], last)
    assert limits > 0 and found["terminal"].any()


def test_ppo_learns_cart_pole_in_seconds_on_gymnasium_and_in_torch():
    """A short real run: far above the 22 steps of a random policy, the same algorithm in both."""
    routine = RolloutConfig(envs=8, steps=64, epochs=6, minibatches=4)
    agent = ppo(4, categorical(2), (32, 32), "tanh")
    for place in (torch_rollouts(cart_pole), on_gymnasium("CartPole-v1")):
        frame = train_ppo.train_ppo(place, agent, {"ppo": Condition({"step_size": 2e-3})}, range(2), 20, 4,
                             config=routine)
        assert frame[frame.step == 20 * 512]["return"].min() > 70
        assert frame[frame.step == 4 * 512]["return"].max() < 70


def test_a_shorter_run_on_gymnasium_goes_on_bit_for_bit(tmp_path, capsys):
    place = on_gymnasium("CartPole-v1")
    agent = ppo(4, categorical(2), (8,))
    whole = live({"a": Condition({})}, range(2), 6, place, agent)
    live({"a": Condition({})}, range(2), 2, place, agent, folder=tmp_path)
    assert torch.load(tmp_path / "agents.pt", weights_only=True)["t"] == 2
    again = live({"a": Condition({})}, range(2), 6, place, agent, folder=tmp_path)
    assert "afresh" not in capsys.readouterr().out and again.equals(whole)


def test_an_environment_that_hides_its_state_is_not_saved():
    with pytest.raises(UserError, match="Counting does not tell its whole state"):
        gymnasium_adapters.save(Counting(3))


# Slippery Ant -----------------------------------------------------------------------------------

def test_friction_is_a_function_of_the_seed_log_uniform_in_its_range():
    values = np.array([slippery_ant.friction(s, n) for s in range(20) for n in range(50)])
    assert len(set(values)) > 990 and slippery_ant.friction(3, 4) == slippery_ant.friction(3, 4)
    shares = np.log(values / 0.02) / np.log(100)
    assert 0 <= shares.min() < 0.01 and 0.99 < shares.max() <= 1
    assert np.histogram(shares, 4, (0, 1))[0].min() > 200


def test_without_mujoco_one_line_says_so(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *more: None if name == "mujoco" else real(name, *more))
    text = slippery_ant.missing()
    assert "MuJoCo is not installed" in text and "\n" not in text


def test_a_world_without_mujoco_needs_no_import_of_it(monkeypatch):
    real = builtins.__import__

    def refuse(name, *more):
        if name.split(".")[0] == "mujoco":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    saved = gymnasium_adapters.save(reset(gymnasium.make("CartPole-v1")))
    gymnasium_adapters.load(gymnasium.make("CartPole-v1"), saved)


def reset(env, seed=5):
    env.reset(seed=seed)
    return env


def walk(env, actions):
    found = []
    for action in actions:
        seen, reward, terminal, truncated, _ = env.step(action)
        found.append([*seen, reward, terminal, truncated])
        if terminal or truncated:
            found.append([*env.reset()[0], 0, 0, 0])
    return np.array(found)


@needs_mujoco
def test_friction_changes_at_the_first_end_of_an_episode_after_each_period():
    env = slippery_ant.Slippery(gymnasium.make("Ant-v5", max_episode_steps=20), 3, 50)
    env.reset(seed=0)
    for t in range(1, 125):
        assert env.friction == slippery_ant.friction(3, (t > 60) + (t > 100))  # ends at 20, 40, ...
        model = env.unwrapped.model
        assert np.allclose(model.geom_friction[:, 0], env.friction, rtol=1e-12)
        assert np.allclose(model.geom_friction[:, 1:], 0.5)
        if env.step(np.zeros(8, np.float32))[3]:
            env.reset()


@needs_mujoco
def test_friction_is_felt():
    """Where two bodies touch, MuJoCo takes the larger friction: both must change."""
    far = []
    for period, number in ((10**9, 0), (10**9, 1)):
        env = slippery_ant.Slippery(gymnasium.make("Ant-v5"), 1, period)
        env.number = number
        env.slip()
        env.reset(seed=0)
        actions = np.random.default_rng(0).uniform(-1, 1, (100, 8)).astype(np.float32)
        far.append(walk(env, actions)[:, 0])
        contact = env.unwrapped.data.contact
        assert len(contact.friction) == 0 or np.allclose(contact.friction[:, 0], env.friction)
    assert not np.allclose(far[0][:60], far[1][:60])


@needs_mujoco
@pytest.mark.parametrize("name", ["Ant-v5", "Hopper-v5", "slippery"])
def test_a_simulator_goes_on_bit_for_bit_from_what_was_saved(name, tmp_path):
    def make():
        if name == "slippery":
            return slippery_ant.ant(3, 40)
        return gymnasium.make(name)

    env = reset(make())
    size = env.action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1, 1, (300, size)).astype(np.float32)
    walk(env, actions[:130])
    torch.save(gymnasium_adapters.save(env), tmp_path / "env.pt")
    again = make()
    gymnasium_adapters.load(again, torch.load(tmp_path / "env.pt", weights_only=True))
    np.testing.assert_array_equal(walk(again, actions[130:]), walk(env, actions[130:]))


def on_slippery_ground(**more):
    place = gymnasium_rollouts(lambda seed: slippery_ant.ant(seed, 20))
    agent = ppo(27, gaussian(8), (8,), "relu", adam, least_useful())
    arms = {"cbp": Condition({"replacement_rate": 0.1, "maturity_threshold": 3})}
    return live(arms, range(2), 8, place, agent, **more)


@needs_mujoco
def test_a_life_on_slippery_ground_that_is_killed_goes_on_bit_for_bit(tmp_path):
    """SIGKILL after some checkpoints; frictions have changed by then and change again."""
    program = f"""if True:
        import os, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]
        import test_rl_practice as here
        save, count = here.checkpoint.save, []
        def die(*given):
            save(*given)
            count.append(1)
            if len(count) == 5:
                os.kill(os.getpid(), 9)
        here.checkpoint.save = die
        here.on_slippery_ground(folder={str(tmp_path)!r}, save_every=0)
    """
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    assert torch.load(tmp_path / "agents.pt", weights_only=True)["t"] == 4
    assert on_slippery_ground(folder=tmp_path).equals(on_slippery_ground())
