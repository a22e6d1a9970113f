"""Streaming learners: each transition is learned from once, as it happens, and is gone.

Stream TD(lambda), stream Q(lambda) and stream AC(lambda) of Elsayed, Vasan and Mahmood (2024). An agent
is a few pure functions of **one** agent and one transition; `lives` lets it live in a world. With the
settings `kit.CLASSIC` they are the classic TD(lambda), Q(lambda) and actor-critic.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad
from torch.utils._pytree import tree_map

from dyndl_lite import draws
from dyndl_lite.continual_backprop import appraise, choose, forget, new_units, newborn, rebirth
from dyndl_lite.rl import kit


class Agent(NamedTuple):
    """Who acts and learns, as pure functions."""

    start: Callable  # seed, hyper -> mind, a dict of tensors
    act: Callable  # mind, hyper, x, seed, t -> action, whether it explored, value
    # mind, hyper, transition, seed, t -> mind. A transition holds x, action, reward, next_x,
    # terminal, over and explored.
    learn: Callable
    settings: dict[str, float]
    description: str


REPLACING = {"replacement_rate": 0.0, "utility_decay": 0.99, "maturity_threshold": 1000.0}


def _net(seed: Tensor, sizes: tuple[int, ...], hyper: dict, replacing: bool, which: int) -> dict:
    """Make one of an agent's networks, with its traces."""
    params = kit.initialise(seed, sizes, hyper["sparsity"], which)
    net = {"params": params, "trace": tree_map(torch.zeros_like, params)}
    if replacing:
        net["units"] = [new_units(n, seed.device) for n in sizes[1:-1]]
        net["fresh"] = _fresh(seed, torch.zeros_like(seed), sizes, hyper, which)
    return net


def _fresh(seed, t, sizes, hyper, which) -> list[Tensor]:
    """Draw incoming weights for the unit of each hidden layer that may be reborn next."""
    return [kit.sparse_row(seed, n, hyper["sparsity"], draws.REBIRTH, t, 100 * which + layer)
            for layer, n in enumerate(sizes[:-2])]


def _update(net: dict, objective: Callable, delta: Tensor, decay: Tensor, over: Tensor,
            hyper: dict, kappa: Tensor, seed: Tensor, t: Tensor, which: int) -> dict:
    """Let one network learn: its gradient, the step, the end of an episode, and who is reborn.

    Parameters
    ----------
    objective : params -> (scalar tensor, features)
        What is to grow where delta is positive.
    """
    gradient, features = grad(objective, has_aux=True)(net["params"])
    params, trace = kit.obgd(net["params"], net["trace"], gradient, delta, decay, hyper, kappa)
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


def _td_error(v: Tensor, v_next: Tensor, seen: dict, hyper: dict) -> Tensor:
    """delta = r + gamma v(s') - v(s), where nothing comes after a terminal state.

    After a time limit something would: there the value of what was reached still counts.
    """
    return seen["reward"] + hyper["discount"] * torch.where(seen["terminal"], 0.0, v_next) - v


