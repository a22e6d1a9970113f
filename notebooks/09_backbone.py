# ---
# jupyter:
#   dyndl:
#     checks: ["images in ('digits', 'mnist')", runs >= 1, tasks >= 1, 1 <= examples <= steps, examples <= tasks * task_length]
#     profiles:
#       smoke: {steps: 300, tasks: 1, task_length: 200, runs: 3, examples: 100}
#       paper: {images: mnist, steps: 1000000, tasks: 150, task_length: 60000, runs: 30, units: 100}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Backbone and fringe
#
# **What you will see.** In a network that has learned for a while, some units carry the output and
# others could go without anybody noticing. Four ways to tell the two apart, measured against the
# honest and dear one: take the unit out and look.
#
# The idea is Richard Sutton's (*Toward a better deep learning*, 2024). The units that are used are
# the **backbone**: they are what the network knows, and should be protected. The others are the
# **fringe**: nothing depends on them, so they are free to explore. Before a learner can treat the
# two differently it has to find out, online and cheaply, which is which.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/09_backbone"  # folder for figures, tables and checkpoints
images = "digits"  # digits (8x8, embedded) or mnist (from DYNDL_DATA, or fetched)
steps = 200000  # examples of slowly-changing regression each network sees
tasks = 15  # permutations of the images in a row
task_length = 1797  # examples a task; 1797 is every digit once
units = 40  # hidden units a layer on images; there are two layers
examples = 500  # last examples, from which the backbone is found
keep = 0.1  # share of its utility that a unit keeps
threshold = 0.1  # fringe: less than this share of its layer's mean utility
runs = 30  # independent networks for each setting, one seed each
seed = 0  # first seed

# %%
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.cli import claims
from dyndl_lite.dynamic import backbone
from dyndl_lite.experiment import compare, ensemble, plots, provenance
from dyndl_lite.learning import cross_entropy, squared_error
from dyndl_lite.models.mlp import forward
from dyndl_lite.problems import datasets
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

plots.style()
seeds = range(seed, seed + runs)
checkpoints = Path(out) / "checkpoints"
regression = SlowlyChangingRegression()
pictures, labels, images = ((*datasets.digits(), "digits") if images == "digits"
                           else datasets.idx_images())  # called what they are
permuted = PermutedImages(pictures, labels, task_length, f"permuted {images}")

# %% [markdown]
# ## Networks with used and unused units
#
# Two problems, and on each a network with two hidden layers that learns by backprop and one that
# learns by continual backprop (at replacement rate 0 that algorithm *is* backprop, so one ensemble
# holds both). Backprop loses units as it goes; continual backprop keeps recycling them.

# %%
problems = {  # name: stream, sizes, loss, step size, examples in all
    "regression": (regression, (regression.inputs, 10, 10, regression.outputs), squared_error,
                   0.01, steps),
    "images": (permuted, (permuted.inputs, units, units, permuted.outputs), cross_entropy,
               0.03, tasks * task_length),
}
rates = {"backprop": 0.0, "continual backprop": 1e-4}
nets, recent, following = {}, {}, {}  # params; examples before the end; examples after it
for problem, (stream, sizes, loss, step_size, length) in problems.items():
    alive = ensemble.live(stream, continual_backprop(sizes, loss=loss),
                          {"step_size": step_size, "replacement_rate": list(rates.values())},
                          seeds, length, problem, checkpoints, device="cpu")
    for k, learner in enumerate(rates):
        nets[problem, learner] = tree_map(lambda a, k=k: a[k], alive["params"])
    recent[problem] = stream.examples(torch.tensor(seeds), length - examples, examples)
    following[problem] = stream.examples(torch.tensor(seeds), length, examples)

# %% [markdown]
# From here on the networks are frozen. Each way looks at the same last examples of each network's
# life, which are all of one task (and for the regression of one setting of the slow bits).
#
# ## The oracle
#
# Take one unit out, put its mean activity in its place, and measure by how much the mean loss
# rises. This needs the targets and, for each unit, a run through all examples.

