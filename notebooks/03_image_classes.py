# ---
# jupyter:
#   dyndl:
#     checks: ["images in ('fractals', 'imagenet', 'cifar')", middle_step_size in step_sizes, len(channels) == len(kernels), runs >= 1, tasks >= 1, 2 * train % minibatch == 0, grown >= 1]
#     profiles:
#       smoke: {side: 12, channels: [4, 4], kernels: [3, 2], hidden: [8], train: 20, held_back: 10, minibatch: 10, epochs: 2, tasks: 4, runs: 2, step_sizes: [0.03, 0.1], many_minibatch: 10, start_classes: 3, start_train: 20, start_minibatch: 10, start_runs: 2, start_epochs: 2, added_side: 8, added_channels: [4], added_train: 6, added_held_back: 4, added_minibatch: 6, grown: 2, new_classes: 2, grown_epochs: 2, maturity: 2, added_rate: 0.2, added_runs: 2}
#       paper: {side: 32, channels: [32, 64, 128], kernels: [5, 3, 3], hidden: [128, 128], train: 600, held_back: 100, minibatch: 100, epochs: 250, tasks: 2000, runs: 30, step_sizes: [0.01, 0.001, 0.0001], middle_step_size: 0.01, replacement_rate: 3.0e-4, linear_step_size: 0.001, many_minibatch: 100, start_classes: 10, start_train: 600, start_minibatch: 100, start_step_size: 0.01, start_runs: 30, start_epochs: 200, added_channels: [64, 128, 256, 512], blocks: 2, added_train: 500, added_held_back: 100, added_minibatch: 100, augmented: true, new_classes: 5, grown: 20, grown_epochs: 200, added_rate: 1.0e-5, maturity: 1000, added_runs: 30}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Image classes in sequence
#
# **What you will see.** A convolutional network that learns to tell two classes of images apart,
# then two others, then two others. It begins each task with all that it has learned and a new
# last layer. Two more questions follow: is it better to begin with half of the data than with
# none, and what becomes of a network to which new classes are added?
#
# The problem is *Continual ImageNet* (Dohare et al., Nature 632, 2024): 1 000 classes of
# 32x32 colour images, two at a time, thousands of tasks. Backprop at a step size of 0.01 gets
# 89 % of the test images right in its first tasks and 77 % in its 2 000th, which is what
# a linear classifier gets.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/03_image_classes"  # folder for figures, tables and checkpoints
images = "fractals"  # fractals (generated), imagenet or cifar (both from DYNDL_DATA)
side = 16  # of the generated images, in pixels
channels = [8, 16, 32]  # of each convolution
kernels = [3, 3, 2]  # side of each convolution's kernel, in pixels
hidden = [32, 32]  # units of each fully connected layer
train = 100  # images a class to learn from
held_back = 100  # images a class to test on
minibatch = 20  # images a step
epochs = 5  # times that a task shows each image
tasks = 40  # pairs of classes in a row
runs = 5  # independent networks for each setting, one seed each
step_sizes = [0.03, 0.07]  # of backprop and of continual backprop
middle_step_size = 0.03  # one of them: for the main comparison, and where classes are added to the plain network
replacement_rate = 0.001  # of continual backprop: units replaced each minibatch (share)
linear_step_size = 0.01  # of the linear classifier
many_minibatch = 50  # images a step where classes are added to the plain network
start_classes = 10  # classes in the comparison of warm and cold starts
start_train = 60  # images a class in that comparison: half of them first, then all
start_minibatch = 60  # images a step in that comparison
start_step_size = 0.05  # in that comparison
start_runs = 5  # networks in that comparison
start_epochs = 32  # times that its second part shows each image
added_side = 12  # of the generated images to which classes are added, in pixels
added_channels = [8, 16]  # of each stage of the residual network
blocks = 1  # residual blocks a stage
added_train = 30  # images a class to learn from
added_held_back = 60  # images a class to test on
added_minibatch = 30  # images a step
augmented = False  # whether they are mirrored and shifted at random while learning
grown = 3  # times that new classes are added
new_classes = 2  # how many each time
grown_epochs = 8  # times that each image is shown before the next are added
added_step_size = 0.1  # at the beginning of each increment
added_rate = 0.003  # of continual backprop there: channels replaced each minibatch (share)
maturity = 100  # minibatches that protect a channel from being replaced
added_runs = 3  # networks of each learner
seed = 0  # first seed

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dyndl_lite.algorithms.backprop import conv_backprop
from dyndl_lite.algorithms.continual_backprop import conv_continual_backprop
from dyndl_lite.algorithms.incremental import held_back_accuracy as added_accuracy
from dyndl_lite.algorithms.incremental import incremental, residual_continual_backprop
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.cli import claims
from dyndl_lite.experiment import compare, ensemble, plots, provenance
from dyndl_lite.models import cnn, resnet
from dyndl_lite.models.cnn import held_back_accuracy, Layout
from dyndl_lite.problems.datasets import Cifar100, ImageNet32
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassIncremental, ClassPairs, WarmStart

