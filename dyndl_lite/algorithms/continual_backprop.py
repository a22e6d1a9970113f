"""Continual backprop: backprop that keeps replacing its least useful hidden units.

Dohare, Sutton and Mahmood (2021, arXiv 2108.06325) and Dohare et al. (2024, Nature 632,
Algorithm 1). After every gradient step each hidden layer updates a utility for each of its
units, and now and then, at the replacement rate, its least useful mature unit is reinitialised.
This is how a layer selects that unit; what becomes of it is in `replace_units`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.backprop import named
from dyndl_lite.algorithms.optimisers import momentum
from dyndl_lite.algorithms.replace_units import Chosen, replace_units
from dyndl_lite.learning import (Chains, Intervention, Learner, learner, minibatch_cross_entropy,
                                 ONE_CHAIN, Optimiser, sgd, squared_error)
from dyndl_lite.models.cnn import cnn, Layout
from dyndl_lite.models.mlp import mlp

_TINY = 1e-12  # a unit that was cut off from all its inputs still has a finite utility
# What a unit is worth at an example. h: its activity; f: its mean activity;
# w_in, w_out: the summed magnitudes of its incoming and outgoing weights.
UTILITIES = {
    "contribution": lambda h, f, w_in, w_out: h.abs() * w_out,
    "mean_corrected_contribution": lambda h, f, w_in, w_out: (h - f).abs() * w_out,
    "adaptable_contribution": lambda h, f, w_in, w_out: (h - f).abs() * w_out / (w_in + _TINY),
    "weight": lambda h, f, w_in, w_out: w_out.expand(h.shape),
    "adaptation": lambda h, f, w_in, w_out: (1 / (w_in + _TINY)).expand(h.shape),
    "random": lambda h, f, w_in, w_out: torch.zeros_like(h),  # ranked by fresh draws instead
}
_RANDOM = list(UTILITIES).index("random")


def new_unit_stats(units: int, device=None) -> dict[str, Tensor]:
    """What continual backprop keeps of one hidden layer's units; at the start nothing is known."""
    zeros = torch.zeros(units, device=device)
    return {
        "utility": zeros,  # u, running average
        "mean_activity": zeros.clone(),  # f, running average
        "bias_correction": zeros.clone(),  # 1 - decay^age: divides u and f
        "age": zeros.clone(),  # examples since birth
        "accumulator": torch.zeros((), device=device),  # replacements owed to this layer, a fraction
    }


def update_utility(units: dict, H: Tensor, w_in: Tensor, w_out: Tensor, hyper: dict,
                   utility: str | None, bias_correction: bool = True
                   ) -> tuple[dict, Tensor, Tensor]:
    """Update one layer's running averages with one example, or the mean over a minibatch.

    Units are as `new_unit_stats` makes them, H [n, units] are activities, `w_in` and `w_out`
    [units] the summed magnitudes of each unit's incoming and outgoing weights. None for a utility
    takes the one that ``hyper["utility"]`` counts to. Gives the units, and u_hat and f_hat [units],
    utility and mean activity, corrected for their start at 0 (Dohare et al. 2021, Equations 4 to 7)
    or not.
    """
    decay = hyper["utility_decay"]
    past = decay * units["bias_correction"] + (1 - decay)
    f = decay * units["mean_activity"] + (1 - decay) * H.mean(0)
    f_hat = f / past if bias_correction else f
    if utility is None:
        ys = torch.stack([worth(H, f_hat, w_in, w_out).mean(0) for worth in UTILITIES.values()])
        y = ys.index_select(0, hyper["utility"].long().reshape(1)).squeeze(0)
    else:
        y = UTILITIES[utility](H, f_hat, w_in, w_out).mean(0)
    u = decay * units["utility"] + (1 - decay) * y
    units = {**units, "utility": u, "mean_activity": f, "bias_correction": past,
             "age": units["age"] + 1}
    return units, u / past if bias_correction else u, f_hat


def select_unit(units: dict, u_hat: Tensor, hyper: dict) -> tuple[dict, Chosen]:
    """Select the unit to be replaced, if one is due: the mature unit of least utility."""
    mature = units["age"] > hyper["maturity_threshold"]
    owed = units["accumulator"] + hyper["replacement_rate"] * mature.sum()
    least = torch.where(mature, u_hat, torch.inf).argmin()
    now = owed >= 1  # only mature units add to what is owed, so there is one to replace
    return {**units, "accumulator": owed - now.to(owed.dtype)}, (least, now)


