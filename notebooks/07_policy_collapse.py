# ---
# jupyter:
#   dyndl:
#     checks: [runs >= 1, tasks >= 1, iterations >= 3]
#     profiles:
#       smoke: {runs: 2, tasks: 2, iterations: 6}
#       paper: {runs: 30, tasks: 200}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Policy collapse: PPO in a world that changes
#
# **What you will see.** A standard agent, PPO, that solves its task, and then, while the world changes
# but gets no harder, unlearns how to learn; what keeps it able; what goes on inside its networks
# meanwhile, and why a look inside does not tell the whole story. Then the robot with which the effect
# was first shown, on slippery ground.
#
# The idea: a reinforcement learner makes its own data, so a network that can no longer learn makes bad
# data and learns from it. Dohare et al. (Nature 632, 2024) let PPO control a simulated ant for 50 M
# steps: its policy rises, and then *collapses* below that of a robot that does nothing.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/07_policy_collapse"  # folder for figures, tables and checkpoints
runs = 10  # independent agents for each way to live, one seed each
tasks = 16  # how often the world's code is drawn, the first time included
seed = 0  # first seed
iterations = 15  # of acting and learning in a task
step_size = 0.003  # of all agents but those that begin afresh
weight_decay = 0.03  # of the agent with L2 regularisation
replacement_rate = 0.01  # of the agent with continual backprop: units replaced each gradient step (share)

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from dyndl_lite.algorithms.continual_backprop import least_useful
from dyndl_lite.algorithms.optimisers import adam, l2
from dyndl_lite.cli import claims
from dyndl_lite.experiment import compare, plots, provenance
from dyndl_lite.rl import navigation as world
from dyndl_lite.rl import ppo as algorithm
from dyndl_lite.rl import slippery_ant
from dyndl_lite.rl.navigation import navigation
from dyndl_lite.rl.policies import gaussian
from dyndl_lite.rl.ppo import ppo
from dyndl_lite.rl.rollouts import torch_rollouts
from dyndl_lite.rl.train_ppo import Condition, train_ppo

plots.style()
seeds = range(seed, seed + runs)
checkpoints = Path(out) / "checkpoints"

# %% [markdown]
# ## PPO in two formulas
#
# The agent has two networks: a policy, and a value function $V$ that says what to expect. It acts for a
# while. Then it asks how much better each action $a_t$ was than expected: its *advantage*, a sum of
# errors $\delta$ that fades with $\lambda$,
#
# $$ \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t), \qquad A_t = \delta_t + \gamma\lambda A_{t+1} . $$
#
# At a real end $V(s_{t+1})$ is 0. When only time ran out it is not: life would have gone on.

# %%
plots.source(algorithm.advantages)

# %% [markdown]
# Then it makes good actions more likely, in several epochs of minibatches, but only until their
# probability has changed by a factor of $1 \pm \epsilon$; with $r = \pi_{new}(a_t)/\pi_{old}(a_t)$ it
# climbs
#
# $$ \mathbb{E}\left[\min\big(r A_t,\ \mathrm{clip}(r, 1-\epsilon, 1+\epsilon)\, A_t\big)\right] . $$

# %%
plots.source(algorithm.clipped_surrogate)

# %% [markdown]
# ## A world that changes its code
#
# A point in a walled square wants to be in the middle. It is told where it is in a code: 16 random
# waves over the square. After each task all waves are drawn anew. The square, the goal and the best
# behaviour stay, so **no task is harder than another**; only what the agent has learned to read is
# worth nothing any more.

# %%
plots.source(world.Navigation.step, world.Navigation.observe, world.new_code)

# %% [markdown]
# Six ways to live, the same chance for all, seed by seed. The settings are those of PPO as it is
# used; continual backprop (notebook 06) and L2 (notebook 05) act on both networks after each gradient step.
# Adam's second average is usually slow ($\beta_2 = 0.999$, $\beta_1 = 0.9$); the Nature paper calls
# betas that agree (0.99 both) *proper*.

# %%
agent = ppo(navigation.observations, gaussian(navigation.reals, deviation=0.5), (32, 32),
            "relu", l2(adam), least_useful())