plots.style()
plots.LABELS["test_accuracy"] = "test accuracy at the end of a task (share correct)"
seeds = range(seed, seed + runs)
checkpoints = Path(out) / "checkpoints"
collection = {"fractals": lambda: Fractals(side, images=train + held_back),
              "imagenet": lambda: ImageNet32(images=train + held_back),
              "cifar": Cifar100}[images]()
split = {"train": train, "held_back": held_back, "minibatch": minibatch}
many_split = {**split, "minibatch": many_minibatch}

# %% [markdown]
# ## The images
#
# ImageNet is not ours to hand out, so by default the classes are **fractals** (Kataoka et al.
# 2020). A class is an iterated function system: three affine maps
#
# $$ x \mapsto A_k x + b_k, \qquad k = 1, 2, 3 , $$
#
# that draw all points together. Where a point ends that is sent through every word of maps,
# $A_{k_1}(A_{k_2}(\dots) + b_{k_2}) + b_{k_1}$, there is the figure. An image has maps that differ
# a little from those of its class, two colours of its own, a mirror, a shift, and noise. Each row
# is a class.

# %%
figure, axes = plt.subplots(5, 10, figsize=(8, 4.2))
for k, row in enumerate(axes):
    for picture, ax in zip(collection.of(k), row):
        ax.imshow(picture.permute(1, 2, 0))
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"class {k}", fontsize=9)
plots.show(figure, "images", out=out, alt=(
    f"Ten images of {collection.side} x {collection.side} pixels from each of five classes of "
    f"{collection.name}: figures that resemble each other within a row, in colours that do not."))

# %% [markdown]
# ## Convolutions, and units that are channels
#
# Three convolutions, each followed by ReLU and max pool, then fully connected layers. Weights
# are learned by gradient descent with momentum on minibatches.

# %%
plots.source(cnn.forward)

# %% [markdown]
# Continual backprop needs to know what a *unit* is. In a convolution it is a channel $c$: one
# kernel that comes in, one map of activities $h_c(p)$ over the places $p$, and outgoing weights to
# every listener $k$, from each place $q$ of the listener's kernel. So the contribution to the utility is
#
# $$ y_c = \overline{|h_c|}\, \sum_{k, q} |w_{kcq}| , $$
#
# with the mean over the minibatch and the places. A channel that is replaced leaves its mean,
# $b_k \leftarrow b_k + \hat f_c \sum_q w_{kcq}$, and all its outgoing weights become zero: in the
# last convolution these are the weights from every place to the first fully connected layer.
# Everything else is the algorithm of notebook 06, by the same functions.

# %%
plots.source(conv_continual_backprop)

