# ---
# jupyter:
#   dyndl:
#     checks: [runs >= 1, net_runs >= 1, 1 <= bins <= steps, bins <= walk_steps, net_steps >= 10]
#     profiles:
#       smoke: {steps: 100, walk_steps: 100, net_steps: 100, runs: 3, net_runs: 2, bins: 10}
#       paper: {steps: 300000, walk_steps: 300000, net_steps: 1000000, net_runs: 30}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Step sizes that are learned
#
# **What you will see.** A linear unit that finds out by itself which of its inputs matter, and
# how fast each of its weights should move: on two problems where the right answer is known, it
# finds it. Then the same in deep networks, where every unit does this for its own weights.
#
# The step size is where a learner says what it expects: a weight that will have to change should
# have a large one, a weight that has found its value a small one, and a weight that never helps
# none at all. No single number can say that of all weights at once. For dynamic deep learning
# this is the way to protect what has been learned without freezing the network: the weights of
# the backbone earn small step sizes, and those of a promising newcomer large ones.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/10_step_sizes"  # folder for figures, tables and checkpoints
steps = 30000  # examples of the first problem, flipping signs
walk_steps = 60000  # examples of the second, random walks
net_steps = 100000  # examples each network sees
runs = 30  # independent units for each setting, one seed each
net_runs = 10  # independent networks for each learner, one seed each
bins = 30  # points a curve
seed = 0  # first seed

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from dyndl_lite.algorithms import step_sizes
from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.algorithms.step_sizes import (
    autostep,
    idbd,
    linear,
    lms,
    meta_optimize,
    per_unit,
    swift,
)
from dyndl_lite.cli import claims
from dyndl_lite.experiment import compare, ensemble, plots, provenance
from dyndl_lite.models import mlp
from dyndl_lite.problems.regression import SlowlyChangingRegression
from dyndl_lite.problems.tracking import FlippingSigns, RandomWalks

plots.style()
seeds = range(seed, seed + runs)
checkpoints = Path(out) / "checkpoints"

# %% [markdown]
# ## A step size for each weight, and its own gradient
#
# A linear unit with weights $w_i$ hears $a_i$, predicts $\sum_i w_i a_i$ and makes the error
# $\delta$. Least mean squares (LMS) moves every weight by $\alpha\,\delta\,a_i$. In **IDBD**
# (Sutton 1992) each weight has a step size of its own, $\alpha_i = e^{\beta_i}$, and $\beta_i$
# goes down the gradient of the squared error too:
#
# $$ \beta_i \leftarrow \beta_i + \theta\,\delta\, a_i h_i, \qquad
#    w_i \leftarrow w_i + \alpha_i\, \delta\, a_i, \qquad
#    h_i \leftarrow h_i\,[1 - \alpha_i a_i^2]^+ + \alpha_i\, \delta\, a_i . $$
#
# $h_i$ is a trace of the weight's recent changes. If the error now asks for a change in the same
# direction as the recent ones, the steps were too small; if it asks to take them back, they
# were too large. (The code has $c\,a_i^2$ where this has $a_i^2$; for one linear unit $c = 1$.)

# %%
plots.source(idbd.update)

# %% [markdown]
# IDBD has two weaknesses. A good $\theta$ depends on the scale of errors and inputs, and a step
# may overshoot: if $\sum_i \alpha_i a_i^2 > 1$, the unit corrects more than its whole error, and
# may diverge. **Autostep** (Mahmood et al. 2012) divides each $\delta a_i h_i$ by a recent maximum
# of its own, $v_i$, and divides all step sizes by $M$, the share of the error that would have been
# corrected, if that is more than 1:
#
# $$ \alpha_i \leftarrow \alpha_i \exp\!\Big(\mu \frac{\delta a_i h_i}{v_i}\Big), \qquad
#    M = \max\Big(\sum_i \alpha_i a_i^2,\ 1\Big), \qquad \alpha_i \leftarrow \frac{\alpha_i}{M} . $$

# %%
plots.source(step_sizes.prepare, autostep.update)

# %% [markdown]
# Two more for comparison. **SwiftTD** (Javed, Sharifnassab and Sutton 2024), here without its
# traces: it scales down only the one step that would overshoot, and lets the step sizes that
# caused it decay a little. **MetaOptimize** (Sharifnassab, Salehkaleybar and Sutton 2024): a
# general method for any optimiser; here with one step size for the whole unit, which only the sign
# of an averaged gradient moves.

