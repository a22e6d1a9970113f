"""Let agents live in worlds: agent and world step together, many seeds and settings at once.

One life is a pure function of itself: the agent sees, acts, is paid, learns. `run` vmaps it over
seeds and settings and drives it with `drivers`, as `ensemble` does with learners and streams.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite import checkpoint, diagnostics, draws, drivers, ensemble
from dyndl_lite.backprop import Learner
from dyndl_lite.progress import progress
from dyndl_lite.rl import kit
from dyndl_lite.rl.streaming import Agent
from dyndl_lite.rl.worlds import World

CHUNK = 1_000  # steps handed to a driver at a time, at most
LOOK = 500  # observations on which a probe looks at a net


def born(agent: Agent, hyper: dict, seed: Tensor, observation: Tensor) -> dict:
    """Begin a life: an agent, what it knows of the world's scales, and its first observation."""
    known, x = kit.perceive(kit.new_statistics(observation), observation, hyper)
    zero = torch.zeros_like(observation[0])
    return {"mind": agent.start(seed, hyper), "known": known, "x": x,
            "pay": {"sum": zero, "known": kit.new_statistics(zero)},
            "return": zero.clone(), "seed": seed.clone(), "t": torch.zeros_like(seed)}


def act(agent: Agent, life: dict, hyper: dict) -> tuple[Tensor, Tensor]:
    """Choose: the action, and whether it explored."""
    return agent.act(life["mind"], hyper, life["x"], life["seed"], life["t"])


def experience(agent: Agent, life: dict, hyper: dict, action: Tensor, explored: Tensor,
               observation: Tensor, reward: Tensor, terminal: Tensor, truncated: Tensor,
               next_start: Tensor) -> tuple[dict, Tensor]:
    """Live through what an action led to.

    Parameters
    ----------
    observation : tensor [observations]
        Where the action led, the last one of an episode included.
    terminal, truncated : bool scalar tensors
    next_start : tensor [observations]
        The first observation of the next episode; used only where this one is over.

    Returns
    -------
    life : dict
    report : tensor [4 + observations]
        Reward, whether an episode is over, its return if so, the value the agent expected in
        units of reward, and x.
    """
    over = terminal | truncated
    known, next_x = kit.perceive(life["known"], observation, hyper)
    again, first_x = kit.perceive(known, next_start, hyper)
    pay, scale = kit.earn(life["pay"], reward, over, hyper)
    seen = {"x": life["x"], "action": action, "reward": reward / scale, "next_x": next_x,
            "terminal": terminal, "over": over, "explored": explored}
    mind, value = agent.learn(life["mind"], hyper, seen, life["seed"], life["t"])
    total = life["return"] + reward
    report = torch.stack([reward, over.to(reward.dtype), torch.where(over, total, 0.0),
                          value * scale])
    return {"mind": mind, "known": tree_map(lambda a, b: torch.where(over, a, b), again, known),
            "x": torch.where(over, first_x, next_x), "pay": pay,
            "return": torch.where(over, 0.0, total), "seed": life["seed"],
            "t": life["t"] + 1}, torch.cat([report, life["x"]])


def never(seed: Tensor, t: Tensor) -> dict:
    """Nothing changes."""
    return {}


def together(agent: Agent, world: World, changes: Callable = never) -> tuple:
    """Put an agent into a world.

    Parameters
    ----------
    agent : Agent
    world : World
    changes : function of (seed, t)
        What the world is like from the next start on: a dict with ``physics`` or ``code``.

    Returns
    -------
    start : function of (seed, hyper) -> life
    step : function of (life, hyper, x, y) -> life, report; x and y are not looked at
    """
    four = torch.arange(4)

    def start(seed, hyper):
        state = world.start(draws.uniform(seed, draws.START, 0, four.to(seed.device)),
                            **changes(seed, torch.zeros_like(seed)))
        return {"world": state, **born(agent, hyper, seed, world.observe(state))}

    def step(life, hyper, *_):
        seed, t = life["seed"], life["t"]
        action, explored = act(agent, life, hyper)
        state, reward, terminal, truncated = world.step(life["world"], action)
        draw = draws.uniform(seed, draws.START, t + 1, four.to(seed.device))
        new = world.restart(state, terminal | truncated, draw, **changes(seed, t + 1))
        me = {name: part for name, part in life.items() if name != "world"}
        me, report = experience(agent, me, hyper, action, explored, world.observe(state), reward,
                                terminal, truncated, world.observe(new))
        return {"world": new, **me}, report

    return start, step


def probe(net: str = "critic") -> Callable:
    """Give the function of (life, hyper, X) that looks inside one of an agent's networks."""

    def look(life, hyper, X):
        params = life["mind"][net]["params"]
        activities = vmap(lambda x: tuple(kit.forward(params, x, hyper["layer_norm"])[1]))(X)
        found = diagnostics.look(params, activities)
        return {f"{net}_{name}": value for name, value in found.items()}

    return look