# %% [markdown]
# ## Pairs of classes, one after another
#
# When a task begins the last layer is set to zero: its two outputs now mean other classes. All else
# stays. What counts is the accuracy on held-back images after the last epoch of each task. The
# linear classifier gets a new start at every task, so it neither gains nor loses. Continual backprop with a
# replacement rate of zero *is* backprop, so one ensemble holds both.

# %%
stream = ClassPairs(collection, epochs=epochs, **split)
layout = Layout(collection.side, stream.outputs, tuple(channels), tuple(kernels), tuple(hidden))
linear = Layout(collection.side, stream.outputs, (), (), ())


def with_new_heads(learner, layout):
    """The learner, with its last layer at zero when a task begins."""
    return renewed(learner, "heads", stream.begins)


results = ensemble.run(
    stream,
    {
        "continual backprop": (
            with_new_heads(conv_continual_backprop(layout), layout),
            {"step_size": step_sizes, "replacement_rate": [0.0, replacement_rate]}),
        "linear": (with_new_heads(conv_backprop(linear), linear), {"step_size": linear_step_size}),
    },
    seeds, tasks * stream.task_length, stream.task_length, probe=held_back_accuracy,
    folder=checkpoints / "pairs")
results.loc[results.replacement_rate == 0, "learner"] = "backprop"
results = results.sort_values(["learner", "step_size", "seed", "step"])
results["task"] = results.step // stream.task_length
provenance.save_table(results, out, "pairs")

# %%
block = max(1, tasks // 10)


def by_block(frame, block):
    """Means over blocks of tasks: single pairs differ a lot in difficulty."""
    blocks = frame.assign(task=(frame.task - 1) // block * block + block)
    return blocks.groupby(["curve", "seed", "task"], sort=False).test_accuracy.mean().reset_index()


results["curve"] = results.learner + ", step size " + results.step_size.map("{:g}".format)
ax = plots.curves(by_block(results, block), "test_accuracy", "curve", x="task",
                  xlabel=f"task (number; means over {block} tasks)")
ax.set_title(f"Pairs of {collection.name}: mean of {runs} runs, 95 % interval")
ax.legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))

by = ["learner", "step_size"]
first = compare.window_mean(results, "test_accuracy", by, 0, 0.25)
last = compare.window_mean(results, "test_accuracy", by, 0.75, 1)
table = compare.table(first, "first quarter")[["first quarter"]].join(
    compare.table(last, "last quarter")[["last quarter"]]).join(
    compare.table(last - first, "change"))
plots.show(ax.figure, "pairs", out=out, alt=(
    "Test accuracy against task number. First to last quarter of the tasks: " + "; ".join(
        f"{learner} at {size:g} from {row.iloc[0]:.3f} to {row.iloc[1]:.3f}"
        for (learner, size), row in table.iterrows()) + "."))
table.round(3)

# %% [markdown]
# Run by run, over the same tasks: the change of backprop at its largest step size, and who is
# ahead at the end.

# %%
large, size = max(step_sizes), middle_step_size
bp, cbp, baseline = last["backprop"], last["continual backprop"], last["linear", linear_step_size]
fall = compare.interval(bp[large] - first["backprop", large])
kept = compare.interval(cbp[size] - first["continual backprop", size])
claims.record(out, "images-backprop-falls", fall[2], profile)
claims.record(out, "images-backprop-to-linear", compare.paired(bp[large], baseline)[1], profile)
claims.record(out, "images-cbp-keeps", kept[2], profile)
claims.record(out, "images-cbp-above-linear", compare.paired(cbp[size], baseline)[1], profile)
pd.DataFrame(
    {f"backprop at {large:g}, last - first quarter": fall,
     f"continual backprop at {size:g}, last - first quarter": kept,
     f"last quarter: backprop at {large:g} - linear": compare.paired(bp[large], baseline),
     f"last quarter: continual backprop at {size:g} - linear": compare.paired(cbp[size], baseline),
     **{f"last quarter: continual backprop - backprop, both at {each:g}":
        compare.paired(cbp[each], bp[each]) for each in step_sizes}},
    index=["mean", "low", "high"]).T.round(3)

