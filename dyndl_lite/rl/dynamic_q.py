"""The dynamic network as a streaming learner: it grows while it acts, and learns its own step sizes.

One-step Q-learning (Watkins 1989) with the network of `dynamic` for its values. It has nothing of the
stream-x kit but the scaled observations and rewards: no bounded traces, no layer norm, no sparse weights.
"""

import torch
from torch import Tensor

from dyndl_lite.dynamic import network
from dyndl_lite.dynamic.credit import heard_by
from dyndl_lite.rl import stream_x
from dyndl_lite.rl.streaming import Agent, epsilon_greedy, EXPLORING, td_error

#: What a life needs of the kit's settings; a dynamic network has its own for the rest.
SCALES = {name: stream_x.SETTINGS[name] for name in ("discount", "normalise", "scale_rewards", "horizon")}


def dynamic_q(inputs: int, actions: int, units: int = 32, depth: int = 1) -> Agent:
    """Make a learner of action values, epsilon-greedy, whose network begins without hidden units.

    The network is told r + gamma max q(s', .) for what was done, and for all other actions what it
    expects already: there it has no error and no hunger.

    Parameters
    ----------
    inputs, actions : int
    units, depth : int
        Room for hidden units, and most levels of them, as `network.dynamic` has it.

    Returns
    -------
    Agent
        With the settings of `network.SETTINGS`, ``epsilon`` and ``exploration`` as in `stream_q`, and
        the kit's ``discount``, ``normalise``, ``scale_rewards`` and ``horizon``.
    """
    learner = network.dynamic(inputs, units, actions, depth=depth)

    def values(net: dict, x: Tensor) -> Tensor:
        s = network.run(net["params"], net["units"]["level"], x, depth)
        return net["params"]["output"] @ heard_by(s, net["params"]["output"])

    def start(seed, hyper):
        return learner.start(seed)

    def act(net, hyper, x, seed, t):
        return epsilon_greedy(values(net, x), hyper, seed, t)

    def learn(net, hyper, seen, seed, t):
        q, q_next = values(net, seen["x"]), values(net, seen["next_x"])
        chosen = torch.arange(actions, device=q.device) == seen["action"]
        v = torch.where(chosen, q, 0.0).sum()
        delta = td_error(v, q_next.amax(0), seen, hyper)
        net, _ = learner.step(net, hyper, seen["x"], q + torch.where(chosen, delta, 0.0))
        return net, v

    return Agent(start, act, learn, SCALES | EXPLORING | learner.settings,
                 f"dynamic_q {learner.description}", learner.check)
