"""Learners made for batches: DQN with its replay buffer, and what is left without one.

DQN (Mnih et al. 2015) is the foil of the streaming learners: it may look at everything again and
again. With ``buffer`` 1 all of its batch is the transition that just happened, which is DQN at
batch and buffer 1. `ppo_of_one` is PPO (Schulman et al. 2017) with a rollout of one step.
"""

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.optimisers import adam
from dyndl_lite.models import mlp
from dyndl_lite.rl import stream_x
from dyndl_lite.rl.environments import either
from dyndl_lite.rl.policies import categorical
from dyndl_lite.rl.ppo import clipped_surrogate
from dyndl_lite.rl.streaming import Agent, epsilon_greedy, EXPLORING, td_error

_COMMON = {**stream_x.SCALES, "normalise": 0.0, "scale_rewards": 0.0, **adam.settings}


def dqn(inputs: int, actions: int, hidden: tuple[int, ...] = (32, 32), capacity: int = 4_000,
        batch: int = 32) -> Agent:
    """Make a DQN: replay, a target network, Huber loss, Adam.

    Settings: ``buffer``, the last transitions it draws its batch from (at most `capacity`);
    ``target_period``, steps between two copies of the network into the target; ``warm_up``, steps
    before it learns; ``epsilon`` and ``exploration`` as of `stream_q`.
    """
    sizes = (inputs, *hidden, actions)
    width = 2 * inputs + 3

    def start(seed, hyper):
        params = mlp.initialise(seed, sizes)
        return {"critic": {"params": params}, "target": tree_map(torch.clone, params),
                "memory": adam.init(params, seed),
                "buffer": torch.zeros(capacity, width, device=seed.device)}

    def act(state, hyper, x, seed, t):
        q, _ = mlp.forward(state["critic"]["params"], x)
        return epsilon_greedy(q, hyper, seed, t)

    def loss(params, target, rows, discount):
        def one(row):
            x, next_x = row[:inputs], row[inputs:2 * inputs]
            action, reward, goes_on = row[2 * inputs:]
            q = mlp.forward(params, x)[0]
            q_next = mlp.forward(target, next_x)[0].amax(0)
            chosen = torch.arange(actions, device=row.device) == action
            delta = reward + discount * goes_on * q_next - torch.where(chosen, q, 0.0).sum()
            size = delta.abs()
            return torch.where(size < 1, 0.5 * delta**2, size - 0.5)

        return vmap(one)(rows).mean()

    def learn(state, hyper, transition, seed, t):
        x, action, reward = (transition[name] for name in ("x", "action", "reward"))
        goes_on = 1 - transition["terminal"].float()
        row = torch.cat([x, transition["next_x"], torch.stack([action.float(), reward, goes_on])])
        slot = torch.arange(capacity, device=seed.device) == t % capacity
        buffer = torch.where(slot[:, None], row, state["buffer"])
        u = random.uniform(seed, random.REPLAYED, t, torch.arange(batch, device=seed.device))
        back = (u * torch.minimum(t + 1, hyper["buffer"])).long()
        rows = buffer.index_select(0, (t - back) % capacity)
        params = state["critic"]["params"]
        gradient = grad(loss)(params, state["target"], rows, hyper["discount"])
        new, memory = adam.update(params, gradient, state["memory"], hyper)
        ready, copy = t >= hyper["warm_up"], (t + 1) % hyper["target_period"].long() == 0
        q, _ = mlp.forward(params, x)
        params, memory = either(ready, (new, memory), (params, state["memory"]))
        return {"critic": {"params": params}, "target": either(copy, params, state["target"]),
                "memory": memory, "buffer": buffer}, q.amax(0)

    settings = _COMMON | EXPLORING | {"buffer": float(capacity), "target_period": 250.0,
                                      "warm_up": 1_000.0}
    return Agent(start, act, learn, settings, f"dqn {sizes} capacity={capacity} batch={batch}",
                 (inputs, actions, 0))


def ppo_of_one(inputs: int, actions: int, hidden: tuple[int, ...] = (32, 32),
               epochs: int = 4) -> Agent:
    """Make PPO whose rollout is one step: its advantage is the TD error, its batch one transition.

    Settings: ``clip`` of the probability ratio, ``entropy`` weight; Adam learns both networks.
    """
    sizes = {"critic": (inputs, *hidden, 1), "actor": (inputs, *hidden, actions)}
    policy = categorical(actions)

    def start(seed, hyper):
        nets = {name: mlp.initialise(seed + 1000 * i, size, "tanh")
                for i, (name, size) in enumerate(sizes.items())}
        return {name: {"params": net, "memory": adam.init(net, seed)} for name, net in nets.items()}

    def value(params, x):
        return mlp.forward(params, x, "tanh")[0][0]

    def act(state, hyper, x, seed, t):
        output, _ = mlp.forward(state["actor"]["params"], x, "tanh")
        u = random.uniform(seed, random.ACTION, t)
        return policy.draw(output, {}, u[None])[0].long(), t < 0

    def learn(state, hyper, transition, seed, t):
        critic, actor = state["critic"], state["actor"]
        v, v_next = (value(critic["params"], transition[x]) for x in ("x", "next_x"))
        target = td_error(torch.zeros_like(v), v_next, transition, hyper)

        def log_probability(output):
            return policy.log_probability(output, {}, transition["action"])

        before = log_probability(mlp.forward(actor["params"], transition["x"], "tanh")[0])

        def policy_loss(params):
            output, _ = mlp.forward(params, transition["x"], "tanh")
            gain = clipped_surrogate(log_probability(output) - before, target - v, hyper["clip"])
            return -gain - hyper["entropy"] * policy.entropy(output, {})

        def value_loss(params):
            return 0.5 * (target - value(params, transition["x"])) ** 2

        for _ in range(epochs):
            critic = _adam_step(critic, value_loss, hyper)
            actor = _adam_step(actor, policy_loss, hyper)
        return {"critic": critic, "actor": actor}, v

    return Agent(start, act, learn, _COMMON | {"clip": 0.2, "entropy": 0.01, "step_size": 3e-4},
                 f"ppo_of_one {sizes} epochs={epochs}", (inputs, actions, 0))


def _adam_step(net: dict, loss, hyper: dict) -> dict[str, Tensor]:
    params, memory = adam.update(net["params"], grad(loss)(net["params"]), net["memory"], hyper)
    return {"params": params, "memory": memory}