# %%
plots.source(backbone.rise_without)

# %% [markdown]
# ## Four cheaper ways
#
# **Perturbation.** Scale the weights of a unit by a little: does the output move? **Mean squared
# gradient.** If for a long time the loss pulls at none of the unit's weights, it is of no use. The
# reverse does not hold: pulling is not the same as being useful.

# %%
plots.source(backbone.perturbation, backbone.mean_squared_gradient)

# %% [markdown]
# **Reachability.** An output is backbone, and whoever a backbone unit hears through a weight that
# is not zero is backbone too. After learning hardly any weight *is* zero, so the question becomes:
# above which threshold is there still a path? The width of the widest path answers it for all
# thresholds at once.

# %%
plots.source(backbone.reachability)

# %% [markdown]
# **Utility propagation.** Put one unit of utility on each output. Unit $j$ keeps a share of its
# utility $U_j$ and passes the rest to the units $i$ that it hears, in proportion to how much it
# uses them:
#
# $$ r_{ij} = \overline{|w_{ij} (a_i - \bar a_i)|} = |w_{ij}| \cdot \overline{|a_i - \bar a_i|},
# \qquad U_i = (1 - \text{keep}) \sum_j U_j \frac{r_{ij}}{\sum_k r_{kj}} . $$
#
# The right-hand form of $r_{ij}$ holds for weights that stay the same; it says that one running
# average for each *unit* is enough. What is passed on is lost to the giver.

# %%
plots.source(backbone.propagate)


# %% [markdown]
# ## All of it, for all networks
#
# `vmap` takes each way from one network to thirty. The clock runs for each.

# %%
def utility(params, X):
    """Utility of every hidden unit of one network, from the spreads on some examples."""
    return backbone.propagate(params, backbone.spreads(params, X), keep).utility


ways = {
    "perturbation": lambda params, X, Y, loss: backbone.perturbation(params, X),
    "squared gradient": lambda params, X, Y, loss: backbone.mean_squared_gradient(params, X, Y,
                                                                                  loss),
    "reachability": lambda params, X, Y, loss: backbone.reachability(params),
    "utility": lambda params, X, Y, loss: utility(params, X),
    "oracle": backbone.rise_without,
}
scores, seconds = {}, {}
for (problem, learner), params in nets.items():
    X, Y = recent[problem]
    for way, measure in ways.items():
        started = time.perf_counter()
        found = vmap(lambda p, x, y, measure=measure, problem=problem:
                     measure(p, x, y, problems[problem][2]), in_dims=(0, 1, 1),
                     chunk_size=3)(params, X, Y)
        scores[problem, learner, way] = [layer.numpy() for layer in found]  # [runs, units] each
        seconds[problem, way] = time.perf_counter() - started

# %% [markdown]
# ## One network, drawn
#
# The same seed, learned by backprop and by continual backprop. Dark: backbone, the units with more
# than a tenth of their layer's mean utility, joined by solid lines. Light: fringe, drawn small and
# open, with dashed lines. A line is as thick as the use that its listener makes of it.

