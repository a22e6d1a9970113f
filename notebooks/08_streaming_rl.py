# ---
# jupyter:
#   dyndl:
#     checks: [runs >= 1, steps >= 10, prediction_steps >= 10, len(step_sizes) >= 1]
#     profiles:
#       smoke: {steps: 200, prediction_steps: 100, runs: 2, step_sizes: [1.0e-3, 1.0e-4]}
#       paper: {steps: 500000, prediction_steps: 200000, runs: 30}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Streaming reinforcement learning
#
# **What you will see.** An agent that learns to balance a pole from each moment once, as it happens,
# and stores nothing. The classic algorithms that do this fail with a deep network. Which of
# the repairs matter, shown by taking out one at a time; and whether such an agent keeps going when
# its world changes.
#
# Animals learn that way: no replay buffer, no batches, one life. So did the first reinforcement
# learners. With deep networks it stopped working (Elsayed, Vasan and Mahmood 2024, arXiv
# 2410.14606, call it the *stream barrier*), and the field turned to learning from stored batches. Their
# **stream-x** learners put five simple parts together, and then the old algorithms work.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/08_streaming_rl"  # folder for figures, tables and checkpoints
steps = 50000  # steps of each agent's life in CartPole
prediction_steps = 20000  # steps of each predictor's life
runs = 10  # independent agents for each setting, one seed each
seed = 0  # first seed
step_sizes = [1.0e-2, 1.0e-3, 1.0e-4, 1.0e-5]  # of the classic learners

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dyndl_lite.cli import claims
from dyndl_lite.experiment import compare, plots, provenance
from dyndl_lite.files import UserError
from dyndl_lite.rl import environments, interaction, stream_x, streaming
from dyndl_lite.rl.gymnasium_adapters import find, sizes
from dyndl_lite.rl.streaming import stream_ac, stream_q, stream_td
from dyndl_lite.rl.train_streaming import rollout, train_streaming

plots.style()
plots.LABELS |= {"return": "return (mean over the episodes of a bin)"}
seeds = range(seed, seed + runs)
checkpoints = Path(out) / "checkpoints"
cart_pole = environments.cart_pole

# %% [markdown]
# ## A world as a function
#
# The agent pushes a cart to the left or to the right so that the pole on it stays up; each step pays 1,
# an episode ends when the pole falls, or is cut off after 500 steps. The dynamics are gymnasium's, number
# for number, but written as a pure function: so agent and world step together in one compiled loop, and
# many seeds at once.

# %%
plots.source(cart_pole.move)

# %% [markdown]
# A fallen pole and a full clock are two different things. After a fall nothing more can be earned; after
# the clock has run out life would go on, so the value of where the agent stands still counts. The
# **TD error** is
#
# $$ \delta = r + \gamma\, v(s') - v(s), \qquad v(s') := 0 \text{ only where the episode truly ends.} $$

# %%
plots.source(streaming.td_error)

# %% [markdown]
# ## The five parts
#
# **1. A step that cannot overshoot (ObGD).** Each weight has an eligibility trace $z$, what it recently
# did to the value. The classic step is $w \leftarrow w + \alpha\,\delta\,z$. It corrects too much where
# $\alpha\,\kappa \max(|\delta|,1)\,\lVert z\rVert_1 > 1$, and there it is made shorter:
#
# $$ z \leftarrow \gamma\lambda z + \nabla v(s), \qquad M = \alpha\,\kappa\,\max(|\delta|,1)\,\lVert z
# \rVert_1, \qquad w \leftarrow w + \frac{\alpha}{\max(M,1)}\,\delta\, z . $$

# %%
plots.source(stream_x.obgd)

# %% [markdown]
# **2. Sparse initial weights**: nine in ten are zero, so units interfere less. **3. Layer normalisation**
# before every activation. **4. Observations** scaled by their running mean and deviation. **5. Rewards**
# divided by the running deviation of their discounted sum.

# %%
plots.source(stream_x.sparse_row, stream_x.apply, stream_x.normalise, stream_x.scale_reward)

# %% [markdown]
# With these, Watkins's Q($\lambda$) reads as in the textbook. An exploratory action cuts the traces,
# since what follows says nothing about the greedy choices before: before the update, as in the paper's
# pseudocode (`cut` 1); the released code cuts after it (`cut` 2). (The release also counts time limits as
# ends, and tells the agent the time; and it rounds the number of zero weights up, which for CartPole
# makes the first layer all zero. Here one weight is always left.)