standard = {"step_size": step_size, "discount": 0.9, "gae_lambda": 0.9, "weight_decay": 0.0,
            "replacement_rate": 0.0, "maturity_threshold": 300.0}
proper = {**standard, "beta_1": 0.99, "beta_2": 0.99}
conditions = {
    "PPO": Condition(standard),
    "PPO, proper betas": Condition(proper),
    "+ L2": Condition({**proper, "weight_decay": weight_decay}),
    "+ continual backprop": Condition({**proper, "replacement_rate": replacement_rate}),
    "fresh agent each task": Condition({**proper, "step_size": 0.01}, reset="all"),
    "PPO, proper betas, no changes": Condition(proper, stationary=True),
}
frame = train_ppo(torch_rollouts(navigation, world.new_code), agent, conditions, seeds,
                  iterations * tasks, iterations // 3, iterations, folder=checkpoints)
lowest, highest = (world.expected_return(choose) for choose in (world.aimless, world.straight))
frame["score"] = (frame["return"] - lowest) / (highest - lowest)
per_task = frame[frame.step == frame.groupby("task").step.transform("max")]  # its last third
provenance.save_table(per_task, out, "navigation")
print(f"return of an episode: {lowest:.2f} without aim (score 0), {highest:.2f} straight to the goal (1)")

# %%
def score_figure(ax):
    plots.curves(per_task, "score", "learner", ax, x="task", xlabel="task (number)")
    ax.set(ylabel="score in the last third of a task",
           title=f"Navigation with a changing code, {runs} runs, 95 % interval")
    ax.legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))


early = per_task[per_task.task == 1].groupby(["learner", "seed"]).score.mean()
late = per_task[per_task.task > tasks - min(5, tasks - 1)].groupby(["learner", "seed"]).score.mean()
table = compare.table(late, "last 5 tasks").loc[list(conditions)]
table.insert(0, "task 1", early.groupby("learner").mean())
figure, ax = plt.subplots()
score_figure(ax)
plots.show(figure, "score", out=out, alt=(
    "Score (0 without aim, 1 straight to the goal) by task for six ways to live, task 1 to the last five: "
    + "; ".join(f"{name} from {row['task 1']:.2f} to {row['last 5 tasks']:.2f}"
                for name, row in table.iterrows()) + "."))
table.round(3)

# %% [markdown]
# The last five tasks against the first, and against PPO with the same betas, run by run (with the
# number of runs in the caption above):

# %%
paired = pd.DataFrame(
    {name: [*compare.paired(late[name], early[name]),
            *compare.paired(late[name], late["PPO, proper betas"])] for name in conditions},
    index=["last - first", "low", "high", "minus PPO, proper betas", "low ", "high "]).T
claims.record(out, "ppo-collapses", paired.loc["PPO", "high"], profile)
claims.record(out, "ppo-stationary-keeps", paired.loc["PPO, proper betas, no changes", "low"], profile)
claims.record(out, "ppo-cbp-helps", paired.loc["+ continual backprop", "low "], profile)
claims.record(out, "ppo-l2-helps", paired.loc["+ L2", "low "], profile)
paired.round(3)

# %% [markdown]
# ## Inside, over a life
#
# The same measures as in notebook 04, on what the agent just saw, for both networks: units active on
# fewer than 1 % of it (*dormant* in what follows), the mean magnitude of the weights, and the
# effective rank of the hidden layers.

# %%
watched = ["PPO, proper betas", "+ L2", "+ continual backprop", "PPO, proper betas, no changes"]
inside = per_task[per_task.learner.isin(watched)]
looks = {"rarely_active_units": "dormant units (share)", "weight_magnitude": "weight magnitude (mean)",
         "effective_rank": "effective rank"}
figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharex=True)
for row, net in zip(axes, ("policy", "value")):
    for ax, (what, label) in zip(row, looks.items()):
        plots.curves(inside, f"{net}_{what}", "learner", ax, x="task", xlabel="task (number)")
        ax.set(ylabel=f"{net}: {label}")
        ax.yaxis.label.set_size(10)
        ax.get_legend().remove()
axes[0, 2].legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
figure.suptitle(f"Inside both networks, {runs} runs, 95 % interval")
end = inside[inside.task == tasks].groupby("learner")[
    [f"{net}_{what}" for net in ("policy", "value") for what in looks]].mean().loc[watched]
