# ---
# jupyter:
#   dyndl:
#     checks: [runs >= 1, 1 <= bins <= steps, units >= 1, 1 <= wires <= 20]
#     profiles:
#       smoke: {steps: 75, runs: 3, bins: 5}
#       paper: {steps: 1000000, runs: 100, bins: 100}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Decentralised networks
#
# **What you will see.** A network in which nobody is in charge. Every unit has goals of its own and
# only its incoming weights to reach them. Its goals and its three levels of adaptation, weights,
# connections, and step sizes, are switched on one by one, and we measure what each of them brings.
#
# The idea is Richard Sutton's (*Decentralized neural networks*, DAI 2024), and an old one. A. Harry
# Klopf (*The hedonistic neuron*, 1982) saw the brain as a society of neurons each of which wants
# something: a goal-seeking system made of goal-seeking parts. Backpropagation has no such parts. A
# unit that falls silent gets no gradient, wants nothing, and stays silent for good. A unit that wants
# to be **listened to** would notice.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/13_decentralised"  # folder for figures, tables and checkpoints
steps = 60000  # examples each network sees here and now; recorded runs are longer
runs = 30  # independent networks for each setting, one seed each
bins = 30  # points a curve
units = 20  # hidden units
wires = 10  # inputs that each hidden unit hears, of 20
step_size = 0.01  # of our learners
seed = 0  # first seed

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from torch.func import vmap

from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.cli import claims
from dyndl_lite.dynamic import decentralised as algorithm
from dyndl_lite.dynamic.decentralised import decentralised, LEVELS, switched_on
from dyndl_lite.experiment import compare, diagnostics, ensemble, plots, provenance
from dyndl_lite.models.mlp import forward
from dyndl_lite.problems.regression import SlowlyChangingRegression

plots.style()
seeds = range(seed, seed + runs)
checkpoints = Path(out) / "checkpoints"
stream = SlowlyChangingRegression()
sizes = (stream.inputs, units, stream.outputs)

# %% [markdown]
# ## Who owns what
#
# There is one hidden layer. Unit $i$ has wires to some of the inputs, and to each wire a weight
# $w_{ij}$; these are its own. The weight $v_{ki}$ with which an output $k$ listens to it belongs to
# the output. A unit can make itself worth hearing. It cannot make anybody hear it.
#
# ## Goal: be listened to
#
# Attention is limited. Every listener has as much of it as the others and divides it by use, with
# the spread $s_i = \overline{|a_i - \bar a_i|}$ of what a unit says (this is one step of the
# utility propagation of notebook 09):
#
# $$ u_i = \sum_k \frac{|v_{ki}|\, s_i}{\sum_l |v_{kl}|\, s_l} . $$

# %%
plots.source(algorithm.attention)

# %% [markdown]
# A unit that for long (`patience` examples in a row) is paid less than a tenth of a fair share has
# failed at its goal. It has nothing to lose, so it explores: it draws its incoming weights afresh.

# %%
plots.source(algorithm.explore)

# %% [markdown]
# Its outgoing weights it cannot touch, and that is a danger: a silent unit may have kept a large
# one, and would shout the moment it wakes up. So the listeners, who see that somebody has changed,
# use what *they* own: they say themselves what the unit said on average, and set its weight to 0.
# Continual backprop does the same two things from above; here each half is done by its owner.

# %%
plots.source(algorithm.welcome)

# %% [markdown]
# ## Level: weights
#
# Once somebody listens, being of use is well defined. Listener $k$ is *hungry* by $\delta_k$, the
# slope of its loss with the sign turned, and unit $i$ could still
#
# $$ \delta_i = f'(z_i) \sum_k v_{ki}\, \delta_k $$
#
# of all that hunger by saying more. To move the own weights by $\delta_i x_j$ is gradient descent:
# backprop is what units do that serve those who listen. (And what they stop doing when nobody does.)
#
# ## Level: step sizes
#
# Each unit learns a step size for each of its weights, by Autostep, from its own $\delta_i$, and never
# corrects more than all of its own error (notebook 10).

# %%
plots.source(algorithm.pursue)

# %% [markdown]
# ## Level: connections
#
# Now and then a unit drops the wire it uses least, the one with the least $|w_{ij}|\, s_j$, and
# takes a new one at random, at weight 0. What the dropped input said on average goes into its bias.

# %%
plots.source(algorithm.rewire)

# %% [markdown]
# ## Goal: a normal activity
#
# A unit that is active on under 1 % of the examples raises its bias, one active on over 99 % lowers
# it; one that is too quiet or too loud scales its weights. All a little at each example.

# %%
plots.source(algorithm.normalise)


# %% [markdown]
# ## One by one
#
# All goals and levels are numbers in the learner's settings. Each row below adds to the rows above
# it; in the first, hidden units do not learn at all.

