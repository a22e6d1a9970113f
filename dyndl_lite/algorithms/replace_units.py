"""The loop of every remedy that replaces units: judge them, reinitialise one, forget it, draw fresh weights.

Whatever selects units (`continual_backprop`, `resets`) is a function of one layer. A unit of a
convolution is a channel: it says something at many places, has one set of incoming weights, and a
block of outgoing ones.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import Chains, Intervention, ONE_CHAIN
from dyndl_lite.models.mlp import weight_bound

Chosen = tuple[Tensor, Tensor]  # index of a unit, and whether it is replaced at this example


def replace_units(name: str, new_unit_stats: Callable, select: Callable, settings: dict[str, float],
                  check: Callable = lambda setting, hidden: None, activation: str = "relu",
                  survives: tuple[str, ...] = (), chains: Chains = ONE_CHAIN) -> Intervention:
    """Make an intervention that reinitialises at most one unit a layer and step.

    A reinitialised unit gets fresh incoming weights, no bias and no outgoing weights, and the
    optimiser forgets all of them.

    Parameters
    ----------
    name : str
    new_unit_stats : function of (units, device)
        What is kept of a layer's units at first: tensors [units], 0 at birth, or scalars of the
        layer.
    select : function of (stats, H, w_in, w_out, hyper, where)
        H [n, units] are the activities at n examples or places, `w_in` and `w_out` [units] the
        summed magnitudes of incoming and outgoing weights, `where` is (seed, t, layer). Gives the
        stats, the unit chosen (index, whether now), and the mean activities [units] that listeners
        take into their biases.
    settings, check
        Check takes a setting and the units of each hidden layer.
    activation : str
        Sets the scale of fresh incoming weights.
    survives : tuple of str
        Names of the optimiser's memory per weight that a replacement does not clear.
    chains : Chains
    """

    def init(seed: Tensor, params) -> dict:
        layers = [layer for chain in chains.split(params) for layer in chain[:-1]]
        t = torch.zeros_like(seed)
        return {"units": [new_unit_stats(len(b), seed.device) for _, b, *_ in layers],
                "seed": seed.clone(), "t": t,
                "fresh": fresh_weights(seed, t, [W[0].numel() for W, *_ in layers], activation)}

    def apply(params, memory, state, features, hyper):
        parts = chains.split(params)
        links = [pair for chain in parts for pair in zip(chain, chain[1:])]
        judged = []
        for layer, ((incoming, outgoing), h) in enumerate(zip(links, features)):
            judged.append(selected(select, state["units"][layer], activities(h), incoming[0],
                                   outgoing[0], hyper, (state["seed"], state["t"], layer)))
        units, chosen, means = map(list, zip(*judged))

        def everywhere(tree, change):  # chain by chain, each with its own part of the hidden layers
            new, first = [], 0
            for chain in chains.split(tree):
                own = slice(first, first := first + len(chain) - 1)
                new.append(change(chain, chosen[own], state["fresh"][own], means[own]))
            return chains.join(tree, new)

        def cleared(chain, chosen, fresh, means):
            return overwrite(chain, chosen, [0.0] * len(chosen), (0.0, 0.0))

        def initial(chain, chosen, fresh, means):
            return overwrite(chain, chosen, fresh)

        kept = {part: tree if part in survives else everywhere(tree, cleared)
                for part, tree in memory["per_weight"].items()}
        first = {part: everywhere(tree, initial) for part, tree in memory["initial"].items()}
        memory = {**memory, "per_weight": kept, "initial": first}
        t = state["t"] + 1
        fan_ins = [len(row) for row in state["fresh"]]
        return everywhere(params, reinitialise), memory, {
            "units": units, "seed": state["seed"], "t": t,
            "fresh": fresh_weights(state["seed"], t, fan_ins, activation)}

    return Intervention(init, apply, settings, name, check, of_units=True)


def selected(select: Callable, stats: dict, H: Tensor, incoming: Tensor, outgoing: Tensor,
             hyper: dict, where: tuple) -> tuple[dict, Chosen, Tensor]:
    """Let `select` look at one layer with its weights; the unit chosen has no past any more."""
    w_in = incoming.flatten(1).abs().sum(1)
    w_out = outgoing_weights(outgoing, len(w_in)).abs().sum((0, 2))
    stats, chosen, mean = select(stats, H, w_in, w_out, hyper, where)
    return newborn(stats, chosen), chosen, mean


def activities(h: Tensor) -> Tensor:
    """See activities [units], [minibatch, units] or [minibatch, units, places] as [n, units]."""
    return h[None] if h.ndim == 1 else h if h.ndim == 2 else h.transpose(1, 2).flatten(0, 1)


def outgoing_weights(W: Tensor, units: int) -> Tensor:
    """See weights as [listeners, units, weights of each]: one, or of a channel many."""
    return W.reshape(len(W), units, -1)


def fresh_weights(seed: Tensor, t: Tensor, fan_ins: list[int], activation: str) -> list[Tensor]:
    """Draw incoming weights for the one unit that each hidden layer may replace at time t.

    They come from the initial distribution. They are drawn one example ahead and kept in the
    net, which spares the compiled step from drawing them once for every weight of a layer.
    """
    rows = []
    for layer, fan_in in enumerate(fan_ins):
        where = torch.arange(fan_in, device=seed.device)
        row = 2 * random.uniform(seed, random.REBIRTH, t, where + 2**20 * layer) - 1
        rows.append(weight_bound(fan_in, activation) * row)
    return rows


def reborn(chosen: Chosen, weights: int, each: int = 1) -> Tensor:
    """Mask [weights] of the reborn unit's, which has `each`; all False where none is due."""
    least, now = chosen
    return (torch.arange(weights, device=least.device) // each == least) & now


def newborn(stats: dict, chosen: Chosen) -> dict[str, Tensor]:
    """Set what is kept of the reborn unit of one layer to nothing; scalars are the layer's own."""
    return {name: value if value.ndim == 0 else
            torch.where(reborn(chosen, value.shape[0]), 0.0, value)
            for name, value in stats.items()}


def reinitialise(layers: list[tuple], chosen: list[Chosen], fresh: list[Tensor],
                 means: list[Tensor]) -> list[tuple]:
    """Give the chosen units fresh incoming weights and no outgoing ones; their mean stays behind.

    Their listeners keep their mean contribution in their biases, so that on average the output does
    not change at the moment of replacement (Dohare et al. 2021). Layers are (weights, biases, more
    per unit); of each hidden one there are (index, whether now), weights [inputs] from
    `fresh_weights`, and what each unit's listeners take into their biases [units].
    """
    moved = [layers[0]]
    for (W, b, *more), (least, now), mean in zip(layers[1:], chosen, means):  # first the mean moves
        outgoing = outgoing_weights(W, len(mean)).index_select(1, least.reshape(1)).sum((1, 2))
        mean = mean.index_select(0, least.reshape(1))
        moved.append((W, b + torch.where(now, outgoing * mean, 0.0), *more))
    return overwrite(moved, chosen, fresh)  # then the outgoing weights go


def overwrite(layers: list[tuple], chosen: list[Chosen], rows: list,
              more_at_birth: tuple[float, ...] = (1.0, 0.0)) -> list[tuple]:
    """Write a row into the reborn units' incoming weights, 0 into their biases and outgoing ones.

    Between two newborns the row counts: what comes in is fresh, whoever it comes from. What a layer
    has more per unit, a normalisation's scale and shift, becomes `more_at_birth`.
    """
    new, units = [], 0
    for layer, (W, b, *more) in enumerate(layers):
        shape = W.shape
        if layer > 0:
            mask = reborn(chosen[layer - 1], W[0].numel(), W[0].numel() // units)
            W = torch.where(mask, 0.0, W.flatten(1)).reshape(shape)
        units = len(b)
        if layer < len(chosen):
            mask = reborn(chosen[layer], units)
            W = torch.where(mask[:, None], rows[layer], W.flatten(1)).reshape(shape)
            b = torch.where(mask, 0.0, b)
            more = [torch.where(mask, value, a) for value, a in zip(more_at_birth, more)]
        new.append((W, b, *more))
    return new
