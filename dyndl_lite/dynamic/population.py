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


def update_statistics(units: dict, s: Tensor, hyper: dict) -> dict:
    """Follow every source: plain averages at first, exponential ones later."""
    size = units["level"].shape[0]
    alive = torch.cat([torch.ones_like(s[:-size]), units["level"] > 0])
    age = units["age"] + alive
    first = 1 / torch.clamp(age, min=1)
    unit = torch.arange(s.shape[0], device=s.device) >= s.shape[0] - size
    rate = 1 - torch.where(unit, hyper["mean_decay"], hyper["input_mean_decay"])
    mean = units["mean"] + torch.maximum(first, rate) * (s - units["mean"])
    apart = (s - mean).abs() - units["spread"]
    spread = units["spread"] + torch.maximum(first, 1 - hyper["utility_decay"]) * apart
    return {**units, "age": age, "mean": mean, "spread": spread}


def utility(params: dict, units: dict, depth: int, hyper: dict, keep: float = 0.1) -> Tensor:
    """Utility that each unit receives, one unit of it starting at every output.

    As `backbone.propagate`, for levels instead of layers. With the setting `propagation` at 0
    the outputs do not share out one unit each, but all of theirs together: then a unit is worth
    its contribution, as in continual backprop.
    """
    size, inputs = units["level"].shape[0], units["mean"].shape[0] - units["level"].shape[0]
    use = _use(params["output"], units["spread"])
    together = use.shape[0] * use.sum(0) / torch.clamp(use.sum(), min=1e-30)
    apart = _shares(params["output"], units["spread"]).sum(0)
    received = torch.where(hyper["propagation"] > 0, apart, together)[inputs:]
    for this in range(depth, 1, -1):
        passed = (1 - keep) * torch.where(units["level"] == this, received, 0.0)
        received = received + (passed @ _shares(params["hidden"], units["spread"]))[-size:]
    return received


def _use(weights: Tensor, spread: Tensor) -> Tensor:
    """How much of what each listener says comes from each source."""
    return weights[:, :-1].abs() * spread[:weights.shape[1] - 1]


def _shares(weights: Tensor, spread: Tensor) -> Tensor:
    """Share of each source in what each listener uses; 0 where it uses nothing."""
    use = _use(weights, spread)
    return use / torch.clamp(use.sum(1, keepdim=True), min=1e-30)


def update_backbone(units: dict, received: Tensor, links: Tensor, shadow: Tensor, outputs: int,
                    hyper: dict) -> tuple[dict, Tensor]:
    """Keep the boundary: who is on the backbone, and a master for those who fall off it.

    Utility counts in equal shares: 1 is what each living unit would have if all had the same.
    """
    alive = units["level"] > 0
    shares = received * alive.to(received.dtype).sum() / outputs
    was = units["backbone"] > 0
    now = alive & torch.where(was, shares >= hyper["leave"], shares > hyper["join"])
    listener = torch.arange(links.shape[0], device=links.device)[:, None]
    heeded = torch.cat([links.new_ones(outputs), now.to(links.dtype)])[:links.shape[0], None]
    # Who listens most becomes the master, if it is an output or of the backbone.
    best = (heeded * links.abs()).argmax(0) == listener
    wish = torch.where(best, torch.where(links < 0, -1.0, 1.0), 0.0)
    shadow = torch.where(was & ~now, wish, shadow)
    return {**units, "backbone": now.to(shares.dtype)}, shadow


