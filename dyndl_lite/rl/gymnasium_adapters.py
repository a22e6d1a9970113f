"""Gymnasium's environments for our agents: how to act in them, what is observed, how to go on.

An agent's action is a vector of numbers, and it observes a vector of numbers: `Adapted` makes that
of what an environment declares, and refuses what it cannot. Gymnasium's own `SyncVectorEnv` steps
many; what it does not do is to keep an environment's state over a restart of the program (`save`,
`load`).
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dyndl_lite.files import UserError


class Adapted(gymnasium.Wrapper):
    """An environment that has vectors of numbers for observations and actions, and counts them.

    Its actions are Discrete (a policy's 0, 1, ... counts from the space's start) or a Box of real
    numbers (what a policy asks for is clipped to the bounds); its observations are whatever
    gymnasium can flatten: Box, Discrete (one number each), Dict and Tuple of them ...

    Raises
    ------
    UserError
        If a space is of another kind, or (while it runs) an observation is not of its space.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        space, seen = env.action_space, env.observation_space
        discrete = isinstance(space, spaces.Discrete)
        if not discrete and not (isinstance(space, spaces.Box) and space.dtype.kind == "f"):
            raise UserError(f"{env} has actions {space}: use an environment with Discrete actions "
                            "or a Box of real numbers")
        if not seen.is_np_flattenable:
            raise UserError(f"{env} has observations {seen}, which cannot be made one vector: use "
                            "an environment with Box or Discrete ones")
        self.actions = int(space.n) if discrete else 0
        self.reals = 0 if discrete else spaces.flatdim(space)
        self.observations = spaces.flatdim(seen)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.observations,), np.float32)
        self.action_space = spaces.Box(-np.inf, np.inf, (self.reals or 1,), np.float32)

    def act(self, numbers: np.ndarray) -> np.ndarray | int:
        """Give what the environment takes for an action [numbers] of a policy."""
        space = self.env.action_space
        if self.actions:
            if not 0 <= numbers[0] < self.actions:
                raise UserError(f"action {numbers[0]:g} of an environment that has {self.actions}, "
                                f"0 to {self.actions - 1}: make the agent for as many")
            return int(space.start) + int(numbers[0])
        return np.clip(numbers.reshape(space.shape), space.low, space.high, dtype=space.dtype)

    def observe(self, observation) -> np.ndarray:
        """Give an observation as a vector [observations] of float32."""
        space = self.env.observation_space
        box = isinstance(space, spaces.Box)
        if not (np.shape(observation) == space.shape if box else space.contains(observation)):
            raise UserError(f"{self.env} shows {observation!r}, which is not in its space {space}: "
                            "correct the environment's observation_space")
        flat = np.ravel(observation) if box else spaces.flatten(space, observation)
        return flat.astype(np.float32)

    def reset(self, **given):
        """Begin an episode. What gymnasium calls info is left out: nobody reads it."""
        return self.observe(super().reset(**given)[0]), {}

    def step(self, action: np.ndarray):
        """Act once."""
        observation, reward, terminal, truncated, _ = super().step(self.act(action))
        return self.observe(observation), reward, terminal, truncated, {}