def stream_td(inputs: int, hidden: tuple[int, ...] = (32, 32), replacing: bool = False) -> Agent:
    """Make a learner of predictions: v(s), the discounted sum of rewards to come. It does not act."""
    sizes = (inputs, *hidden, 1)

    def value(params, x, hyper):
        output, features = kit.forward(params, x, hyper["layer_norm"])
        return output[0], features

    def start(seed, hyper):
        return {"critic": _net(seed, sizes, hyper, replacing, 0)}

    def act(mind, hyper, x, seed, t):
        v, _ = value(mind["critic"]["params"], x, hyper)
        return torch.zeros_like(t), v > torch.inf, v

    def learn(mind, hyper, seen, seed, t):
        v, _ = value(mind["critic"]["params"], seen["x"], hyper)
        v_next, _ = value(mind["critic"]["params"], seen["next_x"], hyper)
        critic = _update(mind["critic"], lambda p: value(p, seen["x"], hyper),
                         _td_error(v, v_next, seen, hyper), hyper["discount"] * hyper["trace_decay"],
                         seen["over"], hyper, hyper["kappa"], seed, t, 0)
        return {"critic": critic}

    return Agent(start, act, learn, kit.SETTINGS | (REPLACING if replacing else {}),
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

    def values(params, x, hyper):
        return kit.forward(params, x, hyper["layer_norm"])

    def start(seed, hyper):
        return {"critic": _net(seed, sizes, hyper, replacing, 0)}

    def act(mind, hyper, x, seed, t):
        q, _ = values(mind["critic"]["params"], x, hyper)
        return epsilon_greedy(q, hyper, seed, t)

    def learn(mind, hyper, seen, seed, t):
        q, _ = values(mind["critic"]["params"], seen["x"], hyper)
        q_next, _ = values(mind["critic"]["params"], seen["next_x"], hyper)
        chosen = torch.arange(actions, device=q.device) == seen["action"]

        def objective(params):
            output, features = values(params, seen["x"], hyper)
            return torch.where(chosen, output, 0.0).sum(), features

        delta = _td_error(torch.where(chosen, q, 0.0).sum(), q_next.amax(0), seen, hyper)
        decay = hyper["discount"] * hyper["trace_decay"]
        decay = torch.where(seen["explored"] & (hyper["cut"] > 0), 0.0, decay)
        return {"critic": _update(mind["critic"], objective, delta, decay, seen["over"], hyper,
                                  hyper["kappa"], seed, t, 0)}

    settings = kit.SETTINGS | {"epsilon": 0.01, "exploration": 10_000.0, "cut": 1.0}
    return Agent(start, act, learn, settings | (REPLACING if replacing else {}),
                 f"stream_q {sizes} replacing={replacing}")


def epsilon_greedy(q: Tensor, hyper: dict, seed: Tensor, t: Tensor) -> tuple:
    """Choose an action: mostly the best one. Gives it, whether it is not the best, and max q."""
    falling = 1 - (1 - hyper["epsilon"]) * t / hyper["exploration"]
    epsilon = torch.maximum(falling, hyper["epsilon"])
    u = draws.uniform(seed, draws.EXPLORE, t, torch.arange(2, device=seed.device))
    best = q.argmax(0)
    other = (u[1] * q.shape[0]).long()
    action = torch.where(u[0] < epsilon, other, best)
    return action, action != best, q.amax(0)


def stream_ac(inputs: int, actions: int, hidden: tuple[int, ...] = (32, 32),
              replacing: bool = False, reals: int = 1) -> Agent:
    """Make an actor and a critic, two networks that learn from the same TD error.

    The actor chooses among `actions` by a softmax; with 0 of them it draws `reals` real numbers from
    normal distributions, of which it gives means and deviations (softplus).

    Settings beside the kit's: ``kappa_policy``, and ``entropy``, the weight of an entropy bonus
    (times the sign of delta, as the step is multiplied by delta).
    """
    critic_sizes = (inputs, *hidden, 1)
    actor_sizes = (inputs, *hidden, actions or 2 * reals)
    log_p_of = log_probability if actions else log_density

    def value(params, x, hyper):
        output, features = kit.forward(params, x, hyper["layer_norm"])
        return output[0], features

    def start(seed, hyper):
        return {"critic": _net(seed, critic_sizes, hyper, replacing, 0),
                "actor": _net(seed, actor_sizes, hyper, replacing, 1)}

    def act(mind, hyper, x, seed, t):
        output, _ = kit.forward(mind["actor"]["params"], x, hyper["layer_norm"])
        v, _ = value(mind["critic"]["params"], x, hyper)
        u = draws.uniform(seed, draws.ACTION, t, torch.arange(2 * reals, device=seed.device))
        if actions:
            action = (u[0] >= torch.softmax(output, 0).cumsum(0)[:-1]).sum()
        else:
            action = output[:reals] + _softplus(output[reals:]) * _normal(u[:reals], u[reals:])
        return action, v > torch.inf, v

    def learn(mind, hyper, seen, seed, t):
        v, _ = value(mind["critic"]["params"], seen["x"], hyper)
        v_next, _ = value(mind["critic"]["params"], seen["next_x"], hyper)
        delta = _td_error(v, v_next, seen, hyper)
        decay = hyper["discount"] * hyper["trace_decay"]

        def objective(params):
            output, features = kit.forward(params, seen["x"], hyper["layer_norm"])
            log_p, entropy = log_p_of(output, seen["action"])
            return log_p + hyper["entropy"] * torch.sign(delta) * entropy, features

        same = dict(delta=delta, decay=decay, over=seen["over"], hyper=hyper, seed=seed, t=t)
        return {"critic": _update(mind["critic"], lambda p: value(p, seen["x"], hyper), **same,
                                  kappa=hyper["kappa"], which=0),
                "actor": _update(mind["actor"], objective, **same, kappa=hyper["kappa_policy"],
                                 which=1)}

    settings = kit.SETTINGS | {"kappa_policy": 3.0, "entropy": 0.01}
    return Agent(start, act, learn, settings | (REPLACING if replacing else {}),
                 f"stream_ac {critic_sizes} {actor_sizes} replacing={replacing}")


def _softplus(z: Tensor) -> Tensor:
    return torch.clamp(z, min=0) + torch.log1p(torch.exp(-z.abs()))


def _normal(u: Tensor, v: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones (Box and Muller 1958)."""
    return torch.sqrt(-2 * torch.log(1 - u)) * torch.cos(2 * math.pi * v)


def log_probability(output: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of an action under a softmax, and the entropy."""
    log_p = torch.log_softmax(output, 0)
    chosen = torch.arange(output.shape[0], device=output.device) == action
    return torch.where(chosen, log_p, 0.0).sum(), -(log_p.exp() * log_p).sum()


def log_density(output: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density of an action [reals] under normal distributions, and the entropy."""
    mean, deviation = output[:action.shape[0]], _softplus(output[action.shape[0]:])
    log_p = -0.5 * ((action - mean) / deviation) ** 2 - torch.log(deviation) - _HALF_LOG_2_PI
    return log_p.sum(), (torch.log(deviation) + 0.5 + _HALF_LOG_2_PI).sum()


_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
