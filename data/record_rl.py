"""Record the lives of PPO agents that notebook 07 shows.

    python data/record_rl.py navigation/replacement hopper/ppo slippery_ant/ppo ...

`--list` names all parts. Rows go to data/results/rl.csv: env, learner, setting, seed, step, metric,
value, use; step counts what one agent lived through. What made them is noted in rl.json. A part goes on
after an interruption from its checkpoints under build/record/rl/ (stable-baselines3's begin again).
"""

from collections.abc import Callable, Iterator

import gymnasium
import pandas as pd
import recording
import torch

from dyndl_lite.algorithms.continual_backprop import least_useful
from dyndl_lite.algorithms.optimisers import adam, l2
from dyndl_lite.algorithms.regularisers import with_noise
from dyndl_lite.algorithms.resets import unit_reset
from dyndl_lite.experiment import compare
from dyndl_lite.learning import Intervention
from dyndl_lite.rl import slippery_ant, train_ppo
from dyndl_lite.rl.environments import cart_pole
from dyndl_lite.rl.navigation import navigation, new_code
from dyndl_lite.rl.policies import categorical, gaussian
from dyndl_lite.rl.ppo import ppo, RolloutConfig
from dyndl_lite.rl.rollouts import gymnasium_rollouts, named, torch_rollouts
from dyndl_lite.rl.train_ppo import Condition

CHECKPOINTS = recording.CHECKPOINTS / "rl"
COLUMNS = ["env", "learner", "setting", "seed", "step", "metric", "value", "use"]
INSIDE = [f"{net}_{what}" for net in ("policy", "value")
          for what in ("rarely_active_units", "weight_magnitude", "effective_rank")]
FEW, ALL = range(10), range(30)

# navigation: 25 tasks of 15 iterations; a few tasks a row ------------------------------------------

TASKS, ITERATIONS, GROUP = 25, 15, 5
BASE = {"step_size": 3e-3, "discount": 0.9, "gae_lambda": 0.9}
PROPER = {**BASE, "beta_1": 0.99, "beta_2": 0.99}
OFF = {"weight_decay": 0.0, "replacement_rate": 0.0, "maturity_threshold": 300.0}


def swept(name: str, values: list, base: dict, **arm) -> dict:
    """Give an arm for each value of one setting."""
    return {f"{name}={v:g}": Condition({**base, name: v}, **arm) for v in values}


def of_navigation(part: str) -> tuple[Intervention, dict[tuple, Condition]]:
    """Give what happens after each step, and the arms by (env, learner, setting)."""
    changing, still = "navigation", "navigation_stationary"
    if part == "replacement":
        off = {**PROPER, **OFF}
        arms = {(changing, "ppo", ""): Condition({**BASE, **OFF}),
                (changing, "ppo_proper", ""): Condition(off),
                (changing, "ppo_heads_reset", ""): Condition({**BASE, **OFF}, "heads"),
                (changing, "ppo_proper_heads_reset", ""): Condition(off, "heads"),
                (still, "ppo", ""): Condition({**BASE, **OFF}, stationary=True),
                (still, "ppo_proper", ""): Condition(off, stationary=True)}
        for learner, name, values, more in [
                ("fresh", "step_size", [1e-2], {"reset": "all"}),
                ("l2", "weight_decay", [3e-3, 1e-2, 3e-2, 1e-1], {}),
                ("cbp", "replacement_rate", [1e-4, 3e-3, 1e-2, 3e-2], {})]:
            for setting, arm in swept(name, values, off, **more).items():
                arms[changing, learner, setting] = arm
        return least_useful(), arms
    if part == "random":
        arms = swept("replacement_rate", [3e-3, 1e-2, 3e-2], {**PROPER, **OFF})
        return least_useful("random"), {
            (changing, "random_replacement", setting): arm for setting, arm in arms.items()}
    if part == "shrink_perturb":
        return with_noise, {
            (changing, "shrink_perturb", f"weight_decay={decay:g} {setting}"): arm
            for decay in [1e-3, 1e-2, 3e-2] for setting, arm in
            swept("noise", [1e-4, 1e-3, 3e-3], {**PROPER, "weight_decay": decay}).items()}
    return unit_reset("redo"), {
        (changing, "redo", f"reset_period={period:g} {setting}"): arm for period in [100.0, 300.0]
        for setting, arm in swept("dormancy", [0.1, 0.3, 0.6], {
            **PROPER, "weight_decay": 0.0, "reset_period": period}).items()}


