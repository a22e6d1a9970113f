# ---
# jupyter:
#   dyndl:
#     checks: [runs >= 1, 1 <= bins <= steps, units >= 1, len(live) >= 1]
#     profiles:
#       smoke: {steps: 200, runs: 3, bins: 10, live: [bp, layer_norm, l2_init, cbp]}
#       paper: {steps: 1000000, runs: 100, bins: 50, live: [bp, l2, shrink_perturb, dropout, online_norm, layer_norm, adam, adam_proper, head_reset, l2_init, redo, self_normalised, upgd, crelu, clipping, cbp]}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Common remedies
#
# **What you will see.** Have you tried L2? Dropout? Adam? Layer norm? Here are these
# and more, each swept over its settings and each at its best, beside plain backprop and continual
# backprop. And, so that you can see *why* one helps and another does not: how many units die, how
# the weights grow, and how many dimensions the hidden layer still uses.
#
# One figure is computed in front of you, the others are recorded (long runs, kept in
# `data/results/remedies.csv`). Each says which it is.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/05_remedies"  # folder for figures, tables and checkpoints
steps = 200000  # examples each network sees, live
runs = 20  # independent networks for each learner, one seed each
bins = 10  # points a curve
seed = 0  # first seed
units = 5  # hidden units
live = ["bp", "l2", "dropout", "layer_norm", "adam", "cbp"]  # learners to run live

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from dyndl_lite.algorithms import layers, optimisers, resets
from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.algorithms.layers import backprop_with
from dyndl_lite.algorithms.optimisers import adam, l2, l2_init, upgd
from dyndl_lite.algorithms.regularisers import weight_clipping, with_noise
from dyndl_lite.algorithms.resets import resetting
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.cli import claims
from dyndl_lite.experiment import compare, ensemble, plots, provenance
from dyndl_lite.problems.regression import SlowlyChangingRegression

plots.style()
stream = SlowlyChangingRegression()
sizes = (stream.inputs, units, stream.outputs)

# %% [markdown]
# ## Three places to intervene
#
# **At the weights.** Keep them small, keep them near where they began, or stir them:
#
# | remedy | every step, beside $-\alpha g$ | from |
# |---|---|---|
# | L2 | $-\alpha\lambda w$ | the textbooks |
# | shrink and perturb | $-\alpha\lambda w + \sigma\varepsilon$ | Ash and Adams 2020; Dohare et al. 2024 |
# | L2 Init | $-\alpha\lambda (w - w_0)$ | Kumar et al. 2023 |
# | weight clipping | $w$ stays within $\kappa$ times the bound it was drawn from | Elsayed et al. 2024 |
# | UPGD | $-2\alpha(g + \sigma\varepsilon)(1-\mathrm{sigmoid}(U/\max U))$: useful weights are spared, useless ones stirred | Elsayed and Mahmood 2024 |
# | Adam | $-\alpha \hat m/(\sqrt{\hat v}+\epsilon)$, with $\beta = (.9, .999)$ as published and $(.99, .99)$, called *proper* | Kingma and Ba 2015; Dohare et al. 2024 |
#
# Each is an optimiser or a wrapper around a learner, a few lines long:

# %%
plots.source(optimisers.l2, optimisers.l2_init)

# %% [markdown]
# **At the units.** Start afresh what no longer works. Continual backprop does so by utility, one
# unit now and then; these two by other signs, and a reset of the head without looking at all:
#
# | remedy | who starts afresh | from |
# |---|---|---|
# | ReDo | a unit whose mean activity is a small share of its layer's, at every check | Sokar et al. 2023 |
# | self-normalised resets | a unit whose silence is too long to be chance, given how often it used to fire | Farias and Jozefiak 2024 |
# | head reset | the output weights, at every change of the task (it must be told) | Continual ImageNet in Dohare et al. 2024 |

# %%
plots.source(resets._dormant, resets._silent)

# %% [markdown]
# **In the hidden layer.** Change what a unit computes. All in their online form: one example is all
# there is, so no batch to take a mean over.
#
# | remedy | a hidden layer gives | from |
# |---|---|---|
# | dropout | a random share of its units silent while it learns | Srivastava et al. 2014 |
# | layer norm | $(z - \bar z)/s$, mean and deviation over the units of the layer | Ba et al. 2016 |
# | online norm | $(z-\mu)/\sigma$, running mean and deviation of each unit, and a gradient that is kept free of what a true normalisation would take out | Chiley et al. 2019 |
# | CReLU | both $[z]_+$ and $[-z]_+$: one side of a unit is always alive | Shang et al. 2016; Abbas et al. 2023 |

# %%
plots.source(layers._layer_normalise, layers._online_normalise, layers._online_learn)