plots.show(figure, "inside", out=out, alt=(
    "Dormant units, weight magnitude and effective rank of policy and value network by task. In the "
    "last task, policy network: " + "; ".join(
        f"{name} {row['policy_rarely_active_units']:.0%} dormant, weights "
        f"{row['policy_weight_magnitude']:.2f}, rank {row['policy_effective_rank']:.1f}"
        for name, row in end.iterrows()) + "."))
end.round(2)

# %% [markdown]
# ## What does a look inside predict?
#
# If dormant units were the disease, an agent with many of them would be an agent that fails. Each dot
# is one agent in the last task.

# %%
last = per_task[per_task.task == tasks]
figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
for ax, net in zip(axes, ("policy", "value")):
    for name, marker in zip(watched, "osD^"):
        one = last[last.learner == name]
        ax.plot(one[f"{net}_rarely_active_units"], one.score, marker, label=name, alpha=0.8)
    ax.set(xlabel=f"dormant units of the {net} network (share)")
axes[0].set(ylabel="score in the last task")
axes[1].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
of_last = last.groupby("learner")[["policy_rarely_active_units", "value_rarely_active_units", "score"]]
still, moving = (of_last.mean().loc[name] for name in (watched[3], watched[0]))
plots.show(figure, "dormancy", out=out, alt=(
    "Score against dormant units, one dot an agent. Where nothing changes "
    f"{still.iloc[0]:.0%} of the policy's and {still.iloc[1]:.0%} of the value network's units are "
    f"dormant at a mean score of {still.iloc[2]:.2f}; where the code changes, {moving.iloc[0]:.0%} and "
    f"{moving.iloc[1]:.0%} at {moving.iloc[2]:.2f}."))

# %% [markdown]
# ## Controls that take longer: recorded runs
#
# Made with `python data/record_rl.py navigation/replacement ...` (not computed just now): 25 tasks, all
# settings of a sweep; the table says with how many seeds. *Heads reset* draws the output layers anew at
# each change, and nothing else; *random replacement* replaces as many units as continual
# backprop, whichever they are; *ReDo* replaces those that have fallen dormant, *shrink and perturb* adds
# noise to the weights that L2 shrinks (both are in notebook 05).

# %%
record = pd.read_csv("../data/results/rl.csv").fillna({"setting": ""})
walks = record[record.env.str.startswith("navigation") & (record.metric == "return")].copy()
walks["score"] = (walks.value - lowest) / (highest - lowest)
ends = walks[walks.step == walks.step.max()].groupby(["env", "learner", "setting", "seed"]).score.mean()
recorded = compare.table(ends, "last 5 tasks").sort_values("last 5 tasks", ascending=False)
recorded.round(3)

# %%
best = (recorded.reset_index().sort_values("last 5 tasks").groupby(["env", "learner"]).last()
        .sort_values("last 5 tasks"))
names = [f"{learner.replace('_', ' ')}{' (no changes)' if 'stationary' in env else ''} {row.setting}"
         for (env, learner), row in best.iterrows()]
figure, ax = plt.subplots(figsize=(8, 5))
middle = best["last 5 tasks"].to_numpy()
ax.errorbar(middle, range(len(best)), fmt="o", capsize=3,
            xerr=[middle - best.low, best.high - middle])
ax.set_yticks(range(len(best)), names)
ax.set(xlabel="score in the last 5 of 25 tasks (mean, 95 % interval)",
       title=f"Recorded, each learner at its best, at least {best.runs.min():.0f} runs")
plots.show(figure, "recorded", out=out, alt=(
    "Score in the last five tasks, each learner at its best, from low to high: "
    + ", ".join(f"{name} {value:.2f}" for name, value in zip(names, middle)) + "."))

# %%
def of(learner, env="navigation"):
    """The runs of a learner at its best setting."""
    return ends[env, learner, best.loc[(env, learner), "setting"]]


pairs = {"continual backprop - random replacement": ("cbp", "random_replacement"),
         "continual backprop - L2": ("cbp", "l2"),
         "continual backprop - ReDo": ("cbp", "redo"),
         "shrink and perturb - L2": ("shrink_perturb", "l2"),
         "heads reset - not (standard betas)": ("ppo_heads_reset", "ppo"),
         "heads reset - not (proper betas)": ("ppo_proper_heads_reset", "ppo_proper")}
