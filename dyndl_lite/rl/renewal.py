"""What may happen to a network after each gradient step on a minibatch, to keep it able to learn.

The same remedies as for examples that come one by one, built from the same functions: continual
backprop, ReDo, and the noise of shrink and perturb. A unit's activity in a minibatch is its mean
over the examples there, and whatever was counted in examples is counted in minibatches.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random
from dyndl_lite.algorithms import regularisers
from dyndl_lite.algorithms.continual_backprop import (
    appraise,
    choose,
    forget,
    fresh_weights,
    new_units,
    newborn,
    rebirth,
    UTILITIES,
)
from dyndl_lite.algorithms.resets import criterion_named, one_of, unwatched


class Renewal(NamedTuple):
    """A remedy as two pure functions for one network."""

    start: Callable  # seed, sizes, activation -> state: a dict
    # params, memory, state, features [layers of [minibatch, units]], hyper -> the first three
    step: Callable
    settings: dict[str, float]
    name: str
    check: Callable = lambda setting: None


#: Plain backprop: nothing happens.
nothing = Renewal(lambda *_: {}, lambda params, memory, state, *_: (params, memory, state), {},
                  "nothing")


def _perturb(params, memory, state, features, hyper):
    noise = regularisers.noise(state["seed"], state["t"], params)
    params = tree_map(lambda w, e: w + hyper["noise"] * e, params, noise)
    return params, memory, {**state, "t": state["t"] + 1}


#: Noise on every weight and bias: with weight decay in the optimiser, shrink and perturb.
perturbation = Renewal(lambda seed, *_: {"seed": seed.clone(), "t": torch.zeros_like(seed)}, _perturb,
                       {"noise": 1e-4}, "perturbation")


def _replacing(watched: Callable, judge: Callable, settings: dict, name: str,
               check: Callable = lambda setting: None) -> Renewal:
    """Make a renewal that replaces units.

    Parameters
    ----------
    watched : function of (units of a layer, device)
        What is kept of the units.
    judge : function of (watch, h, w_in, w_out, hyper, place)
        Gives watch, the choice (index, whether now), and what the unit leaves behind.
    """

    def start(seed: Tensor, sizes: tuple[int, ...], activation: str) -> dict:
        now = torch.zeros_like(seed)
        return {"watch": [watched(n, seed.device) for n in sizes[1:-1]], "seed": seed.clone(),
                "t": now, "fresh": fresh_weights(seed, now, sizes, activation)}

    def step(params, memory, state, features, hyper):
        layers, chosen, left_behind = [], [], []
        for layer, h in enumerate(features):
            w_in, w_out = params[layer][0].abs().sum(1), params[layer + 1][0].abs().sum(0)
            watch, pick, left = judge(state["watch"][layer], h, w_in, w_out, hyper,
                                      (state["seed"], state["t"], layer))
            layers.append(newborn(watch, pick))
            chosen.append(pick)
            left_behind.append(left)
        t = state["t"] + 1
        sizes = (params[0][0].shape[1], *(len(b) for _, b in params))
        return (rebirth(params, chosen, state["fresh"], left_behind), forget(memory, chosen),
                {"watch": layers, "seed": state["seed"], "t": t,
                 "fresh": fresh_weights(state["seed"], t, sizes, "relu")})

    return Renewal(start, step, settings, name, check)


def replacement(utility: str | None = "contribution") -> Renewal:
    """Continual backprop after each minibatch, for ReLU networks.

    Parameters
    ----------
    utility : str or None
        A name in `UTILITIES`; None makes it a setting, as for `continual_backprop`. The
        contribution is that of the mean activity: ReLUs are never negative, so its magnitude is the
        mean magnitude.
    """
    random = list(UTILITIES).index("random")

    def judge(units, h, w_in, w_out, hyper, place):
        seed, t, layer = place
        units, u_hat, f_hat = appraise(units, h.mean(0), w_in, w_out, hyper, utility)
        if utility in ("random", None):
            where = torch.arange(h.shape[1], device=h.device)
            ranks = keyed_random.uniform(seed, keyed_random.RANDOM_UTILITY, t, where + 2**20 * layer)
            u_hat = ranks if utility else torch.where(hyper["utility"] == random, ranks, u_hat)
        units, pick = choose(units, u_hat, hyper)
        return units, pick, f_hat

    settings = {"replacement_rate": 1e-4, "utility_decay": 0.99, "maturity_threshold": 10_000.0,
                **({} if utility else {"utility": 0})}
    return _replacing(new_units, judge, settings, f"replacement {utility}")


def dormancy_reset() -> Renewal:
    """Give ReDo (Sokar et al. 2023): every `reset_period` minibatches, replace what is dormant."""
    remembers, criterion, settings, check = criterion_named("redo")

    def judge(watch, h, w_in, w_out, hyper, place):
        watch, wanted = criterion(watch, h.abs().mean(0), place[1], hyper)
        return watch, one_of(wanted), torch.zeros_like(w_in)

    return _replacing(partial(unwatched, remembers), judge, settings, "dormancy_reset", check)