# %%
plots.source(stream_q)

# %% [markdown]
# ## The barrier
#
# Stream Q at its one setting; the classic Q($\lambda$), which is the same code with all parts off, over a
# sweep of step sizes; and stream Q with one part taken out at a time. (Without the bound a step size
# has to be found, so there too we sweep.) All of them live side by side.

# %%
agent = stream_q(cart_pole.observations, cart_pole.actions)
variants = {"stream Q": {}, "classic Q": {**stream_x.CLASSIC, "step_size": step_sizes},
            **{f"without {part}": values for part, values in stream_x.ABLATIONS.items()},
            "without the cut": {"cut": 0.0}}
results = train_streaming(agent, cart_pole, variants, seeds, steps, steps // 10,
                          probes=[interaction.probe()], folder=checkpoints, name="cart_pole")
provenance.save_table(results, out, "cart_pole")

# %% [markdown]
# Every learner is shown at the best step size of its own sweep, by its return over the last fifth of the
# life.

# %%
late = compare.window_mean(results, "return", ["learner", "step_size"], 0.8, 1, "episodes")
means = compare.means(late)
best = {name: means[name].idxmax() for name in variants}
end = pd.concat({name: late[name, size] for name, size in best.items()}, names=["learner"])
table = compare.table(end, "return, last fifth")
table.insert(0, "step size", pd.Series(best).map("{:g}".format))
paired = pd.DataFrame({name: compare.paired(end[name], end["stream Q"]) for name in table.index
                       if name != "stream Q"}, index=["minus stream Q", "low ", "high "]).T
table = table.join(paired).sort_values("return, last fifth", ascending=False)
chosen = results[[best[name] == size for name, size in zip(results.learner, results.step_size)]]
shown = chosen[chosen.learner.isin(["stream Q", "classic Q", "without layer norm",
                                    "without scaled observations"])]
ax = plots.curves(shown, "return", "learner", xlabel="steps of the life")
ax.set(title=f"CartPole, {runs} runs, 95 % interval", ylim=(0, 520))
ax.legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
plots.show(ax.figure, "barrier", out=out, alt=(
    "Return in CartPole against steps of the life for stream Q, the classic Q at its best step size, and "
    "stream Q without two of its parts. Last fifth: "
    + ", ".join(f"{name} {value:.0f}" for name, value in table["return, last fifth"].items()
                if name in set(shown.learner)) + "."))
table.round(3)

# %%
classic = means["classic Q"]
claims.record(out, "stream-q-solves", table.loc["stream Q", "return, last fifth"], profile)
claims.record(out, "stream-classic-fails", classic.max(), profile)
claims.record(out, "stream-layer-norm", paired.loc["without layer norm", "high "], profile)
print("classic Q by step size, last fifth: "
      + ", ".join(f"{size:g}: {value:.0f}" for size, value in classic.items()))

# %% [markdown]
# A return near 9 is that of always pushing the same way: worse than chance, which is about 22. The
# classic learner has not merely learned little; it has learned to give up, at every step size.
#
# ## Inside
#
# What the agents expect, beside what is possible: a step pays 1 and $\gamma$ is 0.99, so no value is truly
# above 100. And the effective rank of what the hidden units say, over the agent's life.

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for ax, metric, label in zip(axes, ["value", "critic_effective_rank", "critic_weight_magnitude"],
                             ["value of what it did, as it expects", "effective rank (dimensions)",
                              "mean weight magnitude"]):
    plots.curves(shown, metric, "learner", ax=ax, xlabel="steps of the life")
    ax.set(ylabel=label)
    ax.get_legend().remove()
axes[0].set_yscale("symlog", linthresh=100, linscale=3)  # linear up to what is possible
axes[0].set_ylim(bottom=0)
axes[0].axhline(100, color="grey", linewidth=1)
axes[2].legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
last = chosen[chosen.step == steps].groupby("learner")[["value", "critic_effective_rank",
                                                        "critic_weight_magnitude"]].mean()
plots.show(figure, "inside", out=out, alt=(
    "Expected value, effective rank and weight magnitude over the agents' lives. At the end: "
    + "; ".join(f"{name} value {row.iloc[0]:.3g}, rank {row.iloc[1]:.1f}, weights {row.iloc[2]:.2g}"
                for name, row in last.iterrows() if name in set(shown.learner)) + "."))
