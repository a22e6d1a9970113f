"""Streaming agents: each transition is learned from once, as it happens, and is gone.

Stream TD(lambda), Q(lambda) and AC(lambda) of Elsayed, Vasan and Mahmood (2024, arXiv 2410.14606),
and Q-learning with the dynamic network. An agent is a few pure functions of **one** agent and one
transition. With the settings `stream_x.CLASSIC` they are the classic TD(lambda), Q(lambda) and
AC(lambda).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.dynamic import network
from dyndl_lite.dynamic.credit import with_bias
from dyndl_lite.learning import Intervention, optimizer_state
from dyndl_lite.rl import stream_x
from dyndl_lite.rl.policies import categorical, gaussian


class Agent(NamedTuple):
    """What acts and learns, as pure functions.

    A transition is a dict: x and next_x [observations], action, reward, terminal, over (that, or
    time ran out) and explored (the action was not the best by the agent's own values).
    """

    start: Callable  # seed, hyper -> the agent's state, a dict of tensors
    act: Callable  # state, hyper, x, seed, t -> action, whether it explored
    learn: Callable  # state, hyper, transition, seed, t -> state, value expected of x
    settings: dict[str, float]
    description: str
    made_for: tuple[int, int, int]  # observations, actions and reals of its environment
    check: Callable = lambda setting: None  # raises ValueError for a setting that cannot run


EXPLORING = {"epsilon": 0.01, "exploration": 10_000.0}


def new_net(seed: Tensor, sizes: tuple[int, ...], hyper: dict, after: tuple[Intervention, ...],
            number: int = 0) -> dict:
    """Make one of an agent's networks, its traces, and the states of the interventions."""
    params = stream_x.sparse_init(seed, sizes, hyper["sparsity"], number)
    own = random.bits(seed, random.VALUE, number) if number else seed
    return {"params": params, "memory": optimizer_state("trace")(params, seed),
            "after": [_sparse(each.init(own, params), hyper) for each in after]}


def _sparse(state: dict, hyper: dict) -> dict:
    """Draw what a unit that is replaced will hear as sparsely as what it heard at first."""
    if "fresh" not in state:
        return state
    fresh = [stream_x.sparse_row(state["seed"], len(row), hyper["sparsity"], random.REBIRTH,
                                 state["t"], layer) for layer, row in enumerate(state["fresh"])]
    return {**state, "fresh": fresh}


def update(net: dict, gradient: list, features: list[Tensor], delta: Tensor, decay: Tensor,
           over: Tensor, hyper: dict, kappa: Tensor, after: tuple[Intervention, ...]) -> dict:
    """Let one network learn: take the step, end the traces of an episode that is over, intervene.

    The features are the hidden activities before the step; the rest is as for `stream_x.obgd`.
    """
    trace = net["memory"]["per_weight"]["trace"]
    params, trace = stream_x.obgd(net["params"], trace, gradient, delta, decay, hyper, kappa)
    trace = tree_map(lambda z: torch.where(over, 0.0, z), trace)
    memory, states = {**net["memory"], "per_weight": {"trace": trace}}, []
    for each, state in zip(after, net["after"]):
        params, memory, state = each.apply(params, memory, state, features, hyper)
        states.append(_sparse(state, hyper))
    return {"params": params, "memory": memory, "after": states}


def _agent(start: Callable, act: Callable, learn: Callable, settings: dict, description: str,
           made_for: tuple[int, int, int], hidden: tuple[int, ...],
           after: tuple[Intervention, ...]) -> Agent:
    """Put an agent together, with the settings and checks of its interventions."""

    def check(setting: dict) -> None:
        for each in after:
            each.check(setting, hidden)

    settings = stream_x.SETTINGS | settings
    for each in after:
        settings |= each.settings
        description += f" {each.name}"
    return Agent(start, act, learn, settings, description, made_for, check)


def td_error(v: Tensor, v_next: Tensor, transition: dict, hyper: dict) -> Tensor:
    """delta = r + gamma v(s') - v(s), where nothing comes after a terminal state.

    After a time limit something would: there the value of what was reached still counts.
    """
    coming = torch.where(transition["terminal"], 0.0, v_next)
    return transition["reward"] + hyper["discount"] * coming - v


def learn_value(critic: dict, transition: dict, hyper: dict,
                after: tuple[Intervention, ...]) -> tuple[dict, Tensor, Tensor]:
    """Let a critic with one output learn v(s); give it, v(s) as it was, and the TD error."""

    def value(params, x):
        output, features = stream_x.apply(params, x, hyper["layer_norm"])
        return output[0], features

    gradient, (v, features) = grad_and_value(value, has_aux=True)(critic["params"], transition["x"])
    v_next, _ = value(critic["params"], transition["next_x"])
    delta = td_error(v, v_next, transition, hyper)
    critic = update(critic, gradient, features, delta, hyper["discount"] * hyper["trace_decay"],
                    transition["over"], hyper, hyper["kappa"], after)
    return critic, v, delta


def stream_td(inputs: int, hidden: tuple[int, ...] = (32, 32), *after: Intervention) -> Agent:
    """Make a learner of v(s), the discounted sum of rewards to come. It does not act."""
    sizes = (inputs, *hidden, 1)

    def start(seed, hyper):
        return {"critic": new_net(seed, sizes, hyper, after)}

    def act(state, hyper, x, seed, t):
        return torch.zeros_like(t), t < 0

    def learn(state, hyper, transition, seed, t):
        critic, v, _ = learn_value(state["critic"], transition, hyper, after)
        return {"critic": critic}, v

    return _agent(start, act, learn, {}, f"stream_td {sizes}", (inputs, 0, 0), hidden, after)


def stream_q(inputs: int, actions: int, hidden: tuple[int, ...] = (32, 32),
             *after: Intervention) -> Agent:
    """Make a learner of action values, epsilon-greedy: Watkins's Q(lambda).

    An exploratory action cuts the traces: what follows it says nothing about the greedy choices
    before it. The paper's pseudocode cuts before the update that learns from that action (``cut``
    1, ours); the released code after it (``cut`` 2), which its authors call the right order, though
    then the choices before are still credited with what exploring led to. ``cut`` 0 leaves the
    traces alone.

    Settings beside those of stream-x: ``cut``, and ``epsilon``, which falls from 1 to its value
    over ``exploration`` steps.
    """
    sizes = (inputs, *hidden, actions)

    def start(seed, hyper):
        return {"critic": new_net(seed, sizes, hyper, after)}

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
        before, behind = (transition["explored"] & (hyper["cut"] == when) for when in (1, 2))
        decay = torch.where(before, 0.0, hyper["discount"] * hyper["trace_decay"])
        critic = update(state["critic"], gradient, features, delta, decay,
                        transition["over"] | behind, hyper, hyper["kappa"], after)
        return {"critic": critic}, v

    return _agent(start, act, learn, EXPLORING | {"cut": 1.0}, f"stream_q {sizes}",
                  (inputs, actions, 0), hidden, after)


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
              *after: Intervention, reals: int = 1) -> Agent:
    """Make an actor and a critic, two networks that learn from the same TD error: AC(lambda).

    The actor chooses among `actions` by a softmax; with 0 of them it draws `reals` real numbers
    from normal distributions, of which it gives means and deviations (softplus).

    Settings beside those of stream-x: ``kappa_policy``, and ``entropy``, the weight of an entropy
    bonus (times the sign of delta, as the step is multiplied by delta).
    """
    policy = categorical(actions) if actions else gaussian(reals, "output")
    critic_sizes, actor_sizes = (inputs, *hidden, 1), (inputs, *hidden, policy.outputs)

    def start(seed, hyper):
        return {"critic": new_net(seed, critic_sizes, hyper, after),
                "actor": new_net(seed, actor_sizes, hyper, after, 1)}

    def act(state, hyper, x, seed, t):
        output, _ = stream_x.apply(state["actor"]["params"], x, hyper["layer_norm"])
        where = torch.arange(policy.numbers, device=seed.device)
        action = policy.draw(output, {}, random.uniform(seed, random.ACTION, t, where))
        return action[0].long() if actions else action, t < 0

    def learn(state, hyper, transition, seed, t):
        critic, v, delta = learn_value(state["critic"], transition, hyper, after)

        def objective(params):
            output, features = stream_x.apply(params, transition["x"], hyper["layer_norm"])
            log_p = policy.log_probability(output, {}, transition["action"])
            entropy = policy.entropy(output, {})
            return log_p + hyper["entropy"] * torch.sign(delta) * entropy, features

        gradient, features = grad(objective, has_aux=True)(state["actor"]["params"])
        actor = update(state["actor"], gradient, features, delta,
                       hyper["discount"] * hyper["trace_decay"], transition["over"], hyper,
                       hyper["kappa_policy"], after)
        return {"critic": critic, "actor": actor}, v

    return _agent(start, act, learn, {"kappa_policy": 3.0, "entropy": 0.01},
                  f"stream_ac {critic_sizes} {actor_sizes}",
                  (inputs, actions, 0 if actions else reals), hidden, after)


def dynamic_q(inputs: int, actions: int, units: int = 32, depth: int = 1) -> Agent:
    """Make a one-step Q-learner (Watkins 1989) with the dynamic network: it grows as it acts.

    It has nothing of stream-x but the scaled observations and rewards: no bounded traces, no layer
    norm, no sparse weights. It begins without hidden units, and learns its own step sizes. The
    network is told r + gamma max q(s', .) for what was done, and for all other actions what it
    expects already: there it has no error and no hunger.

    Parameters
    ----------
    inputs, actions : int
    units, depth : int
        Room for hidden units, and most levels of them, as `network.dynamic` has it.

    Returns
    -------
    Agent
        With the settings of `network.SETTINGS`, ``epsilon`` and ``exploration`` as of `stream_q`,
        and those of `stream_x.SCALES`.
    """
    learner = network.dynamic_network(inputs, units, actions, depth=depth)

    def values(net: dict, x: Tensor) -> Tensor:
        s = network.run(net["params"], net["units"]["level"], x, depth)
        return net["params"]["output"] @ with_bias(s, net["params"]["output"])

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