# %%
pd.Series({name: ", ".join(f"{k} {v:g}" for k, v in more.items())
           for name, more in LEVELS.items()}, name="what is set").to_frame()


# %%
def look(net, X):
    """How often each unit is active, and on what its wires are."""
    H = vmap(lambda x: forward(net["params"], x)[1][0])(X)
    shares = (H > 0).float().mean(0).sort(descending=True).values
    fast = net["wires"][:, stream.slow_bits:] if "wires" in net else None
    return {"dead_units": diagnostics.dead_units(H),
            **{f"active_{k:02d}": share for k, share in enumerate(shares)},
            **({} if fast is None else {"fast wires": fast.sum() / net["wires"].sum()})}


learner = decentralised(sizes, wires)
results = ensemble.run(
    stream,
    {**{level: (learner, {**switched_on(level), "step_size": step_size}) for level in LEVELS},
     "continual backprop": (continual_backprop(sizes), {"step_size": [0.003, 0.01],
                                                        "replacement_rate": [0.0, 1e-4]})},
    seeds, steps, steps // bins, probe=look, folder=checkpoints)

# %% [markdown]
# Plain backprop and continual backprop have all 20 inputs at every unit, twice the weights of ours,
# and take part with the best of their own settings: at replacement rate 0 the algorithm is
# backprop.

# %%
rival = results.learner == "continual backprop"
results.loc[rival & (results.replacement_rate == 0), "learner"] = "backprop"
late = compare.window_mean(results[rival], "squared_error",
                       ["learner", "step_size", "replacement_rate"], 0.5, 1)
best = compare.means(late)
best = [best[name].idxmin() for name in ("backprop", "continual backprop")]
chosen = results[~rival | pd.Series(
    list(zip(results.step_size, results.replacement_rate)), results.index).isin(best)].copy()
provenance.save_table(chosen, out, "levels")
print("chosen (step size, replacement rate):", *(tuple(map(float, b)) for b in best))

# %%
ax = plots.curves(chosen, "squared_error", "learner")
ax.set(title=f"Slowly-changing regression, {units} units, {runs} runs, 95 % interval", ylim=(0, 1.6))
ax.legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
half = compare.window_mean(chosen, "squared_error", ["learner"], 0.5, 1)
table = compare.table(half, "squared error").reindex(list(dict.fromkeys(chosen.learner)))
plots.show(ax.figure, "levels", out=out, alt=(
    "Squared error against examples. Mean over the second half: "
    + ", ".join(f"{name} {value:.2f}" for name, value in table["squared error"].items()) + "."))
order = list(LEVELS)
steps_up = pd.DataFrame(
    {name: compare.paired(half[name], half[before]) for before, name in zip(order, order[1:])}
    | {"backprop": (np.nan,) * 3, "continual backprop": (np.nan,) * 3},
    index=["minus the row above", "low ", "high "]).T
table.join(steps_up).round(3)

# %% [markdown]
# Second half of the run. The last three columns set each level against the one before it, run by
# run: an interval below zero means that switching it on helped.
#
# ## Who is awake?
#
# At the end, the units of each network sorted by how often they are active on the last examples.

# %%
last = chosen[chosen.step == steps]
shares = last.set_index("learner")[[c for c in last if c.startswith("active_")]]
figure, ax = plt.subplots()
for k, (name, rows) in enumerate(shares.groupby(level=0, sort=False)):
    ax.plot(range(1, units + 1), rows.mean(), marker="osD^v<>P"[k % 8],
            linestyle=["-", "--", ":", "-."][k % 4], markersize=5, label=name)
ax.set(xlabel="unit (the most active first)", ylabel="active (share of the examples)",
       title=f"Activity at the end, mean of {runs} runs", ylim=(-0.02, 1.02))
ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
dead = last.groupby("learner", sort=False).dead_units.mean()
plots.show(figure, "activity", out=out, alt=(
    "Share of examples on which the units are active, sorted. Units that are silent on all of the "
    "last examples: " + ", ".join(f"{name} {100 * v:.0f} %" for name, v in dead.items()) + "."))

# %%
silent = compare.table(last.set_index(["learner", "seed"]).dead_units, "silent units (share)")
by_seed = last.set_index(["learner", "seed"]).dead_units.sort_index()
claims.record(out, "decentralised-awake", compare.paired(
    by_seed["+ be listened to"], by_seed["weights"])[2], profile)
silent.reindex(list(dict.fromkeys(chosen.learner))).round(3)

# %% [markdown]
# ## What do they listen to?
#
# Five of the twenty inputs are drawn afresh at each example; the fifteen slow ones stand still for
# 10 000 at a time. A unit that exchanges the wire it uses least soon hears all five of the fast
# ones (half of its ten wires), for an input that never varies is of no use *now*.

# %%
compare.table(last.dropna(subset="fast wires").set_index(["learner", "seed"])["fast wires"],
              "wires to fast bits (share)").reindex(list(LEVELS)).round(3)

# %% [markdown]
# ## Longer lives: recorded runs
#
# Recorded with `python data/record_decentralised.py scr` (not computed just now): the same on 400 000
# examples, with half of the wires and with all of them; backprop and continual backprop at the best
# setting of their sweeps (`setting` in the table), judged by what is shown.

# %%
record = pd.read_csv("../data/results/decentralised.csv")
record = record[record.problem == "scr"]
values = record[record.metric == "squared_error_last_half"].set_index(
    ["learner", "setting", "seed"]).value.sort_index()
winners = compare.means(values).groupby("learner").idxmin()
series = pd.concat({name: values.loc[winner] for name, winner in winners.items()}, names=["learner"])
names = [*LEVELS, "all but be listened to", "all wires, + be listened to", "all wires, + step sizes",
         "backprop", "continual backprop"]
rows = compare.table(series, "squared error").reindex(names)
figure, ax = plt.subplots(figsize=(8, 5))
kinds = {"half of the wires": slice(0, 7), "all wires": slice(7, 9), "rivals": slice(9, 11)}
for (text, kind), marker in zip(kinds.items(), "osD"):
    middle = rows["squared error"].iloc[kind]
    ax.errorbar(middle, range(len(names))[kind], fmt=marker, capsize=3, label=text,
                xerr=[middle - rows["low"].iloc[kind], rows["high"].iloc[kind] - middle])
ax.set_yticks(range(len(names)), names)
ax.set(xlabel="squared error, last 200 000 of 400 000 examples (mean, 95 % interval)", xlim=(0, None),
       title="Recorded: slowly-changing regression, 20 units, 30 runs")
ax.invert_yaxis()
ax.legend()
plots.show(figure, "recorded", out=out, alt="Recorded squared errors, mean over the last half: " + ", ".join(
    f"{name} {value:.3f}" for name, value in rows["squared error"].items()) + ".")

# %%
before = {name: order[k] for k, name in enumerate(order[1:])}
before |= {"all but be listened to": "+ step sizes", "all wires, + be listened to": "+ be listened to",
           "all wires, + step sizes": "+ step sizes"}
against = {name: [before.get(name, ""), *(compare.paired(series[name], series[before[name]])
                                          if name in before else (np.nan,) * 3),
                  compare.paired(series[name], series["continual backprop"])[0], winners[name][1]]
           for name in names}
longer = rows.join(pd.DataFrame(against, index=["compared with", "difference", "low ", "high ",
                                                "minus continual backprop", "setting"]).T)
claims.record(out, "decentralised-scr",
              compare.paired(series["+ step sizes"], series["continual backprop"])[2], profile)
longer.drop(columns="runs").map(lambda v: round(v, 3) if isinstance(v, float) else v)

# %% [markdown]
# ## What to make of it
#
# Every unit here looks after itself, and the network is the better for it. Units that only follow
# their listeners' hunger die: at the end of the live run almost two thirds of them are silent. The wish
# to be listened to brings them back, without anybody who ranks units from above: a silent unit notices
# that it is not heard and tries something else.
#
# Then the largest step of all, the *connections*. With ten wires of twenty that never change, what a
# unit can find out is a matter of luck. Once it may exchange wires, the error in the recorded lives
# falls to about a fifth, below continual backprop's at the best of its sweep, although each unit hears
# only half as many inputs. Sparse wires that move are even better than all wires at once: on
# this problem fifteen of the twenty inputs stand still for ten thousand examples at a time, and a
# unit that does not hear them is not thrown off when one of them flips (a conjecture: the table above
# shows that wires move to the fast bits, not that this is why).
#
# Learned step sizes add a little, measurably; keeping the activity in a normal range adds nothing
# that thirty runs could show: no unit is out of range for long when it wants to be listened to. And
# without that wish the other levels lose most of what they gain: dead units have no use for wires.
#
# Early in life ours are slower than continual backprop: in the first 30 000 examples of the live run
# it is ahead. Exchanging wires one at a time is slow.
#
# **Exercises.** (1) Set `patience` to 100, then to 10 000. What does a hasty unit lose, what a patient
# one? (2) Leave out `welcome`: explore, but let the listeners keep their weights. (3) Give a unit a
# wish that is less blind than a random wire: take the free input whose product with $\delta_i$ has the
# largest running average. (4) Two hidden layers: what is a fair share of attention in the first?
# (5) Does the order of the levels hold on images? `data/record_decentralised.py permuted_digits` asks.

# %% tags=["provenance"]
provenance.footer(profile=profile, steps=steps, runs=runs, bins=bins, units=units, wires=wires,
                  seed=seed)
