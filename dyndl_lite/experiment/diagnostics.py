"""What one sees inside a network that loses plasticity: dead units, large weights, low rank.

Each function looks at one matrix of activities H [examples, units] of one hidden layer;
`diagnose` looks at a whole network, and `ensemble` at thousands of them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite.algorithms import layers
from dyndl_lite.models.mlp import forward, Params


def dead_units(H: Tensor) -> Tensor:
    """Share of the units that are silent (activity exactly 0) on every example."""
    return (H == 0).all(0).float().mean()


def rarely_active_units(H: Tensor, share: float = 0.01) -> Tensor:
    """Share of the units that are active on fewer than `share` of the examples."""
    return ((H != 0).float().mean(0) < share).float().mean()


def weight_magnitude(params: Params) -> Tensor:
    """Mean magnitude of all weights of the network, biases left out."""
    total = sum(W.abs().sum() for W, _ in params)
    return total / sum(W.numel() for W, _ in params)


def _singular_values(H: Tensor) -> Tensor:
    """Give the singular values of H, or NaN for each where H is not finite: a net that diverged."""
    finite = torch.isfinite(H).all()
    return torch.where(finite, torch.linalg.svdvals(torch.where(finite, H, 0.0)), torch.nan)


def effective_rank(H: Tensor) -> Tensor:
    """Effective rank exp(-sum p log p), p = singular values / their sum (Roy, Vetterli 2007).

    From 1 (all activities on one line) to the number of units; 0 if all activities are 0.
    """
    s = _singular_values(H)
    p = s / s.sum().clamp(min=1e-30)
    entropy = -torch.special.xlogy(p, p).sum()
    return torch.where(s.sum() == 0, 0.0, torch.exp(entropy))


def stable_rank(H: Tensor, share: float = 0.99) -> Tensor:
    """Stable rank as Dohare et al. (2024) use the name.

    The fewest singular values that together reach 99 % of the sum of all. Elsewhere the
    name means `stable_rank_frobenius`.
    """
    s = _singular_values(H)
    reached = torch.cumsum(s, 0) >= share * s.sum()
    fewest = (~reached).sum() + 1
    return torch.where(s.sum() > 0, fewest, s.sum()).to(H.dtype)  # 0, or NaN


def stable_rank_frobenius(H: Tensor) -> Tensor:
    """Stable rank as in numerical linear algebra: |H|_F^2 / |H|_2^2; 0 if H is 0."""
    s = _singular_values(H)
    return (s**2).sum() / (s[0] ** 2).clamp(min=1e-30)


LAYER_DIAGNOSTICS = (dead_units, rarely_active_units, effective_rank, stable_rank,
                     stable_rank_frobenius)


def measure(params: Params, activities: Sequence[Tensor]) -> dict[str, Tensor]:
    """Measure one network whose hidden layers were seen at work.

    Parameters
    ----------
    params : list of (weights, biases)
    activities : sequence of tensors [examples, units], one a hidden layer

    Returns
    -------
    dict of scalar tensors: shares over all hidden units, means of ranks over the hidden layers
    """
    sizes = torch.tensor([float(H.shape[1]) for H in activities], device=activities[0].device)
    found = {"weight_magnitude": weight_magnitude(params)}
    for one in LAYER_DIAGNOSTICS:
        values = torch.stack([one(H) for H in activities])
        weights = sizes if one in (dead_units, rarely_active_units) else torch.ones_like(sizes)
        found[one.__name__] = (values * weights).sum() / weights.sum()
    return found


def diagnose(params: Params, X: Tensor, activation: str = "relu") -> dict[str, Tensor]:
    """Look inside one network.

    Parameters
    ----------
    params : list of (weights, biases), with at least one hidden layer
    X : tensor [examples, inputs]
        What to show it; the paper takes examples of the present task.
    activation : str

    Returns
    -------
    dict of scalar tensors, as `measure` gives it
    """
    return measure(params, vmap(lambda x: tuple(forward(params, x, activation)[1]))(X))


def probe(activation: str = "relu", kind: str = "plain") -> Callable:
    """Give the function of (net, X) that `ensemble.run` calls at the end of every bin.

    The kind of the net's hidden layers is a name in `layers.KINDS`, or "plain".
    """
    def look(net: dict, X: Tensor) -> dict[str, Tensor]:
        if kind == "plain":
            return diagnose(net["params"], X, activation)
        _, seen = vmap(lambda x: layers.forward(net["params"], x, activation, layers.KINDS[kind],
                                                net["layers"]["layers"]))(X)
        return measure(net["params"], [h for *_, h in seen])

    return look


def held_back_probe(kind: str = "plain") -> Callable:
    """Give a function of (net, X, Y) for `ensemble.run`: what a net makes of images held back.

    It gives ``test_accuracy`` and what `measure` sees in the units, where what a channel does at an
    image is its mean over the places. The kind of the hidden layers is one of `layers.IMAGE_KINDS`.
    """
    def look(net: dict, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
        nothing = [{}] * len(net["params"])
        output, seen = vmap(lambda x: layers.forward(net["params"], x, "relu",
                                                     layers.IMAGE_KINDS[kind], nothing))(X)
        units = [h.flatten(2).mean(2) if h.ndim > 2 else h for *_, h in seen]
        return {"test_accuracy": (output.argmax(-1) == Y).float().mean(),
                **measure(net["params"], units)}

    return look