# %%
plots.source(swift.update, meta_optimize.update)

# %% [markdown]
# ## Flipping signs: which inputs matter?
#
# Sutton's own test. Twenty inputs; the target is the sum of the first five, each times +1 or -1,
# and every 20 examples one of these signs flips. Fifteen inputs are irrelevant for ever: the
# best step size of their weights is 0. Each rule is run with five values of its main setting.
# The *oracle* is LMS that is told which inputs are relevant and sees nothing else.

# %%
stream = FlippingSigns()
n = stream.inputs
RULES = {  # name: rule, its main setting, others
    "LMS": (lms, "step_size", {}),
    "IDBD": (idbd, "meta_step_size", {"step_size": 0.05}),
    "Autostep": (autostep, "meta_step_size", {"step_size": 0.05}),
    "SwiftTD": (swift, "meta_step_size", {"step_size": 0.05}),
    "MetaOptimize": (meta_optimize, "discount", {"step_size": 0.05}),
}
LEARNERS = {name: linear(n, rule) for name, (rule, *_) in RULES.items()}


def all_step_sizes(net, X):
    """Probe: the step size of every weight (0 is that of a weight not yet moved)."""
    alpha = net["memory"].get("alpha")
    return {} if alpha is None else {f"alpha_{i}": alpha[i] for i in range(n)}


def sweep(stream, steps, values, folder):
    """Run rules with some values of their main settings; one table for all."""
    frames = []
    for name in values:
        _, main, others = RULES[name]
        frame = ensemble.run(stream, {name: (LEARNERS[name], {**others, main: values[name]})},
                             seeds, steps, steps // bins, all_step_sizes,
                             folder=checkpoints / folder)
        frames.append(frame.assign(main=main, value=frame[main]))
    return pd.concat(frames, ignore_index=True)


def best(frame):
    """Error over the last third at each rule's best value: Series by learner and seed."""
    end = compare.window_mean(frame, "squared_error", ["learner", "value"], 2 / 3, 1)
    means = compare.means(end)
    chosen = {name: means[name].idxmin() for name in means.index.unique("learner")}
    return pd.concat({name: end[name, value] for name, value in chosen.items()},
                     names=["learner"]), chosen, means


def everything(means):
    """Table of the error at every setting."""
    table = means.unstack(0).rename_axis("main setting")
    return table.map(lambda v: "" if np.isnan(v) else f"{v:.3g}")


# %%
flips = sweep(stream, steps, {
    "LMS": [0.01, 0.02, 0.03, 0.04, 0.05],
    "IDBD": [0.001, 0.002, 0.004, 0.006, 0.01],
    "Autostep": [0.003, 0.01, 0.03, 0.1, 0.3],
    "SwiftTD": [1e-4, 1e-3, 1e-2, 3e-2, 1e-1],
    "MetaOptimize": [0.0, 0.5, 0.9, 0.99, 0.999]}, "flips")