# %% [markdown]
# ## More tasks: recorded runs
#
# The same small network and images over more tasks, with more settings, recorded with
# `python data/record_image_classes.py` (not computed just now). The figure has three step sizes,
# each with and without replacements; the table has all settings.

# %%
record = pd.read_csv("../data/results/image_classes.csv").query("problem == 'fractal_pairs'")
record = record.rename(columns={"value": "test_accuracy"})
record["step_size"] = record.setting.str.extract("step_size=([0-9.]+)")[0].astype(float)
record["curve"] = record.learner.str.replace("_", " ") + ", step size " + record.setting.str.replace(
    "step_size=", "").str.replace(" replacement_rate=", ", rate ")
end, count = record.task.max(), record.seed.nunique()
late = record[record.task > 0.8 * end].groupby(["curve", "seed"]).test_accuracy.mean()
recorded = pd.DataFrame({
    "tasks 1 to 10": record[record.task == 10].groupby("curve").test_accuracy.mean(),
    "last fifth": late.groupby("curve").mean(),
    "+-": 1.96 * late.groupby("curve").sem()}).sort_values("last fifth", ascending=False)
same = [0.01, 0.03, 0.07]  # step sizes that both learners were recorded with
chosen = ([f"backprop, step size {size:g}" for size in same]
          + [f"continual backprop, step size {size:g}, rate 0.001" for size in same]
          + ["linear, step size 0.01"])
drawn = pd.concat([record[record.curve == curve] for curve in chosen])
ax = plots.curves(drawn, "test_accuracy", "curve", x="task",
                  xlabel="task (number; means over 10 tasks)")
