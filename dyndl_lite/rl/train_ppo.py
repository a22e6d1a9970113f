"""Train PPO agents, which act and learn by turns, task after task, an ensemble side by side.

An ensemble has one agent for each condition of an experiment and each seed. They share one compiled
step, so conditions differ in settings, in whether their environment changes, and in what is reset
when it does. All of it runs on the CPU: the networks are small, and the simulators are there.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import MappingKey, SequenceKey, tree_map_with_path

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import diagnostics, drivers
from dyndl_lite.experiment import run as loop
from dyndl_lite.experiment.ensemble import grid, hypers_of
from dyndl_lite.rl.ppo import ActorCritic, minibatches, networks, RolloutConfig

RESET = ("nothing", "heads", "all")


class Condition(NamedTuple):
    """One way to train: settings, what is reset at a change of task, and whether there are any."""

    settings: dict[str, float] = {}
    reset: str = "nothing"  # or "heads", the output layers; or "all"
    stationary: bool = False


def reinitialise(agents: dict, fresh: dict, heads: Tensor, all_of_it: Tensor) -> dict:
    """Replace the output layers of some agents, or all that they are, by those of fresh agents.

    Of which agents is said by `heads` and `all_of_it`, bool tensors [agents]. What an optimiser
    keeps for each weight goes with it.
    """
    head = MappingKey("nets"), SequenceKey(len(agents["params"]["nets"]) - 1)

    def chosen(path: tuple, new: Tensor, old: Tensor) -> Tensor:
        which = heads | all_of_it if head in pairwise(path) else all_of_it
        return torch.where(which.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return tree_map_with_path(chosen, fresh, agents)


class Training(loop.Job):
    """The agents [conditions x seeds], and where they act; steps are iterations."""

    def __init__(self, place, agent, conditions, seeds, config, ends, task, name):
        seeds = loop.seeds_of(seeds).tolist()
        if not conditions:
            raise ValueError("conditions is empty: give at least one")
        if config.envs * config.steps % config.minibatches:
            raise ValueError(f"{config.minibatches} minibatches do not divide "
                             f"{config.envs} x {config.steps} steps")
        settings = {}
        for condition, how in conditions.items():
            if how.reset not in RESET:
                raise ValueError(f"condition {condition!r} resets {how.reset!r}: use one of {RESET}")
            settings[condition], *more = grid(agent, **how.settings)
            if more:
                raise ValueError(f"condition {condition!r} has {len(more) + 1} settings: give each "
                                 "combination of values a condition of its own")
        self.name, self.agent, self.config, self.ends = name, agent, config, ends
        self.task, self.place_of = task, place
        arms = [(condition, seed) for condition in conditions for seed in seeds]
        self.rows = [{"learner": condition, "seed": seed} for condition, seed in arms]
        self.seeds = torch.tensor([seed for _, seed in arms], dtype=torch.int64)
        self.hypers = hypers_of([settings[condition] for condition, _ in arms])
        hows = [conditions[condition] for condition, _ in arms]
        self.reset = [torch.tensor([how.reset == what for how in hows]) for what in RESET[1:]]
        self.stationary = torch.tensor([how.stationary for how in hows])
        self.kind = drivers.choose(self.device, self.agents(),
                                   ends[-1] * config.epochs * config.minibatches)
        self.learn = drivers.reused(self.kind, vmap(agent.step))
        self.facts = agent, place, conditions, seeds, config, task, self.kind

    def agents(self):
        """Give new agents."""
        return drivers.laid_out(vmap(self.agent.start)(self.seeds))

    def start(self):
        self.place = self.place_of(self.agent, self.seeds, self.stationary, self.config,
                                   self.kind != "eager")
        if hasattr(self.place, "simulators"):
            self.simulators = self.place.simulators
            self.facts += self.simulators.kinds
        self.place.begin(0)
        return {"agents": self.agents(), "running": torch.zeros(len(self.seeds), self.config.envs)}

    def advance(self, state, t, steps):
        """Act for a while, learn from it (one iteration)."""
        agents, running = state["agents"], state["running"]
        if t and t % self.task == 0:
            number = t // self.task
            fresh = vmap(self.agent.start)(random.bits(self.seeds, random.WEIGHTS, number, 2**30))
            agents = drivers.laid_out(reinitialise(agents, fresh, *self.reset))
            if self.place.begin(number):
                running = torch.zeros_like(running)
        rollout = self.place.collect(agents["params"], t)
        examples = minibatches(agents, self.hypers, rollout, self.agent.activation, self.seeds, t,
                               self.config)
        agents, _ = self.learn(agents, self.hypers, *examples)
        running, returns = earned(running, rollout)
        sums = {"reward": rollout["reward"].mean((0, 2)), "return": returns,
                "episodes": rollout["over"].sum((0, 2)).float()}
        return {"agents": agents, "running": running}, sums, rollout["observation"]

    def measure(self, state, t, sums, steps, seen):
        look = vmap(lambda params, X: diagnostics.diagnose(params, X, self.agent.activation))
        seen = seen.transpose(0, 1).flatten(1, 2)  # [agents, n, observations]
        inside = {f"{net}_{name}": value
                  for net, params in networks(state["agents"]["params"]).items()
                  for name, value in look(params, seen).items()}
        return {"reward": sums["reward"] / steps, "return": sums["return"] / sums["episodes"],
                "episodes": sums["episodes"], **inside}

    def when(self, end):
        return {"step": end * self.config.steps * self.config.envs,
                "task": (end - 1) // self.task + 1}

    def pack(self, state):
        return {**state, "place": self.place.state()}

    def unpack(self, packed):
        self.place.resume(packed["place"])
        return {name: packed[name] for name in ("agents", "running")}

    def close(self):
        if hasattr(self, "simulators"):
            self.simulators.close()


def earned(running: Tensor, rollout: dict) -> tuple[Tensor, Tensor]:
    """Sum up rewards, on from what the `running` episodes have brought so far [agents, envs].

    Give that as it is after the rollout, and the sum of the returns of all that ended [agents].
    """
    returns = torch.zeros(len(running))
    for reward, over in zip(rollout["reward"], rollout["over"]):
        running = running + reward
        returns += torch.where(over, running, 0.0).sum(1)
        running = torch.where(over, 0.0, running)
    return running, returns


def train_ppo(place: Callable, agent: ActorCritic, conditions: dict[str, Condition],
              seeds: Iterable[int], iterations: int, bin: int, task: int | None = None,
              config: RolloutConfig = RolloutConfig(), folder: str | Path | None = None,
              name: str = "agents", save_every: float = 30.0) -> pd.DataFrame:
    """Train an agent under several conditions, with several seeds each.

    Parameters
    ----------
    place
        Where they act: what `torch_rollouts` or `gymnasium_rollouts` gives.
    agent : ActorCritic
    conditions : dict of name -> Condition
        They meet the same environments, episodes and chance, seed by seed.
    seeds : iterable of int
    iterations : int
        In each one acts as `config` says, then learns.
    bin : int
        Iterations a row of the result; the last bin of a task takes what is left.
    task : int, optional
        Iterations from one task to the next; None: there is only one.
    config : RolloutConfig
    folder, name, save_every
        As for `train_streaming`.

    Returns
    -------
    DataFrame
        Columns learner (the condition), seed, step (of one agent, in all its copies), task (from
        1), reward (mean a step), return (mean over the episodes that ended in the bin, NaN if none
        did), episodes, and the diagnostics of both networks on the last iteration's observations.

    Raises
    ------
    ValueError
        Before any work, if conditions, sizes or settings do not fit.
    """
    task = task or max(iterations, 1)
    ends = [begin + end for begin in range(0, iterations, task)
            for end in loop.bin_ends(min(task, iterations - begin), bin)]
    if not ends:
        raise ValueError(f"iterations {iterations}: give at least one")
    return loop.run(Training(place, agent, conditions, seeds, config, ends, task, name), folder,
                    save_every)[1]
