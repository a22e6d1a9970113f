"""Environments: ours beside gymnasium's, and gymnasium's for our agents."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite.files import UserError
from dyndl_lite.rl.environments import (
    cart_pole,
    CLASSIC_CONTROL,
    mackey_glass,
    signed_permutation,
    slipped,
)
from dyndl_lite.rl.gymnasium_adapters import (
    Adapted,
    load,
    refuse_unsaveable,
    save,
    Simulators,
    sizes,
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


# gymnasium's environments -----------------------------------------------------------------------

class Recording(gymnasium.Env):
    """Tells what it was asked to do; shows what it is given to show."""

    def __init__(self, actions, observations=spaces.Box(-1, 1, (2,), np.float32), shown=None):
        self.action_space, self.observation_space = actions, observations
        self.shown, self.asked = observations.sample() if shown is None else shown, []

    def reset(self, **given):
        super().reset(**given)
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.asked.append(action)
        return self.shown, 0.0, False, False, {"ragged": np.zeros(len(self.asked))}


@pytest.mark.parametrize("space, numbers, expected", [
    (spaces.Discrete(2, start=1), [0, 1], [1, 2]),
    (spaces.Discrete(3, start=-1), [0, 2], [-1, 1]),
    (spaces.Box(np.float32([-2, 0]), np.float32([2, 1])), [[-3, -3], [9, 0.5]], [[-2, 0], [2, 0.5]]),
    (spaces.Box(-1, 1, (2, 1), np.float64), [[0.5, -7]], [[[0.5], [-1]]]),
])
def test_actions_are_those_of_the_space(space, numbers, expected):
    sim = Simulators([lambda: Recording(space)])
    sim.reset([0])
    for one in numbers:
        sim.step(np.array(one, np.float32).reshape(1, -1))
    np.testing.assert_array_equal(sim.envs[0].unwrapped.asked, expected)


def test_an_action_that_the_space_does_not_have_is_refused():
    env = Adapted(Recording(spaces.Discrete(2, start=1)))
    for action in ([2.0], [-1.0]):
        with pytest.raises(UserError, match="action -?[12] of an environment that has 2"):
            env.step(np.array(action, np.float32))


@pytest.mark.parametrize("space", [
    spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(3), spaces.Box(0, 5, (2,), np.int64),
    spaces.Dict({"a": spaces.Discrete(2)})])
def test_a_space_to_act_in_that_is_not_understood_is_refused_at_once(space):
    with pytest.raises(UserError, match="use an environment with Discrete actions or a Box") as error:
        sizes(lambda: Recording(space))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("space, shown, expected", [
    (spaces.Box(0, 255, (2, 2), np.uint8), np.uint8([[1, 2], [3, 200]]), [1, 2, 3, 200]),
    (spaces.Discrete(3, start=5), 6, [0, 1, 0]),
    (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-9, 9, (2,))}),
     {"a": 1, "b": np.float32([3, 4])}, [0, 1, 3, 4]),
])
def test_observations_are_one_vector(space, shown, expected):
    env = Adapted(Recording(spaces.Discrete(2), space, shown))
    for seen in (env.reset()[0], env.step(np.zeros(1, np.float32))[0]):
        assert seen.dtype == np.float32 and seen.tolist() == expected
    assert (env.observations, env.actions, env.reals) == (len(expected), 2, 0)


@pytest.mark.parametrize("space, shown", [
    (spaces.Box(-1, 1, (2,), np.float32), np.zeros(3, np.float32)), (spaces.Discrete(3), 3)])
def test_what_is_not_as_declared_is_told_at_the_first_look(space, shown):
    with pytest.raises(UserError, match="which is not in its space"):
        Adapted(Recording(spaces.Discrete(2), space, shown)).reset()


def test_observations_that_are_no_vector_are_refused_at_once():
    with pytest.raises(UserError, match="cannot be made one vector"):
        sizes(lambda: Recording(spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2)), ()))


# going on from what was saved -------------------------------------------------------------------

def played(env, actions):
    found = []
    for action in actions:
        seen, reward, terminal, truncated, _ = env.step(action)
        found.append([*seen, reward, terminal, truncated])
        if terminal or truncated:
            found.append([*env.reset()[0], 0, 0, 0])
    return np.array(found)


SAVEABLE = [name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith(
    ("gymnasium.envs.classic_control.", "gymnasium.envs.mujoco.")) and name.endswith(
        ("v5", "v0", "v1")) and "phys2d" not in name]


@pytest.mark.parametrize("name", SAVEABLE)
def test_every_environment_that_is_said_to_be_known_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs there what random actions may break
    try:
        env, again = Adapted(gymnasium.make(name)), Adapted(gymnasium.make(name))
    except (gymnasium.error.DependencyNotInstalled, gymnasium.error.DeprecatedEnv) as error:
        pytest.skip(str(error))
    refuse_unsaveable(env)
    rng = np.random.default_rng(0)
    size = (260, env.reals or 1)
    actions = rng.uniform(-1, 1, size) if env.reals else rng.integers(env.actions, size=size)
    actions = actions.astype(np.float32)
    env.reset(seed=3)
    played(env, actions[:130])
    load(again, save(env))
    np.testing.assert_array_equal(played(again, actions[130:]), played(env, actions[130:]))


class Forgetful(CartPoleEnv):
    """Has a `state`, as the class it is made from; that is not all that it keeps."""

    pushes = 0

    def step(self, action):
        self.pushes += 1
        seen, reward, *more = super().step(action)
        return seen, reward + self.pushes, *more


class Telling(Forgetful):
    """The same, and says so."""

    def get_state(self):
        return {"pushes": self.pushes, "state": self.state.tolist(), "end": self.steps_beyond_terminated}

    def set_state(self, state):
        self.pushes, self.state = state["pushes"], np.array(state["state"])
        self.steps_beyond_terminated = state["end"]


def test_a_state_that_nobody_knows_to_be_complete_is_refused():
    """Of the environment and of a wrapper; before anything is saved."""
    slow = gymnasium.wrappers.TimeAwareObservation(gymnasium.make("CartPole-v1"))
    for env, name in ((Forgetful(), "Forgetful"), (slow, "TimeAwareObservation")):
        for refuse in (refuse_unsaveable, save):
            with pytest.raises(UserError, match=f"{name} does not tell its whole state.*get_state"):
                refuse(env)


def test_one_that_tells_its_state_goes_on_bit_for_bit():
    def make():
        return Adapted(gymnasium.wrappers.TimeLimit(Telling(), 30))

    env, again, actions = make(), make(), np.random.default_rng(0).integers(2, size=(90, 1))
    env.reset(seed=1)
    played(env, actions[:50])
    load(again, save(env))
    np.testing.assert_array_equal(played(again, actions[50:]), played(env, actions[50:]))
    assert again.unwrapped.pushes == 90