differences = pd.DataFrame({
    name: [*compare.paired(of(a), of(b)), len(of(a).index.intersection(of(b).index))]
    for name, (a, b) in pairs.items() if a in best.loc["navigation"].index
    and b in best.loc["navigation"].index}, index=["difference", "low", "high", "pairs"]).T
if "continual backprop - random replacement" in differences.index:
    claims.record(out, "ppo-cbp-beats-random",
                  differences.loc["continual backprop - random replacement", "low"], profile)
differences.round(3)

# %% [markdown]
# ## Is this PPO a good PPO?
#
# A broken baseline collapses easily, so here is ours where others can be compared (recorded): CartPole,
# whose episodes end at 500, and the robot Hopper beside stable-baselines3's PPO with the same settings,
# its defaults.

# %%
def curve(env):
    """The returns of PPO in one environment (streaming learners have rows of their own: notebook 08)."""
    ours = record.learner.isin(["ppo", "ppo_proper", "cbp", "stable_baselines3"])
    return record[ours & (record.env == env) & (record.metric == "return")]


control, robot = curve("CartPole-v1"), curve("Hopper-v5")
figure, axes = plt.subplots(1, 2, figsize=(11, 4))
plots.curves(control, "value", "learner", axes[0], xlabel="steps")
plots.curves(robot, "value", "learner", axes[1], xlabel="steps")
for ax, name, rows in zip(axes, ("CartPole", "Hopper"), (control, robot)):
    ax.set(ylabel="mean return of an episode", title=f"{name}, {rows.seed.nunique()} seeds, 95 % interval")
    ax.legend(title=None, loc="lower right")
ends_here = {name: compare.table(rows[rows.step > 0.9 * rows.step.max()]
                                 .groupby(["learner", "seed"]).value.mean())
             for name, rows in (("CartPole", control), ("Hopper", robot))}
whole = robot.groupby(["learner", "seed"]).value.mean()  # the area under the curve
both = {"CartPole, last tenth": ends_here["CartPole"], "Hopper, last tenth": ends_here["Hopper"],
        "Hopper, whole run": compare.table(whole)}
plots.show(figure, "control", out=out, alt=(
    "Return against steps. " + "; ".join(f"{name}: " + ", ".join(
        f"{learner} {row['mean']:.0f}" for learner, row in rows.iterrows())
        for name, rows in both.items()) + "."))
pd.concat(both, names=["what", "learner"]).round(1)

# %%
ours, theirs = (whole[learner] for learner in ("ppo", "stable_baselines3"))
low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
print(f"Hopper, mean return over the whole run, ours - stable-baselines3: "
      f"{ours.mean() - theirs.mean():+.0f} (95 % interval {low:+.0f} to {high:+.0f}, "
      f"{len(ours)} and {len(theirs)} seeds, not paired)")
claims.record(out, "ppo-solves-cart-pole", ends_here["CartPole"]["mean"].iloc[0], profile)
claims.record(out, "ppo-as-fast-as-others", ours.mean() / theirs.mean(), profile)

# %% [markdown]
# CartPole is solved with every seed. On Hopper, where both begin with orthogonal weights, ours is level
# with stable-baselines3's over the whole run (the interval above); at its very end theirs is higher, by
# more than these five seeds can tell from nothing. It is a short run: 100 k steps.
#
# ## Slippery Ant
#
# The published experiment: a four-legged robot, PPO with two layers of 256 units, and every 2 M steps,
# at the next end of an episode, a new friction of the ground, log-uniform from 0.02 (ice) to 2 (rubber).
# The frictions are a function of the seed. MuJoCo simulates it, if it is installed.

# %%
plots.source(slippery_ant.friction, slippery_ant.Slippery.reset)

# %%
if slippery_ant.missing():
    print(slippery_ant.missing())
