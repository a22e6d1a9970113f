"""How fast are streaming agents that live together, beside the loop that people write?

The plain loop stands here in full, so that a reader can judge whether it is fair: one agent, modules,
autograd, an optimiser with traces, gymnasium's own CartPole.
"""

import statistics
import time

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyndl_lite.rl import lives
from dyndl_lite.rl.streaming import stream_q
from dyndl_lite.rl.worlds import cart_pole

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
                for row in layer.weight:
                    row[torch.randperm(n)[:zeros]] = 0
        self.traces = [torch.zeros_like(p) for p in self.layers.parameters()]
        self.env, self.eyes, self.pay, self.sum, self.t = gymnasium.make("CartPole-v1"), Moments(), \
            Moments(), 0.0, 0
        self.x = self.see(self.env.reset(seed=seed)[0])

    def see(self, observation) -> Tensor:
        self.eyes.update(observation)
        x = (observation - self.eyes.mean) / self.eyes.deviation()
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
            next_x = self.see(seen)
            self.sum = (0.0 if over else GAMMA * self.sum) + reward
            self.pay.update(self.sum)
            self.learn(self.x, a, reward / self.pay.deviation(), next_x, terminal, over, a != best)
            self.x = self.see(self.env.reset()[0]) if over else next_x
            self.t += 1


def measure(rounds: int = 5, quick: bool = False) -> list[dict]:
    """Time stream Q(lambda) in CartPole beside the plain loop, in turns.

    Parameters and result are those of `bench.measure`: rates are agent-steps per second, world and
    learning included, with one thread each.
    """
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for runs, steps, plain_steps in WORKS[:1] if quick else WORKS:
        if quick:
            steps, plain_steps = 20, 20
        ours, plain = lives.Lives(stream_q(4, 2), cart_pole, {"q": {}}, range(runs), steps), PlainStreamQ()
        ours.live(steps), plain.live(plain_steps)  # compile, and warm up
        pairs = [(runs * steps / _seconds(ours.live, steps),
                  plain_steps / _seconds(plain.live, plain_steps)) for _ in range(rounds)]
        rows.append({"work": "CartPole, 2 layers of 32", "learner": "stream_q", "runs": runs,
                     "rate": statistics.median(a for a, _ in pairs),
                     "loop_rate": statistics.median(b for _, b in pairs),
                     "ratio": statistics.median(a / b for a, b in pairs)})
    torch.set_num_threads(threads)
    return rows


def _seconds(live, steps: int) -> float:
    begin = time.perf_counter()
    live(steps)
    return time.perf_counter() - begin
