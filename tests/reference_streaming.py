"""The stream-x learners as a plain loop in numpy, gradients by hand, in gymnasium's CartPole."""

import math

import gymnasium
import numpy as np
import torch

from dyndl_lite import keyed_random as random


def uniform(seed, *where):
    return random.uniform(torch.tensor(seed), *where).double().numpy()


class Net:
    """Layers W, b; h = leaky_relu(layer_norm(W h + b)); with eligibility traces."""

    def __init__(self, params, hyper, kappa):
        self.W = [W.double().numpy().copy() for W, _ in params]
        self.b = [b.double().numpy().copy() for _, b in params]
        self.z = [np.zeros_like(a) for a in self.W + self.b]
        self.hyper, self.kappa = hyper, kappa

    def run(self, x):
        self.inputs, self.before = [x], []
        for W, b in zip(self.W[:-1], self.b[:-1]):
            z = W @ self.inputs[-1] + b
            s = math.sqrt(z.var() + 1e-5)
            y = (z - z.mean()) / s if self.hyper["layer_norm"] else z
            self.before.append((y, s))
            self.inputs.append(np.where(y > 0, y, 0.01 * y))
        return self.W[-1] @ self.inputs[-1] + self.b[-1]

    def gradient(self, x, slope):
        """Gradient of slope . output by every weight, then by every bias."""
        self.run(x)
        dW, db = [], []
        for layer in reversed(range(len(self.W))):
            dW.insert(0, np.outer(slope, self.inputs[layer]))
            db.insert(0, slope)
            if layer:
                slope = self.W[layer].T @ slope
                y, s = self.before[layer - 1]
                slope = slope * np.where(y > 0, 1, 0.01)
                if self.hyper["layer_norm"]:
                    slope = (slope - slope.mean() - y * (slope * y).mean()) / s
        return dW + db

    def learn(self, gradient, delta, decay):
        h, size = self.hyper, 0.0
        for z, g in zip(self.z, gradient):
            z[...] = decay * z + g
            size += np.abs(z).sum()
        M = h["step_size"] * self.kappa * max(abs(delta), 1) * size
        step = h["step_size"] / max(M, 1) if h["bounded"] else h["step_size"]
        for w, z in zip(self.W + self.b, self.z):
            w += step * delta * z

    def reset(self):
        for z in self.z:
            z[...] = 0


class Statistics:
    """Keeps all that it has seen; asked for mean and variance it computes them from that."""

    def __init__(self):
        self.all = []

    def update(self, x):
        self.all.append(np.array(x, dtype=float))

    def scale(self):
        variance = np.var(self.all, axis=0, ddof=1) if len(self.all) > 1 else 1.0
        return np.sqrt(variance + 1e-8)

    def normalise(self, x):
        self.update(x)
        return (x - np.mean(self.all, axis=0)) / self.scale()


def live(who, life, hyper, seed, steps, limit):
    """Live through CartPole, episodes cut off after `limit` steps; give rewards, ends, and nets."""
    env = gymnasium.make("CartPole-v1").unwrapped
    critic = Net(life["agent"]["critic"]["params"], hyper, hyper["kappa"])
    nets = [critic]
    if who == "ac":
        actor = Net(life["agent"]["actor"]["params"], hyper, hyper["kappa_policy"])
        nets.append(actor)
    eyes, pay, u, age = Statistics(), Statistics(), 0.0, 0

    def place(t):
        env.reset()
        env.state = -0.05 + 0.1 * uniform(seed, random.START, t, torch.arange(4))
        return env.state.copy()

    def see(state):
        return eyes.normalise(state) if hyper["normalise"] else state

    x, record = see(place(0)), []
    for t in range(steps):
        explored = False
        if who == "q":
            q = critic.run(x)
            epsilon = max(1 - (1 - hyper["epsilon"]) * t / hyper["exploration"], hyper["epsilon"])
            luck = uniform(seed, random.EXPLORE, t, torch.arange(2))
            a = int(luck[1] * 2) if luck[0] < epsilon else int(q.argmax())
            explored = a != q.argmax()
        elif who == "ac":
            e = np.exp(actor.run(x))
            p = e / e.sum()
            a = int(uniform(seed, random.ACTION, t, torch.arange(2))[0] >= p[0])
        else:
            a = 0
        state, r, terminal, *_ = env.step(a)
        state, age = env.state.copy(), age + 1
        over = terminal or age == limit
        next_x = see(state)
        u = (0.0 if over else hyper["discount"] * u) + r
        pay.update(u)
        record.append((r, over))
        r = r / pay.scale() if hyper["scale_rewards"] else r
        # Learn from it.
        v, after = critic.run(x).copy(), critic.run(next_x)
        which = a if who == "q" else 0
        delta = r + hyper["discount"] * (0 if terminal else after.max()) - v[which]
        decay = hyper["discount"] * hyper["trace_decay"] * (0 if explored and hyper["cut"] else 1)
        slope = np.eye(len(v))[which]
        changes = [critic.gradient(x, slope)]
        if who == "ac":
            e = np.exp(actor.run(x))
            p = e / e.sum()
            entropy = -(p * np.log(p)).sum()
            of_entropy = -p * (np.log(p) + entropy)
            changes.append(actor.gradient(
                x, np.eye(2)[a] - p + hyper["entropy"] * np.sign(delta) * of_entropy))
        for net, gradient in zip(nets, changes):
            net.learn(gradient, delta, decay)
            if over:
                net.reset()
        x = next_x
        if over:
            x, age = see(place(t + 1)), 0
    return record, nets, x
