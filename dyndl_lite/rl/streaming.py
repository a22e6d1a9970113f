"""Streaming learners: each transition is learned from once, as it happens, and is gone.

Stream TD(lambda) and stream Q(lambda) of Elsayed, Vasan and Mahmood (2024); AC(lambda) is in
`actor_critic`. An agent is a few pure functions of **one** agent and one transition; `lives` lets it live
in a world. With the settings `stream_x.CLASSIC` they are the classic TD(lambda), Q(lambda), AC(lambda).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.continual_backprop import (
    appraise,
    choose,
    forget,
    new_units,
    newborn,
    rebirth,
)
from dyndl_lite.rl import stream_x


class Agent(NamedTuple):
    """Who acts and learns, as pure functions."""

    start: Callable  # seed, hyper -> mind, a dict of tensors
    act: Callable  # mind, hyper, x, seed, t -> action, whether it explored
    # mind, hyper, transition, seed, t -> mind, value expected of x. A transition holds x, action,
    # reward, next_x, terminal, over and explored.
    learn: Callable
    settings: dict[str, float]
    description: str
    check: Callable = lambda setting: None  # raises ValueError for a setting that cannot run


EXPLORING = {"epsilon": 0.01, "exploration": 10_000.0}
REPLACING = {"replacement_rate": 0.0, "utility_decay": 0.99, "maturity_threshold": 1000.0}


def new_net(seed: Tensor, sizes: tuple[int, ...], hyper: dict, replacing: bool, which: int) -> dict:
    """Make one of an agent's networks, with its traces."""
    params = stream_x.initialise(seed, sizes, hyper["sparsity"], which)
    net = {"params": params, "trace": tree_map(torch.zeros_like, params)}
    if replacing:
        net["units"] = [new_units(n, seed.device) for n in sizes[1:-1]]
        net["fresh"] = _fresh(seed, torch.zeros_like(seed), sizes, hyper, which)
    return net


def _fresh(seed, t, sizes, hyper, which) -> list[Tensor]:
    """Draw incoming weights for the unit of each hidden layer that may be reborn next."""
    return [stream_x.sparse_row(seed, n, hyper["sparsity"], random.REBIRTH, t, 100 * which + layer)
            for layer, n in enumerate(sizes[:-2])]


def update(net: dict, gradient: list, features: list[Tensor], delta: Tensor, decay: Tensor,
            over: Tensor, hyper: dict, kappa: Tensor, seed: Tensor, t: Tensor, which: int) -> dict:
    """Let one network learn: the step, the end of an episode, and who is reborn.

    Parameters
    ----------
    gradient : list of (weights, biases)
        Of what is to grow where delta is positive.
    features : list of tensors [units]
        The hidden activities before the step.
    """
    params, trace = stream_x.obgd(net["params"], net["trace"], gradient, delta, decay, hyper, kappa)
    trace = tree_map(lambda z: torch.where(over, 0.0, z), trace)
    if "units" not in net:
        return {"params": params, "trace": trace}
    layers, chosen, means = [], [], []
    for (W, _), (W_next, _), units, h in zip(params, params[1:], net["units"], features):
        units, u_hat, f_hat = appraise(units, h, W.abs().sum(1), W_next.abs().sum(0), hyper,
                                       "contribution")
        units, pick = choose(units, u_hat, hyper)
        layers.append(newborn(units, pick))
        chosen.append(pick)
        means.append(f_hat)
    sizes = (params[0][0].shape[1], *(len(b) for _, b in params))
    return {"params": rebirth(params, chosen, net["fresh"], means),
            "trace": forget({"z": trace}, chosen)["z"], "units": layers,
            "fresh": _fresh(seed, t + 1, sizes, hyper, which)}


def td_error(v: Tensor, v_next: Tensor, seen: dict, hyper: dict) -> Tensor:
    """delta = r + gamma v(s') - v(s), where nothing comes after a terminal state.

    After a time limit something would: there the value of what was reached still counts.
    """
    return seen["reward"] + hyper["discount"] * torch.where(seen["terminal"], 0.0, v_next) - v


