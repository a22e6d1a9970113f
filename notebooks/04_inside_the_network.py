# ---
# jupyter:
#   dyndl:
#     checks: ["images in ('digits', 'mnist')", runs >= 1, tasks >= 1, layers >= 1, probe_examples >= 2, len(step_sizes) >= 1]
#     profiles:
#       smoke: {tasks: 3, task_length: 200, runs: 2, step_sizes: [0.03]}
#       paper: {images: mnist, tasks: 800, task_length: 60000, runs: 10, layers: 3, units: 2000, step_size: 0.003, step_sizes: [0.01, 0.003, 0.001]}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Inside the network
#
# **What you will see.** Three things happen inside a network while it loses its plasticity: units
# die, weights grow, and the activity of the hidden layers collapses onto fewer and fewer
# dimensions. With continual backprop none of the three happens.
#
# All of it is measured at the end of every task, on the task's last examples, in all networks of
# the ensemble at once.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/04_inside_the_network"  # folder for figures, tables and checkpoints
images = "digits"  # digits (8x8, embedded) or mnist (from DYNDL_DATA, or fetched)
tasks = 60  # permutations in a row
task_length = 3594  # examples a task; 3594 is every digit twice
layers = 1  # hidden layers
units = 100  # hidden units a layer
step_size = 0.03  # of continual backprop
step_sizes = [0.01, 0.03, 0.1]  # of backprop; one of them should be `step_size`
probe_examples = 500  # examples shown to look inside
runs = 10  # independent networks for each setting, one seed each
seed = 0  # first seed

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.cli import claims
from dyndl_lite.experiment import compare, diagnostics, ensemble, plots, provenance
from dyndl_lite.learning import cross_entropy
from dyndl_lite.problems import datasets
from dyndl_lite.problems.images import PermutedImages

plots.style()
seeds = range(seed, seed + runs)
pictures, labels, images = ((*datasets.digits(), "digits") if images == "digits"
                           else datasets.idx_images())  # called what they are
stream = PermutedImages(pictures, labels, task_length, f"permuted {images}")
sizes = (stream.inputs, *[units] * layers, stream.outputs)

# %% [markdown]
# ## What to look at
#
# Show the network $n$ examples and write down the activity of one hidden layer: a matrix
# $H$ with a row for each example and a column for each unit.
#
# * A unit is **dead** if its column is all zeros: it says nothing, and since the gradient through
#   it is zero too, it will never say anything again.
# * The **weight magnitude** is the mean of $|w|$. Large weights make small relative steps.
# * The **effective rank** of $H$ counts the dimensions the layer really uses. With singular
#   values $\sigma_k$ and $p_k = \sigma_k / \sum_j \sigma_j$ it is $\exp(-\sum_k p_k \ln p_k)$
#   (Roy and Vetterli 2007).
# * **Stable rank** means two things. In Dohare et al. (2024) it is the fewest singular values that
#   make up 99 % of their sum; in linear algebra it is $\|H\|_F^2 / \|H\|_2^2$. We compute both
#   and never mix them up.

# %%
plots.source(diagnostics.dead_units, diagnostics.effective_rank, diagnostics.stable_rank,
             diagnostics.stable_rank_frobenius)

# %% [markdown]
# ## The experiment
#
# The permuted images of notebook 02, with a probe at the end of each task.

# %%
results = ensemble.run(
    stream,
    {
        "backprop": (backprop(sizes, loss=cross_entropy), {"step_size": step_sizes}),
        "continual backprop": (continual_backprop(sizes, loss=cross_entropy),
                               {"step_size": step_size, "replacement_rate": 1e-4}),
    },
    seeds, tasks * task_length, task_length, probe=diagnostics.probe(),
    probe_examples=probe_examples, folder=Path(out) / "checkpoints")
results["task"] = results.step // task_length
results["curve"] = results.learner + " " + results.step_size.map("{:g}".format)
provenance.save_table(results, out, "inside")


# %% [markdown]
# ## What breaks
#
# Four panels: what the network achieves, and three views of why.