# %%
def draw(ax, params, X, title):
    """Draw one network with its backbone dark and its fringe light."""
    spread = backbone.spreads(params, X)
    ledger = backbone.propagate(params, spread, keep)
    dark = backbone.members([ledger.delivered, *ledger.utility, torch.ones(len(params[-1][1]))],
                            threshold)
    heights = [np.linspace(1, 0, len(d) + 2)[1:-1] for d in dark]
    for layer, (W, _) in enumerate(params):
        use = W.abs() * spread[layer]
        width = use / use.sum(1, keepdim=True).clamp(min=1e-30)
        for j, i in np.ndindex(*W.shape):
            solid = bool(dark[layer + 1][j] and dark[layer][i] and width[j, i] > 0.01)
            ax.plot([layer, layer + 1], [heights[layer][i], heights[layer + 1][j]],
                    color="0.1" if solid else "0.7", linestyle="-" if solid else (0, (2, 4)),
                    linewidth=0.3 + 3 * float(width[j, i]) if solid else 0.5, zorder=1 + solid)
    for layer, here in enumerate(dark):
        marker = "s" if layer == 0 else "o"
        for member, size, face, edge in ((True, 110, "0.1", "0.1"), (False, 35, "white", "0.6")):
            at = heights[layer][here.numpy() == member]
            ax.scatter([layer] * len(at), at, size, face, marker=marker, edgecolors=edge,
                       zorder=3)
    ax.set(title=title, xticks=range(len(dark)), yticks=[], xlim=(-0.2, len(dark) - 0.8))
    ax.set_xticklabels(["inputs", "layer 1", "layer 2", "output"])
    ax.grid(False)
    return int(dark[1].sum()), int(dark[2].sum())


in_backbone = [sum(mask.sum(1) for mask in vmap(
    lambda p, x: backbone.members(utility(p, x), threshold), in_dims=(0, 1))(
        nets["regression", learner], recent["regression"][0])) for learner in rates]
drawn = int((in_backbone[0] - in_backbone[0].float().median()).abs().argmin())  # a typical run
figure, axes = plt.subplots(1, 2, figsize=(12, 6))
shown = {}
for ax, learner in zip(axes, rates):
    one = tree_map(lambda a: a[drawn], nets["regression", learner])
    shown[learner] = draw(ax, one, recent["regression"][0][:, drawn], learner)
plots.show(figure, "backbone", out=out, alt=(
    "Two drawings of a network of 20 inputs, two hidden layers of 10 units and one output. "
    + " ".join(f"{learner}: {a} units of layer 1 and {b} of layer 2 are backbone, dark and large; "
               "the others are fringe, light, small and open."
               for learner, (a, b) in shown.items())))

# %%
share = pd.DataFrame([
    {"problem": problem, "learner": learner, "layer": layer + 1,
     "backbone": np.mean(score > threshold * score.mean(1, keepdims=True)),
     "utility exactly 0": np.mean(score == 0)}
    for problem, learner in nets
    for layer, score in enumerate(scores[problem, learner, "utility"])])
share.round(3)

# %% [markdown]
# The fifteen inputs that are fringe are the slow bits: in these examples they stand still. The table
# has the shares of the units of each layer over all runs.
#
# ## The ledger
#
# Utility is conserved: what the units kept, what arrived at the inputs, and what leaked (a unit
# wanted to pass on its share, but nothing that it hears ever varies) add up to what was put in, one
# for each output. This is an identity, not a statistical finding; the table shows the mean network,
# and the last column the largest gap in any of them (rounding).

# %%
rows, gaps = {}, []
for (problem, learner), params in nets.items():
    ledger = vmap(lambda p, x: backbone.propagate(p, backbone.spreads(p, x), keep),
                  in_dims=(0, 1))(params, recent[problem][0])
    kept = [layer.sum(1) for layer in ledger.kept]
    total = sum(kept) + ledger.delivered.sum(1) + ledger.leaked
    gaps.append(float((total - problems[problem][1][-1]).abs().max()))
    rows[problem, learner] = {
        **{name: float(k.mean()) for name, k in
           zip(["kept in layer 1", "kept in layer 2", "kept by outputs"], kept)},
        "delivered to inputs": float(ledger.delivered.sum(1).mean()),
        "leaked": float(ledger.leaked.mean()), "sum": float(total.mean()),
        "outputs": problems[problem][1][-1], "largest gap": gaps[-1]}
claims.record(out, "backbone-ledger", max(gaps), profile)
pd.DataFrame(rows).T.style.format("{:.4f}").format("{:.0e}", subset=["largest gap"])