known = FlippingSigns(inputs=stream.relevant)
told = ensemble.run(known, {"LMS oracle": (linear(known.inputs, lms),
                                           {"step_size": [0.05, 0.09, 0.13, 0.17, 0.21, 0.25]})},
                    seeds, steps, steps // bins, folder=checkpoints / "oracle")
flips = pd.concat([flips, told.assign(main="step_size", value=told.step_size)],
                  ignore_index=True)
provenance.save_table(flips, out, "flipping_signs")

# %%
end, chosen, means = best(flips)
table = compare.table(end, "squared error, last third").sort_values("squared error, last third")
table.insert(0, "at its best", [f"{RULES.get(name, RULES['LMS'])[1].replace('_', ' ')} "
                                f"{chosen[name]:g}" for name in table.index])
figure, ax = plt.subplots(figsize=(8, 3.5))
middle = table["squared error, last third"]
ax.errorbar(middle, range(len(table)), fmt="o", capsize=3,
            xerr=[middle - table["low"], table["high"] - middle])
ax.set_yticks(range(len(table)), table.index)
ax.invert_yaxis()
ax.set_xlim(left=0)
ax.set(xlabel="squared error, last third of the run (mean, 95 % interval)",
       title=f"Flipping signs, each rule at its best of its sweep, {runs} runs")
plots.show(figure, "flipping_signs", out=out, alt=(
    "Squared error on flipping signs at each rule's best setting: "
    + ", ".join(f"{name} {value:.2f}" for name, value in middle.items()) + "."))
table.round(3)

# %% [markdown]
# And these are the step sizes behind it: the mean over the five relevant weights, and over
# the fifteen irrelevant ones.

# %%
weights = [f"alpha_{i}" for i in range(n)]
at_best = flips[[chosen[name] == value for name, value in zip(flips.learner, flips.value)]]
at_best = at_best[at_best.learner.isin(["IDBD", "Autostep", "SwiftTD"])]
groups = {"relevant": weights[:stream.relevant], "irrelevant": weights[stream.relevant:]}
alphas = pd.concat([at_best.assign(curve=at_best.learner + f", {group}", group=group,
                                   alpha=at_best[columns].mean(axis=1))
                    for group, columns in groups.items()], ignore_index=True)
alphas = alphas.sort_values(["learner", "group"], ascending=[True, False], kind="stable")
ax = plots.curves(alphas, "alpha", "curve", log=True)
ax.set(ylabel="step size (mean over weights)",
       title=f"Learned step sizes, {runs} runs, 95 % interval")
ax.legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
last = compare.window_mean(alphas, "alpha", ["curve"], 2 / 3, 1)
found = compare.table(last, "step size, last third")
plots.show(ax.figure, "step_sizes", out=out, alt=(
    "Learned step sizes against examples; over the last third of the run: "
    + ", ".join(f"{name} {value:.2g}" for name, value in found.iloc[:, 0].items()) + "."))
found.map("{:.2g}".format)

# %%
claims.record(out, "step-sizes-idbd", means["IDBD"].min() / means["LMS"].min(), profile)
claims.record(out, "step-sizes-relevant",
              found.loc["IDBD, relevant", "step size, last third"], profile)
everything(means)

# %% [markdown]
# The table has all settings (each learner's own main setting). IDBD does what was published: an
# error of about 1.5 where the best LMS has about 3.5, and step sizes of about 0.13 for relevant
# weights, which is just where the oracle is best. Nobody told it which they are. With too large a
# $\theta$ some of its runs diverge.
#
# Autostep never diverges, whatever its $\mu$. But here it pays for that: the inputs are normally
# distributed, so now and then one of them is large, $M$ exceeds 1, and *all* step sizes stay
# divided by it. SwiftTD scales down that one step only, may therefore keep larger step sizes, and
# ends below the oracle, whose one step size has to be safe for every example. MetaOptimize, with
# one step size for all twenty weights, can be as good as the best LMS at most, and nearly is.
#
# ## Random walks: how fast?
#
# Now every weight matters, each at its own pace. Twenty walks take turns; each moves by its drift
# before its turn and is seen through noise of variance 1. For each of them Kalman's filter is the
# best linear predictor, and once it has settled it is exactly LMS with one step size, its gain. So
# here we know the right step size of every weight: from 0.01 for the slowest to 0.6 for the
# fastest.

# %%
stream = RandomWalks()
walks = sweep(stream, walk_steps, {
    "LMS": [0.05, 0.1, 0.15, 0.2, 0.3],
    "IDBD": [0.003, 0.01, 0.03, 0.1, 0.3],
    "Autostep": [0.003, 0.01, 0.03, 0.1, 0.3],
    "SwiftTD": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}, "walks")
provenance.save_table(walks, out, "random_walks")

# %%
end, chosen, means = best(walks)
table = compare.table(end, "squared error, last third").sort_values("squared error, last third")
table.loc["(Kalman's filter, in theory)", "squared error, last third"] = np.mean(
    stream.least_errors)
late = walks[walks.step > 2 / 3 * walk_steps]
figure, ax = plt.subplots(figsize=(6, 5))
gains = np.array(stream.best_step_sizes)
ax.plot(gains, gains, color="grey", label="Kalman's gain")
ratios = {}
for name, marker in [("IDBD", "o"), ("Autostep", "s"), ("SwiftTD", "^")]:
    mine = late[(late.learner == name) & (late.value == chosen[name])]
    each = mine.groupby("seed")[weights].mean()
    ax.errorbar(gains, each.mean(), yerr=1.96 * each.sem(), fmt=marker, capsize=2, markersize=5,
                label=f"{name}, {RULES[name][1].replace('_', '-')} {chosen[name]:g}")
    ratios[name] = each.mean().to_numpy() / gains
ax.axhline(chosen["LMS"], color="grey", linestyle=":", label="best LMS")
ax.set(xscale="log", yscale="log", xlabel="best step size (Kalman's gain)",
       ylabel="learned step size", title=f"Random walks, {runs} runs, 95 % interval")
ax.legend(fontsize=9)
plots.show(figure, "kalman", out=out, alt=(
    "Learned step size of each of twenty weights against the best one. Learned over best: "
    + "; ".join(f"{name} from {r.min():.2f} to {r.max():.2f}" for name, r in ratios.items())
    + "."))
table.round(3)

# %%
claims.record(out, "step-sizes-kalman", float(np.abs(np.log2(ratios["SwiftTD"])).max()), profile)
claims.record(out, "step-sizes-kalman-error",
              table.loc["Autostep", "squared error, last third"] / np.mean(stream.least_errors),
              profile)
everything(means)

# %% [markdown]
# Over nearly two orders of magnitude the learned step sizes lie near Kalman's gains, and the error
# is within a few parts in a thousand of the least possible one. The slowest weights still have
# larger step sizes than they should: to them each example says little. In this problem nothing
# overshoots, Autostep's bound costs nothing, and its $\mu$ may be wrong by a factor of ten.
#
# ## In a deep network
#
# A hidden unit is a linear unit with something done to its sum. Its local error is
# $\delta_j = -\partial L/\partial z_j$: its *hunger* (minus the gradient with respect to its
# activity) times the slope of its activation function. But the loss is not $\delta_j^2/2$, so a
# step that would correct the unit's error is not one that moves its sum by $\delta_j$. How far is
# too far depends on how curved the loss is in $z_j$, and that can be carried back like the
# gradient (LeCun, Denker and Solla 1990):
#
# $$ c_j = f'(z_j)^2 \sum_k w_{kj}^2\, c_k, \qquad
#    c_{\text{output}} = \partial^2 L/\partial z^2 . $$
#
# Where a rule has $a_i^2$, put $c_j a_i^2$, and each unit has its own bound $M_j$. That is
# all; every unit of every layer is an Autostep unit, and `per_unit(autostep)` is an optimiser
# like `sgd` or `adam`, for backprop and for continual backprop. A unit that is reborn
# has the initial step sizes: one that inherited a tiny step size would stay frozen.

# %%
plots.source(mlp.curvatures, step_sizes.adapt, per_unit)

# %% [markdown]
# Slowly-changing regression with 20 hidden units, briefly: backprop and continual
# backprop, each with a fixed step size (the best of its sweep over a million examples) and with
# learned ones.

# %%
stream = SlowlyChangingRegression()
sizes = (stream.inputs, 20, stream.outputs)
learned = per_unit(autostep)
nets = ensemble.run(stream, {
    "backprop": (backprop(sizes), {"step_size": 0.001}),
    "backprop, learned": (backprop(sizes, optimiser=learned),
                          {"step_size": 0.001, "meta_step_size": 0.03}),
    "continual": (continual_backprop(sizes), {"step_size": 0.01, "replacement_rate": 1e-4}),
    "continual, learned": (continual_backprop(sizes, optimiser=learned),
                           {"step_size": 0.01, "meta_step_size": 0.03,
                            "replacement_rate": 1e-4})},
    range(seed, seed + net_runs), net_steps, net_steps // 10, folder=checkpoints / "nets")
provenance.save_table(nets, out, "nets")
ax = plots.curves(nets, "squared_error", "learner")
ax.set_ylim(bottom=0)
ax.legend(title=None, fontsize=9)
ax.set_title(f"Slowly-changing regression, {net_runs} runs, 95 % interval")
half = compare.window_mean(nets, "squared_error", ["learner"], 0.5, 1)
end = compare.table(half, "squared error, second half")
for name in ("backprop", "continual"):
    difference, low, high = compare.paired(half[f"{name}, learned"], half[name])
    print(f"{name}: learned - fixed {difference:+.3f} in the second half (95 % interval {low:+.3f} "
          f"to {high:+.3f}, {net_runs} pairs)")
plots.show(ax.figure, "nets", out=out, alt=(
    "Squared error against examples; mean of the second half: "
    + ", ".join(f"{name} {value:.2f}" for name, value in end.iloc[:, 0].items()) + "."))
end.round(3)

# %% [markdown]
# ## Whole lives: recorded runs
#
# The full comparison takes longer than a notebook may: a sweep of the settings of all four
# learners with ten seeds each, then the best with thirty. It was recorded with
# `python data/record_dynamic.py scr/20/bp_autostep ...` (not computed just now), see
# `data/results/dynamic.json`. Slowly-changing regression: 20 hidden units, squared error over
# the last 200 000 of a million examples. Permuted digits: 100 hidden units, 66 tasks, online
# accuracy over all of them.

# %%
record = pd.read_csv("../data/results/dynamic.csv")
WHO = {"bp": "backprop", "bp_autostep": "backprop, learned", "cbp": "continual",
       "cbp_autostep": "continual, learned"}
PROBLEMS = {("scr", 20): ("mse_last_200k", "squared error", False),
            ("permuted_digits", 100): ("online_accuracy", "online accuracy", True)}


def at_its_best(problem, units, metric, more_is_better):
    """Values by learner and seed, each learner at the best setting of its sweep."""
    rows = record[(record.problem == problem) & (record.units == units)
                  & (record.metric == metric) & record.learner.isin(WHO)]
    values, setting = {}, {}
    for who, mine in rows.groupby("learner"):
        few = mine[mine.seed < 10].groupby("setting").value.apply(lambda v: v.mean(skipna=False))
        setting[WHO[who]] = few.idxmax() if more_is_better else few.idxmin()
        chosen = mine[mine.setting == setting[WHO[who]]]
        values[WHO[who]] = chosen.set_index("seed").value
    return pd.concat(values, names=["learner"]), setting


# %%
differences = []
for (problem, units), (metric, label, more) in PROBLEMS.items():
    values, setting = at_its_best(problem, units, metric, more)
    table = compare.table(values, label)
    table.insert(0, "setting", [setting[name] for name in table.index])
    display(table.round(4))
    for ours, theirs in [("backprop, learned", "backprop"), ("continual, learned", "continual"),
                         ("backprop, learned", "continual")]:
        if ours in table.index and theirs in table.index:
            mean, low, high = compare.paired(values[ours], values[theirs])
            differences.append({"problem": f"{problem}, {units} units", "metric": label,
                                "difference": f"({ours}) - ({theirs})", "mean": mean,
                                "low": low, "high": high,
                                "pairs": min(len(values[ours]), len(values[theirs]))})
pd.DataFrame(differences).round(4)

# %%
error, _ = at_its_best("scr", 20, "mse_last_200k", False)
claims.record(out, "step-sizes-continual", compare.paired(
    error["continual, learned"], error["continual"])[2], profile)

# %% [markdown]
# ## What to make of it
#
# For one unit, where the right step sizes are known, they are found: which inputs matter, and
# how fast each weight should move. No single step size comes near. What is done about a step
# that would overshoot matters as much as how the step sizes are learned (exercise 2).
#
# In networks learned step sizes help both learners, and most where units are replaced. On
# slowly-changing regression they halve the error of continual backprop, or nearly, and its best
# first step size is one at which a fixed step size does badly: large steps for newcomers are
# affordable where weights that have found their place may take small ones. But learned step sizes
# do not take the place of new units: backprop with learned ones still ends far above continual
# backprop with a fixed one. A unit that is dead has no error to learn from, whatever its step
# size. And one thing is left to be set: the step size that a weight begins with.
#
# **Exercises.** (1) Set the scale of all inputs of `FlippingSigns` to 10. Which rules need a new
# setting? (2) Give Autostep SwiftTD's bound in place of $M$. Its error on flipping signs should
# fall below IDBD's; does it help the networks too? (3) Let one walk stop for ever after half of
# the run. How long does its step size take to notice?

# %% tags=["provenance"]
provenance.footer(profile=profile, steps=steps, walk_steps=walk_steps, net_steps=net_steps,
                  runs=runs, net_runs=net_runs, seed=seed)
