"""Let PPO agents live in worlds written in torch that change, task after task, all side by side.

An ensemble has one agent for each arm of an experiment and each seed. They share one compiled step, so
arms differ in settings, in whether their world changes, and in what they renew when it does.
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

from dyndl_lite import checkpoint, diagnostics, draws, drivers
from dyndl_lite.ensemble import grid
from dyndl_lite.network import forward
from dyndl_lite.progress import progress
from dyndl_lite.rl.ppo import ActorCritic, Routine, experience


class Arm(NamedTuple):
    """One way to live: settings, what is renewed by hand at a change, and whether there are any."""

    settings: dict[str, float] = {}
    renewed: str = "nothing"  # or "heads", the output layers; or "all"
    stationary: bool = False


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


def renew(agents: dict, fresh: dict, heads: Tensor, all_of_it: Tensor) -> dict:
    """Take the place of some agents' output layers, or of all that they are, by a fresh agent's.

    Parameters
    ----------
    agents, fresh : dicts of tensors [agents, ...]
    heads, all_of_it : bool tensors [agents]
    """

    def chosen(mask):
        return lambda new, old: torch.where(
            mask.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    agents = tree_map(chosen(all_of_it), fresh, agents)

    def with_heads(new: dict, old: dict) -> dict:
        return {net: ([*old[net][:-1], tree_map(chosen(heads), new[net][-1], old[net][-1])]
                      if net in ("policy", "value") else old[net]) for net in old}

    return {**agents, "params": with_heads(fresh["params"], agents["params"]),
            "memory": {name: with_heads(fresh["memory"][name], part)
                       for name, part in agents["memory"].items()}}


def look(agents: dict, seen: Tensor, activation: str) -> dict[str, Tensor]:
    """Look inside both networks of every agent [agents], on what it saw [agents, n, observations]."""
    found = {}
    for net in ("policy", "value"):
        one = vmap(lambda params, X: diagnostics.diagnose(params, X, activation))
        found |= {f"{net}_{name}": v for name, v in one(agents["params"][net], seen).items()}
    return found


class Lives:
    """All agents of all arms, [arms x seeds], and their worlds: start, go on, save, resume."""

    def __init__(self, world, agent: ActorCritic, arms: dict[str, Arm], seeds: Iterable[int],
                 routine: Routine, iterations: int, task: int, change: Callable):
        seeds = list(seeds)
        if not seeds or not arms:
            raise ValueError("give at least one seed and one arm")
        if any(arm.renewed not in ("nothing", "heads", "all") for arm in arms.values()):
            raise ValueError("renewed is \"nothing\", \"heads\" or \"all\"")
        if routine.envs * routine.steps % routine.minibatches:
            raise ValueError(f"{routine.minibatches} minibatches do not divide "
                             f"{routine.envs} x {routine.steps} steps")
        self.world, self.agent, self.arms, self.routine = world, agent, arms, routine
        self.task, self.change = task, change
        settings = [grid(agent, **arm.settings)[0] for arm in arms.values()]

        def each(values: list) -> Tensor:
            return torch.tensor(values).repeat_interleave(len(seeds))

        self.names = [(name, seed) for name in arms for seed in seeds]
        self.seeds = torch.tensor(seeds * len(arms), dtype=torch.int64)
        self.hypers = {k: each([float(s[k]) for s in settings]) for k in agent.settings}
        self.stays = each([arm.stationary for arm in arms.values()])
        self.heads = each([arm.renewed == "heads" for arm in arms.values()])
        self.whole = each([arm.renewed == "all" for arm in arms.values()])
        self.agents = vmap(agent.start)(self.seeds)
        self.iteration, self.rows = 0, []
        self.running = torch.zeros(len(self.seeds), routine.envs)
        self.states = self.begin(0)
        gradients = iterations * routine.epochs * routine.minibatches
        kind = drivers.choose(self.seeds.device, self.agents, gradients)
        self.learn = _driver(kind, lambda: vmap(agent.step), agent.step)
        self.collect = _driver("eager" if kind == "eager" else "scan",
                               lambda: acting(world, agent), world.name, agent.step)
        self.mark = checkpoint.fingerprint(
            agent.description, world.name, {k: tuple(a) for k, a in arms.items()}, seeds, routine,
            task, change.__qualname__, kind)

    def numbers(self, *where: int, size: int) -> Tensor:
        """Draw uniform numbers [agents, envs, size]; the same for all arms of a seed."""
        env = torch.arange(self.routine.envs)[:, None]
        return draws.uniform(self.seeds[:, None, None], *where, env, torch.arange(size))

    def begin(self, number: int) -> dict:
        """Begin task `number`: the states [agents, envs] of new episodes."""
        numbers = torch.where(self.stays, 0, number)
        changed = vmap(self.change)(self.seeds, numbers)
        draw = self.numbers(draws.START, 0, number, size=4)
        over_envs = vmap(lambda draw, changed: self.world.start(draw, **changed), (0, None))
        return vmap(over_envs)(draw, changed)

    def advance(self) -> dict[str, Tensor]:
        """Act for a while, learn from it; give the sums of an iteration [agents]."""
        if self.iteration and self.iteration % self.task == 0:
            number = self.iteration // self.task
            newborn = vmap(self.agent.start)(draws.bits(self.seeds, draws.WEIGHTS, number, 2**30))
            self.agents = renew(self.agents, newborn, self.heads, self.whole)
            self.states, self.running = self.begin(number), torch.zeros_like(self.running)
        first = self.iteration * self.routine.steps
        times = range(first, first + self.routine.steps)
        u = torch.stack([self.numbers(draws.ACTION, t, size=self.agent.policy.numbers)
                         for t in times])
        draw = torch.stack([self.numbers(draws.START, 1, t, size=4) for t in times])
        self.states, rows = self.collect(self.states, self.agents["params"], u, draw)
        self.rollout = parts(rows, self.world.observations)
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
        return {"reward": total["reward"] / len(sums),
                "return": total["return"] / total["episodes"],
                **look(self.agents, seen, self.agent.activation)}

    def frame(self, bin: int) -> pd.DataFrame:
        """Give the tidy table."""
        each = self.routine.steps * self.routine.envs
        frames = []
        for i, (name, seed) in enumerate(self.names):
            frame = pd.DataFrame({k: [float(row[k][i]) for row in self.rows]
                                  for k in self.rows[0]})
            ends = [bin * (j + 1) for j in range(len(self.rows))]
            frame.insert(0, "task", [(end - 1) // self.task + 1 for end in ends])
            frame.insert(0, "step", [end * each for end in ends])
            frame.insert(0, "seed", seed)
            frame.insert(0, "learner", name)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


_made = {}  # drivers by what they drive: a second experiment of the same shapes compiles nothing


def _driver(kind: str, batched: Callable, *of) -> Callable:
    if (kind, *of) not in _made:
        _made[kind, *of] = drivers.make(kind, batched())
    return _made[kind, *of]


def run(world, agent: ActorCritic, arms: dict[str, Arm], seeds: Iterable[int], iterations: int,
        bin: int, task: int | None = None, change: Callable = lambda seed, number: {},
        routine: Routine = Routine(), folder: str | Path | None = None, name: str = "agents",
        save_every: float = 30.0) -> pd.DataFrame:
    """Let an agent live several ways, with several seeds each, in a world that changes.

    Parameters
    ----------
    world
        One of `worlds`, or `navigation`, or anything like them.
    agent : ActorCritic
    arms : dict of name -> Arm
        They meet the same worlds, episodes and chance, seed by seed.
    seeds : iterable of int
    iterations : int
        Each acts for ``routine.steps`` in ``routine.envs`` copies of the world, then learns.
    bin : int
        Iterations a row of the result; it must divide `iterations` and `task`.
    task : int, optional
        Iterations from one change to the next; None: nothing ever changes.
    change : function of (seed, number)
        What the world is like in task `number`, from 0: a dict of ``physics`` or ``code``.
    routine : Routine
    folder : path, optional
        Where to keep a checkpoint. A run that is started again goes on from there.
    name : str
        Of the checkpoint, and of the progress.

    Returns
    -------
    DataFrame
        Columns learner (the arm), seed, step (of one agent, in all its worlds), task (from 1),
        reward (mean a step), return (mean over the episodes that ended in the bin, NaN if none
        did), and the diagnostics of both networks on the last iteration's observations.

    Raises
    ------
    ValueError
        If bins, arms or settings do not fit.
    """
    task = task or iterations
    if iterations < 1 or bin < 1 or iterations % bin or task % bin:
        raise ValueError(f"bin {bin} does not divide iterations {iterations} and task {task}")
    lives = Lives(world, agent, arms, seeds, routine, iterations, task, change)
    path = Path(folder) / f"{name}.pt" if folder else None
    kept = ("agents", "states", "running", "iteration", "rows")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        for part, value in (checkpoint.load(path, lives.mark, lives.seeds.device) or {}).items():
            if part in kept:
                setattr(lives, part, value)
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
                    checkpoint.save(path, {"fingerprint": lives.mark,
                                           **{part: getattr(lives, part) for part in kept}})
                    saved = time.monotonic()
    finally:
        torch.set_num_threads(threads)
    return lives.frame(bin)
