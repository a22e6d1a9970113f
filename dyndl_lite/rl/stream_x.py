"""What keeps a deep network learning from one transition at a time: the components of stream-x.

Elsayed, Vasan and Mahmood (2024, arXiv 2410.14606): a bound on how far a step may go (ObGD), sparse
initial weights, layer normalisation, observations and rewards scaled by running statistics.
Each can be switched off by a setting, so an ablation is a sweep.
"""

import math

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.layers import KINDS
from dyndl_lite.models.mlp import ACTIVATIONS, Params

#: All components on; 0 switches off what has no size of its own.
SETTINGS = {
    "step_size": 1.0,  # alpha; an upper limit where steps are bounded
    "discount": 0.99,  # gamma
    "trace_decay": 0.8,  # lambda
    "bounded": 1.0,  # ObGD
    "kappa": 2.0,  # the larger, the shorter a bounded step
    "sparsity": 0.9,  # share of each unit's incoming weights that start at zero
    "layer_norm": 1.0,  # before every activation, without gain and bias
    "normalise": 1.0,  # observations, to mean 0 and variance 1
    "scale_rewards": 1.0,  # by the deviation of their discounted sum
    "tracked_mean": 1.0,  # that deviation is about the mean so far, not 0: see `scale_reward`
    "horizon": 1e9,  # steps that running statistics look back, at most
}
#: What an environment's observations and rewards are taken in with, whatever learns from them.
SCALES = {name: SETTINGS[name] for name in
          ("discount", "normalise", "scale_rewards", "tracked_mean", "horizon")}
#: The same learner as textbooks have it: with traces, and with none of the components.
CLASSIC = {"bounded": 0.0, "sparsity": 0.0, "layer_norm": 0.0, "normalise": 0.0,
           "scale_rewards": 0.0}
#: All components but one. Where steps are not bounded their size has to be found.
ABLATIONS = {
    "bound": {"bounded": 0.0, "step_size": [0.03, 0.01, 0.003, 0.001]},
    "sparse weights": {"sparsity": 0.0},
    "layer norm": {"layer_norm": 0.0},
    "scaled observations": {"normalise": 0.0},
    "scaled rewards": {"scale_rewards": 0.0},
    "traces": {"trace_decay": 0.0},
}


def sparse_row(seed: Tensor, fan_in: int, sparsity: Tensor, *where: Tensor | int) -> Tensor:
    """Draw one unit's incoming weights [fan_in]: uniform within 1 / sqrt(fan_in), most of them 0.

    The released code zeroes ceil(sparsity x fan_in) of them; here at least one is left.
    """
    i = torch.arange(fan_in, device=seed.device)
    w = (2 * random.uniform(seed, *where, i) - 1) / math.sqrt(fan_in)
    key = random.uniform(seed, *where, i + 2**20)
    rank = (key[None, :] < key[:, None]).sum(1)
    kept = (fan_in - torch.ceil(sparsity * fan_in - 1e-4)).clamp(min=1)
    return torch.where(rank < kept, w, 0.0)


def sparse_init(seed: Tensor, sizes: tuple[int, ...], sparsity: Tensor, net: int = 0) -> Params:
    """Draw the weights of one new network, sparsely, as `mlp.initialise` has them.

    An agent has several networks; `net` says which.
    """
    params = []
    for layer, (fan_in, units) in enumerate(zip(sizes, sizes[1:])):
        rows = [sparse_row(seed, fan_in, sparsity, random.SPARSE, 100 * net + layer, unit)
                for unit in range(units)]
        params.append((torch.stack(rows), torch.zeros(units, device=seed.device)))
    return params