last.round(3)

# %% [markdown]
# ## Prediction
#
# Control is prediction and more; prediction alone is stream TD($\lambda$). The series of Mackey and Glass
# is deterministic and chaotic. The learner sees four of its last values and predicts the discounted sum of
# all to come ($\gamma = 0.9$). Its error is that of the last tenth of its life, over the deviation of what
# was to be predicted: 1 is no better than the mean.

# %%
predictor = stream_td(environments.mackey_glass.observations)
told = {"stream TD": {}, "classic TD": {**stream_x.CLASSIC, "step_size": step_sizes},
        "stream TD without layer norm": {"layer_norm": 0.0},
        "stream TD without traces": {"trace_decay": 0.0}}
told = {name: {"discount": 0.9, **values} for name, values in told.items()}
settings, reports = rollout(predictor, environments.mackey_glass, told, seeds, prediction_steps)
reward, value = reports[..., 0].double().numpy(), reports[..., 3].double().numpy()
to_come = np.zeros_like(reward)
for t in reversed(range(len(reward) - 1)):
    to_come[t] = reward[t] + 0.9 * to_come[t + 1]
span = slice(int(0.9 * len(reward)) - 50, len(reward) - 50)  # the very last sums are incomplete
error = (np.sqrt(((value - to_come)[span] ** 2).mean(0)) / to_come[span].std(0)).clip(max=1e3)
errors = pd.DataFrame(error, columns=pd.Index(seeds, name="seed"), index=pd.MultiIndex.from_tuples(
    [(name, s["step_size"]) for name, s in settings], names=["learner", "step_size"])).stack().sort_index()
prediction = compare.table(errors, "relative error, last tenth").reset_index()
prediction.assign(step_size=prediction.step_size.map("{:g}".format)).round(3)

# %%
typical = compare.means(errors)
ours, theirs = errors["stream TD", 1.0], errors["classic TD", typical["classic TD"].idxmin()]
difference, low, high = compare.paired(ours, theirs)
claims.record(out, "stream-td-barrier", high, profile)
print(f"stream TD - classic TD at its best step size, {typical['classic TD'].idxmin():g}: "
      f"{difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, {runs} pairs)")

# %% [markdown]
# ## More worlds (recorded)
#
# Recorded with `python data/record_streaming.py part ...` (not computed just now): more worlds and
# actor-critics. Stream AC($\lambda$) is two networks that learn from the same TD error: the
# critic moves $v(s)$ along $\delta$, the actor the log-probability of what it did.

# %%
plots.source(stream_ac)

# %%
record = pd.read_csv("../data/results/rl.csv")
streams = record[record.learner.str.contains("stream|classic|dynamic|DQN|PPO at batch 1")]
ends = streams[streams.metric == "return_end"]
ends = ends.assign(setting=ends.setting.fillna("default"))
few = ends[ends.seed < 10]  # the seeds with which the sweeps were run choose
settled = few.groupby(["env", "learner", "setting"]).value.apply(lambda v: v.mean(skipna=False))
winners = settled[settled.groupby(["env", "learner"]).idxmax().dropna()].reset_index()
rows = []
for env, learner, setting, _ in winners.itertuples(index=False):
    mine = ends[(ends.env == env) & (ends.learner == learner) & (ends.setting == setting)]
    mean, low, high = compare.interval(mine.value)
    rows.append({"world": env, "learner": learner, "best of its sweep": setting, "return": mean,
                 "low": low, "high": high, "runs": len(mine), "steps": int(mine.step.max())})
summary = pd.DataFrame(rows)
still = summary[~summary.world.str.contains(",")]  # no comma: nothing changes there
main = still[~still.learner.str.contains("without")]
main.round(1).reset_index(drop=True)

# %%
names = list(dict.fromkeys(main.world))
figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.2), squeeze=False)
for ax, name in zip(axes[0], names):
    mine = main[main.world == name].sort_values("return")
    middle = mine["return"]
    ax.errorbar(middle, range(len(mine)), xerr=[middle - mine.low, mine.high - middle], fmt="o",
                capsize=3)
    ax.set_yticks(range(len(mine)), mine.learner)
    ax.set(title=name, xlabel="return, last fifth", ylim=(-0.5, len(mine) - 0.5))
    ax.xaxis.set_major_locator(plt.MaxNLocator(3))