# %%
def panels(frame, metrics, title):
    """Draw one panel for each metric against the task, with one legend."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True)
    for ax, metric in zip(axes.flat, metrics):
        plots.curves(frame, metric, "curve", ax, x="task", xlabel="task (number)")
        ax.get_legend().remove()
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncol=3, fontsize=9,
                  bbox_to_anchor=(0.5, -0.07))
    figure.suptitle(title)
    return figure


def ends(frame, metric):
    """Describe a metric at the first and the last task, for the text alternative."""
    at = frame.groupby(["curve", "task"], sort=False)[metric].mean().unstack()
    return f"{metric.replace('_', ' ')}: " + ", ".join(
        f"{name} {row.iloc[0]:.2f} to {row.iloc[-1]:.2f}" for name, row in at.iterrows())


metrics = ["accuracy", "dead_units", "weight_magnitude", "effective_rank"]
figure = panels(results, metrics, f"Permuted {images}: {runs} runs, mean and 95 % interval")
plots.show(figure, "inside", out=out, alt=(
    "Four panels against task number, first to last task. "
    + "; ".join(ends(results, m) for m in metrics) + "."))

# %%
inside = ["accuracy", "dead_units", "rarely_active_units", "weight_magnitude", "effective_rank",
          "stable_rank", "stable_rank_frobenius"]
final = results[results.task == results.task.max()].groupby("curve", sort=False)[inside].mean()
final.round(3).T

# %% [markdown]
# The table shows the last task: each column a learner, each row a measurement. The two stable
# ranks are not even on the same scale, which is why we name them apart.

# %%
def at_end(metric, learner, size):
    """A metric at the last task, a value for each seed."""
    chosen = results[(results.task == results.task.max()) & (results.learner == learner)
                     & (results.step_size == size)]
    return chosen.set_index("seed")[metric]


if step_size in step_sizes:
    for metric in ["dead_units", "weight_magnitude", "effective_rank"]:
        difference, low, high = compare.paired(at_end(metric, "backprop", step_size),
                                               at_end(metric, "continual backprop", step_size))
        print(f"{metric}: backprop - continual backprop at the last task {difference:+.3f} "
              f"(95 % interval {low:+.3f} to {high:+.3f}, {runs} pairs)")
        bound = high if metric == "effective_rank" else low
        claims.record(out, f"inside-{metric.replace('_', '-')}", bound, profile)

# %% [markdown]
# ## The same on MNIST: recorded runs
#
# Three hidden layers of 100 units on permuted MNIST, 6 000 images a task, recorded with
# `python data/record_permuted_mnist.py`. This is a recording, not computed just now. Ranks are
# means over the three layers.

# %%
record = pd.read_csv("../data/results/permuted_mnist.csv")
chosen = record[(record.width == 100) & (record.step_size == 0.01)
                & ((record.learner == "backprop") | (record.replacement_rate == 1e-4))].copy()
chosen["curve"] = chosen.learner.str.replace("_", " ") + " 0.01"
figure = panels(chosen, metrics, f"Recorded: permuted MNIST, {chosen.seed.nunique()} runs")
plots.show(figure, "mnist_inside", out=out, alt=(
    "Recorded on permuted MNIST, four panels, first to last task. "
    + "; ".join(ends(chosen, m) for m in metrics) + "."))

# %% [markdown]
# ## What to make of it
#
# The three signs go together, and none of them alone is the cause. Dead units are lost capacity,
# but a network with small step size loses plasticity with few dead units too. What they share is
# that the network leaves the state it was initialised in: small random weights, diverse units,
# every unit alive for some inputs. That state is what learning is made from, and gradient descent
# uses it up. Continual backprop keeps supplying it.
#
# **Exercises.** (1) Take `activation="tanh"` in both learners and in `diagnostics.probe`. What
# does "dead" mean now? (2) Which of the four curves moves first? (3) Probe with 50 examples:
# which of the measurements should you no longer trust?

# %% tags=["provenance"]
provenance.footer(profile=profile, images=images, tasks=tasks, task_length=task_length, runs=runs,
                  seed=seed)
