"""Gymnasium environments for an ensemble of PPO agents, and how to save and load one of them.

Environments are stepped one by one in a plain loop, and one that is done is reset at once: there is
no autoreset mode to get wrong. The last observation of an episode is kept, for its value counts
when only time ran out.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.func import vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import drivers
from dyndl_lite.files import UserError
from dyndl_lite.models.mlp import forward
from dyndl_lite.rl.policies import categorical, gaussian, Policy
from dyndl_lite.rl.ppo import ActorCritic, Routine, to_act


def policy_for(env: gymnasium.Env) -> Policy:
    """Give the usual policy for an environment's actions: a softmax, or a normal distribution."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return categorical(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return gaussian(space.shape[0])
    raise ValueError(f"{env} has actions {space}: use an environment with Discrete or flat Box ones")


def gymnasium_worlds(make: Callable, mark: str) -> Callable:
    """Give what `practice.run` makes environments with.

    Parameters
    ----------
    make : function of a seed
        Gives one environment, for example ``lambda seed: gymnasium.make("CartPole-v1")``.
    mark : str
        Says what it makes, so that another one does not continue its checkpoint.
    """
    def made(*given):
        return GymnasiumWorlds(make, *given)

    made.mark = mark
    return made


def named(name: str) -> Callable:
    """Give the same for one of gymnasium's environments."""
    return gymnasium_worlds(lambda seed: gymnasium.make(name, disable_env_checker=True), name)


def choosing(agent: ActorCritic) -> Callable:
    """Give the choice of all agents in all their environments, for `drivers`."""

    def one(params: dict, seen: Tensor, u: Tensor) -> Tensor:
        output = forward(params["policy"], seen, agent.activation)[0]
        action = agent.policy.draw(output, params, u)
        return torch.cat([action, agent.policy.log_probability(output, params, action)[None]])

    each = vmap(vmap(one, (None, 0, 0)))
    return lambda nothing, params, seen, u: (nothing, each(params, seen, u))


class GymnasiumWorlds:
    """Environments [agents, envs]. What is stationary or not is theirs to know."""

    def __init__(self, make: Callable, agent: ActorCritic, seeds: Tensor, stays: Tensor,
                 routine: Routine, compiled: bool):
        self.seeds, self.routine, self.policy = seeds, routine, agent.policy
        self.envs = [[make(seed) for _ in range(routine.envs)] for seed in seeds.tolist()]
        self.choose = drivers.reused("in_place" if compiled else "eager", lambda: choosing(agent),
                                     "choosing", agent.step)
        space = self.envs[0][0].action_space
        self.discrete = isinstance(space, gymnasium.spaces.Discrete)
        self.low, self.high = (None, None) if self.discrete else (space.low, space.high)
        self.seen = None

    def begin(self, number: int) -> bool:
        """Reset all environments when life begins; later ones go on as they are."""
        if self.seen is None:
            first = [[env.reset(seed=1_000 * seed + i)[0] for i, env in enumerate(row)]
                     for seed, row in zip(self.seeds.tolist(), self.envs)]
            self.seen = torch.tensor(np.array(first), dtype=torch.float32)
        return False

    def collect(self, params: dict, iteration: int) -> dict[str, Tensor]:
        """Act for `routine.steps` steps; give what happened, as `experience` wants it."""
        steps, (agents, envs, size) = self.routine.steps, self.seen.shape
        where = [torch.arange(n) for n in (envs, self.policy.numbers)]
        times = torch.arange(steps) + iteration * steps
        u = random.uniform(self.seeds[:, None, None], random.ACTION, times[:, None, None, None],
                          where[0][:, None], where[1])
        found = {name: torch.empty(steps, agents, envs, *more) for name, more in
                 {"observation": [size], "next_observation": [size], "reward": [],
                  "action": [self.policy.numbers], "log_probability": []}.items()}
        found |= {name: torch.empty(steps, agents, envs, dtype=torch.bool)
                  for name in ("terminal", "over")}
        params = to_act(params)
        for t in range(steps):
            row = self.choose({}, params, self.seen[None], u[t][None])[1][0]
            found["observation"][t], found["log_probability"][t] = self.seen, row[..., -1]
            found["action"][t] = row[..., :-1]
            (found["next_observation"][t], found["reward"][t], found["terminal"][t],
             found["over"][t], self.seen) = self.step(row[..., :-1].numpy())
        return found

    def step(self, actions: np.ndarray) -> tuple[Tensor, ...]:
        """Act once everywhere [agents, envs].

        Returns
        -------
        after : tensor [agents, envs, observations]
            Where the actions led, the last observation of an episode included.
        reward, terminal, over : tensors [agents, envs]
        seen : tensor [agents, envs, observations]
            The same as `after`, or the first observation of a new episode where one was over.
        """
        columns = ([], [], [], [], [])
        for row, chosen in zip(self.envs, actions):
            for env, action in zip(row, chosen):
                action = int(action[0]) if self.discrete else np.clip(action, self.low, self.high)
                after, reward, terminal, truncated, _ = env.step(action)
                over = terminal or truncated
                seen = env.reset()[0] if over else after
                for column, value in zip(columns, (after, reward, terminal, over, seen)):
                    column.append(value)
        shape = actions.shape[:2]
        return tuple(torch.from_numpy(np.array(column)).to(kind).reshape(*shape, *more)
                     for column, kind, more in zip(
                         columns, (torch.float32, torch.float32, torch.bool, torch.bool,
                                   torch.float32), ([-1], [], [], [], [-1])))

    def state(self) -> dict:
        """Give all that a run needs to go on."""
        return {"seen": self.seen, "envs": [[save(env) for env in row] for row in self.envs]}

    def resume(self, state: dict) -> None:
        """Go on from there."""
        self.seen = state["seen"]
        for row, states in zip(self.envs, state["envs"]):
            for env, one in zip(row, states):
                load(env, one)