ax.set_title(f"Recorded: pairs of fractals, {count} runs, 95 % interval")
ax.legend(title=None, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
plots.show(ax.figure, "recorded", out=out, alt=(
    f"Recorded test accuracy over {end} tasks. First ten tasks to the last fifth: " + "; ".join(
        f"{curve} from {recorded.loc[curve].iloc[0]:.3f} to {recorded.loc[curve].iloc[1]:.3f}"
        for curve in chosen) + "."))
recorded.round(3)

# %% [markdown]
# Step size by step size, the same classes in the same order: what do the replacements bring over
# the last fifth?

# %%
gains = {}
for size in same:
    name = f"backprop, step size {size:g}"
    gains[f"step size {size:g}"] = compare.paired(late[f"continual {name}, rate 0.001"], late[name])
pd.DataFrame(gains, index=["continual backprop - backprop", "low", "high"]).T.round(3)

# %% [markdown]
# ## Warm starts
#
# Is it at least an advantage to have begun earlier? Ash and Adams (2020) trained on half of the data,
# then on all of it, and compared with a network that sees all data from the start. The first
# network has had more training, and yet it tests worse: the earliest hint that something is lost.
# Their cure is **shrink and perturb**: before the second half every weight becomes
#
# $$ w \leftarrow \lambda w + \gamma\, w_\text{new} , $$
#
# with $w_\text{new}$ a weight of a network just made; here $\lambda = 0.4$, $\gamma = 0.1$.

# %%
start = {"epochs": start_epochs, "together": start_classes, "train": start_train,
         "held_back": held_back, "minibatch": start_minibatch}
halves, at_once = WarmStart(collection, **start), ClassPairs(collection, **start)
many = Layout(collection.side, start_classes, tuple(channels), tuple(kernels), tuple(hidden))
plain, setting = conv_backprop(many), {"step_size": start_step_size}
half = halves.task_length  # steps on half of the data, and steps on all of them
look = {"bin": half // 10 or 1, "probe": held_back_accuracy, "folder": checkpoints / "warm"}
warm = ensemble.run(
    halves,
    {"warm start": (plain, setting),
     "shrink and perturb": (renewed(plain, "shrink and perturb", halves.begins), setting)},
    range(seed, seed + start_runs), 2 * half, **look)
scratch = ensemble.run(at_once, {"from scratch": (plain, setting)}, range(seed, seed + start_runs),
                       half, **look)
warm = pd.concat([warm, scratch.assign(step=scratch.step + half)], ignore_index=True)
warm["epoch"] = warm.step * start_minibatch / (start_train * start_classes)
provenance.save_table(warm, out, "warm")

# %%
ax = plots.curves(warm, "test_accuracy", "learner", x="epoch",
                  xlabel="epochs' worth of minibatches (the data double in the middle)")
ax.axvline(start_epochs, color="0.5", linewidth=1)
ax.set(title=f"{start_classes} classes, half of the images, then all: {start_runs} runs, 95 % interval",
       ylabel="test accuracy (share correct)")
ax.legend(title=None)
end = warm[warm.step == warm.step.max()].set_index(["learner", "seed"]).test_accuracy
table = compare.table(end, "test accuracy at the end")
gap = {who: compare.paired(end[who], end["from scratch"]) for who in ("warm start", "shrink and perturb")}
claims.record(out, "images-warm-start", gap["warm start"][2], profile)
plots.show(ax.figure, "warm", out=out, alt=(
    "Test accuracy against epochs, all data from the middle on, where the network from scratch begins. At "
    "the end: " + ", ".join(
        f"{who} {row.iloc[0]:.3f}" for who, row in table.iterrows()) + "."))
table.join(pd.DataFrame(gap, index=["minus from scratch", "low ", "high "]).T).round(3)

# %% [markdown]
# ## Classes that are added
#
# In the other half of life nothing goes away: a network knows some classes and others are added.
# In Nature it is CIFAR-100, five classes more at each of twenty increments. Every class so far stays
# in the training data, so nothing need be forgotten; what may get lost is the ability to learn the
# new ones as well as a network could that had just been made. So hold each learner against
# **backprop from scratch**, which starts over whenever classes are added.
#
# The network there is an 18-layer **residual network** (He et al. 2016): blocks of two convolutions,
# each with batch norm, and a shortcut $h$ around both,
#
# $$ h' = \mathrm{ReLU}\big( N_2(w_2 * \mathrm{ReLU}(N_1(w_1 * h))) + h \big) , $$
#
# where $N$ brings every channel to mean 0 and variance 1 over the minibatch, then scales and shifts it.

# %%
plots.source(resnet.forward)

# %% [markdown]
# Continual backprop replaces the channels *within* a block, those that $w_1$ makes and $w_2$ alone
# listens to: their outgoing weights become zero, and the scale, shift, running mean and variance of
# their batch norm begin anew. What comes *out* of a block passes over shortcuts to all later blocks,
# so no single layer of weights could be set to zero to silence it; we leave it alone. (The authors'
# released code replaces those channels too, and silences them in the next convolution only.) As in
# the release, outputs of classes that are yet to come take no part in a prediction.
#
# Each increment begins with a large step size, which falls to a fifth after 30, 60 and 80 % of it, as
# published. Momentum 0.9; weight decay on everything. What differs from the published protocol also at
# the paper profile: images are mirrored and shifted, but not turned by up to 15 degrees; all 500 images
# a class are learned from, in minibatches of 100, not 450 in minibatches of 90 with 50 held back to stop
# early, so an increment begins with the weights with which the last one ended. What is shown is the
# best test accuracy within each increment.
#
# The network here has two blocks of 8 and 16 channels instead of eight of 64 to 512, and the fractals
# are clearer than those above, or so few images and so small a network would not tell them apart.

# %%
some = Fractals(added_side, images=added_train + added_held_back, lighter=0.5, noise=0.05)
growing = ClassIncremental(some if images == "fractals" else collection, added_train,
                         added_held_back, added_minibatch, grown_epochs, new_classes,
                         tasks=grown, augmented=augmented)
stages = resnet.Layout(growing.outputs, tuple(added_channels), blocks)
network = residual_continual_backprop(stages)
setting = {"step_size": added_step_size, "replacement_rate": 0.0, "maturity_threshold": maturity}
added = ensemble.run(
    growing,
    {
        "continual backprop": (incremental(network, growing), {**setting, "replacement_rate": [0.0, added_rate]}),
        "backprop from scratch": (incremental(network, growing, from_scratch=True), setting),
    },
    range(seed, seed + added_runs), growing.steps, growing.task_length, probe=added_accuracy,
    folder=checkpoints / "added")
added.loc[(added.replacement_rate == 0) & (added.learner == "continual backprop"), "learner"] = "backprop"
added = added.sort_values(["learner", "seed", "step"])
added["classes"] = [new_classes * (growing.task(step - 1)[0] + 1) for step in added.step]
provenance.save_table(added, out, "added")


# %%
def beside_scratch(best, ax, title):
    """Draw best test accuracies [learner, seed, classes] minus those from scratch; say the last."""
    scratch = best["backprop from scratch"]
    others = [who for who in best.index.unique("learner") if who != "backprop from scratch"]
    difference = pd.concat({who: best[who] - scratch for who in others}, names=["learner"])
    plots.curves(difference.rename("difference").reset_index(), "difference", "learner", ax,
                 "classes", "classes so far")
    ax.axhline(0, color="0.5", linewidth=1)
    ax.set(title=title, ylabel="test accuracy minus that from scratch")
    ax.legend(title=None, fontsize=9)
    end = difference.xs(best.index.unique("classes").max(), level="classes")
    return pd.DataFrame({who: compare.interval(end[who]) for who in others},
                        index=["mean", "low", "high"]).T


best = added.groupby(["learner", "seed", "classes"], sort=False).test_accuracy.max()
recorded = pd.read_csv("../data/results/image_classes.csv")
recorded = recorded.query("problem == 'fractals_added' and metric == 'test_accuracy'")
recorded = recorded.rename(columns={"task": "classes"})
rate = recorded.setting.str.extract("replacement_rate=([0-9.e-]+)")[0]
recorded["learner"] = recorded.learner.str.replace("_", " ") + np.where(
    recorded.learner == "continual_backprop", ", rate " + rate, "")
long = recorded.set_index(["learner", "seed", "classes"]).value
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5))
now = beside_scratch(best, axes[0], f"{growing.name}: {added_runs} runs")
then = beside_scratch(long, axes[1], f"Recorded, fractals: {recorded.seed.nunique()} runs")
claims.record(out, "images-added-backprop-below-scratch", now.high["backprop"], profile)
claims.record(out, "images-added-cbp-above-backprop", compare.paired(
    *(best[who].xs(best.index.unique("classes").max(), level="classes")
      for who in ["continual backprop", "backprop"]))[1], profile)
