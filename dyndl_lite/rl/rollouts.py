"""Where an ensemble of PPO agents acts: in environments written in torch, or in gymnasium's.

`torch_rollouts` and `gymnasium_rollouts` give what `train_ppo` makes its environments with. Both
begin a task, and say whether new episodes began with it; collect a rollout of `config.steps` steps;
and give a state to resume from. A rollout is a dict of tensors [steps, agents, envs, ...]:
observation, action, log_probability, reward, terminal (the task is at its end), over (the episode
is: that, or time ran out), next_observation (of the same episode, its last included).
"""

from collections.abc import Callable
from functools import partial

import gymnasium
import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import drivers
from dyndl_lite.rl.environments import check_fit, Environment
from dyndl_lite.rl.gymnasium_adapters import Simulators
from dyndl_lite.rl.ppo import act, acting_params, ActorCritic, RolloutConfig


def _uniform(seeds: Tensor, envs: int, size: int, *where: Tensor | int) -> Tensor:
    """Draw numbers [..., agents, envs, size]; `where` may hold times [steps, 1, 1, 1]."""
    env, number = torch.arange(envs)[:, None], torch.arange(size)
    return random.uniform(seeds[:, None, None], *where, env, number)


def _times(iteration: int, steps: int) -> Tensor:
    return (torch.arange(steps) + iteration * steps)[:, None, None, None]


def torch_rollouts(environment: Environment,
                   change: Callable = lambda seed, number: {}) -> Callable:
    """Let agents act in an environment written in torch.

    The environment is in task `number`, from 0, as ``change(seed, number)`` says: a dict of
    ``physics`` or ``code``.
    """
    return partial(TorchRollouts, environment, change)


class TorchRollouts:
    """Copies of it [agents, envs], the same, draw by draw, for all settings of a seed."""

    def __init__(self, environment: Environment, change: Callable, agent: ActorCritic,
                 seeds: Tensor, stays: Tensor, config: RolloutConfig, compiled: bool):
        check_fit(agent.made_for, environment)
        self.environment, self.change, self.seeds, self.stays = environment, change, seeds, stays
        self.config, self.policy = config, agent.policy
        self.act = drivers.reused("scan" if compiled else "eager", acting(environment, agent))

    def begin(self, number: int) -> bool:
        """Begin task `number`, with new episodes."""
        changed = vmap(self.change)(self.seeds, torch.where(self.stays, 0, number))
        over_envs = vmap(lambda draw, changed: self.environment.start(draw, **changed), (0, None))
        draw = _uniform(self.seeds, self.config.envs, 4, random.START, 0, number)
        self.states = drivers.laid_out(vmap(over_envs)(draw, changed))
        return True

    def collect(self, params: dict, iteration: int) -> dict[str, Tensor]:
        """Act."""
        times = _times(iteration, self.config.steps)
        u = _uniform(self.seeds, self.config.envs, self.policy.numbers, random.ACTION, times)
        draw = _uniform(self.seeds, self.config.envs, 4, random.START, 1, times)
        self.states, rows = self.act(self.states, acting_params(params), u, draw)
        o, rest = self.environment.observations, rows.shape[-1] - self.environment.observations
        log_probability, reward, terminal, over = rows[..., rest - 4:rest].unbind(-1)
        return {"observation": rows[..., :o], "action": rows[..., o:rest - 4],
                "log_probability": log_probability, "reward": reward, "terminal": terminal > 0,
                "over": over > 0, "next_observation": rows[..., rest:]}

    def state(self) -> dict:
        """Give all that a run needs to go on."""
        return self.states

    def resume(self, state: dict) -> None:
        """Go on from there."""
        self.states = state


def acting(environment: Environment, agent: ActorCritic) -> Callable:
    """Give one step of every agent in every copy of its environment, for `drivers`.

    It takes (states, params, u, draw) to the states after it and a row of numbers for each.
    """

    def one(state: dict, params: dict, u: Tensor, draw: Tensor) -> tuple[dict, Tensor]:
        seen = environment.observe(state)
        action, log_probability = act(agent, params, seen, u)
        after, reward, terminal, truncated = environment.step(
            state, action if agent.policy.numbers > 1 else action[0])
        numbers = [log_probability, reward, terminal, terminal | truncated]
        row = torch.cat([seen, action, torch.stack([a.to(seen.dtype) for a in numbers]),
                         environment.observe(after)])
        return environment.restart(after, terminal | truncated, draw), row

    return vmap(vmap(one, (0, None, 0, 0)), (0, 0, 0, 0))


def gymnasium_rollouts(make: Callable) -> Callable:
    """Let agents act in gymnasium's environments, each made by ``make(seed)``."""
    return partial(GymnasiumRollouts, make)


def named(name: str) -> Callable:
    """Give the same for one of gymnasium's environments."""
    return gymnasium_rollouts(lambda seed: gymnasium.make(name, disable_env_checker=True))


class GymnasiumRollouts:
    """Environments [agents, envs]. What is stationary or not is theirs to know."""

    def __init__(self, make: Callable, agent: ActorCritic, seeds: Tensor, stays: Tensor,
                 config: RolloutConfig, compiled: bool):
        self.seeds, self.config, self.policy = seeds, config, agent.policy
        self.simulators = Simulators(
            [lambda seed=seed: make(seed) for seed in seeds.tolist() for _ in range(config.envs)])
        check_fit(agent.made_for, self.simulators.envs[0])
        each = vmap(vmap(lambda *given: torch.cat([a.reshape(-1) for a in act(agent, *given)]),
                         (None, 0, 0)))
        self.choose = drivers.reused(
            "in_place" if compiled else "eager",
            lambda nothing, params, seen, u: (nothing, each(params, seen, u)))
        self.seen = None

    def _grid(self, a: Tensor) -> Tensor:
        """See what is of every environment as [agents, envs, ...]."""
        return a.unflatten(0, (len(self.seeds), self.config.envs))

    def begin(self, number: int) -> bool:
        """Reset all environments when the run begins; later ones go on as they are."""
        if self.seen is None:
            self.seen = self._grid(self.simulators.reset([
                1_000 * seed + i for seed in self.seeds.tolist() for i in range(self.config.envs)]))
        return False

    def collect(self, params: dict, iteration: int) -> dict[str, Tensor]:
        """Act."""
        times = _times(iteration, self.config.steps)
        params, rows = acting_params(params), []
        for u in _uniform(self.seeds, self.config.envs, self.policy.numbers, random.ACTION, times):
            row = self.choose({}, params, self.seen[None], u[None])[1][0]
            action, log_probability = row[..., :-1], row[..., -1]
            after, reward, terminal, over, seen = map(
                self._grid, self.simulators.step(action.flatten(0, 1).numpy()))
            rows.append({"observation": self.seen, "action": action,
                         "log_probability": log_probability, "reward": reward,
                         "terminal": terminal, "over": over, "next_observation": after})
            self.seen = seen
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def state(self) -> dict:
        """Give all that a run needs to go on, or raise UserError: see `gymnasium_adapters.save`."""
        return {"seen": self.seen, "envs": self.simulators.save()}

    def resume(self, state: dict) -> None:
        """Go on from there."""
        self.seen = state["seen"]
        self.simulators.load(state["envs"])