# %% [markdown]
# Where plain backprop leaks on the regression, it is in those runs in which all units of a layer
# have fallen silent or constant: the output depends on nothing any more, and has nobody to pay.
#
# ## Against the oracle
#
# Two questions. Does a way put the units of a layer in the oracle's *order* (Spearman's rank
# correlation)? And does it find the *useless* ones: if the loss rises by no more than a thousandth
# without $k$ of the units, how many of these are among the $k$ that the way ranks lowest? Each run
# gives one number, the mean over its two layers; a layer whose units are all alike to the oracle
# (all useless, or none) has no answer and is left out.

# %%
def agreement(score, rise, useless):
    """Rank correlation with the oracle, and the share of the useless units found, of one layer."""
    k = int(useless.sum())
    if len(set(rise)) < 2 or len(set(score)) < 2:
        order = np.nan if len(set(rise)) < 2 else 0.0  # a constant score knows no order
    else:
        order = stats.spearmanr(score, rise).statistic
    lowest = np.argsort(score, kind="stable")[:k]
    return order, useless[lowest].mean() if 0 < k < len(score) else np.nan


rows, chance = [], []
for (problem, learner), params in nets.items():
    X, Y = recent[problem]
    losses = vmap(lambda p, x, y, problem=problem: backbone.mean_loss(p, x, y,
                  problems[problem][2]), in_dims=(0, 1, 1))(params, X, Y).numpy()
    for r, way in np.ndindex(runs, len(ways) - 1):
        way = list(ways)[way]
        layers = []
        for score, rise in zip(scores[problem, learner, way], scores[problem, learner, "oracle"]):
            useless = rise[r] <= 1e-3 * losses[r]
            layers.append(agreement(score[r], rise[r], useless))
            chance.append((problem, learner, useless.mean() if 0 < useless.sum() < len(useless)
                           else np.nan))
        order, found = pd.DataFrame(layers).mean()
        rows.append({"problem": problem, "learner": learner, "way": way, "seed": seed + r,
                     "rank correlation": order, "useless found": found})
compared = pd.DataFrame(rows)
chance = pd.DataFrame(chance, columns=["problem", "learner", "share"]).groupby(
    ["problem", "learner"], sort=False).share.mean()
provenance.save_table(compared, out, "compared")

# %%
by = ["problem", "learner", "way"]
measures = {name: compare.table(compared.dropna(subset=name).set_index([*by, "seed"])[name], name)
            for name in ("rank correlation", "useless found")}
figure, axes = plt.subplots(2, 2, figsize=(11, 6), sharey=True)
for row, (name, table) in zip(axes, measures.items()):
    for ax, problem in zip(row, problems):
        for k, (learner, marker) in enumerate(zip(rates, "os")):
            here = table.loc[problem, learner].reindex(list(ways)[:-1])
            ax.errorbar(here[name], np.arange(len(here)) + 0.2 * k, fmt=marker, capsize=3,
                        xerr=[here[name] - here["low"], here["high"] - here[name]], label=learner)
            if name == "useless found":
                ax.axvline(chance[problem, learner], color=f"C{k}", linestyle=["--", ":"][k])
        ax.set(title=problem, xlabel=f"{name} (mean, 95 % interval)", xlim=(-0.05, 1.05),
               yticks=range(len(here)))
        ax.set_yticklabels(here.index)
axes[0, 0].invert_yaxis()
axes[0, 0].legend(fontsize=9, loc="lower left")
plots.show(figure, "against_the_oracle", out=out, alt=(
    "Agreement of four ways with the oracle on two problems. " + " ".join(
        f"{name.capitalize()}, {problem}, {learner}: " + ", ".join(
            f"{way} {table.loc[(problem, learner, way), name]:.2f}" for way in list(ways)[:-1]) + "."
        for name, table in measures.items() for problem in problems for learner in rates)))
pd.concat(measures, axis=1).drop(columns=[(name, "runs") for name in measures]).round(3)

# %% [markdown]
# The vertical lines are what guessing would find: the share of useless units among all. Run by run,
# utility propagation against the others (positive: utility is nearer to the oracle):