# %% [markdown]
# ## Live: slowly-changing regression
#
# Here is every one of them, as a learner. Those named in the parameter `live` run now; each has the
# setting that was best in the recorded sweep further down.

# %%
learners = {
    "bp": ("backprop", backprop(sizes)),
    "l2": ("L2", backprop(sizes, optimiser=l2())),
    "shrink_perturb": ("shrink and perturb", backprop(sizes, optimiser=l2(), after=(with_noise,))),
    "dropout": ("dropout", backprop_with("dropout", sizes)),
    "online_norm": ("online norm", backprop_with("online_norm", sizes)),
    "layer_norm": ("layer norm", backprop_with("layer_norm", sizes)),
    "adam": ("Adam", backprop(sizes, optimiser=adam)),
    "adam_proper": ("Adam, proper", backprop(sizes, optimiser=adam)),
    "head_reset": ("head reset", renewed(backprop(sizes))),
    "l2_init": ("L2 Init", backprop(sizes, optimiser=l2_init())),
    "redo": ("ReDo", resetting(sizes, "redo")),
    "self_normalised": ("self-normalised resets", resetting(sizes, "self_normalised")),
    "upgd": ("UPGD", backprop(sizes, optimiser=upgd)),
    "crelu": ("CReLU", backprop_with("crelu", sizes)),
    "clipping": ("weight clipping", backprop(sizes, after=(weight_clipping(),))),
    "cbp": ("continual backprop", continual_backprop(sizes)),
}
names = {who: name for who, (name, _) in learners.items()} | {"heads_kept": "heads not reset"}

record = pd.read_csv("../data/results/remedies.csv")


def recorded(problem, size):
    """Give all rows of a recorded problem, and those of each learner's best setting."""
    part = record[(record.problem == problem) & (record.units == size)]
    ran_on = part[part.metric.str.endswith("_end")].groupby("learner").setting.first()
    return part, part[part.setting == part.learner.map(ran_on)]


settings = {who: {k: float(v) for k, v in (pair.split("=") for pair in setting.split())}
            for who, setting in recorded("scr", units)[1].groupby("learner").setting.first().items()}
pd.Series({names[who]: str(settings[who]) for who in live}, name="setting").to_frame()

# %%
now = ensemble.run(stream, {names[who]: (learners[who][1], settings[who]) for who in live},
                   range(seed, seed + runs), steps, steps // bins,
                   folder=Path(out) / "checkpoints")
provenance.save_table(now, out, "live")
end = compare.window_mean(now, "squared_error", ["learner"], 0.5, 1)
table = compare.table(end, "squared error, second half")
table = table.join(pd.DataFrame(
    {name: compare.paired(end[name], end["continual backprop"]) for name in table.index
     if name != "continual backprop"}, index=["minus continual backprop", "low ", "high "]).T)
table = table.sort_values("squared error, second half")

# %%
ax = plots.curves(now, "squared_error", "learner")
ax.set_title(f"Computed now: {runs} runs, each learner at its best setting")
ax.set_ylim(bottom=0)
ax.legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
plots.show(ax.figure, "live", out=out, alt=(
    "Squared error against examples on slowly-changing regression. Mean of the second half, best "
    "first: " + ", ".join(f"{name} {row.iloc[0]:.2f}" for name, row in table.iterrows()) + "."))
table.round(3)

# %% [markdown]
# A life of this length is too short for the slow decay of the good settings: that is what the
# recorded lives are for.
#
# ## Recorded: a whole life
#
# Made with `python data/record_remedies.py` (hours, not computed just now):
#
# * slowly-changing regression for 1 M examples, 5 hidden units: 10 seeds for every setting of a sweep,
#   30 for the best one;
# * permuted digits for 40 tasks of 1 797, each digit once, 64 inputs, 100 hidden units: 4 seeds, then 30;
# * the pairs of image classes of notebook 03 for 40 tasks, with its small convolutional network (120
#   units, momentum, minibatches of 20), where a unit is a channel and all learners but one get a new head
#   with every task: 3 seeds, then 10.
#
# The table shows the best setting by the mean over the *whole life*. "Advantage" is over continual backprop at
# the best of its own sweep, run by run, with a 95 % interval: positive means that the remedy is
# better. It is given for the whole life and for the *last fifth* of it, when plasticity has had time
# to go. "Typical" is the median setting of the sweep: what you get if you do not tune.

# %%
KINDS = {"scr": ("squared_error", "squared error", -1, "Slowly-changing regression"),
         "permuted_digits": ("accuracy", "online accuracy", 1, "Permuted digits"),
         "image_pairs": ("test_accuracy", "test accuracy", 1, "Pairs of image classes")}


