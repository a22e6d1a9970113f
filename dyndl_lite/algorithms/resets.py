"""Remedies that start parts of a net afresh: units found dormant, units too long silent, heads.

ReDo (Sokar et al. 2023) and self-normalised resets (Farias and Jozefiak 2024) replace units as
continual backprop does, with its own functions; they differ in how they tell whose turn it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dyndl_lite.algorithms.continual_backprop import forget, fresh_weights, newborn, rebirth
from dyndl_lite.learning import gradient_step, Learner, Optimiser, sgd, squared_error
from dyndl_lite.models.mlp import initialise


class Criterion(NamedTuple):
    """What a layer remembers of its units, and which of them it wants replaced."""

    remembers: tuple[str, ...]  # names of what is kept of every unit, 0 at its birth
    judge: Callable  # watch, h, t, hyper -> watch, wanted [units], bool
    settings: dict[str, float]
    check: Callable  # raises ValueError for a setting that cannot run


def unwatched(remembers: tuple[str, ...], units: int, device: torch.device) -> dict[str, Tensor]:
    """Give what is kept of the units of a new layer."""
    return {name: torch.zeros(units, device=device) for name in remembers}


def one_of(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Pick one of the units that are wanted [units]: which, and whether there is any."""
    return wanted.float().argmax(), wanted.any()  # of bytes, compiled, argmax goes astray


def _dormant(watch: dict, h: Tensor, t: Tensor, hyper: dict) -> tuple[dict, Tensor]:
    """Every reset_period examples mark the units whose activity is a small share of the mean."""
    activity = watch["activity"] + h.abs()
    check = (t + 1) % hyper["reset_period"].long() == 0
    dormant = (activity <= hyper["dormancy"] * activity.mean()).to(h.dtype)
    marked = torch.where(check, dormant, watch["marked"])
    return {"activity": torch.where(check, 0.0, activity), "marked": marked}, marked > 0


def _silent(watch: dict, h: Tensor, t: Tensor, hyper: dict) -> tuple[dict, Tensor]:
    """Want a unit replaced whose silence would be too improbable in view of its own past."""
    fired = h != 0
    silence = torch.where(fired, 0.0, watch["silence"] + 1)
    firings, age = watch["firings"] + fired.to(h.dtype), watch["age"] + 1
    # Mean time from one firing to the next; one interval of maturity_threshold counts in
    # advance, so that a newborn unit is given time.
    least = hyper["maturity_threshold"]
    interval = (age - silence + least) / (firings + 1)
    evidence = -silence * torch.log1p(-1 / interval)  # -log P(silence or longer)
    wanted = (silence > least) & (evidence >= -torch.log(hyper["rejection"]))
    return {"silence": silence, "firings": firings, "age": age}, wanted


def _check(setting: dict) -> None:
    if setting.get("reset_period", 1) < 1:
        raise ValueError(f"reset_period {setting['reset_period']}: give 1 or more examples")
    if not 0 < setting.get("rejection", 1) <= 1:
        raise ValueError(f"rejection {setting['rejection']} is a probability: give one from "
                         "above 0 to 1")
    if setting.get("maturity_threshold", 1) < 1:
        raise ValueError(f"maturity_threshold {setting['maturity_threshold']}: give 1 or more "
                         "examples")


CRITERIA = {
    "redo": Criterion(("activity", "marked"), _dormant,
                      {"reset_period": 1000.0, "dormancy": 0.025}, _check),
    "self_normalised": Criterion(("silence", "firings", "age"), _silent,
                                 {"rejection": 0.01, "maturity_threshold": 100.0}, _check),
}


def criterion_named(name: str) -> Criterion:
    """Find a criterion.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in CRITERIA:
        raise ValueError(f"criterion {name!r} is unknown: use one of {list(CRITERIA)}")
    return CRITERIA[name]


def resetting(sizes: tuple[int, ...], criterion: str, activation: str = "relu",
              loss: Callable = squared_error, optimiser: Optimiser = sgd) -> Learner:
    """Make a backprop learner that replaces the units which a criterion names.

    ``"redo"``: every `reset_period` examples, a unit is dormant if its mean activity since the
    last check is at most `dormancy` times the mean of its layer (Sokar et al. 2023, Definition
    3.1). ``"self_normalised"``: a unit is too long silent if so long a silence has a probability
    of at most `rejection`, where silences are taken to be geometric with the mean of the unit's
    own past (Farias and Jozefiak 2024); silences of up to `maturity_threshold` always pass.

    A replaced unit gets fresh incoming weights, no bias, no outgoing weights, and the optimiser
    forgets it. In a layer one unit is replaced at an example: if more are wanted, the others
    follow in the next examples.

    Parameters
    ----------
    sizes, activation, loss, optimiser
        As for `backprop`.
    criterion : str
        A name in `CRITERIA`.

    Raises
    ------
    ValueError
        If the criterion is unknown or there is no hidden layer.
    """
    remembers, judge, own_settings, check = criterion_named(criterion)
    if len(sizes) < 3:
        raise ValueError(f"sizes {sizes}: resets need a hidden layer")

    def start(seed: Tensor) -> dict:
        params, now = initialise(seed, sizes, activation), torch.zeros_like(seed)
        return {
            "params": params,
            "memory": optimiser.start(params),
            "watch": [unwatched(remembers, n, seed.device) for n in sizes[1:-1]],
            "seed": seed.clone(),
            "t": now,
            "fresh": fresh_weights(seed, now, sizes, activation),
        }

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params, memory, features, score = gradient_step(net, hyper, x, y, activation, loss,
                                                        optimiser)
        layers, chosen = [], []
        for watch, h in zip(net["watch"], features):
            watch, wanted = judge(watch, h, net["t"], hyper)
            pick = one_of(wanted)
            layers.append(newborn(watch, pick))
            chosen.append(pick)
        t = net["t"] + 1
        return {
            "params": rebirth(params, chosen, net["fresh"], [torch.zeros_like(h) for h in features]),
            "memory": forget(memory, chosen),
            "watch": layers,
            "seed": net["seed"],
            "t": t,
            "fresh": fresh_weights(net["seed"], t, sizes, activation),
        }, score

    description = f"resetting {criterion} {sizes} {activation} {loss.__name__} {optimiser.name}"
    return Learner(start, step, {**optimiser.settings, **own_settings}, description, sizes[-1],
                   check)


def heads_reset(learner: Learner) -> Learner:
    """Set the output weights of a learner to zero every `reset_period` examples.

    With the length of a task as period, this is a learner who is told when a new task begins.

    Parameters
    ----------
    learner : Learner
        Any that keeps ``params`` and an optimiser's ``memory``.
    """

    def start(seed: Tensor) -> dict:
        return {**learner.start(seed), "clock": torch.zeros_like(seed)}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        t = net["clock"]
        now = (t > 0) & (t % hyper["reset_period"].long() == 0)

        def emptied(pairs):
            return [*pairs[:-1], tuple(torch.where(now, 0.0, a) for a in pairs[-1])]

        net = {**net, "params": emptied(net["params"]),
               "memory": {name: emptied(pairs) for name, pairs in net["memory"].items()}}
        net, score = learner.step(net, hyper, x, y)
        return {**net, "clock": t + 1}, score

    def check(setting: dict) -> None:
        learner.check(setting)
        if setting["reset_period"] < 1:
            raise ValueError(f"reset_period {setting['reset_period']}: give 1 or more examples")

    return learner._replace(start=start, step=step, check=check,
                            settings={**learner.settings, "reset_period": 10_000.0},
                            description=f"heads_reset {learner.description}")
