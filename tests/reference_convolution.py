"""A convolutional network and continual backprop in it, slowly: numpy, float64, plain loops."""

import numpy as np
from reference import bound, draw_uniform, REBIRTH, WEIGHTS


class Textbook:
    """Backprop (momentum) of minibatches of images, with units replaced if the rate is not 0."""

    def __init__(self, seed, shapes, step_size, rate=0.0, decay=0.9, maturity=5, momentum=0.9):
        self.seed, self.step_size, self.momentum, self.t = seed, step_size, momentum, 0
        self.rate, self.decay, self.maturity = rate, decay, maturity
        self.W, self.b, self.replaced = [], [], []
        for layer, shape in enumerate(shapes):
            fan_in = int(np.prod(shape[1:]))
            u = draw_uniform(seed, WEIGHTS, layer, np.arange(shape[0] * fan_in))
            last = layer == len(shapes) - 1
            self.W.append(np.zeros(shape) if last else
                          (bound(fan_in, "relu") * (2 * u - 1)).reshape(shape))
            self.b.append(np.zeros(shape[0]))
        self.vW = [np.zeros_like(W) for W in self.W]
        self.vb = [np.zeros_like(b) for b in self.b]
        sizes = [shape[0] for shape in shapes[:-1]]
        self.utility = [np.zeros(n) for n in sizes]
        self.mean = [np.zeros(n) for n in sizes]
        self.age = [np.zeros(n) for n in sizes]
        self.due = [0.0 for n in sizes]

    def forward(self, x):
        """Give every layer's input, and what its outputs were before and after the max pool."""
        inputs, sums, h = [], [], x
        for W, b in zip(self.W, self.b):
            if W.ndim == 4:
                k, side = W.shape[2], h.shape[1] - W.shape[2] + 1
                z = np.zeros((len(W), side, side))
                for c in range(len(W)):
                    for i in range(side):
                        for j in range(side):
                            z[c, i, j] = (W[c] * h[:, i:i + k, j:j + k]).sum() + b[c]
                inputs.append(h)
                sums.append(z)
                h = pooled(np.maximum(z, 0))
            else:
                inputs.append(h.reshape(-1))
                z = W @ h.reshape(-1) + b
                sums.append(z)
                h = np.maximum(z, 0)
        return inputs, sums

    def backward(self, inputs, sums, slope):
        """Give the gradients for one image, from the slope of the loss in the output."""
        gW, gb = [np.zeros_like(W) for W in self.W], [np.zeros_like(b) for b in self.b]
        for layer in reversed(range(len(self.W))):
            W, h, z = self.W[layer], inputs[layer], sums[layer]
            if W.ndim == 2:
                if layer < len(self.W) - 1:
                    slope = slope.reshape(-1) * (z > 0)
                gW[layer], gb[layer] = np.outer(slope, h), slope
                slope = W.T @ slope
                continue
            slope = unpooled(slope, np.maximum(z, 0)) * (z > 0)
            back, k = np.zeros_like(h), W.shape[2]
            for c, i, j in zip(*np.nonzero(slope)):
                gW[layer][c] += slope[c, i, j] * h[:, i:i + k, j:j + k]
                gb[layer][c] += slope[c, i, j]
                back[:, i:i + k, j:j + k] += slope[c, i, j] * W[c]
            slope = back
        return gW, gb

    def learn(self, X, Y):
        """Learn from a minibatch; give the share of right predictions before it."""
        total = [np.zeros_like(W) for W in self.W], [np.zeros_like(b) for b in self.b]
        seen, right = [np.zeros(len(b)) for b in self.b[:-1]], 0
        for x, y in zip(X, Y):
            inputs, sums = self.forward(x)
            output = sums[-1]
            right += output.argmax() == y
            p = np.exp(output - output.max())
            slope = p / p.sum()
            slope[y] -= 1
            for layer, unit in enumerate(seen):
                h = inputs[layer + 1].reshape(len(unit), -1)  # a channel's places stand together
                unit += h.mean(1) / len(X)
            for part, gradients in zip(total, self.backward(inputs, sums, slope)):
                for whole, g in zip(part, gradients):
                    whole += g / len(X)
        for weights, trace, gradients in ((self.W, self.vW, total[0]), (self.b, self.vb, total[1])):
            for w, v, g in zip(weights, trace, gradients):
                v *= self.momentum
                v += g
                w -= self.step_size * v
        if self.rate:
            self.generate_and_test(seen)
        self.t += 1
        return right / len(X)

    def generate_and_test(self, seen):
        """Update the utilities of all layers, then replace."""
        chosen = []
        for layer, h in enumerate(seen):
            after = self.W[layer + 1].reshape(len(self.W[layer + 1]), len(h), -1)
            self.age[layer] += 1
            contribution = np.array([h[c] * np.abs(after[:, c]).sum() for c in range(len(h))])
            self.mean[layer] = self.decay * self.mean[layer] + (1 - self.decay) * h
            self.utility[layer] = (self.decay * self.utility[layer]
                                   + (1 - self.decay) * contribution)
            mature = np.flatnonzero(self.age[layer] > self.maturity)
            self.due[layer] += self.rate * len(mature)
            if self.due[layer] >= 1:
                self.due[layer] -= 1
                corrected = self.utility[layer] / (1 - self.decay ** self.age[layer])
                chosen.append((layer, mature[corrected[mature].argmin()]))
        for layer, unit in chosen:  # first every mean moves, then the weights go
            f_hat = self.mean[layer][unit] / (1 - self.decay ** self.age[layer][unit])
            after = self.W[layer + 1].reshape(len(self.W[layer + 1]), len(self.age[layer]), -1)
            self.b[layer + 1] += after[:, unit].sum(1) * f_hat
        for layer, unit in chosen:
            for weights in (self.W, self.vW):
                after = weights[layer + 1]
                after.reshape(len(after), len(self.age[layer]), -1)[:, unit] = 0
        for layer, unit in chosen:
            fan_in = self.W[layer][unit].size
            u = draw_uniform(self.seed, REBIRTH, self.t, np.arange(fan_in) + 2**20 * layer)
            row = bound(fan_in, "relu") * (2 * u - 1)
            self.W[layer][unit] = row.reshape(self.W[layer][unit].shape)
            self.vW[layer][unit] = 0
            self.b[layer][unit] = self.vb[layer][unit] = 0
            self.utility[layer][unit] = self.mean[layer][unit] = self.age[layer][unit] = 0
            self.replaced.append((self.t, layer, int(unit)))


def pooled(z):
    """Give the largest of every four, where there is more than one place."""
    if z.shape[1] == 1:
        return z
    side = z.shape[1] // 2
    return np.array([[[z[c, 2 * i:2 * i + 2, 2 * j:2 * j + 2].max() for j in range(side)]
                      for i in range(side)] for c in range(len(z))])


def unpooled(slope, h):
    """Send each slope back to the place that was the largest of its four."""
    if h.shape[1] == 1:
        return slope.reshape(h.shape)
    side, back = h.shape[1] // 2, np.zeros_like(h)
    slope = slope.reshape(len(h), side, side)
    for c in range(len(h)):
        for i in range(side):
            for j in range(side):
                four = h[c, 2 * i:2 * i + 2, 2 * j:2 * j + 2]
                a, b = np.unravel_index(four.argmax(), four.shape)
                back[c, 2 * i + a, 2 * j + b] = slope[c, i, j]
    return back
