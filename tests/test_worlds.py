"""The worlds: step by step the numbers of gymnasium, many at once, compiled, and changing."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite.rl.environments import (
    cart_pole,
    CLASSIC_CONTROL,
    mackey_glass,
    signed_permutation,
    slipped,
)

# Where gymnasium keeps what our physics are called.
NAMES = {
    "CartPole-v1": {"gravity": "gravity", "cart_mass": "masscart", "pole_mass": "masspole",
                    "length": "length", "force": "force_mag"},
    "Acrobot-v1": {"mass_1": "LINK_MASS_1", "mass_2": "LINK_MASS_2"},
    "MountainCar-v0": {"force": "force", "gravity": "gravity"},
    "Pendulum-v1": {"gravity": "g", "mass": "m", "length": "l"},
}


def set_physics(env, name, physics):
    for ours, theirs in NAMES[name].items():
        setattr(env.unwrapped, theirs, physics[ours])
    if name == "CartPole-v1":
        env.unwrapped.total_mass = physics["cart_mass"] + physics["pole_mass"]
        env.unwrapped.polemass_length = physics["pole_mass"] * physics["length"]


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("name", CLASSIC_CONTROL)
def test_the_same_numbers_as_gymnasium(name, other):
    """Whole episodes, with the usual physics and with others."""
    world, env, rng = CLASSIC_CONTROL[name], gymnasium.make(name), np.random.default_rng(0)
    physics = {k: v * (1.3 if other and k in NAMES[name] else 1) for k, v in world.physics.items()}
    set_physics(env, name, physics)
    swinging = {"MountainCar-v0": 1, "Acrobot-v1": 3}  # a speed; at random they never arrive
    if name in swinging:
        policy = lambda s: 2 * int(s["body"][swinging[name]] >= 0)
    elif world.actions:
        policy = lambda s: int(rng.integers(world.actions))
    else:
        policy = lambda s: float(rng.uniform(-1.2, 1.2))
    ends = {"terminal": 0, "truncated": 0}
    for _ in range(3):
        seen, _ = env.reset(seed=int(rng.integers(10**6)))
        state = tree_map(torch.Tensor.double, world.start(torch.rand(4, dtype=torch.float64)))
        state["physics"] = {k: torch.tensor(v, dtype=torch.float64) for k, v in physics.items()}
        state["body"] = torch.tensor(np.array(env.unwrapped.state, dtype=float))
        for _ in range(world.limit):
            action = policy(state)
            theirs = action if world.actions else np.array([2 * action], dtype=np.float64)
            seen, reward, over, cut, _ = env.step(theirs)
            state, r, terminal, truncated = world.step(state, torch.tensor(action, dtype=torch.float64))
            np.testing.assert_allclose(state["body"].numpy(), np.array(env.unwrapped.state, float),
                                       rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(world.observe(state).numpy(), seen, rtol=1e-5, atol=1e-6)
            assert (float(r), bool(terminal)) == (pytest.approx(float(reward), abs=1e-9), over)
            assert bool(truncated) == (cut and not over)
            state["body"] = torch.tensor(np.array(env.unwrapped.state, dtype=float))  # chaos
            if over or cut:
                ends["terminal" if over else "truncated"] += 1
                break
    assert ends == {"terminal": 3 * (world.actions > 0), "truncated": 3 * (world.actions == 0)}


@pytest.mark.parametrize("name", CLASSIC_CONTROL)
def test_starts_are_where_gymnasium_s_are(name):
    bodies = vmap(CLASSIC_CONTROL[name].start)(torch.rand(2_000, 4))["body"].numpy()
    env = gymnasium.make(name)
    theirs = np.array([(env.reset(seed=i), env.unwrapped.state)[1] for i in range(2_000)], float)
    for of in (np.min, np.max, np.mean):
        np.testing.assert_allclose(of(bodies, 0), of(theirs, 0), atol=0.05 * np.ptp(theirs, 0).max())


@pytest.mark.parametrize("name", CLASSIC_CONTROL)
def test_many_at_once_are_the_same_as_one(name):
    world, draw = CLASSIC_CONTROL[name], torch.rand(5, 4)
    many = vmap(world.start)(draw)
    one = world.start(draw[3])
    for t in range(300):
        actions = torch.randint(max(world.actions, 1), (5,)) if world.actions else torch.randn(5)
        many, _, terminal, truncated = vmap(world.step)(many, actions)
        many = vmap(world.restart)(many, terminal | truncated, draw)
        one, _, terminal, truncated = world.step(one, actions[3])
        one = world.restart(one, terminal | truncated, draw[3])
    assert torch.allclose(many["body"][3], one["body"], rtol=1e-3, atol=1e-3)
    assert many["age"][3] == one["age"]


def test_an_end_is_not_a_cut():
    state = cart_pole.start(torch.full((4,), 0.5))
    state["age"] = torch.tensor(499.0)
    _, _, terminal, truncated = cart_pole.step(state, torch.tensor(1))
    assert not terminal and truncated
    state["body"] = torch.tensor([2.4, 1.0, 0.0, 0.0])
    _, _, terminal, truncated = cart_pole.step(state, torch.tensor(1))
    assert terminal and not truncated  # it falls in the very step that time runs out


def test_a_restart_changes_only_what_is_over():
    draw, seed = torch.rand(2, 4), torch.tensor([1, 2])
    states = vmap(cart_pole.start)(draw)
    states, *_ = vmap(cart_pole.step)(states, torch.tensor([0, 1]))
    codes = vmap(lambda s: signed_permutation(s, 3, 4))(seed)
    new = vmap(lambda s, o, d, c: cart_pole.restart(s, o, d, code=c))(
        states, torch.tensor([True, False]), draw, codes)
    assert torch.equal(new["body"][1], states["body"][1]) and new["age"].tolist() == [0, 1]
    assert torch.equal(new["code"][0], codes[0]) and torch.equal(new["code"][1], torch.eye(4))


def test_codes_lose_nothing_and_differ():
    seed = torch.arange(200)
    codes = vmap(lambda s: signed_permutation(s, 1, 4))(seed)
    assert torch.equal(codes @ codes.mT, torch.eye(4).expand(200, 4, 4))
    assert set(codes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert len({tuple(code.flatten().tolist()) for code in codes}) > 100  # of 384


def test_slipped_physics_lie_in_their_range():
    seeds = torch.arange(500)
    found = vmap(lambda s: slipped(s, 4, cart_pole.physics, {"force": (0.25, 4)}))(seeds)
    assert torch.equal(found["length"], torch.full((500,), 0.5))
    factor = found["force"].log2() - np.log2(10)
    assert factor.min() > -2 and factor.max() < 2 and abs(factor.mean()) < 0.2
    usual = slipped(seeds[0], 0, cart_pole.physics, {"force": (0.25, 4)})
    assert {k: float(v) for k, v in usual.items()} == pytest.approx(cart_pole.physics)


def test_the_series_of_mackey_and_glass():
    state = mackey_glass.start(torch.rand(4))
    x = list(reversed(state["body"].double().tolist()))  # oldest first
    for t in range(400):
        x.append(x[-1] + 0.2 * x[-18] / (1 + x[-18] ** 10) - 0.1 * x[-1])
        state, reward, terminal, truncated = mackey_glass.step(state, torch.tensor(0))
        assert not terminal and not truncated
        if t < 60:  # later chaos takes over
            assert float(reward) == pytest.approx(x[-1], rel=1e-4)
            seen = [x[-1], x[-7], x[-13], x[-18]]
            assert mackey_glass.observe(state).tolist() == pytest.approx(seen, rel=1e-4)
    assert 0.2 < min(x[50:]) < 0.6 and 1.1 < max(x[50:]) < 1.5
