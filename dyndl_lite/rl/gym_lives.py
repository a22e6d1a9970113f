"""Streaming agents in gymnasium's own environments: a plain loop over simulators, agents side by side.

What the agents do between two steps of their simulators is one compiled step, as in `lives`.
MuJoCo and MinAtar are optional: `find` says in one line what is missing.
"""

import importlib.util
from collections.abc import Callable, Iterable

import gymnasium
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.experiment.progress import progress
from dyndl_lite.files import UserError
from dyndl_lite.rl import life
from dyndl_lite.rl.streaming import Agent


def find(name: str) -> Callable:
    """Give a function that makes an environment, with flat observations.

    Parameters
    ----------
    name : str
        gymnasium's, or ``MinAtar/Breakout-v1`` and the like.

    Raises
    ------
    UserError
        If there is no such environment here; the line says what to install.
    """
    if name.startswith("MinAtar/"):
        if importlib.util.find_spec("minatar") is None:
            raise UserError(f"{name} needs MinAtar: pip install MinAtar")
        if name not in gymnasium.registry:
            importlib.import_module("minatar.gym").register_envs()

    def make():
        return gymnasium.wrappers.FlattenObservation(gymnasium.make(name))

    try:
        make().close()
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{name} needs a simulator: pip install 'gymnasium[mujoco]'") from error
    except gymnasium.error.Error as error:
        raise UserError(f"no environment {name!r}: {error}") from error
    return make


def sizes(make: Callable) -> tuple[int, int, int]:
    """Count observations, actions to choose from (0: none), and real numbers to act with."""
    env = make()
    shape, actions = env.observation_space.shape, env.action_space
    env.close()
    if isinstance(actions, gymnasium.spaces.Discrete):
        return shape[0], int(actions.n), 0
    return shape[0], 0, actions.shape[0]


class _Simulators:
    """One environment for each life, each with the random numbers of its life's seed."""

    def __init__(self, make: Callable, seeds: list[int]):
        self.all = [make() for _ in seeds]
        self.seen = [env.reset(seed=seed)[0] for env, seed in zip(self.all, seeds)]
        self.bounded = [getattr(env.action_space, "low", None) is not None for env in self.all]

    def starts(self) -> Tensor:
        return torch.tensor(np.stack(self.seen), dtype=torch.float32)

    def step(self, actions: np.ndarray) -> Tensor:
        """Act everywhere; outcomes [lives, 3 + 2 observations], as `hear` reads them."""
        rows = []
        for env, action, box in zip(self.all, actions, self.bounded):
            if box:
                action = np.clip(action, env.action_space.low, env.action_space.high)
            seen, reward, terminal, truncated, _ = env.step(action)
            after = env.reset()[0] if terminal or truncated else seen
            rows.append(np.concatenate([[reward, terminal, truncated and not terminal], seen, after]))
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def close(self) -> None:
        for env in self.all:
            env.close()


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
    simulators = _Simulators(make, [row["seed"] for row in rows])
    first = simulators.starts()
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
                outcome = simulators.step(all_lives["action"].numpy())
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