# %%
order = compared.dropna(subset="rank correlation").set_index([*by, "seed"])["rank correlation"]
order = order.sort_index()
against = pd.DataFrame({
    (problem, learner, way): compare.paired(order[problem, learner, "utility"],
                                            order[problem, learner, way])
    for problem in problems for learner in rates for way in list(ways)[:3]},
    index=["utility minus it", "low", "high"]).T
claims.record(out, "backbone-utility-beats-reachability",
              against.xs("reachability", level=2)["low"].min(), profile)
found = measures["useless found"].xs(("backprop", "utility"), level=(1, 2))
claims.record(out, "backbone-utility-finds", found["low"].min(), profile)
against.round(3)

# %% [markdown]
# ## What it costs
#
# For a network with $n$ hidden units in all, per example, in passes over all weights. The times are
# for all image networks of one learner on these examples.

# %%
cost = pd.DataFrame({
    "passes an example": {"perturbation": "n + 2", "squared gradient": "3", "reachability": "0",
                          "utility": "1 (the prediction, made anyway)", "oracle": "n + 2"},
    "and once": {"reachability": "1", "utility": "1"},
    "needs targets": {way: way in ("squared gradient", "oracle") for way in ways},
    "seconds": {way: round(seconds["images", way], 3) for way in ways},
}).reindex(ways).fillna("")
cost

# %% [markdown]
# ## Pruning the fringe
#
# If the fringe is what nobody uses, taking it away should change nothing. `prune` removes units and
# leaves their mean in their listeners' biases:

# %%
plots.source(backbone.prune)


# %% [markdown]
# Below, two prunings by utility: of the units whose utility is exactly 0, and of all units under the
# threshold; then, as controls, of the *same number* of units in each layer by reachability and at
# random. All numbers are for the frozen networks on their last examples.

# %%
def after_pruning(problem, learner, masks, examples):
    """Mean loss of each run and largest change of an output, after keeping the masked units."""
    params, loss = nets[problem, learner], problems[problem][2]
    means = vmap(lambda p, x: [A.mean(0) for A in backbone.activities(p, x)[1:]],
                 in_dims=(0, 1))(params, recent[problem][0])
    pruned = vmap(backbone.prune)(params, [torch.tensor(m) for m in masks], means)
    X, Y = examples
    loss_of = vmap(lambda p, x, y: backbone.mean_loss(p, x, y, loss), in_dims=(0, 1, 1))
    outputs = vmap(vmap(lambda p, x: forward(p, x)[0], in_dims=(None, 0)), in_dims=(0, 1))
    moved = (outputs(pruned, X) - outputs(params, X)).abs().max()
    return loss_of(params, X, Y).numpy(), loss_of(pruned, X, Y).numpy(), float(moved)


def same_number(score, keep):
    """Keep as many units of each run as `keep` does, those with the highest score."""
    rank = np.argsort(np.argsort(score, axis=1), axis=1)
    return rank >= (~keep).sum(1, keepdims=True)


rng = np.random.default_rng(seed)
rows = {}
for problem, learner in nets:
    worth = scores[problem, learner, "utility"]
    fringe = [score > threshold * score.mean(1, keepdims=True) for score in worth]
    wide = scores[problem, learner, "reachability"]
    prunings = {
        "utility 0": [score > 0 for score in worth],
        "utility under the threshold": fringe,
        "as many by reachability": [same_number(s, k) for s, k in zip(wide, fringe)],
        "as many at random": [same_number(rng.random(s.shape), k) for s, k in zip(wide, fringe)],
    }
    for name, masks in prunings.items():
        before, after, moved = after_pruning(problem, learner, masks, recent[problem])
        rise, low, high = compare.interval(after - before)
        removed = np.mean([(~m).mean() for m in masks])
        rows[problem, learner, name] = {"removed (share)": removed, "loss before": before.mean(),
                                        "rise": rise, "low": low, "high": high,
                                        "largest change of an output": moved}
        if name == "utility 0":
            rows[problem, learner, name]["rise later"] = float(np.mean(np.subtract(*after_pruning(
                problem, learner, masks, following[problem])[1::-1])))
