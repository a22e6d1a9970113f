"""How far may the outputs go at one example? A bound that is learned by trying.

How much of its error an output should correct depends on how much of it can be explained: nearly
all where there is no noise, a hundredth where there is little else. No gradient at one example
tells, for what a larger step does shows many examples later. So beside the outputs that answer
there are two *trials*, which hear the same sources with weights of their own: one is held to half
the bound, one to twice the bound. Nobody hears them and no unit learns from them. Whichever errs less
draws the bound to its side.
"""

import torch
from torch import Tensor

TRIALS = (0.5, 2.0)  # times the bound
LEAST, MOST = 1e-3, 1.0  # bounds that can be learned
_MEMORY = 0.999  # of how far the trials' losses commonly are apart
_LEAST_APART = 1e-4  # of the losses: who answer alike, but for rounding, say nothing


def new_trials(output: Tensor) -> dict[str, Tensor]:
    """Start both trials with the outputs' weights [outputs, sources + 1]."""
    none = torch.zeros_like(output[0, 0])
    return {"weights": torch.stack([output, output]), "log": none, "apart": none.clone()}


def bound_of(trials: dict, hyper: dict) -> Tensor:
    """Give the bound of the outputs: the setting, times what was learned."""
    return hyper["bound"] * torch.exp(trials["log"])


def judge(trials: dict, losses: Tensor, hyper: dict) -> dict:
    """Move the bound towards the trial that errs less at this example.

    Losses [2] are those with half the bound and with twice. Their difference counts in units of
    its common size, at most 3 of them (and nearly always 3 before that is known).
    """
    difference = torch.nan_to_num(losses[0] - losses[1])  # a trial that overflows spoils nothing
    apart = trials["apart"] + (1 - _MEMORY) * (difference.abs() - trials["apart"])
    least = _LEAST_APART * torch.nan_to_num(losses.sum()) + 1e-30
    by = torch.clamp(difference / torch.maximum(apart, least), -3, 3)
    moved = torch.clamp(trials["log"] + hyper["bound_rate"] * by,
                        torch.log(LEAST / hyper["bound"]), torch.log(MOST / hyper["bound"]))
    log = torch.where(hyper["bound_rate"] > 0, moved, trials["log"])
    return {**trials, "log": log, "apart": apart}
