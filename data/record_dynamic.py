"""Record the comparisons of dynamic deep learning with its rivals that notebooks 12 and 14 show.

    python data/record_dynamic.py scr/20/cbp recurring/20/cbp ...

A part is problem/units/learner, with units hidden units in all; `--list` names all parts. Each
part runs every setting of the learner's sweep with a few seeds, which choose, then the best two
settings with the other seeds, which report. It writes its rows to data/results/dynamic.csv (problem,
units, learner, setting, seed, metric, value, use) and what made them to dynamic.json, and goes on
after an interruption from its checkpoints under build/record/. permuted_mnist needs DYNDL_DATA.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import pandas as pd
import recording
import torch
from recording import best, swept, warn_of_an_edge
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.algorithms.layers import backprop_with
from dyndl_lite.algorithms.optimisers import adam, l2, l2_init, upgd
from dyndl_lite.algorithms.regularisers import with_noise
from dyndl_lite.algorithms.step_sizes import autostep, centred, lms, per_unit, steady
from dyndl_lite.dynamic.network import dynamic_network, run
from dyndl_lite.experiment import compare
from dyndl_lite.learning import cross_entropy, Learner, Optimiser, sgd, squared_error
from dyndl_lite.models.mlp import forward
from dyndl_lite.problems import datasets
from dyndl_lite.problems.features import explained, found, HiddenFeatures
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.recurring import RecurringContexts, ReturningImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

KEY = ["problem", "units", "learner"]
COLUMNS = [*KEY, "setting", "seed", "metric", "value", "use"]
CYCLE, VISIT = 8, 5_000  # recurring contexts: visits a cycle, examples a visit
READERS = 2  # units that a small read-out combines; those of a random network find no feature so
IMAGES, READING = 10, 1_800  # returning digits: permutations, examples a visit (one pass)


# What is measured -------------------------------------------------------------------------------

def squared_errors(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Measure a run on slowly-changing regression: the last fifth is 200 000 examples."""
    return pd.DataFrame({"mse_last_200k": compare.window_mean(frame, "squared_error", by, 0.8, 1)})


