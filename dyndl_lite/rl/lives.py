"""Many lives at once: agent and world step together, for many seeds and settings.

`run` vmaps a `life` over seeds and settings and drives it with `drivers`, as `ensemble` does with learners
and streams.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite.experiment import checkpoint, drivers, ensemble
from dyndl_lite.experiment.progress import progress
from dyndl_lite.rl.environments import Environment
from dyndl_lite.rl.life import never, together
from dyndl_lite.rl.streaming import Agent

CHUNK = 1_000  # steps handed to a driver at a time, at most
LOOK = 500  # observations on which a probe looks at a net


class Lives:
    """Many lives of one agent side by side, [settings, seeds].

    Parameters
    ----------
    agent, world, changes
        As for `life.together`.
    variants : dict of name -> values
        Settings to sweep, as `ensemble.grid` takes them, under the name of each variant.
    seeds : iterable of int
    steps : int
        How long they may live: what is short is not compiled.
    """

    def __init__(self, agent: Agent, world: Environment, variants: dict[str, dict], seeds: Iterable[int],
                 steps: int, changes: Callable = never):
        self.settings = [(name, setting) for name, values in variants.items()
                         for setting in ensemble.grid(agent, **values)]
        self.seeds = torch.tensor(list(seeds), dtype=torch.int64)
        if len(self.seeds) == 0:
            raise ValueError("seeds is empty: give at least one")
        start, step = together(agent, world, changes)
        self.hypers = {name: torch.tensor([float(s[name]) for _, s in self.settings])
                       for name in agent.settings}
        over_seeds = vmap(start, in_dims=(0, None))
        lives = vmap(over_seeds, in_dims=(None, 0))(self.seeds, self.hypers)
        self.lives = drivers.laid_out(lives)
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


def run(agent: Agent, world: Environment, variants: dict[str, dict], seeds: Iterable[int], steps: int,
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
        See `life.probe`: they look at the last 500 observations of each bin.
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