def navigate(part: str, seeds: range, chosen: Callable = lambda arm: True) -> pd.DataFrame:
    """Let the arms of a part live; give the rows of the table."""
    kind, arms = of_navigation(part)
    arms = {"|".join(key): arm for key, arm in arms.items() if chosen(key)}
    agent = ppo(16, gaussian(2, 0.5), (32, 32), "relu", l2(adam), kind)
    frame = train_ppo.train_ppo(torch_rollouts(navigation, new_code), agent, arms, seeds,
                         TASKS * ITERATIONS, 5, ITERATIONS, folder=CHECKPOINTS,
                         name=f"navigation_{part}_{seeds.start}_{seeds.stop}_{len(arms)}")
    each = RolloutConfig().envs * RolloutConfig().steps
    frame = frame[frame.step % (ITERATIONS * each) == 0]  # the last third of every task
    frame = frame.assign(group=(frame.task - 1) // GROUP)
    first = frame[frame.task == 1].assign(metric="return_first_task", value=frame["return"])
    keys = ["learner", "seed", "group"]
    grouped = pd.concat([compare.run_means(frame, "return", keys, "episodes"),
                         *(compare.run_means(frame, one, keys) for one in INSIDE)], axis=1).reset_index()
    grouped["step"] = (grouped.group + 1) * GROUP * ITERATIONS * each
    long = grouped.melt(["learner", "seed", "step"], ["return", *INSIDE], "metric")
    long = long[(long.metric == "return") | long.seed.isin(FEW)]
    rows = pd.concat([first[["learner", "seed", "step", "metric", "value"]], long])
    about = rows.learner.str.split("|", expand=True)
    return rows.assign(env=about[0], learner=about[1], setting=about[2], use="report")[COLUMNS]


def record_navigation(part: str) -> Iterator[pd.DataFrame]:
    """Record all arms with the seeds that choose; then the best setting of each with those that report.

    Of what is inside the networks the rows of the best settings are enough.
    """
    rows = navigate(part, FEW)
    of = ["env", "learner", "setting"]
    late = rows[(rows.metric == "return") & (rows.step > rows.step.max() // 2)]
    means = compare.run_means(late, "value", [*of, "seed"])
    best = {}
    for key in compare.ranked(means, larger=True):
        best.setdefault(key[:2], key)
    rows = rows[rows.metric.str.startswith("return") | rows.set_index(of).index.isin(best.values())]
    alone = rows.groupby(of[:2]).setting.transform("nunique") == 1  # nothing to choose
    rows = rows.assign(use=alone.map({True: "report", False: "choice"}))
    yield rows
    yield pd.concat([rows, navigate(part, range(FEW.stop, ALL.stop), lambda key: key == best[key[:2]])])


# control and robots -------------------------------------------------------------------------------

def tidy(frame: pd.DataFrame, env: str, setting: str, metrics: list[str]) -> pd.DataFrame:
    """Bring a frame of `train_ppo` into the columns of the table."""
    long = frame.melt(["learner", "seed", "step"], metrics, "metric")
    return long.assign(env=env, setting=setting, use="report")[COLUMNS]


def record_cart_pole() -> Iterator[pd.DataFrame]:
    """Let PPO solve CartPole in torch (gymnasium's, number for number)."""
    agent, routine = ppo(4, categorical(2), (64, 64), "tanh"), RolloutConfig(8, 128, 10, 16)
    frame = train_ppo.train_ppo(
        torch_rollouts(cart_pole), agent, {"ppo": Condition({"step_size": 1e-3})}, FEW, 200, 10,
        config=routine, folder=CHECKPOINTS, name="cart_pole")
    yield tidy(frame, "CartPole-v1", "step_size=0.001", ["return"])


HOPPER_SEEDS, HOPPER_STEPS, ROLLOUT = range(5), 50 * 2048, 2048


def record_hopper() -> Iterator[pd.DataFrame]:
    """PPO on Hopper with the settings that stable-baselines3 has by default."""
    agent = ppo(11, gaussian(3), (64, 64), "tanh")
    frame = train_ppo.train_ppo(named("Hopper-v5"), agent, {"ppo": Condition()}, HOPPER_SEEDS,
                         HOPPER_STEPS // ROLLOUT, 2, config=RolloutConfig(1, ROLLOUT, 10, 32),
                         folder=CHECKPOINTS, name="hopper")
    yield tidy(frame, "Hopper-v5", "defaults", ["return"])


def record_stable_baselines3() -> Iterator[pd.DataFrame]:
    """Record the same with stable-baselines3, seed by seed; the means are over the same steps."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        def __init__(self):
            super().__init__()
            self.rows, self.returns = [], []

        def _on_step(self) -> bool:
            self.returns += [info["episode"]["r"] for info in self.locals["infos"]
                             if "episode" in info]
            if self.num_timesteps % (2 * ROLLOUT) == 0:
                self.rows.append((self.num_timesteps, sum(self.returns) / max(len(self.returns), 1)))
                self.returns = []
            return True

    torch.set_num_threads(1)
    frames = []
    for seed in HOPPER_SEEDS:
        kept = CHECKPOINTS / f"stable_baselines3_{seed}_{HOPPER_STEPS}.csv"
        if not kept.exists():
            watch = Watch()
            PPO("MlpPolicy", gymnasium.make("Hopper-v5"), seed=seed, device="cpu").learn(
                HOPPER_STEPS, callback=watch)
            frame = pd.DataFrame(watch.rows, columns=["step", "return"])
            kept.parent.mkdir(parents=True, exist_ok=True)
            frame.assign(learner="stable_baselines3", seed=seed).to_csv(kept, index=False)
        frames.append(pd.read_csv(kept))
    yield tidy(pd.concat(frames), "Hopper-v5", "defaults", ["return"])


ANT = {"step_size": 1e-4, "max_grad_norm": 1e9}
ANT_PROPER = {**ANT, "beta_1": 0.99, "beta_2": 0.99}
ANT_SEEDS, PERIOD = range(2), 20_000
ANT_ITERATIONS = [20, 40, 100, 200, 400]  # the table grows, for who cannot wait for all of them


def record_ant(slippery: bool) -> Iterator[pd.DataFrame]:
    """PPO and continual PPO on the Ant with the published settings, but for far fewer steps."""
    period = PERIOD if slippery else None
    agent = ppo(27, gaussian(8), (256, 256), "relu", l2(adam), least_useful())
    off = {"weight_decay": 0.0, "replacement_rate": 0.0}
    on = {"weight_decay": 1e-4, "replacement_rate": 1e-4, "maturity_threshold": 10_000.0}
    arms = {"ppo": Condition({**ANT, **off}), "ppo_proper": Condition({**ANT_PROPER, **off}),
            "cbp": Condition({**ANT_PROPER, **on})}
    name = f"slippery_ant_{PERIOD}" if slippery else "ant"
    place = gymnasium_rollouts(lambda seed: slippery_ant.ant(seed, period))
    for iterations in ANT_ITERATIONS:
        frame = train_ppo.train_ppo(place, agent, arms, ANT_SEEDS, iterations, 4, ANT_ITERATIONS[-1],
                             RolloutConfig(1, ROLLOUT, 10, 16), CHECKPOINTS, name)
        yield tidy(frame, "SlipperyAnt-v5" if slippery else "Ant-v5", "published",
                   ["return", *INSIDE])


PARTS = {
    **{f"navigation/{part}": lambda part=part: record_navigation(part)
       for part in ("replacement", "random", "shrink_perturb", "redo")},
    "cart_pole/ppo": record_cart_pole,
    "hopper/ppo": record_hopper,
    "hopper/stable_baselines3": record_stable_baselines3,
    "ant/ppo": lambda: record_ant(False),
    "slippery_ant/ppo": lambda: record_ant(True),
}


if __name__ == "__main__":
    recording.main(__file__, __doc__, PARTS, "env/what", lambda name: PARTS[name](), "rl.csv",
                   ["env", "learner"])
