# ---
# jupyter:
#   dyndl:
#     checks: [runs >= 1, 1 <= bins <= steps]
#     profiles:
#       smoke: {steps: 300, runs: 3, bins: 10}
#       paper: {steps: 1000000, runs: 100, bins: 50}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A one-minute tour
#
# A network that never stops learning ought to get better and better, or at least stay as good
# as it was. It does not. In the next minute you will watch ordinary backpropagation **lose its
# plasticity**, its ability to learn something new, and then watch a small addition, **continual
# backprop**, keep it.
#
# Everything below is computed in front of you, on this machine, by code you can read in one
# sitting.

# %% tags=["parameters"]
profile = "laptop"  # name of the profile these values come from
out = "../build/00_tour"  # folder for figures, tables and checkpoints
steps = 300000  # examples each network sees
runs = 30  # independent networks a learner, one seed each
bins = 30  # points a curve
seed = 0  # first seed

# %%
from pathlib import Path

from dyndl_lite.algorithms import continual_backprop
from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop as cbp
from dyndl_lite.experiment import compare, ensemble, plots, provenance
from dyndl_lite.problems.regression import SlowlyChangingRegression

plots.style()
seeds = range(seed, seed + runs)

# %% [markdown]
# ## A world that changes slowly
#
# An example is 20 bits. Five of them are tossed afresh every time. Fifteen stand still, until
# after every 10 000 examples **one** of them flips. What is to be predicted is the output of a
# fixed random network of 100 threshold units: far more than the learner's **five** hidden units
# can represent. So the learner must keep moving to the best approximation for *now*, and then
# move on when now has changed.

# %%
stream = SlowlyChangingRegression()
stream

# %% [markdown]
# ## Two learners
#
# Both are networks with 20 inputs, 5 ReLU units, and 1 output, trained by stochastic gradient
# descent with step size 0.01, one example at a time. The second one also keeps a running
# *utility* of each hidden unit, and about once in 2 000 examples replaces the least useful unit
# by a freshly drawn one that is not yet listened to.

# %%
sizes = (stream.inputs, 5, stream.outputs)
results = ensemble.run(
    stream,
    {
        "backprop": (backprop(sizes), {"step_size": 0.01}),
        "continual backprop": (cbp(sizes), {"step_size": 0.01, "replacement_rate": 1e-4}),
    },
    seeds, steps, steps // bins, folder=Path(out) / "checkpoints")
provenance.save_table(results, out, "curves")

# %%
early = compare.window_mean(results, "squared_error", ["learner"], 0, 0.1)
late = compare.window_mean(results, "squared_error", ["learner"], 0.9, 1)
summary = compare.table(early, "first tenth")[["first tenth"]].join(
    compare.table(late, "last tenth")[["last tenth"]])

ax = plots.curves(results, "squared_error", "learner")
ax.set_title(f"Slowly-changing regression, {runs} runs, mean and 95 % interval")
ax.set_ylim(bottom=0)
plots.show(ax.figure, "tour", out=out, alt=(
    "Squared error against examples seen, for backprop and continual backprop. From the first "
    f"to the last tenth of the run backprop goes from {summary['first tenth'].iloc[0]:.2f} to "
    f"{summary['last tenth'].iloc[0]:.2f}, continual backprop from "
    f"{summary['first tenth'].iloc[1]:.2f} to {summary['last tenth'].iloc[1]:.2f}."))
summary.round(3)

# %% [markdown]
# Lower is better. The task is exactly as hard at the end as it was at the beginning: only the
# network has changed. To see how sure we are, compare the two learners *run by run*: each pair
# met the same examples and began from the same weights.

# %%
difference, low, high = compare.paired(late["backprop"], late["continual backprop"])
print(f"backprop's error in the last tenth is {difference:.2f} larger than continual backprop's "
      f"(95 % interval {low:.2f} to {high:.2f}, {runs} pairs)")

# %% [markdown]
# ## The addition, whole
#
# This is how a unit is chosen. `u_hat` is the running utility, $\hat u_i = \frac{1}{1-\eta^{a_i}}
# \sum \text{(past)}\; |h_i| \sum_k |w_{ik}|$: how strongly the unit spoke, times how much it was
# listened to. A unit younger than the *maturity threshold* is left in peace. Notebook 06 walks
# through the rest.

# %%
plots.source(continual_backprop.select_unit)

# %% [markdown]
# ## Where to go from here
#
# | notebook | question |
# |---|---|
# | 01 loss of plasticity | Is it real? Is it the step size? The activation function? |
# | 02 permuted images | Does it happen with real images and classification? |
# | 04 inside the network | What breaks: dead units, large weights, lost dimensions |
# | 06 continual backprop | The remedy, line by line, and how much its parts matter |
#
# **Try it.** Set `steps` to 1 000 000 in the parameters cell and run again: how bad does it
# get? Then give backprop a smaller step size. Does that cure it, or only slow it?

# %% tags=["provenance"]
provenance.footer(profile=profile, steps=steps, runs=runs, seed=seed)
