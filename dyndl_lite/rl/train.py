"""Let PPO agents act and learn by turns, task after task, an ensemble side by side.

An ensemble has one agent for each arm of an experiment and each seed. They share one compiled step, so
arms differ in settings, in whether their world changes, and in what they renew when it does. All of it
runs on the CPU: the networks are small, and the simulators are there.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import checkpoint, diagnostics, drivers
from dyndl_lite.experiment.ensemble import grid
from dyndl_lite.experiment.progress import progress
from dyndl_lite.rl.ppo import ActorCritic, experience, networks, Routine

RENEWED = ("nothing", "heads", "all")


class Arm(NamedTuple):
    """One way to live: settings, what is renewed by hand at a change, and whether there are any."""

    settings: dict[str, float] = {}
    renewed: str = "nothing"  # or "heads", the output layers; or "all"
    stationary: bool = False


def renew(agents: dict, fresh: dict, heads: Tensor, all_of_it: Tensor) -> dict:
    """Take the place of some agents' output layers, or of all that they are, by a fresh agent's.

    Parameters
    ----------
    agents, fresh : dicts of tensors [agents, ...]
    heads, all_of_it : bool tensors [agents]
    """

    def chosen(mask):
        return lambda new, old: torch.where(mask.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    agents = tree_map(chosen(all_of_it), fresh, agents)

    def with_heads(new: dict, old: dict) -> dict:
        *hidden, last = old["nets"]
        return {**old, "nets": [*hidden, tree_map(chosen(heads), new["nets"][-1], last)]}

    return {**agents, "params": with_heads(fresh["params"], agents["params"]),
            "memory": {name: with_heads(fresh["memory"][name], part)
                       for name, part in agents["memory"].items()}}


def look(agents: dict, seen: Tensor, activation: str) -> dict[str, Tensor]:
    """Look inside both networks of every agent [agents], on what it saw [agents, n, observations]."""
    one, found = vmap(lambda params, X: diagnostics.diagnose(params, X, activation)), {}
    for net, params in networks(agents["params"]).items():
        found |= {f"{net}_{name}": v for name, v in one(params, seen).items()}
    return found


class Lives:
    """All agents of all arms, [arms x seeds], and where they act."""

    def __init__(self, place: Callable, agent: ActorCritic, arms: dict[str, Arm],
                 seeds: Iterable[int], routine: Routine, iterations: int, task: int):
        seeds = list(seeds)
        if not seeds or not arms:
            raise ValueError("give at least one seed and one arm")
        for name, arm in arms.items():
            if arm.renewed not in RENEWED:
                raise ValueError(f"arm {name!r} renews {arm.renewed!r}: use one of {RENEWED}")
        if routine.envs * routine.steps % routine.minibatches:
            raise ValueError(f"{routine.minibatches} minibatches do not divide "
                             f"{routine.envs} x {routine.steps} steps")
        self.agent, self.routine, self.task = agent, routine, task
        settings = [grid(agent, **arm.settings)[0] for arm in arms.values()]

        def each(values: list) -> Tensor:
            return torch.tensor(values).repeat_interleave(len(seeds))

        self.names = [(name, seed) for name in arms for seed in seeds]
        self.seeds = torch.tensor(seeds * len(arms), dtype=torch.int64)
        self.hypers = {k: each([float(s[k]) for s in settings]) for k in agent.settings}
        self.renewed = [each([arm.renewed == what for arm in arms.values()])
                        for what in RENEWED[1:]]
        self.agents = drivers.laid_out(vmap(agent.start)(self.seeds))
        kind = drivers.choose(self.seeds.device, self.agents,
                              iterations * routine.epochs * routine.minibatches)
        self.learn = drivers.reused(kind, vmap, agent.step)
        stays = each([arm.stationary for arm in arms.values()])
        self.place = place(agent, self.seeds, stays, routine, kind != "eager")
        self.place.begin(0)
        self.iteration, self.rows = 0, []
        self.running = torch.zeros(len(self.seeds), routine.envs)
        self.mark = checkpoint.fingerprint(
            agent.description, place.mark, {name: tuple(arm) for name, arm in arms.items()}, seeds,
            tuple(routine), task, kind)

    def state(self) -> dict:
        """Give all that a run needs to go on."""
        return {"fingerprint": self.mark, "agents": self.agents, "rows": self.rows,
                "iteration": self.iteration, "running": self.running,
                "place": self.place.state()}

    def resume(self, state: dict) -> None:
        """Go on from there."""
        self.agents, self.rows = state["agents"], state["rows"]
        self.iteration, self.running = state["iteration"], state["running"]
        self.place.resume(state["place"])

    def advance(self) -> dict[str, Tensor]:
        """Act for a while, learn from it; give the sums of an iteration [agents]."""
        if self.iteration and self.iteration % self.task == 0:
            number = self.iteration // self.task
            newborn = vmap(self.agent.start)(random.bits(self.seeds, random.WEIGHTS, number, 2**30))
            self.agents = drivers.laid_out(renew(self.agents, newborn, *self.renewed))
            if self.place.begin(number):
                self.running = torch.zeros_like(self.running)
        self.rollout = self.place.collect(self.agents["params"], self.iteration)
        X, Y = experience(self.agents, self.hypers, self.rollout, self.agent.activation,
                          self.seeds, self.iteration, self.routine)
        self.agents, _ = self.learn(self.agents, self.hypers, X, Y)
        self.iteration += 1
        return self.earned()

    def earned(self) -> dict[str, Tensor]:
        """Sum up the rewards, and the returns of the episodes that ended."""
        returns = torch.zeros(len(self.seeds))
        for reward, over in zip(self.rollout["reward"], self.rollout["over"]):
            self.running = self.running + reward
            returns += torch.where(over, self.running, 0.0).sum(1)
            self.running = torch.where(over, 0.0, self.running)
        return {"reward": self.rollout["reward"].mean((0, 2)), "return": returns,
                "episodes": self.rollout["over"].sum((0, 2)).float()}

    def row(self, sums: list[dict]) -> dict[str, Tensor]:
        """Give what is kept of a bin of iterations."""
        total = {k: sum(one[k] for one in sums) for k in sums[0]}
        seen = self.rollout["observation"].transpose(0, 1).flatten(1, 2)
        return {"reward": total["reward"] / len(sums), "return": total["return"] / total["episodes"],
                "episodes": total["episodes"], **look(self.agents, seen, self.agent.activation)}

    def frame(self, bin: int) -> pd.DataFrame:
        """Give the tidy table."""
        each, frames = self.routine.steps * self.routine.envs, []
        for i, (name, seed) in enumerate(self.names):
            ends = [bin * (j + 1) for j in range(len(self.rows))]
            about = {"learner": name, "seed": seed, "step": [end * each for end in ends],
                     "task": [(end - 1) // self.task + 1 for end in ends]}
            measured = {k: [float(row[k][i]) for row in self.rows] for k in self.rows[0]}
            frames.append(pd.DataFrame(about | measured))
        return pd.concat(frames, ignore_index=True)


def run(place: Callable, agent: ActorCritic, arms: dict[str, Arm], seeds: Iterable[int],
        iterations: int, bin: int, task: int | None = None, routine: Routine = Routine(),
        folder: str | Path | None = None, name: str = "agents",
        save_every: float = 30.0) -> pd.DataFrame:
    """Let an agent live several ways, with several seeds each.

    Parameters
    ----------
    place
        Where they act: what `torch_worlds` or `gymnasium_worlds` gives.
    agent : ActorCritic
    arms : dict of name -> Arm
        They meet the same worlds, episodes and chance, seed by seed.
    seeds : iterable of int
    iterations : int
        In each one acts for ``routine.steps`` in ``routine.envs`` copies, then learns.
    bin : int
        Iterations a row of the result; it must divide `iterations` and `task`.
    task : int, optional
        Iterations from one task to the next; None: there is only one.
    routine : Routine
    folder : path, optional
        Where to keep a checkpoint. A run that is started again goes on from there.
    name : str
        Of the checkpoint, and of the progress.

    Returns
    -------
    DataFrame
        Columns learner (the arm), seed, step (of one agent, in all its copies), task (from 1),
        reward (mean a step), return (mean over the episodes that ended in the bin, NaN if none
        did), episodes, and the diagnostics of both networks on the last iteration's observations.

    Raises
    ------
    ValueError
        If bins, arms or settings do not fit.
    """
    task = task or iterations
    if iterations < 1 or bin < 1 or iterations % bin or task % bin:
        raise ValueError(f"bin {bin} does not divide iterations {iterations} and task {task}")
    lives = Lives(place, agent, arms, seeds, routine, iterations, task)
    path = Path(folder) / f"{name}.pt" if folder else None
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = checkpoint.load(path, lives.mark, lives.seeds.device)
        if state:
            lives.resume(state)
    threads, saved = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)  # small nets: threads cost more than they bring
    try:
        with progress(iterations, name) as bar:
            bar.update(lives.iteration)
            while lives.iteration < iterations:
                lives.rows.append(lives.row([lives.advance() for _ in range(bin)]))
                bar.update(bin)
                due = time.monotonic() - saved >= save_every or lives.iteration == iterations
                if path and due:
                    checkpoint.save(path, lives.state())
                    saved = time.monotonic()
    finally:
        torch.set_num_threads(threads)
    return lives.frame(bin)