def judge(units: dict, H: Tensor, w_in: Tensor, w_out: Tensor, hyper: dict, where: tuple,
          utility: str | None, bias_correction: bool = True) -> tuple[dict, Chosen, Tensor]:
    """Update one layer's utilities and select by them; gives its mean activities [units], too.

    Parameters are those of `update_utility`, and (seed, t, layer), from which random ranks follow.
    """
    units, u_hat, f_hat = update_utility(units, H, w_in, w_out, hyper, utility, bias_correction)
    if utility in ("random", None):
        seed, t, layer = where
        unit = torch.arange(len(w_in), device=H.device)
        ranks = random.uniform(seed, random.RANDOM_UTILITY, t, unit + 2**20 * layer)
        u_hat = ranks if utility else torch.where(hyper["utility"] == _RANDOM, ranks, u_hat)
    return *select_unit(units, u_hat, hyper), f_hat


def least_useful(utility: str | None = "contribution", activation: str = "relu",
                 bias_correction: bool = True, transfer_mean: bool = True,
                 survives: tuple[str, ...] = (), chains: Chains = ONE_CHAIN) -> Intervention:
    """Continual backprop's intervention; parameters are those of `continual_backprop`.

    Returns
    -------
    Intervention
        With the settings ``replacement_rate`` (share of the mature units replaced each step),
        ``utility_decay`` (eta) and ``maturity_threshold`` (steps).
    """
    if utility is not None and utility not in UTILITIES:
        raise ValueError(f"utility {utility!r} is unknown: use one of {list(UTILITIES)}")

    def select(*given):
        units, chosen, f_hat = judge(*given, utility, bias_correction)
        return units, chosen, f_hat if transfer_mean else torch.zeros_like(f_hat)

    def check(setting: dict, hidden: tuple[int, ...]) -> None:
        if utility is None and setting["utility"] not in range(len(UTILITIES)):
            raise ValueError(f"utility {setting['utility']} is unknown: use 0 to "
                             f"{len(UTILITIES) - 1}, in the order {', '.join(UTILITIES)}")
        rate, most = setting["replacement_rate"], max(hidden)
        if not 0 <= rate * most <= 1:
            raise ValueError(f"replacement_rate {rate} asks for more than one of {most} units a "
                             f"step, or for less than none: use 0 to {1 / most:.1e}")

    settings = {"replacement_rate": 1e-4, "utility_decay": 0.99, "maturity_threshold": 100.0,
                **({} if utility else {"utility": 0})}
    name = f"least_useful {utility} {bias_correction=} {transfer_mean=} {survives=}"
    return replace_units(name, new_unit_stats, select, settings, check, activation, survives, chains)


#: Algorithm 1 as Nature prints it; the two parts it does without are those of arXiv 2108.06325.
AS_IN_NATURE = {"bias_correction": False, "transfer_mean": False}
#: As the released code of the Nature paper does it (`gnt.py`): the mean is zeroed before the biases
#: should receive it; Adam's moments and counts are cleared, momentum survives.
AS_RELEASED = {"transfer_mean": False, "survives": ("trace",)}


def continual_backprop(sizes: tuple[int, ...], activation: str = "relu",
                       loss: Callable = squared_error, optimiser: Optimiser = sgd,
                       utility: str | None = "contribution", **variant) -> Learner:
    """Make a continual-backprop learner, with any number of hidden layers.

    Parameters
    ----------
    sizes, activation, loss, optimiser
        As for `backprop`.
    utility : str or None
        A name in `UTILITIES`. Nature's is the contribution; adaptable_contribution is the overall
        utility of the 2021 paper. None makes it a setting, ``utility`` (0, 1, ... in the order of
        `UTILITIES`), so that one ensemble compares them all.
    bias_correction : bool
        Correct young running averages (2021 and the released code; not in Nature's Algorithm 1).
    transfer_mean : bool
        Move a replaced unit's mean contribution into its listeners' biases (2021; not in Nature's,
        and without effect in the released code).
    survives : tuple of str
        Parts of the optimiser's memory that a replacement leaves; see `AS_IN_NATURE`,
        `AS_RELEASED`.

    Raises
    ------
    ValueError
        If the utility is unknown, there is no hidden layer, or (before a run starts) a replacement
        rate asks for more than one unit a layer and example.
    """
    return named("continual_backprop", learner(mlp(sizes, activation), loss, optimiser,
                                               least_useful(utility, activation, **variant)))


def conv_continual_backprop(layout: Layout, optimiser: Optimiser = momentum,
                            utility: str = "contribution") -> Learner:
    """Make a continual-backprop learner of minibatches of images; steps are minibatches.

    What a unit says is averaged over the images and, if it is a channel, over the places; its
    outgoing weights are all that hear it, from whatever place (Continual ImageNet, Dohare et al.
    2024).
    """
    return named("conv_continual_backprop",
                 learner(cnn(layout), minibatch_cross_entropy, optimiser, least_useful(utility)),
                 replacement_rate=3e-4)
