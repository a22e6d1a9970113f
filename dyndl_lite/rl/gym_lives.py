"""Streaming agents in gymnasium's own environments: a plain loop over simulators, agents side by side.

What the agents do between two steps of their simulators is one compiled step, as in `lives`.
MuJoCo and MinAtar are optional: `find` says in one line what is missing.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.experiment.progress import progress
from dyndl_lite.rl import life
from dyndl_lite.rl.environments import check_fit
from dyndl_lite.rl.gymnasium_adapters import Adapted, find, Simulators, sizes  # noqa: F401
from dyndl_lite.rl.streaming import Agent


def hear(agent: Agent, observations: int) -> tuple[Callable, Callable]:
    """Give the functions that begin a life, and that take in what an action led to and act again.

    Returns
    -------
    start : seed, hyper, observation -> life, with the first action
    step : life, hyper, outcome, y -> life, report
        Outcome: reward, terminal, truncated, the observation that the action led to, and the first
        one of the next episode.
    """

    def decide(me, hyper):
        action, explored = life.act(agent, me, hyper)
        return {"me": me, "action": action, "explored": explored}

    def start(seed, hyper, observation):
        return decide(life.born(agent, hyper, seed, observation), hyper)

    def step(now, hyper, outcome, _):
        reward, terminal, truncated = outcome[0], outcome[1] > 0, outcome[2] > 0
        me, report = life.experience(
            agent, now["me"], hyper, now["action"], now["explored"], outcome[3:3 + observations],
            reward, terminal, truncated, outcome[3 + observations:])
        return decide(me, hyper), report[:4]

    return start, step


def run(agent: Agent, make: Callable, variants: dict[str, dict], seeds: Iterable[int], steps: int,
        bin: int) -> pd.DataFrame:
    """Let an agent live in gymnasium's environments; parameters and result are those of `lives.run`.

    Parameters
    ----------
    make : function
        Makes one environment: see `find`.
    """
    if steps < 1 or bin < 1 or steps % bin:
        raise ValueError(f"bin {bin} does not divide steps {steps}: choose a bin that does")
    rows = [{"learner": name, **setting, "seed": seed} for name, values in variants.items()
            for setting in ensemble.grid(agent, **values) for seed in seeds]
    hypers = {name: torch.tensor([float(row[name]) for row in rows]) for name in agent.settings}
    check_fit(agent.made_for, Adapted(make()))
    simulators = Simulators([make] * len(rows))
    first = simulators.reset([row["seed"] for row in rows])
    start, step = hear(agent, first.shape[1])
    all_lives = drivers.laid_out(
        vmap(start)(torch.tensor([row["seed"] for row in rows]), hypers, first))
    kind = "in_place" if steps >= drivers.WORTH_COMPILING else "eager"
    advance = drivers.make(kind, vmap(step))
    frames = []
    with progress(steps, agent.description.split()[0]) as bar:
        for end in range(bin, steps + 1, bin):
            total = torch.zeros(len(rows), 4, dtype=torch.float64)
            for _ in range(bin):
                actions = all_lives["action"].numpy().astype(np.float32).reshape(len(rows), -1)
                after, reward, terminal, over, seen = simulators.step(actions)
                outcome = torch.cat([torch.stack([reward, terminal.float(), (over & ~terminal).float()], 1),
                                     after, seen], 1)
                all_lives, reports = advance(all_lives, hypers, outcome[None], outcome[None])
                total += reports[0]
                bar.update(1)
            reward, over, ended, value = total.T.numpy()
            with np.errstate(invalid="ignore", divide="ignore"):
                frames.append(pd.DataFrame(rows).assign(**{
                    "step": end, "return": ended / over, "reward": reward / bin, "episodes": over,
                    "value": value / bin}))
    simulators.close()
    return pd.concat(frames, ignore_index=True)
