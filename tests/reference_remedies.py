"""The remedies once more, slowly: numpy in float64 and plain loops, as their papers write them."""


import numpy as np
import reference

NOISE, DROPPED = 11, 12


def noise(seed, t, arrays):
    """Give one nearly normal number for every entry of the arrays: the sum of four bytes."""
    drawn, first = [], 0
    for array in arrays:
        bits = reference.draw_bits(seed, NOISE, t, first + np.arange(array.size))
        first += array.size
        byte = sum((bits // np.uint64(256**k) % np.uint64(256)).astype(float) for k in range(4))
        drawn.append(((byte - 4 * 127.5) / np.sqrt(4 * (256**2 - 1) / 12)).reshape(array.shape))
    return drawn


class Gradient(reference.Backprop):
    """Backprop whose gradients another rule turns into changes."""

    def learn(self, x, y):
        z, self.h = reference.forward(self.W, self.b, x, self.activation)
        _, score, slope = reference.loss_and_slope(z[-1], y, self.loss)
        gW, gb = reference.backward(self.W, z, self.h, slope, self.activation)
        weights = [a for pair in zip(self.W, self.b) for a in pair]
        self.change(weights, [g for pair in zip(gW, gb) for g in pair])
        return score


class TowardsStart(Gradient):
    """L2 regularisation towards the weights of the beginning."""

    def change(self, weights, gradients):
        if not hasattr(self, "first"):
            self.first = [w.copy() for w in weights]
        for w, g, w_0 in zip(weights, gradients, self.first):
            w -= self.hyper["step_size"] * (g + self.hyper["weight_decay"] * (w - w_0))


class Clipped(Gradient):
    """No weight may leave its interval."""

    touched = 0

    def change(self, weights, gradients):
        for k, (w, g) in enumerate(zip(weights, gradients)):
            w -= self.hyper["step_size"] * g
            fan_in = weights[k - k % 2].shape[1]
            gain = "linear" if k >= len(weights) - 2 else self.activation
            most = self.hyper["clip"] * reference.bound(fan_in, gain)
            self.touched += int((abs(w) > most).sum())
            w[w > most], w[w < -most] = most, -most


class UtilityProtected(Gradient):
    """UPGD, weight by weight, with both averages corrected."""

    t = 0

    def change(self, weights, gradients):
        if self.t == 0:
            self.utility = [np.zeros_like(w) for w in weights]
        decay, self.t = self.hyper["utility_decay"], self.t + 1
        for u, w, g in zip(self.utility, weights, gradients):
            u[...] = decay * u + (1 - decay) * -g * w
        correction = 1 - decay**self.t
        most = max(max(u.max() for u in self.utility) / correction, 1e-12)
        for u, w, g, e in zip(self.utility, weights, gradients,
                              noise(self.seed, self.t - 1, weights)):
            useless = 1 - 1 / (1 + np.exp(-(u / correction) / most))
            w *= 1 - self.hyper["step_size"] * self.hyper["weight_decay"]
            w -= 2 * self.hyper["step_size"] * (g + self.hyper["noise"] * e) * useless


class Resetting(reference.ContinualBackprop):
    """Backprop that replaces units: the replacement is continual backprop's, whose turn is not."""

    def __init__(self, seed, sizes, **rest):
        super().__init__(seed, sizes, **rest)
        self.waiting = [set() for _ in sizes[1:-1]]
        self.since_check = [np.zeros(n) for n in sizes[1:-1]]
        self.past = [[[0] for _ in range(n)] for n in sizes[1:-1]]  # gaps, the last one open

    def learn(self, x, y):
        score = reference.Backprop.learn(self, x, y)
        gone = []
        for layer in range(len(self.age)):
            self.watch(layer, self.h[layer + 1])
            if self.waiting[layer]:
                gone.append((layer, min(self.waiting[layer])))
        for layer, i in gone:
            self.replace(layer, i, 0.0)
            self.waiting[layer].discard(i)
            self.since_check[layer][i] = 0
            self.past[layer][i] = [0]
        for layer, i in gone:
            self.regrow(layer, i)
        self.t += 1
        return score


class ReDo(Resetting):
    """Recycle dormant units."""

    def watch(self, layer, h):
        self.since_check[layer] += abs(h)
        if (self.t + 1) % self.hyper["reset_period"] == 0:
            mean = self.since_check[layer].mean()
            self.waiting[layer] = {i for i, s in enumerate(self.since_check[layer])
                                   if s <= self.hyper["dormancy"] * mean}
            self.since_check[layer][:] = 0


class SelfNormalised(Resetting):
    """Replace a unit whose silence its own past makes improbable."""

    def watch(self, layer, h):
        least, self.waiting[layer] = self.hyper["maturity_threshold"], set()
        for i, gaps in enumerate(self.past[layer]):
            gaps[-1] += 1
            if h[i] != 0:
                gaps.append(0)
            silence, closed = gaps[-1], gaps[:-1]
            firing = (len(closed) + 1) / (sum(closed) + least)  # one gap counts in advance
            tail = (1 - firing) ** silence if firing < 1 else 0.0**silence
            if silence > least and tail <= self.hyper["rejection"]:
                self.waiting[layer].add(i)


class OnlineNormalised:
    """Online normalisation of every hidden unit, forward and backward, with ReLU and SGD."""

    def __init__(self, seed, sizes, loss, **hyper):
        self.W, self.b = reference.initial_weights(seed, sizes, "relu")
        self.loss, self.hyper = loss, hyper
        self.mean = [np.zeros(n) for n in sizes[1:-1]]
        self.variance = [np.ones(n) for n in sizes[1:-1]]
        self.along = [np.zeros(n) for n in sizes[1:-1]]
        self.by_mean = [np.zeros(n) for n in sizes[1:-1]]

    def learn(self, x, target):
        forget, pull = self.hyper["forward_decay"], 1 - self.hyper["backward_decay"]
        h, ys, deviations = [np.asarray(x)], [], []
        for layer in range(len(self.mean)):
            z = self.W[layer] @ h[-1]
            deviations.append(np.sqrt(self.variance[layer] + 1e-5))
            ys.append((z - self.mean[layer]) / deviations[-1])
            h.append(np.maximum(ys[-1] + self.b[layer], 0))
            self.variance[layer] = (forget * self.variance[layer]
                                    + forget * (1 - forget) * (z - self.mean[layer]) ** 2)
            self.mean[layer] = forget * self.mean[layer] + (1 - forget) * z
        output = self.W[-1] @ h[-1] + self.b[-1]
        _, score, slope = reference.loss_and_slope(output, target, self.loss)
        changes = [(np.outer(slope, h[-1]), slope)]
        for layer in reversed(range(len(self.mean))):
            slope = (self.W[layer + 1].T @ slope) * (h[layer + 1] > 0)
            by_bias = slope.copy()
            slope = slope - pull * self.along[layer] * ys[layer]
            self.along[layer] = self.along[layer] + slope * ys[layer]
            slope = slope / deviations[layer] - pull * self.by_mean[layer]
            self.by_mean[layer] = self.by_mean[layer] + slope
            changes.insert(0, (np.outer(slope, h[layer]), by_bias))
        for layer, (gW, gb) in enumerate(changes):
            self.W[layer] = self.W[layer] - self.hyper["step_size"] * gW
            self.b[layer] = self.b[layer] - self.hyper["step_size"] * gb
        return score


def kept(seed, t, layer, units, dropout):
    """Factors of a layer's activities under dropout."""
    u = reference.draw_uniform(seed, DROPPED, t, np.arange(units) + 2**20 * layer)
    return np.array([1 / (1 - dropout) if value >= dropout else 0.0 for value in u])
