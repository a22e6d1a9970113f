"""Record the streaming learners that notebook 08 shows, their ablations, their rivals, changing worlds.

    python data/record_streaming.py CartPole-v1/q CartPole-v1/ac 'CartPole-v1, recoded/q' ...

A part is environment/agent; `--list` names all parts. Each part runs an agent with all its variants
and their settings with a few seeds, side by side, which choose the best setting of each variant; that
is run with others, which report. Rows go to data/results/rl.csv: env, learner, setting, seed, step,
metric, value, use: for every setting the metric "return_end", the mean return of an episode over the
last fifth of the life; for the best setting of each learner, ablations excepted, and the first seeds
that report also "return" for each tenth. What made them is noted in
rl.json. A part goes on after an interruption from its checkpoint under build/record/streaming/.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import recording
import torch
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms.continual_backprop import least_useful
from dyndl_lite.experiment import compare
from dyndl_lite.rl import environments, interaction, stream_x
from dyndl_lite.rl.dqn import dqn, ppo_of_one
from dyndl_lite.rl.gymnasium_adapters import find, sizes
from dyndl_lite.rl.streaming import dynamic_q, stream_ac, stream_q
from dyndl_lite.rl.train_streaming import train_streaming

KEY = ["env", "learner"]
COLUMNS = [*KEY, "setting", "seed", "step", "metric", "value", "use"]
FEW, CURVES = range(10), range(10, 20)  # seeds that choose; seeds of which every tenth is kept
STEPS = [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6]  # of classic learners
ADAM = [3e-3, 1e-3, 3e-4, 1e-4]
PERIOD = 40_000  # steps between two changes


def variants(name: str, **more) -> dict[str, dict]:
    """Give stream-x, the classic learner, and stream-x without each of its components."""
    return {f"stream {name}": {}, f"classic {name}": {**stream_x.CLASSIC, "step_size": STEPS},
            **{f"stream {name} without {part}": values
               for part, values in (stream_x.ABLATIONS | more).items()}}


def renewed(name: str) -> dict[str, dict]:
    """Give stream-x, with continual backprop too, and that with statistics that fade."""
    cbp = {"replacement_rate": [1e-5, 1e-4, 1e-3], "maturity_threshold": 1_000.0}
    return {f"stream {name}": {"replacement_rate": 0.0}, f"stream {name} + CBP": cbp,
            f"stream {name} + CBP, fading statistics": {"horizon": 10_000.0, **cbp}}


def recoded(seed, t):
    """Another code of the observations in every period."""
    return {"code": environments.signed_permutation(seed, t // PERIOD, 4)}


def slippery(seed, t):
    """Other physics in every period."""
    ranges = {"force": (0.3, 3.0), "length": (0.5, 2.0), "gravity": (0.5, 2.0)}
    return {"physics": environments.slipped(seed, t // PERIOD, environments.cart_pole.physics, ranges)}


class Part(NamedTuple):
    """What is run in a part."""

    make: Callable  # observations, actions, real numbers -> Agent
    variants: dict[str, dict]
    steps: int
    world: environments.Environment | None = None  # None: gymnasium's own simulator, by the part's name
    changes: Callable = interaction.never
    seeds: int = 30  # those that choose and those that report


def afresh(make: Callable) -> Callable:
    """Let the agents of a maker begin anew at each change: then nothing can have been lost."""

    def forgetful(inputs, actions, reals):
        agent = make(inputs, actions, reals)

        def start(seed, hyper):
            newborn = agent.start(seed, hyper)
            return {"first": newborn, "now": tree_map(torch.clone, newborn)}

        def act(state, hyper, x, seed, t):
            return agent.act(state["now"], hyper, x, seed, t)

        def learn(state, hyper, transition, seed, t):
            changed = (t % PERIOD == 0) & (t > 0)
            now = tree_map(lambda new, old: torch.where(changed, new, old), state["first"], state["now"])
            now, v = agent.learn(now, hyper, transition, seed, t)
            return {"first": state["first"], "now": now}, v

        return agent._replace(start=start, act=act, learn=learn,
                              description=f"afresh {agent.description}")

    return forgetful


# Makers for the small environments: of observations, actions, real numbers an action has.
q, dynamic, ac = (lambda n, a, r: stream_q(n, a), lambda n, a, r: dynamic_q(n, a),
                  lambda n, a, r: stream_ac(n, a, reals=r))
_Q, _AC = variants("Q", cut={"cut": 0.0}), variants("AC")
_HORIZONS = [2_000.0, 5_000.0, 10_000.0]
_DYNAMIC = {"dynamic Q": {}, "dynamic Q, no forgetting": {"forgetting": 0.0},
            **{f"dynamic Q without {part}": values for part, values in {
                "centring": {"centring": 0.0}, "own step sizes": {"meta_step_size": 0.0},
                "levelling": {"levelling": 0.0}, "imprinting": {"imprint": 0.0, "noise": 1.0},
                "scaled observations": {"normalise": 0.0},
                "scaled rewards": {"scale_rewards": 0.0}}.items()}}
_SHORT = {"stream Q": {}, "classic Q": {**stream_x.CLASSIC, "step_size": STEPS[2:7]}}
PARTS = {
    "CartPole-v1/q": Part(q, _Q, 100_000, environments.cart_pole),
    "CartPole-v1/ac": Part(ac, _AC, 50_000, environments.cart_pole, seeds=20),
    "CartPole-v1/dynamic": Part(dynamic, _DYNAMIC, 100_000, environments.cart_pole),
    "Acrobot-v1/dynamic": Part(dynamic, _DYNAMIC, 100_000, environments.acrobot),
    "Acrobot-v1/q": Part(q, _Q, 100_000, environments.acrobot),
    "Acrobot-v1/ac": Part(ac, _AC, 100_000, environments.acrobot, seeds=20),
    "Pendulum-v1/ac": Part(ac, {"stream AC": {}, "classic AC": {**stream_x.CLASSIC, "step_size": STEPS}},
                           100_000, environments.pendulum, seeds=20),
    "CartPole-v1/dqn": Part(
        lambda n, a, r: dqn(n, a), {"DQN": {"step_size": ADAM}, "DQN at batch and buffer 1": {
            "step_size": ADAM, "buffer": 1}}, 100_000, environments.cart_pole, seeds=20),
    "CartPole-v1/ppo": Part(lambda n, a, r: ppo_of_one(n, a),
                            {"PPO at batch 1": {"step_size": [*ADAM, 3e-5]}}, 50_000,
                            environments.cart_pole, seeds=20),
    "CartPole-v1, recoded/dynamic": Part(dynamic, {
        "dynamic Q": {}, "dynamic Q, no forgetting": {"forgetting": 0.0},
        "dynamic Q, fading statistics": {"horizon": _HORIZONS},
        "dynamic Q, no forgetting, fading statistics": {"forgetting": 0.0, "horizon": _HORIZONS}},
        10 * PERIOD, environments.cart_pole, recoded, 20),
    "CartPole-v1, recoded/fading": Part(q, {"stream Q, fading statistics": {"horizon": _HORIZONS}},
                                        10 * PERIOD, environments.cart_pole, recoded, 20),
    **{f"CartPole-v1, recoded/{name} afresh": Part(
        afresh(make), {f"{who}, new network": {}, f"{who}, fading statistics, new network": {
            "horizon": 5_000.0}}, 10 * PERIOD, environments.cart_pole, recoded, 20)
       for name, make, who in [("q", q, "stream Q"), ("dynamic", dynamic, "dynamic Q")]},
    "CartPole-v1, recoded/q": Part(
        lambda n, a, r: stream_q(n, a, (32, 32), least_useful()), renewed("Q"), 10 * PERIOD,
        environments.cart_pole, recoded, 20),
    "CartPole-v1, recoded/ac": Part(
        lambda n, a, r: stream_ac(n, a, (32, 32), least_useful()), renewed("AC"), 10 * PERIOD,
        environments.cart_pole, recoded, 20),
    "CartPole-v1, slippery/ac": Part(
        lambda n, a, r: stream_ac(n, a, (32, 32), least_useful()), renewed("AC"), 10 * PERIOD,
        environments.cart_pole, slippery, 20),
    "MinAtar/Breakout-v1/q": Part(lambda n, a, r: stream_q(n, a, (64,)), _SHORT, 200_000),
    "MinAtar/Freeway-v1/q": Part(lambda n, a, r: stream_q(n, a, (64,)), _SHORT, 200_000),
    "Hopper-v5/ac": Part(lambda n, a, r: stream_ac(n, a, (128, 128), reals=r), {
        "stream AC": {}, "classic AC": {**stream_x.CLASSIC, "step_size": [1e-3, 1e-4, 1e-5]}}, 500_000),
}


def live(name: str, part: Part, variants: dict, seeds: list | range) -> pd.DataFrame:
    """Run variants of a part; one row for each tenth of each life."""
    place = part.world or find(name.rpartition("/")[0])
    of = (place.observations, place.actions, 1) if part.world else sizes(place)
    frame = train_streaming(part.make(*of), place, variants, seeds, part.steps, part.steps // 10,
                            part.changes, folder=recording.CHECKPOINTS / "streaming",
                            name=f"{name.replace('/', '_')}_{seeds[0]}")
    swept = sorted({k for values in part.variants.values() for k, v in values.items()
                    if isinstance(v, list)})
    return frame.assign(env=name.rpartition("/")[0], setting=recording.named(frame, swept)
                        if swept else "default")


def ends(frame: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Give the mean return of the episodes of each life over its last fifth."""
    late = frame[frame.step > 0.8 * steps]
    end = compare.run_means(late, "return", [*KEY, "setting", "seed"], "episodes")
    return end.reset_index(name="value").assign(step=steps, metric="return_end")


def record(name: str) -> pd.DataFrame:
    """Run all settings with the seeds that choose and the best with those that report."""
    part = PARTS[name]
    frame = live(name, part, part.variants, FEW)
    end, chosen = ends(frame, part.steps), {}
    for who, values in part.variants.items():
        best = compare.ranked(end[end.learner == who].set_index(["setting", "seed"]).value, True)[0]
        row = frame[(frame.learner == who) & (frame.setting == best)].iloc[0]
        chosen[who] = {k: row[k] for k in values}
    more = live(name, part, chosen, range(FEW.stop, part.seeds))
    whole = more[~more.learner.str.contains(" without ") & more.seed.isin(CURVES)]  # else the end will do
    rows = pd.concat([end, ends(more, part.steps), whole.assign(metric="return", value=whole["return"])])
    swept = [who for who, values in part.variants.items()
             if any(isinstance(v, list) for v in values.values())]
    choosing = rows.seed.isin(FEW) & rows.learner.isin(swept)
    return rows.assign(use=choosing.map({True: "choice", False: "report"}))[COLUMNS]


if __name__ == "__main__":
    recording.main(__file__, __doc__, PARTS, "environment/agent", record, "rl.csv", KEY)