class Simulators:
    """Environments side by side, each begun anew in the step in which its episode ends.

    Each of `makes` makes one; all have the same spaces.
    """

    def __init__(self, makes: Iterable[Callable]):
        self.vector = gymnasium.vector.SyncVectorEnv(
            [lambda make=make: Adapted(make()) for make in makes],
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
        self.envs = self.vector.envs
        self.close = self.vector.close
        # Registered by name, an environment's code is not within reach of what makes it.
        self.kinds = *map(type, layers(self.envs[0])),

    def reset(self, seeds: list[int]) -> Tensor:
        """Begin everywhere; give the first observations [environments, observations]."""
        return torch.from_numpy(self.vector.reset(seed=seeds)[0])

    def step(self, actions: np.ndarray) -> tuple[Tensor, ...]:
        """Act once everywhere, by actions [environments, numbers].

        Give where they led, the last observation of an episode included (its value counts where
        only time ran out); reward; terminal; over (terminal, or time ran out); and what is seen
        next: the same, or the first observation of a new episode.
        """
        seen, reward, terminal, truncated, info = self.vector.step(actions)
        over = terminal | truncated
        after = seen.copy() if over.any() else seen
        for i in np.flatnonzero(over):
            after[i] = info["final_obs"][i]
        reward = reward.astype(np.float32)
        return tuple(map(torch.from_numpy, (after, reward, terminal, over, seen)))

    def save(self) -> list[dict]:
        """Take down the state of each, or raise UserError: see `save`."""
        return list(map(save, self.envs))

    def load(self, states: list[dict]) -> None:
        """Go on from there."""
        for env, state in zip(self.envs, states):
            load(env, state)


def find(name: str) -> Callable:
    """Give a function that makes an environment of that name: gymnasium's, or MinAtar/Breakout-v1.

    Raises
    ------
    UserError
        If there is none here (the line says what to install), or it cannot be `Adapted`.
    """
    if name.startswith("MinAtar/"):
        if importlib.util.find_spec("minatar") is None:
            raise UserError(f"{name} needs MinAtar: pip install MinAtar")
        if name not in gymnasium.registry:
            importlib.import_module("minatar.gym").register_envs()

    def make() -> gymnasium.Env:
        return gymnasium.make(name, disable_env_checker=True)

    try:
        sizes(make)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{name} needs a simulator: pip install 'gymnasium[mujoco]'") from error
    except gymnasium.error.Error as error:
        raise UserError(f"no environment {name!r}: {error}") from error
    return make


def sizes(make: Callable) -> tuple[int, int, int]:
    """Count observations, actions to choose from (0: none), and real numbers to act with."""
    env = Adapted(make())
    env.close()
    return env.observations, env.actions, env.reals


# To go on after the program was ended

# Wrappers and environments of gymnasium's whose whole state is known: in these attributes, the
# random generator and, for MuJoCo, the simulator. Whoever else wants to be saved has a
# `get_state()`, which gives numbers, texts, tensors, and lists and dicts of them, and a
# `set_state(state)`.
ATTRIBUTES = ("_elapsed_steps", "state", "steps_beyond_terminated")
KNOWN = (Adapted, gymnasium.wrappers.OrderEnforcing, gymnasium.wrappers.PassiveEnvChecker,
         gymnasium.wrappers.FlattenObservation, gymnasium.wrappers.TimeLimit)
ROOMS = ("gymnasium.envs.classic_control.", "gymnasium.envs.mujoco.")
# Of MuJoCo, beside its state: positions as the last step left them, which lag behind and which the
# next reward is computed from.
LAGGING = ("xpos", "xipos", "site_xpos", "cvel", "cinert", "cfrc_ext", "qfrc_actuator")


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """Go through an environment's wrappers, from the outermost, down to itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _tells(layer: gymnasium.Env) -> bool:
    """Say whether an environment or wrapper gives and takes its own state."""
    return hasattr(layer, "get_state") and hasattr(layer, "set_state")


def refuse_unsaveable(env: gymnasium.Env) -> None:
    """Raise UserError if an environment could not go on the same from what `save` would keep.

    That it has an attribute ``state`` is not enough: nobody knows whether that is all of it.
    """
    for layer in layers(env):
        if not (_tells(layer) or type(layer) in KNOWN or type(layer).__module__.startswith(ROOMS)):
            raise UserError(f"{type(layer).__name__} does not tell its whole state, so a run in it "
                            "cannot go on: give it get_state() and set_state(state), or run "
                            "without a checkpoint")


def save(env: gymnasium.Env) -> dict:
    """Take down an environment's state, with its wrappers', or `refuse_unsaveable`."""
    refuse_unsaveable(env)
    kept = [layer.get_state() if _tells(layer) else
            {name: torch.from_numpy(np.array(value)) if name == "state" else value
             for name, value in vars(layer).items() if name in ATTRIBUTES} for layer in layers(env)]
    inner = env.unwrapped
    state = {"layers": kept, "random": json.dumps(inner.np_random.bit_generator.state)}
    if mujoco := _mujoco(inner):
        whole = mujoco.mjtState.mjSTATE_INTEGRATION  # time, qpos, qvel, act, qacc_warmstart, ...
        numbers = np.empty(mujoco.mj_stateSize(inner.model, whole))
        mujoco.mj_getState(inner.model, inner.data, numbers, whole)
        state["numbers"] = torch.from_numpy(numbers)
        state["lagging"] = {name: torch.from_numpy(getattr(inner.data, name).copy())
                            for name in LAGGING}
    return state


def load(env: gymnasium.Env, state: dict) -> None:
    """Bring an environment, made anew, into a state that was saved."""
    inner = env.unwrapped
    env.reset(seed=0)
    inner.np_random.bit_generator.state = json.loads(state["random"])
    for layer, own in zip(layers(env), state["layers"]):
        if _tells(layer):
            layer.set_state(own)
        else:
            for name, value in own.items():
                setattr(layer, name, value.numpy() if name == "state" else value)
    if mujoco := _mujoco(inner):
        mujoco.mj_setState(inner.model, inner.data, state["numbers"].numpy(),
                           mujoco.mjtState.mjSTATE_INTEGRATION)
        for name, value in state["lagging"].items():
            getattr(inner.data, name)[:] = value.numpy()


def _mujoco(inner: gymnasium.Env):
    """Give MuJoCo if it simulates an environment, else False."""
    return type(inner).__module__.startswith(ROOMS[1]) and importlib.import_module("mujoco")
