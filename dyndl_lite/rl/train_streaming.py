"""Train streaming agents, many seeds and settings side by side, in our environments or gymnasium's.

In ours the whole interaction is one compiled loop; gymnasium's simulators step in Python, and what
the agents do in between is one compiled step.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.experiment import run as loop
from dyndl_lite.rl.environments import check_fit, Environment
from dyndl_lite.rl.gymnasium_adapters import Simulators
from dyndl_lite.rl.interaction import in_simulator, interaction, never
from dyndl_lite.rl.streaming import Agent

CHUNK = 1_000  # steps at a time, at most
SIMULATED = 100  # the same where each is a step of a simulator
PROBED = 500  # observations on which a probe looks at a net


def train_streaming(agent: Agent, environment: Environment | Callable, variants: dict[str, dict],
                    seeds: Iterable[int], steps: int, bin: int, changes: Callable = never,
                    probes: Iterable[Callable] = (), folder: str | Path | None = None,
                    name: str | None = None, save_every: float = 30.0) -> pd.DataFrame:
    """Let an agent learn in an environment, with many settings and seeds.

    Parameters
    ----------
    agent : Agent
    environment : Environment, or function
        One of `environments`, or what makes one of gymnasium's: see `gymnasium_adapters.find`.
    variants : dict of name -> values
        Settings to sweep, as `ensemble.grid` takes them, under the name of each variant.
    seeds, steps, bin
        As for `ensemble.run`, in steps.
    changes : function of (seed, t)
        How our environment changes: see `interaction.interaction`.
    probes : functions of (agent, hyper, X)
        See `interaction.probe`: they look at the last 500 observations of each bin.
    folder, save_every
        As for `experiment.run.run`. Simulators must be such as can be saved.
    name : str, optional
        Of the checkpoint, and of the progress; by default the agent's.

    Returns
    -------
    DataFrame
        Columns learner (the variant), each setting, seed, step, return (mean over the episodes
        that ended in the bin, NaN if none did), reward (mean a step), episodes, value (mean of
        what the agent expected), and what the probes give.

    Raises
    ------
    ValueError, UserError
        Before any work, if a setting, a size, or a checkpoint cannot be.
    """
    given = agent, environment, variants, seeds, loop.bin_ends(steps, bin), bin, tuple(probes), name
    job = (InEnvironment(*given, changes) if hasattr(environment, "restart") else
           InSimulators(*given))
    return loop.run(job, folder, save_every)[1]


def rollout(agent: Agent, environment: Environment, variants: dict[str, dict], seeds: Iterable[int],
            steps: int, changes: Callable = never) -> tuple[list[tuple[str, dict]], Tensor]:
    """Let an agent learn in one of our environments, and keep what happened at every step.

    Returns
    -------
    settings : list of (name of the variant, values)
    reports : tensor [steps, settings, seeds, 4 + observations]
        As `interaction.learn` gives them.
    """
    job = InEnvironment(agent, environment, variants, seeds, [steps], steps, (), None, changes)
    state, reports = job.start(), []
    for t in range(0, steps, job.chunk):
        state, more = job.interact(state, min(job.chunk, steps - t))
        reports.append(more)
    return job.settings, torch.cat(reports)


class _Streaming(loop.Job):
    """Agents [settings, seeds] that learn as they act."""

    def __init__(self, agent, environment, variants, seeds, ends, bin, probes, name):
        self.name, self.ends, self.probes = name or agent.description.split()[0], ends, probes
        self.settings = [(variant, setting) for variant, values in variants.items()
                         for setting in ensemble.grid(agent, **values)]
        self.seeds = loop.seeds_of(seeds)
        self.rows = [{"learner": variant, **setting, "seed": seed}
                     for variant, setting in self.settings for seed in self.seeds.tolist()]
        self.hypers = ensemble.hypers_of([setting for _, setting in self.settings])
        self.facts = (agent, environment, self.settings, self.seeds.tolist(), probes)

    def measure(self, state, t, sums, steps, seen):
        row = {"return": sums["return"] / sums["episodes"], "reward": sums["reward"] / steps,
               "episodes": sums["episodes"], "value": sums["value"] / steps}
        for probe in self.probes:
            look = vmap(vmap(probe, in_dims=(0, None, 1)), in_dims=(0, 0, 1))
            row |= look(state["agent"], self.hypers, seen)
        return {name: value.float() for name, value in row.items()}


def _sums(reports: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Give what is summed of reports [steps, settings, seeds, 4 + observations], and the last x."""
    reward, episodes, ended, value = reports[..., :4].double().sum(0).unbind(-1)
    return ({"reward": reward, "episodes": episodes, "return": ended, "value": value},
            reports[-PROBED:, ..., 4:])