else:
    pushes = np.random.default_rng(seed).uniform(-1, 1, (200, 8)).astype(np.float32)
    for number in range(5):
        ant = slippery_ant.ant(seed, period=1)
        ant.reset(seed=0)
        ant.number = number
        ant.slip()
        for push in pushes:
            seen = ant.step(push)[-1]
        print(f"friction {ant.friction:.3f}: the same 200 random pushes end "
              f"{seen['distance_from_origin']:.2f} m from where they began")

# %% [markdown]
# What is recorded of it (`python data/record_rl.py slippery_ant/ppo ant/ppo`) has the published settings, but
# a new friction every 20 k steps instead of every 2 M, and is very short: a machine that runs, not evidence
# about plasticity.

# %%
ants = {"Slippery Ant, a new friction every 20 k steps": curve("SlipperyAnt-v5"),
        "Ant": curve("Ant-v5")}
published = dict(zip(ants, (20, 50)))  # millions of steps
figure, axes = plt.subplots(1, len(ants), figsize=(6 * len(ants), 4), squeeze=False, sharey=True)
ends_of_ants = {}
for ax, (name, rows) in zip(axes[0], ants.items()):
    plots.curves(rows, "value", "learner", ax, xlabel="steps")
    reached = int(rows.step.max())
    ax.set(ylabel="mean return of an episode",
           title=f"Recorded: {name}\n{rows.seed.nunique()} seeds, {reached:,} steps")
    ax.legend(title=None, fontsize=9)
    late_steps = rows[rows.step > 0.75 * reached]
    ends_of_ants[name] = late_steps.groupby(["learner", "seed"]).value.mean().unstack("seed")
    print(f"{name}: {reached:,} steps, {published[name] * 1e6 / reached:.0f} times fewer than the "
          f"{published[name]} M that were published")
plots.show(figure, "ants", out=out, alt="Recorded returns. Mean of the last quarter: " + "; ".join(
    f"{name}, {learner} {row.mean():.0f}" for name, table in ends_of_ants.items()
    for learner, row in table.iterrows()) + ".")
pd.concat(ends_of_ants, names=["world", "learner"]).round(0)

# %% [markdown]
# The returns are below zero, and rising. An ant that does nothing at all is paid about 1 a step, 990 an
# episode: these have not learned even that. Nobody can lose what nobody has yet, so these runs say nothing
# about who would keep it.

# %% [markdown]
# ## What to make of it
#
# *It is real.* The same PPO that learns any code from a fresh start, and keeps one that never changes just
# as long, loses about half of its score when codes follow one another. In some tasks some agents do worse
# than one without aim: what they do by habit is wrong now, and they do not learn out of it.
#
# *Continual backprop and L2 both keep most of it*, and so do shrink and perturb and ReDo, each at its best:
# the recorded runs do not tell them apart. None is whole: an agent that begins afresh at every change does
# better still, but it has to be told when. The published replacement rate of 1e-4 does nothing in a life this
# short.
#
# *Which unit is replaced does not matter here*: random units, as many, do as well at each rate. In
# slowly-changing regression (notebook 06) it did. The news is the new units, not who had to go.
#
# *With standard betas the output layer is the patient.* Drawing only the heads anew at each change brings
# back all of the loss; with proper betas most of it, and the rest sits in the hidden layers.
#
# *A look inside does not say who is ill.* Where nothing changes most units of the value network fall
# dormant, its rank shrinks to less than three, and the agent is perfectly well; L2 has the smallest weights and a low
# rank, and learns. Among agents of one kind, more dormant units do not go with a lower score. With proper
# betas the failing agent's weights grow as no healthy one's do here; with standard betas not even that:
# they end no larger than those of the agent that begins afresh.
#
# *Limits.* One small world, one architecture; a code that changes is not friction that changes. The robot
# runs are far too short to repeat the published result.
#
# **Exercises.** (1) Draw new heads in the agent with proper betas (`reset="heads"`). (2) Give the
# networks 8 units a layer: does it matter now which unit is replaced (`least_useful("random")`)? (3) Let the `physics` of CartPole slip instead of the code
# (`environments.slipped`): does PPO collapse there too? (4) Give the Ant a night.

# %% tags=["provenance"]
provenance.footer(profile=profile, runs=runs, tasks=tasks, iterations=iterations, seed=seed,
                  step_size=step_size, weight_decay=weight_decay, replacement_rate=replacement_rate)