def apply(params: Params, x: Tensor, layer_norm: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run one network: h = leaky_relu(LayerNorm(W h + b)); outputs are linear.

    Returns
    -------
    output : tensor [outputs]
    features : list of tensors [units]
    """
    h, features = x, []
    for W, b in params[:-1]:
        z = W @ h + b
        z = torch.where(layer_norm > 0, KINDS["layer_norm"].normalise(z, None), z)
        h = ACTIVATIONS["leaky_relu"](z)
        features.append(h)
    W, b = params[-1]
    return W @ h + b, features


def new_statistics(like: Tensor) -> dict[str, Tensor]:
    """Give the running statistics of no values yet, each of them shaped like `like`."""
    return {name: torch.zeros_like(like) for name in ("n", "mean", "variance")}


def update_statistics(statistics: dict, x: Tensor, horizon: Tensor) -> dict[str, Tensor]:
    """Take one more value into running mean and variance (Welford 1962).

    With an infinite horizon they are those of all values so far; else old values fade.
    """
    n = torch.minimum(statistics["n"] + 1, horizon)
    mean = statistics["mean"] + (x - statistics["mean"]) / n
    spread = (x - statistics["mean"]) * (x - mean)
    variance = statistics["variance"] + (spread - statistics["variance"]) / n
    return {"n": n, "mean": mean, "variance": variance}


def deviation(statistics: dict) -> Tensor:
    """Give the standard deviation (with n - 1), 1 before there are two values."""
    n = statistics["n"]
    unbiased = statistics["variance"] * n / (n - 1).clamp(min=1)
    return torch.sqrt(torch.where(n < 2, 1.0, unbiased) + 1e-8)


def normalise(statistics: dict, observation: Tensor, hyper: dict) -> tuple[dict, Tensor]:
    """Take in an observation: the statistics with it, and the observation normalised by them."""
    statistics = update_statistics(statistics, observation, hyper["horizon"])
    x = (observation - statistics["mean"]) / deviation(statistics)
    return statistics, torch.where(hyper["normalise"] > 0, x, observation)


def new_scaler(like: Tensor) -> dict:
    """Give the reward scaler of no rewards yet; `like` is a scalar tensor."""
    return {"sum": torch.zeros_like(like), "statistics": new_statistics(like)}


def scale_reward(scaler: dict, reward: Tensor, over: Tensor, hyper: dict) -> tuple[dict, Tensor]:
    """Take in a reward: the scaler with it, and the scale by which the reward is divided.

    The scale is the deviation of u <- gamma u + r, the discounted sum of what has come. The paper
    (Algorithm 5) takes it about 0, which is the setting ``tracked_mean`` 0; the released code about
    the mean of u so far, which is ours unless it is set (all published results come from that
    code). In both a sum starts anew with the last reward of an episode, not after it.
    """
    u = hyper["discount"] * torch.where(over, 0.0, scaler["sum"]) + reward
    before = scaler["statistics"]
    mean = torch.where(hyper["tracked_mean"] > 0, before["mean"], 0.0)
    statistics = update_statistics({**before, "mean": mean}, u, hyper["horizon"])
    scale = torch.where(hyper["scale_rewards"] > 0, deviation(statistics), 1.0)
    return {"sum": u, "statistics": statistics}, scale


def obgd(params: Params, trace: Params, gradient: Params, delta: Tensor, decay: Tensor,
         hyper: dict, kappa: Tensor) -> tuple[Params, Params]:
    """Take a step of overshooting-bounded gradient descent (Elsayed et al. 2024, Algorithm 3).

    z <- decay z + gradient; M = alpha kappa max(|delta|, 1) |z|_1; w <- w + alpha / max(M, 1) delta
    z. The step shrinks where it could correct more than the whole error delta. With ``bounded`` 0
    it is w <- w + alpha delta z, as in the classic learners.

    Parameters
    ----------
    params, trace, gradient : lists of (weights, biases)
        The gradient is that of what is to grow where delta is positive.
    delta : scalar tensor
        The TD error.
    decay : scalar tensor
        gamma lambda, or 0 to cut the traces.
    kappa : scalar tensor
    """
    trace = tree_map(lambda z, g: decay * z + g, trace, gradient)
    size = sum(z.abs().sum() for z in tree_leaves(trace))
    M = hyper["step_size"] * kappa * delta.abs().clamp(min=1) * size
    step = hyper["step_size"] / torch.where(hyper["bounded"] > 0, M.clamp(min=1), 1.0)
    return tree_map(lambda w, z: w + step * delta * z, params, trace), trace