def criticise(critic: dict, seen: dict, hyper: dict) -> tuple:
    """Give the gradient of v(s), (v(s), features) and the TD error of a critic with one output."""

    def value(params, x):
        output, features = stream_x.forward(params, x, hyper["layer_norm"])
        return output[0], features

    gradient, seen_by = grad_and_value(value, has_aux=True)(critic["params"], seen["x"])
    v_next, _ = value(critic["params"], seen["next_x"])
    return gradient, seen_by, td_error(seen_by[0], v_next, seen, hyper)


def stream_td(inputs: int, hidden: tuple[int, ...] = (32, 32), replacing: bool = False) -> Agent:
    """Make a learner of predictions: v(s), the discounted sum of rewards to come. It does not act."""
    sizes = (inputs, *hidden, 1)

    def start(seed, hyper):
        return {"critic": new_net(seed, sizes, hyper, replacing, 0)}

    def act(mind, hyper, x, seed, t):
        return torch.zeros_like(t), t < 0

    def learn(mind, hyper, seen, seed, t):
        gradient, (v, features), delta = criticise(mind["critic"], seen, hyper)
        critic = update(mind["critic"], gradient, features, delta,
                         hyper["discount"] * hyper["trace_decay"], seen["over"], hyper,
                         hyper["kappa"], seed, t, 0)
        return {"critic": critic}, v

    return Agent(start, act, learn, stream_x.SETTINGS | (REPLACING if replacing else {}),
                 f"stream_td {sizes} replacing={replacing}")


def stream_q(inputs: int, actions: int, hidden: tuple[int, ...] = (32, 32),
             replacing: bool = False) -> Agent:
    """Make a learner of action values, epsilon-greedy: Watkins's Q(lambda).

    An exploratory action cuts the traces before it is learned from: what follows it says nothing
    about the greedy choices before it. (The release cuts after the update, and only if asked to.)

    Settings beside the kit's: ``epsilon`` falls from 1 to its value over ``exploration`` steps;
    ``cut`` 0 leaves the traces as they are.
    """
    sizes = (inputs, *hidden, actions)

    def start(seed, hyper):
        return {"critic": new_net(seed, sizes, hyper, replacing, 0)}

    def act(mind, hyper, x, seed, t):
        q, _ = stream_x.forward(mind["critic"]["params"], x, hyper["layer_norm"])
        return epsilon_greedy(q, hyper, seed, t)

    def learn(mind, hyper, seen, seed, t):
        params = mind["critic"]["params"]

        def value(params):
            q, features = stream_x.forward(params, seen["x"], hyper["layer_norm"])
            chosen = torch.arange(actions, device=q.device) == seen["action"]
            return torch.where(chosen, q, 0.0).sum(), features

        gradient, (v, features) = grad_and_value(value, has_aux=True)(params)
        q_next, _ = stream_x.forward(params, seen["next_x"], hyper["layer_norm"])
        delta = td_error(v, q_next.amax(0), seen, hyper)
        decay = hyper["discount"] * hyper["trace_decay"]
        decay = torch.where(seen["explored"] & (hyper["cut"] > 0), 0.0, decay)
        critic = update(mind["critic"], gradient, features, delta, decay, seen["over"], hyper,
                         hyper["kappa"], seed, t, 0)
        return {"critic": critic}, v

    settings = stream_x.SETTINGS | EXPLORING | {"cut": 1.0}
    return Agent(start, act, learn, settings | (REPLACING if replacing else {}),
                 f"stream_q {sizes} replacing={replacing}")


def epsilon_greedy(q: Tensor, hyper: dict, seed: Tensor, t: Tensor) -> tuple:
    """Choose an action, mostly the best one; say whether it is not the best."""
    falling = 1 - (1 - hyper["epsilon"]) * t / hyper["exploration"]
    epsilon = torch.maximum(falling, hyper["epsilon"])
    u = random.uniform(seed, random.EXPLORE, t, torch.arange(2, device=seed.device))
    best = q.argmax(0)
    other = (u[1] * q.shape[0]).long()
    action = torch.where(u[0] < epsilon, other, best)
    return action, action != best