def accuracies(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Measure a run on permuted images."""
    return pd.DataFrame({"online_accuracy": compare.window_mean(frame, "accuracy", by, 0, 1)})


def features(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Measure a run on hidden features: errors of its second and last quarter, features found."""
    quarters = {"first": (0.25, 0.5), "last": (0.75, 1)}
    parts = {f"mse_{name}": compare.window_mean(frame, "squared_error", by, *part)
             for name, part in quarters.items()}
    for share in frame.columns[frame.columns.str.startswith("features_")]:
        if frame[share].notna().any():
            parts[share] = compare.window_mean(frame, share, by, *quarters["last"])
    return pd.DataFrame(parts)


class NewestFirst(HiddenFeatures):
    """Hidden features whose test gives them in the order of their arrival, the newest first."""

    def test(self, seeds: Tensor, t: int, examples: int = 500) -> tuple[Tensor, Tensor]:
        """Give bits and features, as `HiddenFeatures.test`, but for the order."""
        X, F = super().test(seeds, t, examples)
        order = self.arrivals(seeds, max(t - 1, 0)).argsort(dim=1, descending=True, stable=True)
        return X, F.gather(2, order[:, None].expand(-1, examples, -1))


def look_for(net: dict, X: Tensor, F: Tensor) -> dict[str, Tensor]:
    """Probe: what hidden units represent of the features; of the newest, too, one by one."""
    if "units" in net:
        units, inputs = net["units"], X.shape[1]
        depth = 1 if net["params"]["hidden"].shape[1] == inputs + 1 else 2
        A = vmap(lambda x: run(net["params"], units["level"], x, depth)[inputs:])(X)
        whole = {"features_found_by_backbone": found(A * units["backbone"], F),
                 "features_width": (units["level"] > 0).to(X.dtype).sum()}
    elif net["layers"]:
        return {}  # its hidden layer is not the plain one that is looked into here
    else:
        A, whole = vmap(lambda x: forward(net["params"], x)[1][-1])(X), {}
    return {"features_found": found(A, F), **whole, "features_read": found(A, F, READERS),
            **{f"features_newest_{k + 1}": each for k, each in enumerate(explained(A, F)[:5])}}


def returns(metric: str, name: str, cycle: int, visit: int) -> Callable:
    """Measure a run whose tasks return."""

    def measure(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
        means = compare.remembered(frame, metric, by, cycle, visit)
        return means.rename(columns=lambda c: c if c == "plasticity" else f"{name}_{c}")

    return measure


class Problem(NamedTuple):
    """A stream, how long it is lived through, and what counts."""

    stream: Callable  # () -> stream
    steps: int
    bin: int
    measure: Callable  # frame, by -> one row a setting and seed, one column a metric
    main: list[str]  # metrics that choose the best settings
    units: list[int]
    loss: Callable
    seeds: tuple[int, int]  # those that choose, and all with those that report
    probe: Callable | None = None


DIGITS = 1_797
PROBLEMS = {
    "scr": Problem(SlowlyChangingRegression, 1_000_000, 10_000, squared_errors,
                   ["mse_last_200k"], [20, 50, 5], squared_error, (10, 30)),
    "recurring": Problem(
        lambda: RecurringContexts(flip_period=VISIT, contexts=CYCLE), 640_000, 100,
        returns("squared_error", "mse", CYCLE, VISIT), ["mse_first_100", "mse_visit"], [20, 50],
        squared_error, (10, 30)),
    "permuted_digits": Problem(
        lambda: PermutedImages(*datasets.digits(), 2 * DIGITS, "permuted digits"), 66 * 2 * DIGITS,
        2 * DIGITS, accuracies, ["online_accuracy"], [100], cross_entropy, (10, 30)),
    "permuted_mnist": Problem(
        lambda: PermutedImages(*datasets.mnist("t10k"), 6_000, "permuted MNIST"), 50 * 6_000, 6_000,
        accuracies, ["online_accuracy"], [100], cross_entropy, (3, 10)),
    "returning_digits": Problem(
        lambda: ReturningImages(*datasets.digits(), READING, permutations=IMAGES),
        16 * IMAGES * READING, 100, returns("accuracy", "accuracy", IMAGES, READING),
        ["accuracy_first_100", "accuracy_visit"], [100], cross_entropy, (10, 30)),
    **{f"features_{kind}": Problem(
        partial(NewestFirst if "arrival_period" in world else HiddenFeatures, **world), 600_000, 10_000,
        features, ["mse_last"], [120, 60, 240], squared_error, (4, 16), look_for) for kind, world in {
            "turnover": {"arrival_period": 10_000},
            "turnover_loud": {"arrival_period": 10_000, "noise": 1.0},
            "stay": {}, "one": {"arrival_period": 10_000, "outputs": 1},
            "deep": {"features": 16, "deep": 16},
        }.items()},
}
FEATURES = [name for name in PROBLEMS if name.startswith("features")]


# Who is compared --------------------------------------------------------------------------------

SGD = {"scr": [0.001, 0.003, 0.005, 0.01, 0.03],
       "recurring": [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03],
       "permuted_digits": [0.01, 0.02, 0.03, 0.05, 0.1],
       "permuted_mnist": [0.001, 0.003, 0.01, 0.03],
       "returning_digits": [0.003, 0.01, 0.03, 0.1]}
ADAM = {"scr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
        "recurring": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
        "permuted_digits": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
        "permuted_mnist": [1e-4, 3e-4, 1e-3, 3e-3], "returning_digits": [1e-4, 3e-4, 1e-3, 3e-3]}
RATES = {"scr": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3], "recurring": [1e-6, 1e-5, 1e-4, 1e-3],
         "permuted_digits": [1e-5, 1e-4, 3e-4, 1e-3], "permuted_mnist": [3e-6, 1e-5, 1e-4, 1e-3],
         "returning_digits": [1e-6, 1e-5, 1e-4, 1e-3]}
# Narrower where weights decay or are moved by noise, as plain backprop's best is in the middle (and
# on MNIST, where drawing the noise costs most of the time, that best alone).
STIRRED = {**SGD, "permuted_digits": [0.01, 0.02, 0.03, 0.05], "permuted_mnist": [0.003, 0.01]}
for sweep_, most in ((SGD, [0.001, 0.003, 0.01, 0.03, 0.1]), (ADAM, [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]),
                     (RATES, [1e-6, 1e-5, 1e-4, 1e-3])):
    sweep_.update(dict.fromkeys(FEATURES, most))
STIRRED.update({name: SGD[name] for name in FEATURES})
REGRESSION = ("scr", "recurring", *FEATURES)
# The published memory of the utility, and a longer one but on permuted images.
DECAYS = {p: [0.99] if p.startswith("permuted") else [0.99, 0.9999] for p in PROBLEMS}
learned = swept(  # first step size and mu, where step sizes are learned
    step_size={p: [0.001, 0.003, 0.01, 0.03] if p in REGRESSION else [0.01, 0.03] for p in PROBLEMS},
    meta_step_size={p: [0.01, 0.03] if p in REGRESSION else [0.01] for p in PROBLEMS})
learned_continual = swept(
    step_size={p: [0.003, 0.01, 0.03] if p in REGRESSION else [0.01, 0.03] for p in PROBLEMS},
    meta_step_size={p: [0.03] if p in REGRESSION else [0.01] for p in PROBLEMS},
    replacement_rate={p: [1e-5, 1e-4, 1e-3] if p in REGRESSION else [3e-5, 1e-4] for p in PROBLEMS})
centred_steps = swept(  # continual backprop around the mean: its larger step sizes, a rate less
    step_size={p: v[1:] for p, v in SGD.items()},
    replacement_rate={p: v[:3] for p, v in RATES.items()}, utility_decay=DECAYS)


@lru_cache
def dynamic_of(sizes: tuple[int, ...], loss: Callable, depth: int = 1,
               grown: bool = True) -> Learner:
    """Make our learner; the same one for all ablations, so that they are compiled once."""
    return dynamic_network(*sizes, loss=loss, depth=depth, grown=grown)


def heads_alone(optimiser: Optimiser) -> Optimiser:
    """Let only the last layer learn: hidden units are generated, tested and replaced, not taught."""

    def update(params, gradients, *rest):
        below = tree_map(torch.zeros_like, gradients[:-1])
        return optimiser.update(params, [*below, gradients[-1]], *rest)

    return optimiser._replace(update=update, name=f"heads_alone {optimiser.name}")


# Ours has one setting for all problems; an ablation changes one thing in it.
ABLATIONS = {
    "dynamic": {},
    "dynamic_shadow": {"shadow": [1.0]},
    "dynamic_no_imprint": {"imprint": [0.0], "noise": [1.0]},
    "dynamic_fixed_steps": {"meta_step_size": [0.0]},
    "dynamic_no_propagation": {"propagation": [0.0]},
    "dynamic_random_master": {"shadow": [1.0], "random_master": [1.0]},
    "dynamic_no_centring": {"centring": [0.0]},
    "dynamic_no_levelling": {"levelling": [0.0]},
    "dynamic_no_forgetting": {"forgetting": [0.0], "hidden_forgetting": [0.0]},
    "dynamic_outputs_forget": {"hidden_forgetting": [0.0]},
    "dynamic_slow_means": {"input_mean_decay": [0.999]},
    "dynamic_own_bounds": {"joint": [0.0]},
    "dynamic_even_births": {"hungry_births": [0.0], "replacement_rate": [2e-5]},
    "dynamic_no_replacement": {"replacement_rate": [0.0]},
    "dynamic_no_shadow": {"shadow": [0.0]},
    "dynamic_no_shadow_no_l1": {"shadow": [0.0], "l1": [0.0], "newcomer_step_size": [0.01]},
    "dynamic_no_as_if": {"as_if": [0.0]},
    # Without l1 a guarded boundary is better (on the seeds that chose).
    "dynamic_no_l1": {"l1": [0.0], "newcomer_step_size": [0.01]},
    "dynamic_no_protection": {"protection": [0.0], "replacement_rate": [1e-3]},
    "dynamic_guard": {"newcomer_step_size": [0.001]},
    "dynamic_no_patience": {"patience": [0.0], "replacement_rate": [1e-3]},
    "dynamic_fixed_bound": {"bound_rate": [0.0]},
    "dynamic_fixed_bound_tenth": {"bound_rate": [0.0], "bound": [0.1]},
    "dynamic_slow_growth": {"growth_rate": [0.04]},
    "dynamic_small_fringe": {"fringe": [30.0]},
    "dynamic_own_width": {"fringe": [60.0]},
}

# What the talk asks for, whole: births in the fringe only, shadow weights with the as-if error; a
# bound that is learned, and outputs that let go of what they hardly use. The features problems are
# recorded with it.
TALK = {"protection": [1.0], "join": [0.2], "leave": [0.1],
        "replacement_rate": [3e-3], "patience": [1.0], "shadow": [0.3], "as_if": [1.0],
        "bound_rate": [1e-3], "meta_step_size": [0.02], "l1": [0.01]}
GROWTH = {"growth_rate": [1.0]}  # a birth an example: many units learn before any is heard
# Of the talk nothing but the optimiser, tuned on the same seeds for those who have nothing else:
# letting go costs them something (and fixed step sizes are better for them than learned ones).
NOTHING = {"shadow": [0.0], "imprint": [0.0], "noise": [1.0], "l1": [0.0]}
RANDOM = {  # from a random network of all units
    "dynamic_from_random": {},
    "bp_ours": {**NOTHING, "replacement_rate": [0.0]},
    "bp_ours_fixed_steps": {**NOTHING, "replacement_rate": [0.0], "meta_step_size": [0.0]},
    "bp_ours_l1": {**NOTHING, "replacement_rate": [0.0], "l1": TALK["l1"]},
    "cbp_ours": {**NOTHING, "protection": [0.0], "propagation": [0.0], "hungry_births": [0.0],
                 "patience": [0.0], "meta_step_size": [0.0], "replacement_rate": [1e-6, 1e-5, 1e-4]},
}
# It is shown the features and reads them; there is nothing to let go of.
ORACLE = {"growth_rate": [0.0], "replacement_rate": [0.0], "l1": [0.0]}


def ours(name: str) -> Callable:
    """Give the function of a problem's name that gives our setting, with one thing changed."""
    base = TALK if name in RANDOM else {**TALK, **GROWTH}
    return lambda problem: {"step_size": [0.02], **(base if problem in FEATURES else {}),
                            **{**ABLATIONS, **RANDOM, "oracle": ORACLE}[name]}


# learner: (make(sizes, loss) -> Learner, sweep(problem) -> values)
LEARNERS = {
    "bp": (lambda sizes, loss: backprop(sizes, loss=loss), swept(step_size=SGD)),
    "adam": (lambda sizes, loss: backprop(sizes, loss=loss, optimiser=adam), swept(step_size=ADAM)),
    "l2": (lambda sizes, loss: backprop(sizes, loss=loss, optimiser=l2()),
           swept(step_size=STIRRED, weight_decay=[1e-4, 1e-3, 3e-3, 1e-2])),
    "shrink_perturb": (lambda sizes, loss: backprop(sizes, loss=loss, optimiser=l2(),
                                                         after=(with_noise,)),
                       lambda p: {"step_size": [0.01] if p == "permuted_mnist" else STIRRED[p][1:],
                                  "weight_decay": [1e-3, 3e-3], "noise": [3e-4, 1e-3, 3e-3]}),
    "cbp": (lambda sizes, loss: continual_backprop(sizes, loss=loss),
            swept(step_size=SGD, replacement_rate=RATES, utility_decay=DECAYS)),
    "l2_init": (lambda sizes, loss: backprop(sizes, loss=loss, optimiser=l2_init()),
                swept(step_size=STIRRED, weight_decay=[1e-4, 1e-3, 3e-3, 1e-2])),
    "upgd": (lambda sizes, loss: backprop(sizes, loss=loss, optimiser=upgd),
             swept(step_size=STIRRED, noise=[1e-3, 1e-2], weight_decay=[0.0, 1e-3])),
    "layer_norm_l2": (
        lambda sizes, loss: backprop_with("layer_norm", sizes, loss=loss, optimiser=l2()),
        swept(step_size=STIRRED, weight_decay=[0.0, 1e-4, 1e-3])),
    "layer_norm_adam": (
        lambda sizes, loss: backprop_with("layer_norm", sizes, loss=loss, optimiser=adam),
        swept(step_size=ADAM)),
    "generate_and_test": (
        lambda sizes, loss: continual_backprop(sizes, loss=loss, optimiser=heads_alone(sgd)),
        swept(step_size=SGD, replacement_rate=RATES)),
    "bp_autostep": (lambda sizes, loss: backprop(sizes, loss=loss, optimiser=per_unit(autostep)),
                    learned),
    "cbp_autostep": (
        lambda sizes, loss: continual_backprop(sizes, loss=loss, optimiser=per_unit(autostep)),
        learned_continual),
    # Controls: what if continual backprop is given what ours owes most to?
    "cbp_centred": (
        lambda sizes, loss: continual_backprop(sizes, loss=loss, optimiser=per_unit(centred(lms))),
        centred_steps),
    "cbp_centred_steady": (
        lambda sizes, loss: continual_backprop(sizes, loss=loss, optimiser=per_unit(centred(steady))),
        learned_continual),
    "cbp_adam": (lambda sizes, loss: continual_backprop(sizes, loss=loss, optimiser=adam),
                 lambda p: {"step_size": ADAM[p][1:], "replacement_rate": [1e-5, 1e-4, 1e-3],
                            "utility_decay": DECAYS[p]}),
    **{name: (dynamic_of, ours(name)) for name in ABLATIONS},
    **{name: (lambda sizes, loss: dynamic_of(sizes, loss, grown=False), ours(name))
       for name in RANDOM},
    "oracle": (lambda sizes, loss: dynamic_of((sizes[0], 1, sizes[2]), loss), ours("oracle")),
    "dynamic_two_levels": (lambda sizes, loss: dynamic_of(sizes, loss, 2), ours("dynamic")),
}


# Recording --------------------------------------------------------------------------------------

def stream_of(kind: str, who: str):
    """Give a problem's stream; the oracle's has the features themselves as inputs."""
    stream = PROBLEMS[kind].stream()
    return replace(stream, oracle=True) if who == "oracle" else stream


def live(name: str, learner: Learner, values: dict, seeds: range) -> pd.DataFrame:
    """Run some settings of a part with some seeds: one row a setting, seed and metric."""
    kind, units, who = name.split("/")
    problem = PROBLEMS[kind]
    frames = recording.ensembles(recording.CHECKPOINTS / name, who, learner, values,
                                 stream_of(kind, who), int(units), seeds, problem.steps, problem.bin,
                                 problem.probe)
    rows = pd.concat(problem.measure(frame, ["setting"]) for frame in frames)
    return rows.reset_index().melt(["setting", "seed"], None, "metric")


def record(name: str) -> pd.DataFrame:
    """Record one part: the sweep with a few seeds, then the best settings with the others."""
    kind, units, who = name.split("/")
    problem, stream = PROBLEMS[kind], stream_of(kind, who)
    make, sweep = LEARNERS[who]
    learner, values = make((stream.inputs, int(units), stream.outputs), problem.loss), sweep(kind)

    def winners(rows):
        for metric in problem.main:
            warn_of_an_edge(name, best(rows, metric)[0], values)
        return [setting for metric in problem.main for setting in best(rows, metric, 2)]

    rows = recording.choose_and_report(lambda values, seeds, _: live(name, learner, values, seeds),
                                       values, problem.seeds, winners)
    return rows.assign(problem=kind, units=int(units), learner=who)[COLUMNS]


if __name__ == "__main__":
    recording.main(__file__, __doc__, [f"{kind}/{units}/{who}" for kind, problem in PROBLEMS.items()
                                       for units in problem.units for who in LEARNERS
                                       if who != "oracle" or kind in FEATURES],
                   "problem/units/learner", record, "dynamic.csv", KEY)