plots.show(figure, "worlds", out=out, alt="Recorded returns over the last fifth of the lives. " + " ".join(
    f"{name}: " + ", ".join(
        f"{learner} {value:.0f}" for learner, value in
        main[main.world == name][["learner", "return"]].itertuples(index=False)) + "."
    for name in names))

# %% [markdown]
# And what each part of the kit is worth there: the return without it, minus the return with all of them,
# run by run (95 % interval). Negative: the part is needed.

# %%
by_run = ends.set_index(["env", "learner", "setting", "seed"]).value.sort_index()
best_of = winners.set_index(["env", "learner"]).setting


def of(world, learner):
    """The runs of a learner at the best of its sweep."""
    return by_run[world, learner, best_of[world, learner]]


def without(kind):
    """What each part of a learner is worth: one row a part, one column a world."""
    rows = []
    for world, learner in best_of.index:
        whole, _, part = learner.partition(" without ")
        if part and whole.startswith(kind):
            difference, low, high = compare.paired(of(world, learner), of(world, whole))
            rows.append({"world": world, "learner": whole, "without": part,
                         "difference": f"{difference:+.0f} ({low:+.0f} to {high:+.0f})"})
    return pd.DataFrame(rows).pivot_table(index="without", columns=["world", "learner"],
                                          values="difference", aggfunc="first", sort=False).fillna("")


without("stream")

# %% [markdown]
# ## The dynamic network, from moment to moment (recorded)
#
# Part of the kit mends what notebook 12 mends in another way. Its network also learns from each
# example once, also bounds how far one step may go, and learns around the mean of what each unit hears,
# where the kit normalises layers. So let it learn action values: it begins without a single hidden unit,
# grows to 32 while it acts, and has **the settings of notebook 12**. No traces, no layer norm, no
# sparse weights; of the kit only the scaled observations and rewards. It is told what the action was worth,
# and for all other actions what it expects anyway:

# %%
plots.source(streaming.dynamic_q)

# %%
rows = []
for world in dict.fromkeys(still[still.learner == "dynamic Q"].world):
    for rival in ["stream Q", "classic Q", "dynamic Q, no forgetting"]:
        ours, theirs = of(world, "dynamic Q"), of(world, rival)
        rows.append([world, rival, ours.mean(), theirs.mean(), *compare.paired(ours, theirs),
                     len(ours.index.intersection(theirs.index))])
claims.record(out, "stream-dynamic-acrobot", [row[5] for row in rows
                                             if row[:2] == ["Acrobot-v1", "stream Q"]][0], profile)
pd.DataFrame(rows, columns=["world", "rival", "dynamic Q", "rival's", "difference", "low", "high",
                            "pairs"]).round(1)

# %%
curves = streams[(streams.metric == "return") & streams.env.isin(["CartPole-v1", "Acrobot-v1"])
                 & streams.learner.isin(["stream Q", "classic Q", "dynamic Q", "dynamic Q, no forgetting"])]
figure, axes = plt.subplots(1, 2, figsize=(12, 4))
for ax, (name, mine) in zip(axes, curves.groupby("env", sort=False)):
    plots.curves(mine, "value", "learner", ax=ax, xlabel="steps of the life")
    ax.set(title=f"{name}, {mine.seed.nunique()} runs, 95 % interval", ylabel="return")
    ax.get_legend().remove()
axes[1].legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
told = curves[curves.step == curves.groupby("env").step.transform("max")]
plots.show(figure, "dynamic", out=out, alt="Recorded return against steps of the life. At the end: "
           + "; ".join(f"{name}, {learner} {value:.0f}" for (name, learner), value in
                       told.groupby(["env", "learner"]).value.mean().items()) + ".")

# %% [markdown]
# What its parts are worth, as above:

# %%
without("dynamic")

# %% [markdown]
# ## When the world changes (recorded)
#
# Ten times in its life, every 40 000 steps, the agent's observations are coded anew: shuffled, and some
# of them with the other sign. All codes are equally hard. Continual backprop (CBP) replaces useless hidden
# units as in notebook 06: `rebirth` is the same function. The running statistics of observations and
# rewards are of the whole past, which no longer fits; *fading statistics* look back some thousand steps. And
# a control: with a *new network* the agent begins anew at every change, statistics apart, so it cannot
# have lost anything.