class Adapted(gymnasium.Wrapper):
    """An environment with vectors of numbers for observations and actions.

    Parameters
    ----------
    env : gymnasium.Env
        Its actions are Discrete (a policy's 0, 1, ... counts from the space's start) or a Box of real
        numbers (what a policy asks for is clipped to the bounds); its observations are whatever
        gymnasium can flatten: Box, Discrete (one number each), Dict and Tuple of them ...

    Attributes
    ----------
    observations : int
    actions : int
        To choose from; 0: an action is real numbers.
    reals : int
        Numbers in such an action, else 0.

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
            raise UserError(f"{env} has actions {space}: use an environment with Discrete actions or a "
                            "Box of real numbers")
        if not seen.is_np_flattenable:
            raise UserError(f"{env} has observations {seen}, which cannot be made one vector: use an "
                            "environment with Box or Discrete ones")
        self.actions = int(space.n) if discrete else 0
        self.reals = 0 if discrete else spaces.flatdim(space)
        self.observations = spaces.flatdim(seen)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.observations,), np.float32)
        self.action_space = spaces.Box(-np.inf, np.inf, (self.reals or 1,), np.float32)

    def act(self, numbers: np.ndarray) -> np.ndarray | int:
        """Give what the environment takes for an action [numbers] of a policy."""
        space = self.env.action_space
        if self.actions:
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

    Parameters
    ----------
    makes : iterable of functions
        Each makes one environment; all have the same spaces.
    """

    def __init__(self, makes: Iterable[Callable]):
        self.vector = gymnasium.vector.SyncVectorEnv(
            [lambda make=make: Adapted(make()) for make in makes],
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
        self.envs = self.vector.envs

    def reset(self, seeds: list[int]) -> Tensor:
        """Begin everywhere; give the first observations [environments, observations]."""
        return torch.from_numpy(self.vector.reset(seed=seeds)[0])

    def step(self, actions: np.ndarray) -> tuple[Tensor, ...]:
        """Act once everywhere.

        Parameters
        ----------
        actions : array [environments, numbers]

        Returns
        -------
        after : tensor [environments, observations]
            Where the actions led, the last observation of an episode included: its value counts where
            only time ran out.
        reward, terminal, over : tensors [environments]
            Over: terminal, or time ran out.
        seen : tensor [environments, observations]
            The same as `after`, or the first observation of a new episode where one was over.
        """
        seen, reward, terminal, truncated, info = self.vector.step(actions)
        over = terminal | truncated
        after = seen.copy() if over.any() else seen
        for i in np.flatnonzero(over):
            after[i] = info["final_obs"][i]
        return (torch.from_numpy(after), torch.from_numpy(reward).float(), torch.from_numpy(terminal),
                torch.from_numpy(over), torch.from_numpy(seen))

    def close(self) -> None:
        """Let the simulators go."""
        self.vector.close()


def find(name: str) -> Callable:
    """Give a function that makes an environment of gymnasium's.

    Parameters
    ----------
    name : str
        gymnasium's, or ``MinAtar/Breakout-v1`` and the like.

    Raises
    ------
    UserError
        If there is no such environment here (the line says what to install), or it cannot be `Adapted`.
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


# What an environment is made of, beside its simulator, by the attributes in which gymnasium's wrappers,
# its classic control and ours keep it.
ATTRIBUTES = ("_elapsed_steps", "lived", "number", "state", "steps_beyond_terminated")
# Of MuJoCo, beside its state: positions as the last step left them, which lag behind and which the
# next reward is computed from.
LAGGING = ("xpos", "xipos", "site_xpos", "cvel", "cinert", "cfrc_ext", "qfrc_actuator")


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """Go through an environment's wrappers, from the outermost, down to itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def save(env: gymnasium.Env) -> dict:
    """Take down an environment's state: classic control, or MuJoCo, with our wrappers or without.

    Raises
    ------
    ValueError
        If the environment keeps its state elsewhere, so that it could not go on the same.
    """
    inner = env.unwrapped
    if not hasattr(inner, "data") and not hasattr(inner, "state"):
        raise ValueError(f"{env} does not show its state: run it without a checkpoint")
    kept = []
    for layer in layers(env):
        own = {name: vars(layer)[name] for name in ATTRIBUTES if name in vars(layer)}
        kept.append({name: torch.from_numpy(np.array(value)) if name == "state" else value
                     for name, value in own.items()})
    state = {"layers": kept, "random": json.dumps(inner.np_random.bit_generator.state)}
    if hasattr(inner, "data"):
        import mujoco

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
        for name, value in own.items():
            setattr(layer, name, value.numpy() if name == "state" else value)
        if "number" in own:
            layer.slip()
    if "numbers" in state:
        import mujoco

        mujoco.mj_setState(inner.model, inner.data, state["numbers"].numpy(),
                           mujoco.mjtState.mjSTATE_INTEGRATION)
        for name, value in state["lagging"].items():
            getattr(inner.data, name)[:] = value.numpy()
