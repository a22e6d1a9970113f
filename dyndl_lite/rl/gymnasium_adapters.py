"""Gymnasium environments for an ensemble of PPO agents, and how to save and load one of them.

Environments are stepped one by one in a plain loop, and one that is done is reset at once: there is
no autoreset mode to get wrong. The last observation of an episode is kept, for its value counts
when only time ran out.
"""

import json
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import drivers
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
        self.choose = drivers.reused("in_place" if compiled else "eager", choosing, agent)
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