def births(units: dict, received: Tensor, hunger: Tensor, pace: Tensor,
           hyper: dict) -> tuple[dict, Tensor, Tensor, Tensor]:
    """Decide whether a unit is born at this example, and where; or whether one dies.

    Where there is room, at the growth rate, into the first empty place. Where there is none, in place
    of the mature unit (with `protection`, of the fringe) that receives the least utility, at the
    replacement rate times the number of such units, the hunger of the hungriest output (where
    nothing is left to be learned, nobody need make way), and the pace: who may correct little of its
    error at one example needs many to tell what a newborn is worth.

    With the setting `fringe` there is room only while fewer units than that are of the fringe, so
    that births into room follow those who join. When there are more (some fell off the backbone, or
    all were there from the start), the mature one that receives the least dies, and nobody takes its
    place. Gives the units, the number of the unit that is born or dies, or -1, whether there is room,
    and whether one dies.
    """
    level, age = units["level"], units["age"][-units["level"].shape[0]:]
    empty, mature = level == 0, (level > 0) & (age > hyper["maturity_threshold"])
    mature = mature & ((units["backbone"] == 0) | (hyper["protection"] == 0))
    # Counted in floating point: integers and flags cost the compiled loop more than they say.
    of_fringe = (level > 0) & (units["backbone"] == 0)
    size = of_fringe.to(age.dtype).sum()
    most = torch.where(hyper["fringe"] > 0, hyper["fringe"], torch.inf)
    room, grown = (empty.to(age.dtype).sum() > 0) & (size < most), mature.to(age.dtype).sum()
    hunger = torch.where(hyper["hungry_births"] > 0, torch.clamp(hunger, max=1), 1.0)
    rate = torch.where(room, hyper["growth_rate"], hyper["replacement_rate"] * hunger * pace * grown)
    due = units["due"] + torch.clamp(rate, max=1)  # more can not be born, nor be owed
    now = (due >= 1) & (room | (grown > 0))
    dies = (size > most) & ~now & ((mature & of_fringe).to(age.dtype).sum() > 0)
    order = torch.where(mature & (of_fringe | ~dies), received, torch.inf)
    order = torch.where(room & empty, -1.0, order)
    number = torch.arange(order.shape[0], dtype=age.dtype, device=age.device)
    first = torch.where(order == order.min(), number, torch.inf).min()
    place = torch.where(now | dies, first, -1.0)
    return {**units, "due": due - now.to(due.dtype)}, place, room, dies


def _at(place: Tensor, length: int, after: int = 0) -> Tensor:
    """Mask [length] of one place, counted from `after`; of none if the place is -1."""
    where = torch.arange(length, dtype=place.dtype, device=place.device)
    return (where == place + after) & (where >= after)


def newborn(units: dict, place: Tensor, level: Tensor) -> dict:
    """Start a unit of a given level from nothing: it inherits no age, mean or utility."""
    size, sources = units["level"].shape[0], units["age"].shape[0]
    new = _at(place, sources, sources - size)
    cleared = {name: torch.where(new, 0.0, units[name]) for name in ("age", "mean", "spread")}
    here = _at(place, size)
    return {**units, **cleared, "backbone": torch.where(here, 0.0, units["backbone"]),
            "level": torch.where(here, level, units["level"])}


def assign_master(shadow: Tensor, place: Tensor, wish: Tensor, outputs: int) -> Tensor:
    """Give the newborn its master and shadow weight: its column [listeners] of the matrix.

    Who served the unit that was in its place has no master any more.
    """
    shadow = torch.where(_at(place, shadow.shape[0], outputs)[:, None], 0.0, shadow)
    return torch.where(_at(place, shadow.shape[1]), wish[:, None], shadow)


def init_incoming(weights: Tensor, memory: dict, place: Tensor, row: Tensor) -> tuple[Tensor, dict]:
    """Give the newborn its incoming weights and bias; their memory starts from nothing."""
    new = _at(place, weights.shape[0])[:, None]
    memory = {name: torch.where(new, 0.0, value) for name, value in memory.items()}
    return torch.where(new, row, weights), memory


def reset_outgoing(weights: Tensor, memory: dict, place: Tensor, mean: Tensor,
                   step_size: Tensor) -> tuple[Tensor, dict]:
    """Let listeners forget the unit that was in the newborn's place, all but its mean.

    Their biases take the mean of what it said; then its weight is 0, and its step size the
    newcomer's (0 stands for the first step size of all weights). Weights and memory are [listeners,
    sources + 1], means [units], and the units are the last of the sources.
    """
    size = mean.shape[0]
    inputs = weights.shape[1] - 1 - size
    left = (weights[:, inputs:-1] * torch.where(_at(place, size), mean, 0.0)).sum(1, keepdim=True)
    bias = torch.arange(weights.shape[1], device=place.device) == weights.shape[1] - 1
    new = _at(place, weights.shape[1], inputs)
    weights = torch.where(new, 0.0, weights) + torch.where(bias, left, 0.0)
    memory = {name: torch.where(new, step_size if name == "alpha" else 0.0, value)
              for name, value in memory.items()}
    return weights, memory
