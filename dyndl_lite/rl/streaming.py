"""Streaming agents: each transition is learned from once, as it happens, and is gone.

Stream TD(lambda), Q(lambda) and AC(lambda) of Elsayed, Vasan and Mahmood (2024, arXiv 2410.14606), and
Q-learning with the dynamic network. An agent is a few pure functions of **one** agent and one transition.
With the settings `stream_x.CLASSIC` they are the classic TD(lambda), Q(lambda) and AC(lambda).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value
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
from dyndl_lite.dynamic import network
from dyndl_lite.dynamic.credit import heard_by
from dyndl_lite.rl import stream_x
from dyndl_lite.rl.policies import categorical, gaussian


class Agent(NamedTuple):
    """What acts and learns, as pure functions.

    A transition is a dict: x and next_x [observations], action, reward, terminal, over (the episode is:
    terminal, or time ran out) and explored (the action was not the best by the agent's own values).
    """

    start: Callable  # seed, hyper -> the agent's state, a dict of tensors
    act: Callable  # state, hyper, x, seed, t -> action, whether it explored
    learn: Callable  # state, hyper, transition, seed, t -> state, value expected of x
    settings: dict[str, float]
    description: str
    made_for: tuple[int, int, int]  # observations, actions and reals of its environment
    check: Callable = lambda setting: None  # raises ValueError for a setting that cannot run


EXPLORING = {"epsilon": 0.01, "exploration": 10_000.0}
REPLACING = {"replacement_rate": 0.0, "utility_decay": 0.99, "maturity_threshold": 1000.0}


def new_net(seed: Tensor, sizes: tuple[int, ...], hyper: dict, replacing: bool, which: int) -> dict:
    """Make one of an agent's networks, with its traces."""
    params = stream_x.sparse_init(seed, sizes, hyper["sparsity"], which)
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


def td_error(v: Tensor, v_next: Tensor, transition: dict, hyper: dict) -> Tensor:
    """delta = r + gamma v(s') - v(s), where nothing comes after a terminal state.

    After a time limit something would: there the value of what was reached still counts.
    """
    coming = torch.where(transition["terminal"], 0.0, v_next)
    return transition["reward"] + hyper["discount"] * coming - v


def critic_gradient(critic: dict, transition: dict, hyper: dict) -> tuple:
    """Give the gradient of v(s), (v(s), features) and the TD error of a critic with one output."""

    def value(params, x):
        output, features = stream_x.apply(params, x, hyper["layer_norm"])
        return output[0], features

    gradient, output = grad_and_value(value, has_aux=True)(critic["params"], transition["x"])
    v_next, _ = value(critic["params"], transition["next_x"])
    return gradient, output, td_error(output[0], v_next, transition, hyper)


def stream_td(inputs: int, hidden: tuple[int, ...] = (32, 32), replacing: bool = False) -> Agent:
    """Make a learner of predictions: v(s), the discounted sum of rewards to come. It does not act."""
    sizes = (inputs, *hidden, 1)

    def start(seed, hyper):
        return {"critic": new_net(seed, sizes, hyper, replacing, 0)}

    def act(state, hyper, x, seed, t):
        return torch.zeros_like(t), t < 0

    def learn(state, hyper, transition, seed, t):
        gradient, (v, features), delta = critic_gradient(state["critic"], transition, hyper)
        critic = update(state["critic"], gradient, features, delta,
                         hyper["discount"] * hyper["trace_decay"], transition["over"], hyper,
                         hyper["kappa"], seed, t, 0)
        return {"critic": critic}, v

    return Agent(start, act, learn, stream_x.SETTINGS | (REPLACING if replacing else {}),
                 f"stream_td {sizes} replacing={replacing}", (inputs, 0, 0))


def stream_q(inputs: int, actions: int, hidden: tuple[int, ...] = (32, 32),
             replacing: bool = False) -> Agent:
    """Make a learner of action values, epsilon-greedy: Watkins's Q(lambda).

    An exploratory action cuts the traces: what follows it says nothing about the greedy choices before
    it. The paper's pseudocode cuts before the update that learns from that action (``cut`` 1, ours);
    the released code after it (``cut`` 2), which its authors call the right order, though then the
    choices before are still credited with what exploring led to. ``cut`` 0 leaves the traces alone.

    Settings beside those of stream-x: ``cut``, and ``epsilon``, which falls from 1 to its value over
    ``exploration`` steps.
    """
    sizes = (inputs, *hidden, actions)

    def start(seed, hyper):
        return {"critic": new_net(seed, sizes, hyper, replacing, 0)}

    def act(state, hyper, x, seed, t):
        q, _ = stream_x.apply(state["critic"]["params"], x, hyper["layer_norm"])
        return epsilon_greedy(q, hyper, seed, t)

    def learn(state, hyper, transition, seed, t):
        params = state["critic"]["params"]

        def value(params):
            q, features = stream_x.apply(params, transition["x"], hyper["layer_norm"])
            chosen = torch.arange(actions, device=q.device) == transition["action"]
            return torch.where(chosen, q, 0.0).sum(), features

        gradient, (v, features) = grad_and_value(value, has_aux=True)(params)
        q_next, _ = stream_x.apply(params, transition["next_x"], hyper["layer_norm"])
        delta = td_error(v, q_next.amax(0), transition, hyper)
        before, after = (transition["explored"] & (hyper["cut"] == when) for when in (1, 2))
        decay = torch.where(before, 0.0, hyper["discount"] * hyper["trace_decay"])
        critic = update(state["critic"], gradient, features, delta, decay, transition["over"] | after,
                        hyper, hyper["kappa"], seed, t, 0)
        return {"critic": critic}, v

    settings = stream_x.SETTINGS | EXPLORING | {"cut": 1.0}
    return Agent(start, act, learn, settings | (REPLACING if replacing else {}),
                 f"stream_q {sizes} replacing={replacing}", (inputs, actions, 0))


def epsilon_greedy(q: Tensor, hyper: dict, seed: Tensor, t: Tensor) -> tuple:
    """Choose an action, mostly the best one; say whether it is not the best."""
    falling = 1 - (1 - hyper["epsilon"]) * t / hyper["exploration"]
    epsilon = torch.maximum(falling, hyper["epsilon"])
    u = random.uniform(seed, random.EXPLORE, t, torch.arange(2, device=seed.device))
    best = q.argmax(0)
    other = (u[1] * q.shape[0]).long()
    action = torch.where(u[0] < epsilon, other, best)
    return action, action != best


def stream_ac(inputs: int, actions: int, hidden: tuple[int, ...] = (32, 32),
              replacing: bool = False, reals: int = 1) -> Agent:
    """Make an actor and a critic, two networks that learn from the same TD error: AC(lambda).

    The actor chooses among `actions` by a softmax; with 0 of them it draws `reals` real numbers from
    normal distributions, of which it gives means and deviations (softplus).

    Settings beside those of stream-x: ``kappa_policy``, and ``entropy``, the weight of an entropy bonus
    (times the sign of delta, as the step is multiplied by delta).
    """
    policy = categorical(actions) if actions else gaussian(reals, "output")
    critic_sizes, actor_sizes = (inputs, *hidden, 1), (inputs, *hidden, policy.outputs)

    def start(seed, hyper):
        return {"critic": new_net(seed, critic_sizes, hyper, replacing, 0),
                "actor": new_net(seed, actor_sizes, hyper, replacing, 1)}

    def act(state, hyper, x, seed, t):
        output, _ = stream_x.apply(state["actor"]["params"], x, hyper["layer_norm"])
        where = torch.arange(policy.numbers, device=seed.device)
        action = policy.draw(output, {}, random.uniform(seed, random.ACTION, t, where))
        return action[0].long() if actions else action, t < 0

    def learn(state, hyper, transition, seed, t):
        gradient, (v, features), delta = critic_gradient(state["critic"], transition, hyper)

        def objective(params):
            output, features = stream_x.apply(params, transition["x"], hyper["layer_norm"])
            log_p = policy.log_probability(output, {}, transition["action"])
            entropy = policy.entropy(output, {})
            return log_p + hyper["entropy"] * torch.sign(delta) * entropy, features

        of_policy, heard = grad(objective, has_aux=True)(state["actor"]["params"])
        same = dict(delta=delta, decay=hyper["discount"] * hyper["trace_decay"], over=transition["over"],
                    hyper=hyper, seed=seed, t=t)
        critic = update(state["critic"], gradient, features, **same, kappa=hyper["kappa"], which=0)
        actor = update(state["actor"], of_policy, heard, **same, kappa=hyper["kappa_policy"], which=1)
        return {"critic": critic, "actor": actor}, v

    settings = stream_x.SETTINGS | {"kappa_policy": 3.0, "entropy": 0.01}
    return Agent(start, act, learn, settings | (REPLACING if replacing else {}),
                 f"stream_ac {critic_sizes} {actor_sizes} replacing={replacing}",
                 (inputs, actions, 0 if actions else reals))


def dynamic_q(inputs: int, actions: int, units: int = 32, depth: int = 1) -> Agent:
    """Make a one-step Q-learner (Watkins 1989) whose network is `dynamic`'s: it grows while it acts.

    It has nothing of stream-x but the scaled observations and rewards: no bounded traces, no layer norm, no
    sparse weights. It begins without hidden units, and learns its own step sizes. The network is told r + gamma max q(s', .) for what was done, and for all other actions what it
    expects already: there it has no error and no hunger.

    Parameters
    ----------
    inputs, actions : int
    units, depth : int
        Room for hidden units, and most levels of them, as `network.dynamic` has it.

    Returns
    -------
    Agent
        With the settings of `network.SETTINGS`, ``epsilon`` and ``exploration`` as of `stream_q`, and
        those of `stream_x.SCALES`.
    """
    learner = network.dynamic(inputs, units, actions, depth=depth)

    def values(net: dict, x: Tensor) -> Tensor:
        s = network.run(net["params"], net["units"]["level"], x, depth)
        return net["params"]["output"] @ heard_by(s, net["params"]["output"])

    def start(seed, hyper):
        return learner.start(seed)

    def act(net, hyper, x, seed, t):
        return epsilon_greedy(values(net, x), hyper, seed, t)

    def learn(net, hyper, transition, seed, t):
        q, q_next = values(net, transition["x"]), values(net, transition["next_x"])
        chosen = torch.arange(actions, device=q.device) == transition["action"]
        v = torch.where(chosen, q, 0.0).sum()
        delta = td_error(v, q_next.amax(0), transition, hyper)
        net, _ = learner.step(net, hyper, transition["x"], q + torch.where(chosen, delta, 0.0))
        return net, v

    return Agent(start, act, learn, stream_x.SCALES | EXPLORING | learner.settings,
                 f"dynamic_q {learner.description}", (inputs, actions, 0), learner.check)
