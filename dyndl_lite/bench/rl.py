"""How fast are agents that live together, beside the loop that people write, and beside a library?

The plain streaming loop stands here in full, so that a reader can judge whether it is fair: one
agent, modules, autograd, an optimiser with traces, gymnasium's own CartPole.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from dyndl_lite.bench import row
from dyndl_lite.experiment.run import Job
from dyndl_lite.rl import slippery_ant
from dyndl_lite.rl.environments import cart_pole
from dyndl_lite.rl.interaction import never
from dyndl_lite.rl.policies import categorical, gaussian
from dyndl_lite.rl.ppo import ppo, RolloutConfig
from dyndl_lite.rl.rollouts import named, torch_rollouts
from dyndl_lite.rl.streaming import stream_q
from dyndl_lite.rl.train_ppo import Condition, Training
from dyndl_lite.rl.train_streaming import InEnvironment

GAMMA, LAMBDA, KAPPA, SPARSITY, EPSILON, EXPLORATION = 0.99, 0.8, 2.0, 0.9, 0.01, 10_000
# learners at once, our steps a round, the plain loop's steps a round
WORKS = [(30, 3_000, 1_000), (1, 10_000, 1_000)]


class Moments:
    """Running mean and variance."""

    def __init__(self):
        self.n, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, x):
        self.n += 1
        before = x - self.mean
        self.mean = self.mean + before / self.n
        self.squares = self.squares + before * (x - self.mean)

    def deviation(self):
        return np.sqrt((self.squares / (self.n - 1) if self.n > 1 else 1.0) + 1e-8)


class PlainStreamQ:
    """Stream Q(lambda) as people write it."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList([nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 2)])
        with torch.no_grad():
            for layer in self.layers:
                nn.init.zeros_(layer.bias)
                n = layer.in_features
                zeros = min(int(np.ceil(SPARSITY * n - 1e-4)), n - 1)
                for weights in layer.weight:
                    weights[torch.randperm(n)[:zeros]] = 0
        self.traces = [torch.zeros_like(p) for p in self.layers.parameters()]
        self.env, self.sum, self.t = gymnasium.make("CartPole-v1"), 0.0, 0
        self.observations, self.rewards = Moments(), Moments()
        self.x = self.normalise(self.env.reset(seed=seed)[0])

    def normalise(self, observation) -> Tensor:
        self.observations.update(observation)
        x = (observation - self.observations.mean) / self.observations.deviation()
        return torch.as_tensor(x, dtype=torch.float32)

    def q(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            z = layer(x)
            x = F.leaky_relu(F.layer_norm(z, z.shape))
        return self.layers[-1](x)

    def learn(self, x: Tensor, a: int, r: float, next_x: Tensor, terminal: bool, over: bool,
              explored: bool) -> None:
        """Take one step of ObGD."""
        q = self.q(x)[a]
        with torch.no_grad():
            delta = r + GAMMA * (0.0 if terminal else self.q(next_x).max().item()) - q.item()
        self.layers.zero_grad()
        q.backward()
        with torch.no_grad():
            for z, p in zip(self.traces, self.layers.parameters()):
                z.mul_(0.0 if explored else GAMMA * LAMBDA).add_(p.grad)
            size = sum(z.abs().sum().item() for z in self.traces)
            M = KAPPA * max(abs(delta), 1.0) * size
            for z, p in zip(self.traces, self.layers.parameters()):
                p.add_(z, alpha=delta / max(M, 1.0))
                if over:
                    z.zero_()

    def live(self, steps: int) -> None:
        """Act and learn."""
        for _ in range(steps):
            epsilon = max(EPSILON, 1 - (1 - EPSILON) * self.t / EXPLORATION)
            with torch.no_grad():
                best = int(self.q(self.x).argmax())
            a = int(self.rng.integers(2)) if self.rng.random() < epsilon else best
            seen, reward, terminal, truncated, _ = self.env.step(a)
            over = terminal or truncated
            next_x = self.normalise(seen)
            self.sum = (0.0 if over else GAMMA * self.sum) + reward
            self.rewards.update(self.sum)
            self.learn(self.x, a, reward / self.rewards.deviation(), next_x, terminal, over, a != best)
            self.x = self.normalise(self.env.reset()[0]) if over else next_x
            self.t += 1


def going(job: Job, steps: int) -> Callable:
    """Give a function that advances a job by so many steps, whole chunks of the job's."""
    state, t = job.start(), 0

    def go() -> None:
        nonlocal state, t
        for _ in range(0, steps, job.chunk):
            state, *_ = job.advance(state, t, job.chunk)
            t += job.chunk

    return go


def measure(rounds: int = 5, quick: bool = False) -> list[dict]:
    """Time stream Q(lambda) in CartPole beside the plain loop, in turns.

    Parameters and result are those of `supervised.measure`: rates are agent-steps per second,
    environment and learning included, with one thread each.
    """
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for runs, steps, plain_steps in [(30, 20, 20)] if quick else WORKS:
        job = InEnvironment(stream_q(4, 2), cart_pole, {"q": {}}, range(runs), [steps], steps, (),
                            None, never)
        rows.append(row("CartPole, 2 layers of 32", "stream_q", runs, rounds,
                        (runs * steps, going(job, steps)),
                        (plain_steps, partial(PlainStreamQ().live, plain_steps))))
    torch.set_num_threads(threads)
    return rows


def measure_ppo(rounds: int = 5, quick: bool = False) -> list[dict]:
    """Time PPO, some seeds together, beside one of stable-baselines3's, in turns.

    The same work for both: CartPole, 8 copies of 128 steps, and Hopper, one of 2 048, with 64 x 64
    units and ten epochs. CartPole is torch's here and gymnasium's there, the robot MuJoCo's.

    Parameters and result are those of `measure`: rates are steps of the environment per second.
    No rows without stable-baselines3 (and for Hopper MuJoCo).
    """
    if importlib.util.find_spec("stable_baselines3") is None:
        return []
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    works = [("CartPole-v1", 10, torch_rollouts(cart_pole),
              ppo(4, categorical(2), (64, 64), "tanh"), RolloutConfig(8, 128, 10, 16)),
             ("Hopper-v5", 5, named("Hopper-v5"), ppo(11, gaussian(3), (64, 64), "tanh"),
              RolloutConfig(1, 2_048, 10, 32))]
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for env, runs, place, agent, routine in works[:1 if quick or slippery_ant.missing() else 2]:
        if quick:
            routine = RolloutConfig(2, 16, 2, 2)
        iterations = 1 if quick else 1_000  # so many are worth compiling
        job = Training(place, agent, {"ppo": Condition()}, range(runs), routine, [iterations],
                       iterations, "ppo")
        each = routine.envs * routine.steps
        theirs = PPO("MlpPolicy", make_vec_env(env, routine.envs), n_steps=routine.steps,
                     device="cpu", n_epochs=routine.epochs, batch_size=each // routine.minibatches)
        rows.append(row(f"{env} (theirs: stable-baselines3)", "ppo", runs, rounds,
                        (runs * each, going(job, 1)),
                        (each, partial(theirs.learn, each, reset_num_timesteps=False))))
    torch.set_num_threads(threads)
    return rows