class Lives:
    """Many lives of one agent side by side, [settings, seeds].

    Parameters
    ----------
    agent, world, changes
        As for `together`.
    variants : dict of name -> values
        Settings to sweep, as `ensemble.grid` takes them, under the name of each variant.
    seeds : iterable of int
    steps : int
        How long they may live: what is short is not compiled.
    """

    def __init__(self, agent: Agent, world: World, variants: dict[str, dict], seeds: Iterable[int],
                 steps: int, changes: Callable = never):
        like = Learner(None, None, agent.settings, agent.description, 0)
        self.settings = [(name, setting) for name, values in variants.items()
                         for setting in ensemble.grid(like, **values)]
        self.seeds = torch.tensor(list(seeds), dtype=torch.int64)
        if len(self.seeds) == 0:
            raise ValueError("seeds is empty: give at least one")
        start, step = together(agent, world, changes)
        self.hypers = {name: torch.tensor([float(s[name]) for _, s in self.settings])
                       for name in agent.settings}
        over_seeds = vmap(start, in_dims=(0, None))
        lives = vmap(over_seeds, in_dims=(None, 0))(self.seeds, self.hypers)
        self.lives = tree_map(lambda a: a.clone(memory_format=torch.contiguous_format), lives)
        kind = drivers.choose(torch.device("cpu"), self.lives, steps)
        self.advance = drivers.make(kind, ensemble.batched(step))
        self.t, self.rows = 0, []
        self.about = (agent.description, world.name, self.settings, self.seeds.tolist(), kind)

    def live(self, steps: int) -> Tensor:
        """Live on; give the reports [steps, settings, seeds, 4 + observations]."""
        nothing = torch.zeros(steps, len(self.seeds))
        self.lives, reports = self.advance(self.lives, self.hypers, nothing, nothing)
        self.t += steps
        return reports

    def bin(self, steps: int, probes: Iterable[Callable], bar) -> None:
        """Live through one bin, and keep a row of it."""
        chunk = max(d for d in range(1, min(steps, CHUNK) + 1) if steps % d == 0)
        total = 0
        for _ in range(steps // chunk):
            reports = self.live(chunk)
            total = total + reports[..., :4].double().sum(0)
            bar.update(chunk)
        reward, over, ended, value = total.unbind(-1)
        row = {"return": ended / over, "reward": reward / steps, "episodes": over,
               "value": value / steps}
        for one in probes:
            look = vmap(vmap(one, in_dims=(0, None, 1)), in_dims=(0, 0, 1))
            row |= look(self.lives, self.hypers, reports[-LOOK:, ..., 4:])
        self.rows.append({k: v.float() for k, v in row.items()})

    def frame(self, bin: int) -> pd.DataFrame:
        """Give the tidy table: one row for each setting, seed and bin."""
        frames = []
        for (s, (name, setting)), (r, seed) in itertools.product(enumerate(self.settings),
                                                                 enumerate(self.seeds.tolist())):
            frame = pd.DataFrame({k: [float(row[k][s, r]) for row in self.rows]
                                  for k in self.rows[0]})
            frame.insert(0, "step", [bin * (i + 1) for i in range(len(self.rows))])
            for i, (k, v) in enumerate({"learner": name, **setting, "seed": seed}.items()):
                frame.insert(i, k, v)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


def run(agent: Agent, world: World, variants: dict[str, dict], seeds: Iterable[int], steps: int,
        bin: int, changes: Callable = never, about: tuple = (), probes: Iterable[Callable] = (),
        path: str | Path | None = None, save_every: float = 30.0) -> pd.DataFrame:
    """Let an agent live in a world, with many settings and seeds.

    Parameters
    ----------
    agent, world, variants, seeds, changes
        As for `Lives`.
    steps, bin : int
        Steps a life, and steps a row of the result; bin must divide steps.
    about : tuple
        Says what `changes` does, so that another one does not continue its checkpoint.
    probes : functions of (life, hyper, X)
        See `probe`: they look at the last 500 observations of each bin.
    path : path, optional
        Of a checkpoint, kept every `save_every` seconds and at the end. A run that is started
        again goes on from there.

    Returns
    -------
    DataFrame
        Columns learner (the variant), each setting, seed, step, return (mean over the episodes
        that ended in the bin, NaN if none did), reward (mean a step), episodes, value (mean of
        what the agent expected), and what the probes give.
    """
    if steps < 1 or bin < 1 or steps % bin:
        raise ValueError(f"bin {bin} does not divide steps {steps}: choose a bin that does")
    lives = Lives(agent, world, variants, seeds, steps, changes)
    mark = checkpoint.fingerprint(lives.about, about, steps, bin)
    state = checkpoint.load(Path(path), mark, torch.device("cpu")) if path else None
    if state:
        lives.t, lives.lives, lives.rows = state["t"], state["lives"], state["rows"]
    saved, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)  # small nets: threads cost more than they bring
    try:
        with progress(steps, agent.description.split()[0]) as bar:
            bar.update(lives.t)
            while lives.t < steps:
                lives.bin(bin, probes, bar)
                if path and (time.monotonic() - saved >= save_every or lives.t == steps):
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    checkpoint.save(Path(path), {"fingerprint": mark, "t": lives.t,
                                                 "lives": lives.lives, "rows": lives.rows})
                    saved = time.monotonic()
    finally:
        torch.set_num_threads(threads)
    return lives.frame(bin)
