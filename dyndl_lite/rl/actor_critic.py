"""Stream AC(lambda): an actor and a critic that learn from each transition once, as it happens.

Elsayed, Vasan and Mahmood (2024, arXiv 2410.14606), for actions to choose from and for real ones.
"""

import math

import torch
from torch import Tensor
from torch.func import grad

from dyndl_lite import keyed_random as random
from dyndl_lite.rl import stream_x
from dyndl_lite.rl.streaming import Agent, criticise, new_net, REPLACING, update


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

    def start(seed, hyper):
        return {"critic": new_net(seed, critic_sizes, hyper, replacing, 0),
                "actor": new_net(seed, actor_sizes, hyper, replacing, 1)}

    def act(mind, hyper, x, seed, t):
        output, _ = stream_x.forward(mind["actor"]["params"], x, hyper["layer_norm"])
        u = random.uniform(seed, random.ACTION, t, torch.arange(2 * reals, device=seed.device))
        if actions:
            action = (u[0] >= torch.softmax(output, 0).cumsum(0)[:-1]).sum()
        else:
            action = output[:reals] + _softplus(output[reals:]) * _normal(u[:reals], u[reals:])
        return action, t < 0

    def learn(mind, hyper, seen, seed, t):
        gradient, (v, features), delta = criticise(mind["critic"], seen, hyper)

        def objective(params):
            output, features = stream_x.forward(params, seen["x"], hyper["layer_norm"])
            log_p, entropy = log_p_of(output, seen["action"])
            return log_p + hyper["entropy"] * torch.sign(delta) * entropy, features

        of_policy, heard = grad(objective, has_aux=True)(mind["actor"]["params"])
        same = dict(delta=delta, decay=hyper["discount"] * hyper["trace_decay"], over=seen["over"],
                    hyper=hyper, seed=seed, t=t)
        critic = update(mind["critic"], gradient, features, **same, kappa=hyper["kappa"], which=0)
        actor = update(mind["actor"], of_policy, heard, **same, kappa=hyper["kappa_policy"], which=1)
        return {"critic": critic, "actor": actor}, v

    settings = stream_x.SETTINGS | {"kappa_policy": 3.0, "entropy": 0.01}
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
