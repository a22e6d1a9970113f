"""Proximal policy optimisation (PPO; Schulman et al. 2017, arXiv 1707.06347).

One agent, two networks: a policy, and a value function that says what to expect. It acts for a
while, then learns from what happened in several epochs of minibatches. A minibatch is this agent's
*example*, so PPO is a learner like any other and the same drivers make it fast.

Both networks have one shape, so they are a little ensemble themselves: weights [2, ...], the policy
first. Of the value network's outputs only the first counts; nothing leads to the others.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.optimisers import adam
from dyndl_lite.experiment import drivers
from dyndl_lite.learning import Intervention, Optimiser
from dyndl_lite.models.mlp import forward, initialise
from dyndl_lite.rl.policies import Policy


class ActorCritic(NamedTuple):
    """A learner (see `Learner`) whose examples are minibatches of what it did, and how it acts."""

    start: Callable  # seed -> agent: a dict of tensors
    step: Callable  # agent, hyper, x, y -> agent, loss: one gradient step on a minibatch
    settings: dict[str, float]
    description: str
    policy: Policy
    activation: str
    made_for: tuple[int, int, int]  # observations, actions and reals of its environment
    check: Callable  # raises ValueError for a setting that cannot run


def ppo(observations: int, policy: Policy, hidden: tuple[int, ...] = (64, 64),
        activation: str = "relu", optimiser: Optimiser = adam,
        *after: Intervention) -> ActorCritic:
    """Make a PPO agent: two networks of the same `hidden` layers, one optimiser for both.

    Parameters
    ----------
    optimiser : Optimiser
        ``l2(adam)`` adds weight decay.
    *after : Intervention
        What happens to each of the networks after each step, counted in minibatches.

    Returns
    -------
    ActorCritic
        Its step takes an example of `minibatches`. Its settings are those of the optimiser and the
        interventions, and ``clip`` (how far the ratio of probabilities may move), ``value_weight``,
        ``entropy_weight``, ``max_grad_norm``, and for `advantages` ``discount``, ``gae_lambda``.
    """
    sizes = (observations, *hidden, policy.outputs)

    def start(seed: Tensor) -> dict:
        seeds = torch.stack([seed, random.bits(seed, random.VALUE)])
        nets = vmap(lambda seed: initialise(seed, sizes, activation))(seeds)
        if activation != "relu":  # as is usual for tanh (Andrychowicz et al. 2021 compare)
            nets = [(vmap(orthogonal)(W) * (2 ** 0.5 if i < len(nets) - 1 else 1.0), b)
                    for i, (W, b) in enumerate(nets)]
        W, b = nets[-1]
        # At first all actions are much the same everywhere; one output is enough for a value.
        heard = torch.stack([torch.full_like(b[0], 0.01), torch.eye(len(b[0]), device=b.device)[0]])
        nets[-1] = (W * heard[:, :, None], b)
        params = {"nets": nets, **policy.start(seed.device)}
        return {"params": params, "memory": optimiser.init(params, seed),
                "after": [vmap(each.init)(seeds, nets) for each in after]}

    def step(agent: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        action, (old, advantage, target) = y[:, :-3], y[:, -3:].T
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

        def objective(params):
            over_examples = vmap(lambda net, x: forward(net, x, activation), (None, 0))
            (output, value), features = vmap(over_examples, (0, None))(params["nets"], x)
            new = vmap(lambda o, a: policy.log_probability(o, params, a))(output, action)
            entropy = vmap(lambda o: policy.entropy(o, params))(output).mean()
            loss = (-clipped_surrogate(new - old, advantage, hyper["clip"]).mean()
                    + hyper["value_weight"] * ((value[:, 0] - target) ** 2).mean()
                    - hyper["entropy_weight"] * entropy)
            return loss, (loss, features)

        gradients, (loss, features) = grad(objective, has_aux=True)(agent["params"])
        gradients = clip_by_global_norm(gradients, hyper["max_grad_norm"])
        params, memory = optimiser.update(agent["params"], gradients, agent["memory"], hyper)
        nets, states = params["nets"], []
        of_nets = {kind: {name: tree["nets"] for name, tree in memory[kind].items()}
                   for kind in ("per_weight", "initial")}
        for each, state in zip(after, agent["after"]):
            nets, of_nets, state = vmap(each.apply, (0, 0, 0, 0, None))(
                nets, of_nets, state, features, hyper)
            states.append(state)
        memory = memory | {kind: {name: {**memory[kind][name], "nets": tree}
                                  for name, tree in of_nets[kind].items()} for kind in of_nets}
        return {"params": {**params, "nets": nets}, "memory": memory, "after": states}, loss

    settings = {**optimiser.settings, **{k: v for each in after for k, v in each.settings.items()},
                "step_size": 3e-4, "clip": 0.2, "value_weight": 0.5, "entropy_weight": 0.0,
                "max_grad_norm": 0.5, "discount": 0.99, "gae_lambda": 0.95}
    description = " ".join([f"ppo {sizes} {policy.name} {activation} {optimiser.name}",
                            *(each.name for each in after)])
    made_for = observations, policy.choices, 0 if policy.choices else policy.numbers

    def check(setting: dict) -> None:
        optimiser.check(setting)
        for each in after:
            each.check(setting, hidden)

    return ActorCritic(start, step, settings, description, policy, activation, made_for, check)


def orthogonal(W: Tensor) -> Tensor:
    """Turn random weights into some with orthogonal rows or columns of length 1."""
    if W.shape[0] < W.shape[1]:
        return orthogonal(W.T).T
    Q, R = torch.linalg.qr(W)
    return Q * torch.sign(torch.diagonal(R))


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: Tensor) -> Tensor:
    """Give what each example contributes to PPO's objective (Schulman et al. 2017, Equation 7).

    With r, the ratio of an action's new and old probability, and A its advantage:
    min(r A, clip(r, 1 - clip, 1 + clip) A). Nothing is gained by going further than the clip.
    """
    r = torch.exp(log_ratio)
    return torch.minimum(r * advantage, torch.clamp(r, 1 - clip, 1 + clip) * advantage)


def clip_by_global_norm(gradients, max_norm: Tensor):
    """Scale all gradients down together where the norm of all of them is more than `max_norm`."""
    norm = torch.sqrt(sum((g**2).sum() for g in tree_leaves(gradients)))
    return tree_map(lambda g: g * torch.clamp(max_norm / (norm + 1e-6), max=1.0), gradients)


def advantages(reward: Tensor, value: Tensor, next_value: Tensor, terminal: Tensor, over: Tensor,
               discount: Tensor, gae_lambda: Tensor) -> Tensor:
    """Estimate how much better each action was than expected (Schulman et al. 2016, Equation 16).

    Parameters
    ----------
    reward, value, next_value : tensors [steps, ...]
        `next_value` is of the state that the action led to, which is not the next row's where an
        episode is over.
    terminal, over : bool tensors [steps, ...]
        Where the task is at its end: nothing comes after. Where the episode is over: that, or its
        time was up. Time that runs out is not the end of the world, so the value of what would have
        come counts there; only the trace stops.
    discount, gae_lambda : tensors [...]
    """
    delta = reward + discount * torch.where(terminal, 0.0, next_value) - value
    keep = torch.where(over, 0.0, discount * gae_lambda)
    A, trace = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        trace = delta[t] + keep[t] * trace
        A[t] = trace
    return A


class RolloutConfig(NamedTuple):
    """How many steps an agent acts for before it learns from them, and how thoroughly it learns."""

    envs: int = 16  # copies of its environment that an agent acts in at once
    steps: int = 16  # in each of them
    epochs: int = 10
    minibatches: int = 2


def minibatches(agents: dict, hypers: dict, rollout: dict, activation: str, seeds: Tensor,
               iteration: int, config: RolloutConfig) -> tuple[Tensor, Tensor]:
    """Lay out a rollout (see `rollouts`) of an ensemble [agents] as minibatches in random order.

    Returns
    -------
    X [epochs x minibatches, agents, minibatch, observations]
    Y [epochs x minibatches, agents, minibatch, action, log-probability, advantage, return]
    """
    over_envs = vmap(lambda params, o: forward(params, o, activation)[0][0], (None, 0))
    v, net = vmap(vmap(over_envs), (None, 0)), networks(agents["params"])["value"]  # agents, steps
    value, next_value = v(net, rollout["observation"]), v(net, rollout["next_observation"])
    gamma, gae_lambda = hypers["discount"][:, None], hypers["gae_lambda"][:, None]
    A = advantages(rollout["reward"], value, next_value, rollout["terminal"], rollout["over"],
                   gamma, gae_lambda)
    numbers = torch.stack([rollout["log_probability"], A, A + value], -1)
    y = torch.cat([rollout["action"], numbers], -1)
    epochs, n = config.epochs, config.steps * config.envs
    order = torch.stack([random.permutation(seeds, n, random.SHUFFLE, iteration, epoch)
                         for epoch in range(epochs)])  # [epochs, agents, n]

    def shuffled(a: Tensor) -> Tensor:
        rows = a.transpose(0, 1).flatten(1, 2)  # [agents, n, numbers]
        rows = rows[torch.arange(len(seeds), device=a.device)[:, None], order]
        cut = rows.reshape(epochs, len(seeds), config.minibatches, n // config.minibatches, -1)
        return cut.transpose(1, 2).flatten(0, 1).contiguous()

    return shuffled(rollout["observation"]), shuffled(y)


def networks(params: dict) -> dict[str, list]:
    """Tell the two networks of an ensemble of agents apart, weights [agents, ...]."""
    policy, value = (tree_map(lambda a: a[:, i], params["nets"]) for i in (0, 1))
    return {"policy": policy, "value": [*value[:-1], tuple(a[:, :1] for a in value[-1])]}


def act(agent: ActorCritic, params: dict, observation: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Let one agent choose, with what `acting_params` gives of it and `u` [numbers] from [0, 1).

    Give the action [numbers] and its log-probability.
    """
    output = forward(params["policy"], observation, agent.activation)[0]
    action = agent.policy.draw(output, params, u)
    return action, agent.policy.log_probability(output, params, action)


def acting_params(params: dict) -> dict:
    """Give what `act` takes: the policy network, and what is learned beside it."""
    learned = {name: part for name, part in params.items() if name != "nets"}
    return drivers.laid_out({**learned, "policy": networks(params)["policy"]})