# %%
changing = streams[streams.env.str.contains(",") & (streams.metric == "return")].copy()
changing["period"] = (changing.step / changing.groupby("env").step.transform("min")).round().astype(int)
changing["kind"] = changing.learner.str.extract(r"^(\w+ \w+)")
roles = ["", ", fading statistics", ", new network", ", fading statistics, new network"]  # one colour each
worlds_that_change = list(changing.groupby(["env", "kind"], sort=False).groups)
figure, axes = plt.subplots(1, len(worlds_that_change), squeeze=False, sharey=True,
                            figsize=(6 * len(worlds_that_change), 4))
for ax, (env, kind) in zip(axes[0], worlds_that_change):
    mine = changing[(changing.env == env) & (changing.kind == kind)]
    role = mine.learner.str.removeprefix(kind).map({name: i for i, name in enumerate(roles)})
    mine = mine.assign(role=role.fillna(len(roles))).sort_values(["role", "learner"])
    plots.curves(mine, "value", "learner", ax=ax, x="period", xlabel="period (40 000 steps each)")
    ax.set(title=f"{env}, {mine.seed.nunique()} runs, 95 % interval", ylabel="return", ylim=(0, 400))
    ax.legend(title=None, fontsize=8, loc="upper left")
over = changing[changing.period > 1].groupby(["env", "learner"]).value.mean()
plots.show(figure, "changing", out=out, alt=(
    "Recorded return by period in worlds that change. Mean over periods 2 to 10: "
    + "; ".join(f"{env}, {learner}: {value:.0f}" for (env, learner), value in over.items()) + "."))

# %% [markdown]
# Over the last two periods, run by run: every setting against the plain learner; and the plain learner
# against itself in its first period.

# %%
rows = []
for env, kind in worlds_that_change:
    plain = of(env, kind)
    first = changing[(changing.env == env) & (changing.learner == kind)
                     & (changing.period == 1)].set_index("seed").value
    rows.append([env, kind, "", plain.mean(), *compare.paired(plain, first)])
    for (learner, setting), mine in by_run[env].groupby(["learner", "setting"]):
        if learner.startswith(kind) and learner != kind:
            mine = mine.droplevel(["learner", "setting"])
            rows.append([env, learner, setting, mine.mean(), *compare.paired(mine, plain)])
pd.DataFrame(rows, columns=["world", "learner", "setting", "return", "minus plain (plain: minus its first)",
                            "low", "high"]).round(0)

# %% [markdown]
# Has a network that went on lost anything against one that begins anew? Over the last two periods, fading
# over 5 000 steps:

# %%
rows = []
for a, b in [("stream Q", "stream Q, new network"), ("dynamic Q", "dynamic Q, new network"),
             ("stream Q, fading statistics", "stream Q, fading statistics, new network"),
             ("dynamic Q, fading statistics", "dynamic Q, fading statistics, new network"),
             ("dynamic Q, fading statistics", "stream Q, fading statistics")]:
    mine, other = (by_run["CartPole-v1, recoded", who, "horizon=5000"] if who.endswith("fading statistics")
                   else of("CartPole-v1, recoded", who) for who in (a, b))
    rows.append([f"{a} - {b}", mine.mean(), other.mean(), *compare.paired(mine, other)])
claims.record(out, "stream-dynamic-keeps", rows[3][4], profile)
pd.DataFrame(rows, columns=["difference", "first", "second", "mean", "low", "high"]).round(0)

# %% [markdown]
# ## The same agents in anybody's simulator
#
# An agent is a pair of functions, act and learn, so any simulator with gymnasium's interface will do; then
# the world steps in Python and only the agents are compiled. A moment of each, if it is installed:

# %%
for name in ["CartPole-v1", "Hopper-v5", "MinAtar/Breakout-v1"]:
    try:
        make = find(name)
    except UserError as error:
        print(error)
        continue
    observations, actions, reals = sizes(make)
    this = (stream_q(observations, actions, (16,)) if actions else
            stream_ac(observations, actions, (16,), reals=reals))
    lived = train_streaming(this, make, {"stream": {}}, range(2), 50, 50)
    print(f"{name}: {observations} observations, {actions or reals} "
          f"{'actions' if actions else 'torques'}; 50 steps of 2 untrained agents: "
          f"mean reward {lived.reward.mean():.2f}")