plots.show(figure, "added", out=out, alt="Best test accuracy minus that of backprop from scratch "
           "against the number of classes, 95 % intervals. With all classes: " + "; ".join(
               f"{which}, {who} {row['mean']:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
               for which, table in [("now", now), ("recorded", then)]
               for who, row in table.iterrows()) + ".")
pd.concat({"now": now, "recorded": then}).round(3)

# %%
reached = pd.concat({"now": best, "recorded": long}, names=["run"]).rename("test accuracy")
reached.groupby(["run", "learner", "classes"]).mean().unstack("classes").round(3)

# %% [markdown]
# Computed now, the two curves are one: at the laptop profile the run is over before any channel is old enough
# to be replaced (100 minibatches). In the recorded run (`python data/record_image_classes.py`: ten increments, 20 classes, five runs)
# what was learned before *helps*, from the second increment to the last: with 20 classes backprop
# tests 0.14 better than from scratch (0.07 to 0.21). The record's training accuracies say why. In the
# 20 epochs of an increment a new network gets to 85 %; one that goes on has long reached 100 %. Where a
# start from nothing has no time to finish, it is no measure of what was lost. Continual backprop, at
# both rates, is level with backprop (differences at 20 classes: -0.02 to 0.01 and -0.03 to 0.02). So
# this is the experiment but not the published result, in which backprop falls below a new network
# before the hundredth class: there an increment has 200 epochs, and the paper profile runs that.

