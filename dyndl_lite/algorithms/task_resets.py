"""What becomes of a network's weights when a new task begins, for learners who are told."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import Learner

RENEWALS = ("heads", "all", "shrink and perturb")


def renewed(learner: Learner, renewal: str = "heads", begins: Callable | None = None) -> Learner:
    """Let a learner begin its tasks with other weights; the optimiser's memory of them is cleared.

    It is done before the first example of a task, not after the last one of the task before, so
    that what a probe sees at the end of a task is the net that learned it.

    Parameters
    ----------
    learner : Learner
        Any that keeps ``params``, a list of layers, and an optimiser's ``memory``.
    renewal : str
        "heads": new tasks find the last layer at zero (Continual ImageNet). "all": a network from
        scratch. "shrink and perturb": all weights become ``shrink`` times as large, and ``perturb``
        times those of a new network are added (Ash and Adams 2020).
    begins : function of t, an int64 scalar tensor, optional
        Says whether a task begins at that example (`image_classes.ClassPairs.begins`). None: every
        ``reset_period`` examples, a setting.

    Raises
    ------
    ValueError
        If the renewal is unknown; before a run, if the period is less than 1.
    """
    if renewal not in RENEWALS:
        raise ValueError(f"renewal {renewal!r} is unknown: use one of {RENEWALS}")

    def start(seed: Tensor) -> dict:
        return {**learner.start(seed), "tasks": (seed.clone(), torch.zeros_like(seed))}

    def new_weights(params, seed, t, hyper):
        if renewal == "heads":
            return tree_map(torch.zeros_like, params)
        fresh = learner.start(random.bits(seed, random.WEIGHTS, t, 2**30))["params"]
        if renewal == "all":
            return fresh
        return tree_map(lambda w, new: hyper["shrink"] * w + hyper["perturb"] * new, params, fresh)

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        seed, t = net["tasks"]
        first = begins(t) if begins else t % hyper["reset_period"].long() == 0
        now = first & (t > 0)  # a new net is new already
        params, memory = net["params"], net["memory"]
        new = new_weights(params, seed, t, hyper)

        def changed(old, new):
            kept = len(old) - 1 if renewal == "heads" else 0
            return [*old[:kept], *tree_map(lambda a, b: torch.where(now, b, a), old[kept:], new[kept:])]

        nothing = tree_map(torch.zeros_like, params)
        memory = {**memory, **{kind: {name: changed(part, value) for name, part in memory[kind].items()}
                               for kind, value in (("per_weight", nothing), ("initial", new))}}
        net = {**net, "params": changed(params, new), "memory": memory}
        net, score = learner.step(net, hyper, x, y)
        return {**net, "tasks": (seed, t + 1)}, score

    def check(setting: dict) -> None:
        learner.check(setting)
        if setting.get("reset_period", 1) < 1:
            raise ValueError(f"reset_period {setting['reset_period']}: give 1 or more examples")

    extra = {"shrink": 0.4, "perturb": 0.1} if renewal == "shrink and perturb" else {}
    extra |= {} if begins else {"reset_period": 10_000.0}
    return learner._replace(start=start, step=step, check=check,
                            settings={**learner.settings, **extra},
                            description=f"renewed {renewal} {learner.description}")