class InEnvironment(_Streaming):
    """Agents in an environment written in torch."""

    def __init__(self, agent, environment, variants, seeds, ends, bin, probes, name, changes):
        super().__init__(agent, environment, variants, seeds, ends, bin, probes, name)
        begin, step = interaction(agent, environment, changes)
        self.begin = vmap(vmap(begin, in_dims=(0, None)), in_dims=(None, 0))
        self.chunk = loop.chunk_of(min(bin, ends[-1]), CHUNK)
        kind = drivers.choose(self.device, self.start(), ends[-1])
        self.go = drivers.reused(kind, ensemble.batched(step))
        self.facts += changes, kind

    def start(self):
        return drivers.laid_out(self.begin(self.seeds, self.hypers))

    def interact(self, state, steps):
        """Interact from a state; give the next one, and the reports."""
        nothing = torch.zeros(steps, len(self.seeds))
        return self.go(state, self.hypers, nothing, nothing)

    def advance(self, state, t, steps):
        state, reports = self.interact(state, steps)
        return state, *_sums(reports)


class InSimulators(_Streaming):
    """Agents in gymnasium's environments, one for each setting and seed."""

    def __init__(self, agent, make, variants, seeds, ends, bin, probes, name):
        super().__init__(agent, make, variants, seeds, ends, bin, probes, name)
        self.chunk = loop.chunk_of(min(bin, ends[-1]), SIMULATED)
        self.agent, self.make = agent, make
        self.kind = "eager" if ends[-1] < drivers.WORTH_COMPILING else "in_place"
        self.facts += self.kind,

    def start(self):
        shape = len(self.settings), len(self.seeds)
        self.simulators = Simulators([self.make] * len(self.rows))
        self.facts += self.simulators.kinds
        check_fit(self.agent.made_for, self.simulators.envs[0])
        first = self.simulators.reset(self.seeds.tolist() * shape[0]).unflatten(0, shape)
        start, step = in_simulator(self.agent)
        self.go = drivers.reused(self.kind, vmap(vmap(step, (0, None, 0, 0)), (0, 0, 0, 0)))
        agents = vmap(vmap(start, (0, None, 0)), (None, 0, 0))(self.seeds, self.hypers, first)
        return drivers.laid_out(agents)

    def advance(self, state, t, steps):
        reports, shape = [], (len(self.settings), len(self.seeds))
        for _ in range(steps):
            actions = state["action"].reshape(len(self.rows), -1).float().numpy()
            after, reward, terminal, over, first = self.simulators.step(actions)
            flags = torch.stack([reward, terminal.float(), (over & ~terminal).float()], 1)
            outcome = torch.cat([flags, after, first], 1).unflatten(0, shape)[None]
            state, report = self.go(state, self.hypers, outcome, outcome)
            reports.append(report)
        return state, *_sums(torch.cat(reports))

    def pack(self, state):
        return {"state": state, "environments": self.simulators.save()}

    def unpack(self, packed):
        self.simulators.load(packed["environments"])
        return packed["state"]

    def close(self):
        if hasattr(self, "simulators"):
            self.simulators.close()
