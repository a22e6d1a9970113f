"""Remedies for a net that stops learning which act on every weight alike, after each step.

Clipping keeps the weights small; noise stirs them, so that no unit stays dead for long, and makes
weight decay shrink and perturb. Remedies that start single units afresh are in `resets`, those that
change what a hidden layer computes in `layers`, weight decay in `optimisers`.
"""

import torch
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms.optimisers import noise
from dyndl_lite.learning import Intervention
from dyndl_lite.models.mlp import weight_bound


def weight_clipping(activation: str = "relu") -> Intervention:
    """Keep every weight and bias within ``clip`` times the bound it was first drawn from.

    Elsayed, Lan, Lyle and Mahmood (2024), Algorithm 1. The bound is that of `mlp.initialise`, and a
    bias has its layer's.
    """

    def apply(params, memory, state, features, hyper):
        kept = []
        for layer, (W, b) in enumerate(params):
            last = layer == len(params) - 1
            most = hyper["clip"] * weight_bound(W[0].numel(), "linear" if last else activation)
            kept.append((torch.clamp(W, -most, most), torch.clamp(b, -most, most)))
        return kept, memory, state

    return Intervention(lambda seed, params: {}, apply, {"clip": 2.0}, f"weight_clipping {activation}")


def _perturb(params, memory, state, features, hyper):
    e = noise(state["seed"], state["t"], params)
    params = tree_map(lambda w, e: w + hyper["noise"] * e, params, e)
    return params, memory, {**state, "t": state["t"] + 1}


#: Noise of standard deviation ``noise`` on every weight: with `l2`, shrink and perturb.
with_noise = Intervention(
    lambda seed, params: {"seed": seed.clone(), "t": torch.zeros_like(seed)}, _perturb,
    {"noise": 1e-4}, "with_noise")