# %% [markdown]
# ## What to make of it
#
# **The barrier is real.** In CartPole the classic Q($\lambda$) fails at every step size we tried, and the classic
# actor-critic comes not half the way at the best of its. On the pendulum, whose actions are real
# numbers, it diverges or stays where it began, near -1200. The same code with five parts switched on
# learns in all three, with one set of numbers, the paper's.
#
# **But it is not where one might think.** PPO at batch 1, a rollout of one step and Adam, stores nothing
# either and has none of the five parts; at its best of five step sizes it learns CartPole, not
# quite as well as stream AC, which needed no search. That suggests that what fails is plain gradient
# descent, whose steps are as large as the gradients happen to be; ObGD and Adam both measure them first. DQN
# fits in as well: with batch and buffer 1 it learns nothing, but even with a replay of 4 000 transitions it
# is at 159 after 100 000 steps, a third of stream Q's return (best at the largest of its four step sizes; DQN in
# CartPole is known to want more time). And in
# Acrobot the classic Q($\lambda$) at a step size of 3e-5 is not told apart from stream Q; at ten times that
# and more it learns nothing. What the kit saves there is the search for that number. Nor is the kit safe
# there: five runs in thirty of stream Q end below -400, that is, hardly ever reach the top, and stream AC is
# at -332, though without scaled observations every run of it learns (-86).
#
# **The parts are not equally needed.** For control, layer normalisation is, always: without it
# values run away by orders of magnitude. (Stream TD does as well without it.) For Q, the bound stands for a
# step size that one would have to find: in CartPole 0.001 to 0.003 do as well, in Acrobot none of those tried
# does better. Traces and scaled rewards decide in Acrobot, where the reward is far away; scaled observations
# matter in CartPole. Cutting the traces makes Q faster in CartPole: a difference at 50 000 steps, none at
# 100 000. What sparse weights bring is within the noise everywhere.
#
# **The dynamic network learns without most of the kit.** With the settings of notebook 12, found on other
# problems, and one-step Q-learning, it learns Acrobot in every one of thirty lives and is 65 ahead of stream Q
# (10 to 120). In CartPole it is level with stream Q. What it cannot do without is learning around the mean:
# else it learns nothing in Acrobot and in CartPole less than half. That is what layer normalisation is to
# the kit; the two seem to mend the same thing. Scaled rewards it needs in Acrobot, as stream Q does. Scaled
# observations it needs in CartPole; in Acrobot it is a little better without. Own step sizes help in Acrobot, by
# less. Imprinting, levelling and forgetting, which earned their place in supervised problems, show nothing in
# either.
#
# **When the world changes** stream Q does not lose its plasticity, at least not in 400 000 steps and ten codes:
# its last two periods are as good as its first, and a new network at each change would be no better. So there
# is nothing here for continual backprop to cure, and it cures nothing. At replacement rates of 1e-4 and 1e-3,
# without fading, it costs return; at 1e-5 it makes no difference that ten runs could tell. The dynamic network's
# last periods are worse than its first. Not because it lost something: one that begins anew at each
# change is worse still. (It begins with all values zero and explores little by then, so this control is
# the milder one.) What does not fit any more are the scales: with statistics that fade over 5 000 steps
# its last periods are as good as the first, and level with stream Q's. This is a result of one small world;
# layer normalisation is itself known to slow the loss of plasticity.
#
# How fast this is beside a plain loop is told by `dyndl bench`. Published runs are of MuJoCo (one to several
# million steps) and MinAtar and Atari (10 million and more). Ours of MinAtar's Breakout is of 200 000 steps: stream Q
# is at 5.2, the classic Q at 2.0, with the largest of its five step sizes. `data/record_streaming.py` has parts
# for Hopper, Freeway and two more changing worlds, which were not recorded.
#
# **Exercises.** (1) Set `trace_decay` to 0.95 and to 0.5. (2) Give the classic learner layer
# normalisation and nothing else. (3) Let `train_streaming` take `environments.mountain_car`, whose reward is far away; raise `limit`
# with `_replace`. (4) Write another change of the world for `changes`, for instance a sensor that dies.

# %% tags=["provenance"]
provenance.footer(profile=profile, steps=steps, prediction_steps=prediction_steps, runs=runs, seed=seed)