def compared(problem, size):
    """Give one row for each learner of a recorded problem: its best, against continual backprop."""
    metric, what, sign, _ = KINDS[problem]
    part, chosen = recorded(problem, size)
    sweeps = part[(part.metric == metric) & (part.task == 0)]
    rows = {}
    for who, mine in chosen.groupby("learner"):
        row = {"setting": mine.setting.iloc[0]}
        for name, stretch in [(metric, "whole life"), (f"{metric}_end", "last fifth")]:
            values = chosen[(chosen.metric == name) & (chosen.task == 0)].set_index(
                ["learner", "seed"]).value
            row[f"{what}, {stretch}"] = values[who].mean()
            if who != "cbp":
                low, middle, high = sorted(
                    sign * d for d in compare.paired(values[who], values["cbp"]))
                row |= {f"advantage, {stretch}": middle, f"low, {stretch}": low,
                        f"high, {stretch}": high}
        sweep = compare.means(sweeps[sweeps.learner == who].set_index(["setting", "seed"]).value)
        row |= {"typical, whole life": sweep.median(), "settings": len(sweep),
                "runs": len(values[who])}
        rows[names[who]] = row
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.sort_values(f"{what}, last fifth", ascending=sign < 0)


shown = {(problem, size): compared(problem, size) for problem, size in
         record[["problem", "units"]].drop_duplicates().itertuples(index=False)}
for (problem, size), frame in shown.items():
    provenance.save_table(frame.reset_index(names="learner"), out, f"{problem}_{size}")
    caption = f"{KINDS[problem][3]}, {size} hidden units, {int(frame.runs.min())} runs"
    display(frame.style.format(precision=3, na_rep="").set_caption(caption))


# %% [markdown]
# ## Why
#
# The same remedies in the same order, and what one sees inside: hollow after the first tenth of the
# life, filled at its end. (For CReLU a unit counts as two, and one of the two is often silent.)

# %%
def portrait(problem, size, frame):
    """Draw the advantage of each remedy, and what is inside its nets."""
    metric, what, _, title = KINDS[problem]
    chosen = recorded(problem, size)[1]
    inside = chosen[chosen.task > 0].groupby(["learner", "metric", "task"]).value.mean().unstack()
    order = [who for name in frame.index for who in names if names[who] == name]
    figure, axes = plt.subplots(1, 4, figsize=(12, 0.32 * len(order) + 1.6), sharey=True)
    where = range(len(order))
    middle = frame["advantage, last fifth"]
    axes[0].axvline(0, color="0.4", linewidth=1, linestyle="--")
    axes[0].errorbar(middle, where, fmt="o", capsize=3, color="C0",
                     xerr=[middle - frame["low, last fifth"], frame["high, last fifth"] - middle])
    axes[0].set(xlabel=f"advantage over continual\nbackprop, last fifth\n({what})")
    axes[0].set_yticks(where, frame.index)
    axes[0].invert_yaxis()
    for ax, look in zip(axes[1:], ["dead_units", "weight_magnitude", "effective_rank"]):
        first, last = ([inside.loc[(who, look), t] for who in order] for t in (1, 10))
        ax.hlines(where, first, last, color="0.7")
        ax.scatter(first, where, facecolors="none", edgecolors="C1", marker="s", label="after a tenth",
                   zorder=3)
        ax.scatter(last, where, color="C2", label="at the end", zorder=3)
        ax.set(xlabel=plots.LABELS[look].replace(" (", "\n(").replace("weight ", "weight\n"))
    axes[3].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"Recorded: {title.lower()}, each at its best, {int(frame.runs.min())} runs")
    return figure, inside


def told(frame, inside):
    """Say the same in words."""
    ours = {names[who]: who for who in names}
    return "; ".join(
        f"{name} " + ("" if pd.isna(row["advantage, last fifth"])
                      else f"{row['advantage, last fifth']:+.3f} ")
        + "(" + ", ".join(f"{look} {inside.loc[(ours[name], m), 1]:.2g} to "
                          f"{inside.loc[(ours[name], m), 10]:.2g}"
                          for m, look in [("dead_units", "dead"), ("weight_magnitude", "weights"),
                                          ("effective_rank", "rank")]) + ")"
        for name, row in frame.iterrows())


for (problem, size), frame in shown.items():
    figure, inside = portrait(problem, size, frame)
    plots.show(figure, f"{problem}_{size}", out=out, alt=(
        "Advantage over continual backprop in the last fifth, and dead units, weight magnitude and "
        f"effective rank from first to last tenth, best remedy first: {told(frame, inside)}."))


# %% [markdown]
# Who beats continual backprop, who does not, and where cannot we tell?

