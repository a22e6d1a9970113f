"""Remedies that start units afresh by other criteria than utility: found dormant, or too long silent.

ReDo (Sokar et al. 2023) and self-normalised resets (Farias and Jozefiak 2024) replace units as
continual backprop does; they differ in how they tell whose turn it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dyndl_lite.algorithms.backprop import named
from dyndl_lite.algorithms.optimisers import momentum
from dyndl_lite.algorithms.replace_units import replace_units
from dyndl_lite.learning import (Intervention, Learner, learner, minibatch_cross_entropy, Optimiser,
                                 sgd, squared_error)
from dyndl_lite.models.cnn import cnn, Layout
from dyndl_lite.models.mlp import mlp


class Criterion(NamedTuple):
    """What a layer keeps of its units, and which of them should be reset."""

    stats: tuple[str, ...]  # names of what is kept of every unit, 0 at its birth
    judge: Callable  # stats, magnitude [units], t, hyper -> stats, wanted [units], bool
    settings: dict[str, float]


def _dormant(stats: dict, magnitude: Tensor, t: Tensor, hyper: dict) -> tuple[dict, Tensor]:
    """Every reset_period examples mark the units whose activity is a small share of the mean."""
    activity = stats["activity"] + magnitude
    check = (t + 1) % hyper["reset_period"].long() == 0
    dormant = (activity <= hyper["dormancy"] * activity.mean()).to(magnitude.dtype)
    marked = torch.where(check, dormant, stats["marked"])
    return {"activity": torch.where(check, 0.0, activity), "marked": marked}, marked > 0


def _silent(stats: dict, magnitude: Tensor, t: Tensor, hyper: dict) -> tuple[dict, Tensor]:
    """Want a unit reset whose silence would be too improbable in view of its own past."""
    fired = magnitude != 0
    silence = torch.where(fired, 0.0, stats["silence"] + 1)
    firings, age = stats["firings"] + fired.to(magnitude.dtype), stats["age"] + 1
    # Mean time from one firing to the next; one interval of maturity_threshold counts in
    # advance, so that a newborn unit is given time.
    least = hyper["maturity_threshold"]
    interval = (age - silence + least) / (firings + 1)
    evidence = -silence * torch.log1p(-1 / interval)  # -log P(silence or longer)
    wanted = (silence > least) & (evidence >= -torch.log(hyper["rejection"]))
    return {"silence": silence, "firings": firings, "age": age}, wanted


CRITERIA = {
    "redo": Criterion(("activity", "marked"), _dormant,
                      {"reset_period": 1000.0, "dormancy": 0.025}),
    "self_normalised": Criterion(("silence", "firings", "age"), _silent,
                                 {"rejection": 0.01, "maturity_threshold": 100.0}),
}


def _check(setting: dict, hidden: tuple[int, ...]) -> None:
    for name in ("reset_period", "maturity_threshold"):
        if setting.get(name, 1) < 1:
            raise ValueError(f"{name} {setting[name]}: give 1 or more examples")
    if not 0 < setting.get("rejection", 1) <= 1:
        raise ValueError(f"rejection {setting['rejection']} is a probability: give one from above 0 "
                         "to 1")


def unit_reset(criterion: str, activation: str = "relu") -> Intervention:
    """Reset the units that a criterion names.

    ``"redo"``: every `reset_period` steps, a unit is dormant if its mean activity since the
    last check is at most `dormancy` times the mean of its layer (Sokar et al. 2023, Definition
    3.1). ``"self_normalised"``: a unit is too long silent if so long a silence has a probability
    of at most `rejection`, where silences are taken to be geometric with the mean of the unit's
    own past; silences of up to `maturity_threshold` always pass. (Farias and Jozefiak 2024 have such a
    test of the unit's own past too; their released code compares the silence with a percentile of
    the silences that the unit itself has had, which needs no distribution, but a memory of them.)

    In a layer one unit is reset at a step: if more are wanted, the others follow in the next steps.
    A unit's activity in a minibatch is its mean magnitude there; it is silent if it fires nowhere.

    Raises
    ------
    ValueError
        If the criterion is unknown.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion {criterion!r} is unknown: use one of {list(CRITERIA)}")
    names, judge, settings = CRITERIA[criterion]

    def stats(units, device):
        return {name: torch.zeros(units, device=device) for name in names}

    def select(stats, H, w_in, w_out, hyper, where):
        stats, wanted = judge(stats, H.abs().mean(0), where[1], hyper)
        # Of bytes, torch 2.13's compiled argmax goes astray.
        return stats, (wanted.float().argmax(), wanted.any()), torch.zeros_like(w_in)

    return replace_units(f"unit_reset {criterion}", stats, select, settings, _check, activation)


def resetting(sizes: tuple[int, ...], criterion: str, activation: str = "relu",
              loss: Callable = squared_error, optimiser: Optimiser = sgd) -> Learner:
    """Make a backprop learner with `unit_reset`; parameters are those of `backprop`."""
    return named("resetting", learner(mlp(sizes, activation), loss, optimiser,
                                      unit_reset(criterion, activation)))


def conv_resetting(layout: Layout, criterion: str, optimiser: Optimiser = momentum) -> Learner:
    """Make a learner of minibatches of images with `unit_reset`; steps are minibatches."""
    return named("conv_resetting", learner(cnn(layout), minibatch_cross_entropy, optimiser,
                                           unit_reset(criterion)))