# %% [markdown]
# The network of the pairs has neither batch norm nor shortcuts, and one step size throughout. Does it
# fall below a new network, within as few increments? The interval says how sure these runs are:

# %%
plainly = ClassIncremental(collection, epochs=grown_epochs, together=new_classes, tasks=grown,
                         **many_split)
wide = Layout(collection.side, plainly.outputs, tuple(channels), tuple(kernels), tuple(hidden))
plain, setting = conv_backprop(wide), {"step_size": middle_step_size}
grew = ensemble.run(
    plainly,
    {
        "backprop": (plain, setting),
        "continual backprop": (conv_continual_backprop(wide),
                               {**setting, "replacement_rate": replacement_rate}),
        "backprop from scratch": (renewed(plain, "all", plainly.begins), setting),
    },
    seeds, plainly.steps, grown_epochs, probe=held_back_accuracy,
    folder=checkpoints / "grew")
grew["classes"] = [new_classes * (plainly.task(step - 1)[0] + 1) for step in grew.step]
provenance.save_table(grew, out, "grew")

figure, ax = plt.subplots(figsize=(6, 4))
best_plain = grew.groupby(["learner", "seed", "classes"], sort=False).test_accuracy.max()
plain_now = beside_scratch(best_plain, ax, f"{plainly.name}, plain network: {runs} runs")
claims.record(out, "images-added-plain-below-scratch", plain_now.high["backprop"], profile)
plots.show(figure, "grew", out=out, alt="The same for the plain network. With all classes: " + "; ".join(
    f"{who} {row['mean']:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
    for who, row in plain_now.iterrows()) + ".")
plain_now.round(3)

# %% [markdown]
# ## What to make of it
#
# The published curve is here, at a fraction of its length, for these step sizes are larger. At 0.07
# backprop falls through the linear classifier's line within forty tasks and ends at chance. At
# 0.03 it learns better and better for sixty tasks and then slowly worse. At 0.01 it goes on
# improving to the end of the record: what it knows of earlier classes helps with later ones. A
# larger step size makes the same loss come sooner.
#
# Continual backprop, with one unit in a thousand replaced at each minibatch, goes on improving at
# 0.03 and holds its ground at 0.07. But look at the table too. Where backprop has not failed there
# is nothing to save: at 0.01 the two are level, and that is the best step size for both. Ten times as many
# replacements cost accuracy at every step size but the largest. So on these 300 tasks the
# gain is robustness to the step size, not a better best; Nature's 2 000 tasks of
# photographs go on for longer.
#
# The warm start says the same in fewer words. On average a network that has learned something ends below
# one that has learned nothing, on the same data and with as many steps or more; with five runs at the
# laptop profile, the interval of that difference reaches zero. Shrinking the weights and stirring them
# restores what was lost. With added classes the plain network, too, ends below a new one on average only.
# A residual network whose step size falls within each increment ends above it, at this scale: a network
# that starts again has not had the time to finish.
#
# **Exercises.** (1) Give continual backprop the step size at which backprop fails. From which
# replacement rate on does it survive? (2) Make the classes harder to tell apart:
# `Fractals(variation=0.2)`. Who suffers first? (3) With `images = "cifar"` and `train = 500` the
# classes are photographs. Is the order of the learners the same?

# %% tags=["provenance"]
provenance.footer(profile=profile, images=images, tasks=tasks, epochs=epochs, runs=runs, seed=seed)