# %%
def verdict(frame, column):
    """Sort the remedies by where the interval of their advantage lies."""
    rivals = frame.drop("continual backprop")
    low, high = rivals[f"low, {column}"], rivals[f"high, {column}"]
    return {"better": list(rivals.index[low > 0]), "worse": list(rivals.index[high < 0]),
            "cannot tell": list(rivals.index[(low <= 0) & (high >= 0)])}


pd.DataFrame({(f"{KINDS[problem][3]}, {size} units", column):
              {k: ", ".join(v) or "none" for k, v in verdict(frame, column).items()}
              for (problem, size), frame in shown.items()
              for column in ("whole life", "last fifth")}).T.style

# %%
chosen = recorded("scr", units)[1]
tail = chosen[chosen.metric == "squared_error_end"].set_index(["learner", "seed"]).value
tried = [names[who] for who in ("l2", "shrink_perturb", "dropout", "online_norm", "adam")]  # in Nature
ahead = shown["scr", units].loc[tried, "high, last fifth"].max()
for claim, value in {
        "remedies-l2-eases": compare.paired(tail["l2"], tail["bp"])[2],
        "remedies-perturbing-eases-more": compare.paired(tail["shrink_perturb"], tail["l2"])[2],
        "remedies-dropout-does-not-ease": compare.paired(tail["dropout"], tail["bp"])[1],
        "remedies-adam-is-no-cure": compare.paired(tail["adam"], tail["cbp"])[1],
        "remedies-none-passes-cbp": ahead}.items():
    claims.record(out, claim, float(value), profile)

# %% [markdown]
# ## What to make of it
#
# **Of the remedies that the paper tried, none reaches continual backprop**, on either of the first two
# problems, and the picture says why. **L2** does what it is meant to: the weights stay small and the
# decline slows. But small weights are not the point: on both problems about half of the units are dead at
# the end, and the rank is no better than a third to a half of what continual backprop keeps. It keeps what
# is left. **Shrink and perturb** stirs as well, keeps most units alive, and comes close: four hundredths
# of squared error behind on regression, two tenths of a point on digits. **Layer norm** and **online norm**
# begin well and then go the way of backprop; so does **UPGD** on regression. **Adam** at its best is a little better than
# backprop on regression and a little worse on digits; the "proper" $\beta$, which helped PPO, is worse on both.
# **Dropout** does not help, and its best share is the smallest of the sweep.
#
# **Some of the newer ones do.** On regression **self-normalised resets** and **ReDo** are
# ahead of continual backprop by about four hundredths. They replace units too; they only choose them
# otherwise. ReDo's best setting here looks often, every 100 examples, and replaces only units that were silent
# all that time. **CReLU** is ahead by a tenth: no unit can die on both sides. But each of
# its units speaks with two voices, so the same 5 units have twice the features; compare it
# with continual backprop at 10 units before you call it better. On digits these three are level with
# continual backprop. **L2 Init** is behind it on regression, and two tenths of a point ahead on digits.
#
# **Being told** when the task changes is worth most on digits: with a new head for each task plain
# backprop is two points ahead of continual backprop, and its rank grows rather than falls. Nobody else
# here is told anything. On regression, where the input weights must change as well, it is behind.
#
# **On pairs of image classes** the picture is another, and milder: forty tasks at these step sizes are too few
# for backprop to fail (in notebook 03 it takes a hundred), so a remedy can win here by learning faster as
# well as by lasting. **CReLU** is eight points ahead of continual backprop in the last fifth, again with twice
# the features; **layer norm**, which lost its plasticity on the other two problems, and **Adam** are four
# ahead. Plain backprop does best with a smaller step size: it is two points behind over the whole life and, if
# anything, ahead at its end; UPGD and dropout (whose best share is next to none) likewise. L2 (whose best
# decay is next to none too), L2 Init, shrink and perturb, clipping, ReDo and self-normalised resets cannot be
# told from continual backprop at the end. **Keeping the head** is the worst of all: here the reset of the head, which the problem prescribes, is half of the cure.
#
# What these runs do not say: the best of a sweep is the best of *that* sweep, and a remedy with three
# settings had more of them tried than continual backprop; a few bests lie at the end of a sweep, most
# where less is nothing (dropout's share; ReDo's dormancy; on pairs the smallest step size, decay or noise); two
# remedies at once are not tried; and a small problem is not a large one. The column "typical" is there for
# those who will not tune.
#
# **Exercises.** (1) Put `redo` and `upgd` into `live`. (2) Combine two remedies, for example
# `backprop(sizes, optimiser=l2_init(), after=(with_noise,))`, and sweep it with `ensemble.run`. (3) Give dropout
# 20 hidden units. Does it still hurt? (4) Wrap continual backprop in `heads_reset`.

# %% tags=["provenance"]
provenance.footer(profile=profile, steps=steps, runs=runs, seed=seed, units=units)
