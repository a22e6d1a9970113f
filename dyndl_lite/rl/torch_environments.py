"""Copies of a world written in torch for an ensemble of PPO agents: acting in all of them at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import drivers
from dyndl_lite.models.mlp import forward
from dyndl_lite.rl.ppo import ActorCritic, Routine, to_act


def acting(world, agent: ActorCritic) -> Callable:
    """Give one step of every agent in every copy of its world, for `drivers`.

    The function of (states, params, u, draw) gives the states after it, those of a new episode
    where one is over, and a row for each: see `parts`.
    """

    def act(state: dict, params: dict, u: Tensor, draw: Tensor) -> tuple[dict, Tensor]:
        seen = world.observe(state)
        output = forward(params["policy"], seen, agent.activation)[0]
        action = agent.policy.draw(output, params, u)
        chance = agent.policy.log_probability(output, params, action)
        after, reward, terminal, truncated = world.step(
            state, action if agent.policy.numbers > 1 else action[0])
        numbers = [chance, reward, terminal, terminal | truncated]
        row = torch.cat([seen, action, torch.stack([a.to(seen.dtype) for a in numbers]),
                         world.observe(after)])
        return world.restart(after, terminal | truncated, draw), row

    return vmap(vmap(act, (0, None, 0, 0)), (0, 0, 0, 0))


def parts(rows: Tensor, observations: int) -> dict[str, Tensor]:
    """Take rows [steps, agents, envs, ...] apart, as `experience` wants them."""
    o, last = observations, rows.shape[-1] - observations
    chance, reward, terminal, over = rows[..., last - 4:last].unbind(-1)
    return {"observation": rows[..., :o], "action": rows[..., o:last - 4],
            "log_probability": chance, "reward": reward, "terminal": terminal > 0,
            "over": over > 0, "next_observation": rows[..., last:]}


def torch_worlds(world, change: Callable = lambda seed, number: {}) -> Callable:
    """Give what `practice.run` makes worlds with.

    Parameters
    ----------
    world
        One of `worlds`, or `navigation`, or anything like them.
    change : function of (seed, number)
        What the world is like in task `number`, from 0: a dict of ``physics`` or ``code``.
    """
    def made(*given):
        return TorchWorlds(world, change, *given)

    made.mark = (world.name, change.__qualname__)
    return made


class TorchWorlds:
    """The copies, [agents, envs]; they are the same, draw by draw, for all arms of a seed."""

    def __init__(self, world, change: Callable, agent: ActorCritic, seeds: Tensor, stays: Tensor,
                 routine: Routine, compiled: bool):
        self.world, self.change, self.seeds, self.stays = world, change, seeds, stays
        self.routine, self.numbers_of_action = routine, agent.policy.numbers
        self.act = drivers.reused("scan" if compiled else "eager", acting, world, agent)

    def numbers(self, *where: int, size: int) -> Tensor:
        """Draw uniform numbers [agents, envs, size]."""
        env = torch.arange(self.routine.envs)[:, None]
        return random.uniform(self.seeds[:, None, None], *where, env, torch.arange(size))

    def begin(self, number: int) -> bool:
        """Begin task `number`; say whether new episodes began with it: they do."""
        changed = vmap(self.change)(self.seeds, torch.where(self.stays, 0, number))
        over_envs = vmap(lambda draw, changed: self.world.start(draw, **changed), (0, None))
        self.states = drivers.laid_out(
            vmap(over_envs)(self.numbers(random.START, 0, number, size=4), changed))
        return True

    def collect(self, params: dict, iteration: int) -> dict[str, Tensor]:
        """Act for `routine.steps` steps; give what happened, as `experience` wants it."""
        first = iteration * self.routine.steps
        times = range(first, first + self.routine.steps)
        u = torch.stack([self.numbers(random.ACTION, t, size=self.numbers_of_action)
                         for t in times])
        draw = torch.stack([self.numbers(random.START, 1, t, size=4) for t in times])
        self.states, rows = self.act(self.states, to_act(params), u, draw)
        return parts(rows, self.world.observations)

    def state(self) -> dict:
        """Give all that a run needs to go on."""
        return self.states

    def resume(self, state: dict) -> None:
        """Go on from there."""
        self.states = state