pruned = pd.DataFrame(rows).T
claims.record(out, "backbone-prune-unused", pruned.xs("utility 0", level=2)["rise"].abs().max(),
              profile)
provenance.save_table(pruned.rename_axis(["problem", "learner", "pruning"]).reset_index(), out,
                      "pruned")
pruned.style.format("{:.4f}", na_rep="").format("{:.1e}", subset=["largest change of an output"])

# %% [markdown]
# *Rise* is the mean rise of the loss over the runs with its 95 % interval. *Rise later* is the same
# on the first examples of the next task, for the networks without the units of utility 0: a unit
# that says nothing now may have something to say when the input changes. Fringe is a word about the
# examples one has looked at.
#
# ## Online
#
# A learner that lives one example at a time cannot look back at 500 of them. Two running averages
# for each unit take their place:

# %%
plots.source(backbone.follow)


# %%
def online(params, X, decay=0.99):
    """Utilities from running averages over the examples, one after the other."""
    traces = [backbone.new_trace(W.shape[1]) for W, _ in params]
    for x in X:
        activities = [x, *forward(params, x)[1]]
        traces, spreads = zip(*[backbone.follow(trace, a, decay)
                                for trace, a in zip(traces, activities)])
    return backbone.propagate(params, spreads, keep).utility


rows = {}
for problem, learner in nets:
    running = vmap(online, in_dims=(0, 1))(nets[problem, learner], recent[problem][0])
    agree = [stats.spearmanr(a[r], b[r]).statistic for a, b in
             zip(running, scores[problem, learner, "utility"]) for r in range(runs)
             if len(set(b[r])) > 1]
    rows[problem, learner] = dict(zip(["rank correlation with all examples", "low", "high"],
                                      compare.interval(agree)))
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## What to make of it
#
# Utility propagation is the way to go, and the reason is its price more than its precision. It asks
# for no targets and no extra pass, and on images it cannot be told from perturbation, which needs a
# pass for each unit; the squared gradient is just behind. On the regression it is the nearest of the
# four to the oracle, clearly so after plain backprop: there many units are *constant* while the slow
# bits stand still. Scaling a constant unit moves the output, and its weights feel a pull, but it
# could be replaced by a bias; only a way that subtracts the mean knows.
#
# Reachability is the weakest, for backprop not far above guessing. It never asks whether a unit
# speaks. A dead unit keeps its large outgoing weights, for nothing pulls at them any more, and so
# passes for backbone. (Something that drives unused weights to zero may save it. Not tried here.)
#
# None is the oracle. On images with continual backprop, where few units are truly unused, all four
# miss about a third of those that the oracle could spare. Many of these do *harm* at the moment: the
# loss falls without them. They are heard, only not to advantage, and all four measure how much a
# unit is heard.
#
# Pruning what has no utility changes no output at all; pruning everything under a tenth of its
# layer's mean, more than half of a backprop network, costs half a percent of the loss or less, where
# as many units at random cost everything. And it stays a snapshot. To protect the backbone a learner needs these
# numbers at every step, which is what the running averages are for.
#
# **Exercises.** (1) Give `propagate` a cap in place of a share: each unit keeps up to so much and
# passes on the rest. At which cap does layer 1 starve? (2) Square the spread and the weight in
# $r_{ij}$. Does the order come nearer to the oracle's? (3) A unit with a negative rise does harm.
# None of the four ways can see it: which of them could be given a sign, and what would that cost?
# (4) Look back over 50 000 examples of the regression in place of 500. Whom do you find then, and
# what has the oracle become?

# %% tags=["provenance"]
provenance.footer(profile=profile, images=images, steps=steps, tasks=tasks,
                  task_length=task_length, units=units, examples=examples, runs=runs, seed=seed)
