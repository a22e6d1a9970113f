"""What becomes of the weights of a convolutional network when a new task begins."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dyndl_lite.learning import Learner
from dyndl_lite.models.cnn import initialise, Layout

#: What may happen to a net's weights when a task begins: params, fresh params, hyper -> params.
RENEWALS = {
    "heads": lambda params, fresh, hyper: [*params[:-1], fresh[-1]],
    "all": lambda params, fresh, hyper: fresh,
    "shrink and perturb": lambda params, fresh, hyper: tree_map(
        lambda w, new: hyper["shrink"] * w + hyper["perturb"] * new, params, fresh),
}


def renewed(learner: Learner, layout: Layout, begins: Callable, renewal: str) -> Learner:
    """Let a learner begin its tasks with other weights.

    Parameters
    ----------
    learner : Learner
        Of `convolution`, `channels` or `image_layers`, or such a one with noise
        (`remedies.perturbed`).
    layout : Layout
    begins : function of t, an int64 scalar tensor
        Says whether a task begins at that minibatch (`image_classes.ClassPairs.begins`).
    renewal : str
        "heads": new tasks find the last layer at zero (Continual ImageNet). "all": a network
        from scratch. "shrink and perturb": all weights become ``shrink`` times as large, and
        ``perturb`` times those of a new network are added (Ash and Adams 2020).

    Returns
    -------
    Learner
        The optimiser's memory of what is renewed is cleared.
    """
    change = RENEWALS[renewal]
    redrawn = renewal != "heads"  # the new head is zero: nothing to draw

    def start(seed: Tensor) -> dict:
        return {**learner.start(seed), "tasks": (seed.clone(), torch.zeros_like(seed))}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        seed, t = net["tasks"]
        now = begins(t) & (t > 0)  # a new net is new already
        params, memory = net["params"], net["memory"]
        fresh = (initialise(seed + 2**20 * t, layout) if redrawn
                 else tree_map(torch.zeros_like, params))
        nothing = tree_map(torch.zeros_like, memory)
        forgotten = {name: change(part, nothing[name], {"shrink": 0.0, "perturb": 0.0})
                     if isinstance(part, list) else part  # not of single weights: stays
                     for name, part in memory.items()}

        def if_now(new, old):
            return tree_map(lambda a, b: torch.where(now, a, b), new, old)

        params, memory = if_now(change(params, fresh, hyper), params), if_now(forgotten, memory)
        net, score = learner.step({**net, "params": params, "memory": memory}, hyper, x, y)
        return {**net, "tasks": (seed, t + 1)}, score

    extra = {"shrink": 0.4, "perturb": 0.1} if renewal == "shrink and perturb" else {}
    return learner._replace(start=start, step=step, settings={**learner.settings, **extra},
                            description=f"renewed {renewal} {learner.description}")
