"""Who is alive, who is useful, who is born: the population of a dynamic network.

The sources of a network are its inputs and, after them, its hidden units. All have a place from
the start; a hidden unit of level 0 is an empty place.
"""

import torch
from torch import Tensor


def new_units(units: int, inputs: int, device=None) -> dict[str, Tensor]:
    """What is known of the sources (inputs, then hidden units) before the first example."""
    sources = torch.zeros(inputs + units, device=device)
    return {
        "age": sources,  # examples since birth
        "mean": sources.clone(),  # running mean of the activity
        "spread": sources.clone(),  # running mean of |activity - mean|
        "level": torch.zeros(units, device=device),  # 0: an empty slot; 1: hears inputs only
        "backbone": torch.zeros(units, device=device),  # 1: it is listened to
        "due": torch.zeros((), device=device),  # births owed, a fraction
    }


def watch(units: dict, s: Tensor, hyper: dict) -> dict:
    """Follow every source: plain averages at first, exponential ones later."""
    alive = torch.cat([torch.ones_like(s[:-units["level"].shape[0]]), units["level"] > 0])
    age = units["age"] + alive
    first = 1 / torch.clamp(age, min=1)
    mean = units["mean"] + torch.maximum(first, 1 - hyper["mean_decay"]) * (s - units["mean"])
    apart = (s - mean).abs() - units["spread"]
    spread = units["spread"] + torch.maximum(first, 1 - hyper["utility_decay"]) * apart
    return {**units, "age": age, "mean": mean, "spread": spread}


def utility(params: dict, units: dict, depth: int, keep: float = 0.1) -> Tensor:
    """Utility that each unit receives, one unit of it starting at every output.

    As `backbone.propagate`, for levels instead of layers.
    """
    size, inputs = units["level"].shape[0], units["mean"].shape[0] - units["level"].shape[0]
    received = _shares(params["output"], units["spread"]).sum(0)[inputs:]
    for this in range(depth, 1, -1):
        passed = (1 - keep) * torch.where(units["level"] == this, received, 0.0)
        received = received + (passed @ _shares(params["hidden"], units["spread"]))[-size:]
    return received


def _shares(weights: Tensor, spread: Tensor) -> Tensor:
    """Share of each source in what each listener uses; 0 where it uses nothing."""
    use = weights[:, :-1].abs() * spread[:weights.shape[1] - 1]
    return use / torch.clamp(use.sum(1, keepdim=True), min=1e-30)


def guard(units: dict, received: Tensor, links: Tensor, shadow: Tensor, outputs: int,
          hyper: dict) -> tuple[dict, Tensor]:
    """Keep the boundary: who is on the backbone, and a master for those who fall off it.

    Utility counts in equal shares: 1 is what each living unit would have if all had the same.
    """
    alive = units["level"] > 0
    shares = received * alive.sum() / outputs
    was = units["backbone"] > 0
    now = alive & torch.where(was, shares >= hyper["leave"], shares > hyper["join"])
    listener = torch.arange(links.shape[0], device=links.device)[:, None]
    best = links.abs().argmax(0) == listener  # who listens most becomes the master
    wish = torch.where(best, torch.where(links < 0, -1.0, 1.0), 0.0)
    shadow = torch.where(was & ~now, wish, shadow)
    return {**units, "backbone": now.to(shares.dtype)}, shadow


def births(units: dict, received: Tensor, hyper: dict) -> tuple[dict, Tensor, Tensor]:
    """Decide whether a unit is born at this example, and where.

    While there is room, at the growth rate, into the first empty place. After that, at the
    replacement rate, in place of the mature unit that receives the least utility.

    Returns
    -------
    units : dict
    born : bool tensor [units]
        True for one unit or none.
    room : bool scalar tensor
    """
    level, age = units["level"], units["age"][-units["level"].shape[0]:]
    empty, mature = level == 0, (level > 0) & (age > hyper["maturity_threshold"])
    room = empty.any()
    rate = torch.where(room, hyper["growth_rate"], hyper["replacement_rate"] * mature.sum())
    due = units["due"] + rate
    order = torch.where(empty, -1.0, torch.where(mature, received, torch.inf))
    now = (due >= 1) & (room | mature.any())
    born = (torch.arange(level.shape[0], device=level.device) == order.argmin()) & now
    return {**units, "due": due - now.to(due.dtype)}, born, room


def newborn(units: dict, born: Tensor, level: Tensor) -> dict:
    """Start a unit of a given level from nothing: it inherits no age, mean or utility."""
    new = torch.cat([torch.zeros(units["age"].shape[0] - born.shape[0], dtype=torch.bool,
                                 device=born.device), born])
    cleared = {name: torch.where(new, 0.0, units[name]) for name in ("age", "mean", "spread")}
    return {**units, **cleared, "level": torch.where(born, level, units["level"]),
            "backbone": torch.where(born, 0.0, units["backbone"])}


def listen(weights: Tensor, memory: dict, born: Tensor, row: Tensor) -> tuple[Tensor, dict]:
    """Give the newborn its incoming weights and bias; their memory starts from nothing."""
    new = born[:, None]
    memory = {name: torch.where(new, 0.0, value) for name, value in memory.items()}
    return torch.where(new, row, weights), memory


def be_heard(weights: Tensor, memory: dict, born: Tensor, mean: Tensor,
             step_size: Tensor) -> tuple[Tensor, dict]:
    """Let listeners forget the unit that was in the newborn's place, all but its mean.

    Their biases take the mean of what it said; then its weight is 0, and its step size the
    newcomer's (0 stands for the first step size of all weights).

    Parameters
    ----------
    weights : tensor [listeners, sources + 1]
    memory : dict of tensors like it
    born : bool tensor [units], the last of the sources
    mean : tensor [units]
    step_size : scalar
    """
    inputs = weights.shape[1] - 1 - born.shape[0]
    left = (weights[:, inputs:-1] * torch.where(born, mean, 0.0)).sum(1)
    new = torch.cat([torch.zeros(inputs, dtype=torch.bool, device=born.device), born,
                     torch.zeros_like(born[:1])])
    cleared = torch.where(new, 0.0, weights)
    weights = torch.cat([cleared[:, :-1], (cleared[:, -1] + left)[:, None]], 1)
    memory = {name: torch.where(new, step_size if name == "alpha" else 0.0, value)
              for name, value in memory.items()}
    return weights, memory
