"""Continual backprop: backprop that keeps replacing its least useful hidden units.

Dohare, Sutton and Mahmood (2021, arXiv 2108.06325) and Dohare et al. (2024, Nature 632,
Algorithm 1). After every gradient step each hidden layer updates a utility for each of its
units, and now and then, at the replacement rate, its least useful mature unit is reborn.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import gradient_step, Learner, Optimiser, sgd, squared_error
from dyndl_lite.models.mlp import initialise, Params, weight_bound

_TINY = 1e-12  # a unit that was cut off from all its inputs still has a finite utility
# What a unit is worth at this example. h: its activity; f: its mean activity;
# w_in, w_out: the summed magnitudes of its incoming and outgoing weights.
UTILITIES = {
    "contribution": lambda h, f, w_in, w_out: h.abs() * w_out,
    "mean_corrected_contribution": lambda h, f, w_in, w_out: (h - f).abs() * w_out,
    "adaptable_contribution": lambda h, f, w_in, w_out: (h - f).abs() * w_out / (w_in + _TINY),
    "weight": lambda h, f, w_in, w_out: w_out,
    "adaptation": lambda h, f, w_in, w_out: 1 / (w_in + _TINY),
    "random": lambda h, f, w_in, w_out: torch.zeros_like(h),  # ranked by fresh draws instead
}
_RANDOM = list(UTILITIES).index("random")


def new_units(units: int, device=None) -> dict[str, Tensor]:
    """What one hidden layer knows about its units at the start: nothing."""
    zeros = torch.zeros(units, device=device)
    return {
        "utility": zeros,  # u, running average
        "mean_activity": zeros.clone(),  # f, running average
        "weight_of_past": zeros.clone(),  # 1 - decay^age: divides u and f (bias correction)
        "age": zeros.clone(),  # examples since birth
        "due": torch.zeros((), device=device),  # replacements owed to this layer, a fraction
    }


def appraise(units: dict, h: Tensor, w_in: Tensor, w_out: Tensor, hyper: dict,
             utility: str | None) -> tuple[dict, Tensor, Tensor]:
    """Update one layer's running averages with one example.

    Parameters
    ----------
    units : dict
        As `new_units` makes it.
    h : tensor [units]
        The units' activities.
    w_in, w_out : tensors [units]
        Summed magnitudes of each unit's incoming and outgoing weights.
    hyper : dict
        With utility_decay, eta of the running averages.
    utility : str or None
        A name in `UTILITIES`; None takes the one that ``hyper["utility"]`` counts to.

    Returns
    -------
    units : dict
    u_hat, f_hat : tensors [units]
        Utility and mean activity, corrected for the bias of a young average
        (Dohare et al. 2021, Equations 4 to 7).
    """
    decay = hyper["utility_decay"]
    past = decay * units["weight_of_past"] + (1 - decay)
    f = decay * units["mean_activity"] + (1 - decay) * h
    f_hat = f / past
    if utility is None:
        ys = torch.stack([worth(h, f_hat, w_in, w_out) for worth in UTILITIES.values()])
        y = ys.index_select(0, hyper["utility"].long().reshape(1)).squeeze(0)
    else:
        y = UTILITIES[utility](h, f_hat, w_in, w_out)
    u = decay * units["utility"] + (1 - decay) * y
    units = {**units, "utility": u, "mean_activity": f, "weight_of_past": past,
             "age": units["age"] + 1}
    return units, u / past, f_hat


def choose(units: dict, u_hat: Tensor, hyper: dict) -> tuple[dict, tuple[Tensor, Tensor]]:
    """Pick the unit to be reborn, if one is due: the mature unit of least utility.

    Returns
    -------
    units : dict
    chosen : (int64 scalar tensor, bool scalar tensor)
        That unit's index, and whether its replacement is due at this example.
    """
    mature = units["age"] > hyper["maturity_threshold"]
    due = units["due"] + hyper["replacement_rate"] * mature.sum()
    least = torch.where(mature, u_hat, torch.inf).argmin()
    now = due >= 1  # only mature units add to what is due, so there is one to replace
    return {**units, "due": due - now.to(due.dtype)}, (least, now)


def reborn(chosen: tuple[Tensor, Tensor], weights: int, each: int = 1) -> Tensor:
    """Mask [weights] of the reborn unit's, which has that many each; all False where none is due."""
    least, now = chosen
    return (torch.arange(weights, device=least.device) // each == least) & now


def newborn(units: dict, chosen: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Start the averages and the age of the reborn unit of one layer from nothing."""
    return {name: value if name == "due" else
            torch.where(reborn(chosen, value.shape[0]), 0.0, value)
            for name, value in units.items()}


def fresh_weights(seed: Tensor, t: Tensor, sizes: tuple[int, ...], activation: str) -> list:
    """Draw incoming weights for the one unit that each hidden layer may replace at time t.

    They come from the initial distribution. They are drawn one example ahead and kept in the
    net, which spares the compiled step from drawing them once for every weight of a layer.
    """
    rows = []
    for layer, fan_in in enumerate(sizes[:-2]):
        where = torch.arange(fan_in, device=seed.device)
        row = 2 * random.uniform(seed, random.REBIRTH, t, where + 2**20 * layer) - 1
        rows.append(weight_bound(fan_in, activation) * row)
    return rows


def rebirth(params: Params, chosen: list[tuple[Tensor, Tensor]], fresh: list[Tensor],
            left_behind: list[Tensor]) -> Params:
    """Replace the chosen units: fresh incoming weights, no outgoing ones, their mean left behind.

    Their listeners keep their mean contribution in their biases, so that on average the
    output does not change at the moment of replacement.

    Parameters
    ----------
    params : list of (weights, biases)
    chosen : list of (least, now), one pair a hidden layer, from `choose`
    fresh : list of tensors [inputs], one a hidden layer, from `fresh_weights`
    left_behind : list of tensors [units]
        What each unit's listeners take into their biases: its mean activity.
    """
    moved = [params[0]]
    for (W, b), (least, now), mean in zip(params[1:], chosen, left_behind):  # first the mean moves
        outgoing = outgoing_weights(W, len(mean)).index_select(1, least.reshape(1)).sum((1, 2))
        mean = mean.index_select(0, least.reshape(1))
        moved.append((W, b + torch.where(now, outgoing * mean, 0.0)))
    return _overwrite(moved, chosen, fresh)  # then the outgoing weights go


def forget(memory: dict, chosen: list[tuple[Tensor, Tensor]]) -> dict:
    """Clear the optimiser's memory of every weight into and out of the reborn units."""
    nothing = [0.0] * len(chosen)
    return {name: _overwrite(pairs, chosen, nothing) for name, pairs in memory.items()}


def _overwrite(pairs: Params, chosen: list[tuple[Tensor, Tensor]], rows: list) -> Params:
    """Write a row into the reborn units' incoming weights, 0 into their biases and outgoing ones.

    Between two newborns the row counts: what comes in is fresh, whoever it comes from.
    """
    new, units = [], 0
    for layer, (W, b) in enumerate(pairs):
        shape = W.shape
        if layer > 0:
            mask = reborn(chosen[layer - 1], W[0].numel(), W[0].numel() // units)
            W = torch.where(mask, 0.0, W.flatten(1)).reshape(shape)
        units = len(b)
        if layer < len(chosen):
            mask = reborn(chosen[layer], units)
            W = torch.where(mask[:, None], rows[layer], W.flatten(1)).reshape(shape)
            b = torch.where(mask, 0.0, b)
        new.append((W, b))
    return new


def outgoing_weights(W: Tensor, units: int) -> Tensor:
    """See weights as [listeners, units, weights of each]: one, or of a channel (`convolution`) many."""
    return W.reshape(len(W), units, -1)


def check_rate(setting: dict, most: int, what: str) -> None:
    """Raise ValueError if more than one of `most` units, the widest layer's, were due at a time."""
    rate = setting["replacement_rate"]
    if rate * most > 1:
        raise ValueError(f"replacement_rate {rate} asks for more than one of {most} {what}: "
                         f"use {1 / most:.1e} or less")


def continual_backprop(sizes: tuple[int, ...], activation: str = "relu",
                       loss: Callable = squared_error, optimiser: Optimiser = sgd,
                       utility: str | None = "contribution",
                       as_released: bool = False) -> Learner:
    """Make a continual-backprop learner, with any number of hidden layers.

    Parameters
    ----------
    sizes, activation, loss, optimiser
        As for `backprop`.
    utility : str or None
        A name in `UTILITIES`. Nature's is the contribution; adaptable_contribution is the
        overall utility of the 2021 paper. None makes it a setting, ``utility`` (0, 1, ... in
        the order of `UTILITIES`), so that one ensemble compares them all.
    as_released : bool
        False: as published. True: as in the authors' released code, where the mean was
        already zeroed when the biases should receive it, and where the memory of momentum
        or Adam survives a replacement.

    Returns
    -------
    Learner
        With the settings of the optimiser and ``replacement_rate`` (share of the mature
        units replaced each example), ``utility_decay`` (eta), ``maturity_threshold``
        (examples).

    Raises
    ------
    ValueError
        If the utility is unknown, there is no hidden layer, or (before a run starts) a
        replacement rate asks for more than one unit a layer and example.
    """
    if utility is not None and utility not in UTILITIES:
        raise ValueError(f"utility {utility!r} is unknown: use one of {list(UTILITIES)}")
    if len(sizes) < 3:
        raise ValueError(f"sizes {sizes}: continual backprop needs a hidden layer")
    hidden = sizes[1:-1]

    def check(setting: dict) -> None:
        if utility is None and setting["utility"] not in range(len(UTILITIES)):
            raise ValueError(f"utility {setting['utility']} is unknown: use 0 to "
                             f"{len(UTILITIES) - 1}, in the order {', '.join(UTILITIES)}")
        check_rate(setting, max(hidden), "units an example")

    def start(seed: Tensor) -> dict:
        params = initialise(seed, sizes, activation)
        return {
            "params": params,
            "memory": optimiser.start(params),
            "units": [new_units(n, seed.device) for n in hidden],
            "seed": seed.clone(),
            "t": torch.zeros_like(seed),
            "fresh": fresh_weights(seed, torch.zeros_like(seed), sizes, activation),
        }

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, features, score = gradient_step(net, hyper, x, y, activation, loss,
                                                        optimiser)
        seed, t = net["seed"], net["t"]
        layers, chosen, left_behind = [], [], []
        for layer, h in enumerate(features):
            w_in, w_out = params[layer][0].abs().sum(1), params[layer + 1][0].abs().sum(0)
            units, u_hat, f_hat = appraise(net["units"][layer], h, w_in, w_out,
                                           hyper, utility)
            if utility in ("random", None):
                where = torch.arange(h.shape[0], device=h.device)
                ranks = random.uniform(seed, random.RANDOM_UTILITY, t, where + 2**20 * layer)
                u_hat = ranks if utility else torch.where(hyper["utility"] == _RANDOM, ranks,
                                                          u_hat)
            units, pick = choose(units, u_hat, hyper)
            layers.append(newborn(units, pick))
            chosen.append(pick)
            left_behind.append(torch.zeros_like(f_hat) if as_released else f_hat)
        return {
            "params": rebirth(params, chosen, net["fresh"], left_behind),
            "memory": memory if as_released else forget(memory, chosen),
            "units": layers,
            "seed": seed,
            "t": t + 1,
            "fresh": fresh_weights(seed, t + 1, sizes, activation),
        }, score

    settings = {**optimiser.settings, "replacement_rate": 1e-4, "utility_decay": 0.99,
                "maturity_threshold": 100.0, **({} if utility else {"utility": 0})}
    description = (f"continual_backprop {sizes} {activation} {loss.__name__} {optimiser.name} "
                   f"{utility} as_released={as_released}")
    return Learner(start, step, settings, description, sizes[-1], check)
