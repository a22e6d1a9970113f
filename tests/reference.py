"""The textbook, slowly: numpy in float64, plain loops, no torch.

Everything that dyndl_lite computes with vmap, grad, masks and running products is written here
once more as one would on a blackboard, so that the tests compare two independent programs.
"""

import math

import numpy as np

WEIGHTS, REBIRTH, RANDOM_UTILITY, TARGET, SLOW_BITS, FAST_BITS, PIXELS, ORDER = range(1, 9)


# Random numbers ---------------------------------------------------------------------------------

def _scramble(h, key=np.uint64(0)):
    h = h ^ (h >> np.uint64(16))
    h = (h * np.uint64(0x21F0AAAD)) % np.uint64(2**32)
    h = h ^ key
    h = h ^ (h >> np.uint64(15))
    h = (h * np.uint64(0x735A2D97)) % np.uint64(2**32)
    return h ^ (h >> np.uint64(15))


def draw_bits(seed, *counters):
    """Hash (seed, counters) to 32 bits, in unsigned 64-bit integers."""
    seed = np.uint64(seed % 2**32)
    place, key = seed ^ np.uint64(0x5BF03635), seed
    for number, counter in enumerate(np.asarray(c).astype(np.uint64) for c in counters):
        place = (place + (counter + np.uint64(1)) * np.uint64(0x1E3779B9)) % np.uint64(2**32)
        if number == len(counters) - 1:
            return _scramble(place, _scramble(key))
        place, key = _scramble(place), (key * np.uint64(0x2C1B3C6D) + counter) % np.uint64(2**32)


def draw_uniform(seed, *counters):
    """Give numbers from [0, 1) with 24 random bits each."""
    return (draw_bits(seed, *counters) // np.uint64(256)).astype(np.float64) / 2**24


# A network --------------------------------------------------------------------------------------

def _logistic(z):
    return 1 / (1 + math.exp(-z))


# name: (f(z), f'(z)), for one number
ACTIVATIONS = {
    "relu": (lambda z: max(z, 0.0), lambda z: 1.0 if z > 0 else 0.0),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": (lambda z: z if z > 0 else math.exp(z) - 1, lambda z: 1.0 if z > 0 else math.exp(z)),
    "swish": (lambda z: z * _logistic(z),
              lambda z: _logistic(z) + z * _logistic(z) * (1 - _logistic(z))),
    "tanh": (math.tanh, lambda z: 1 - math.tanh(z) ** 2),
    "sigmoid": (_logistic, lambda z: _logistic(z) * (1 - _logistic(z))),
}

GAINS = {"relu": 2**0.5, "leaky_relu": (2 / 1.0001) ** 0.5, "elu": 2**0.5, "swish": 2**0.5,
         "tanh": 5 / 3, "sigmoid": 1.0, "linear": 1.0}


def bound(fan_in, activation):
    """Kaiming's bound on a uniform weight."""
    return GAINS[activation] * (3 / fan_in) ** 0.5


def initial_weights(seed, sizes, activation):
    """Draw the weights of every layer; all biases are 0."""
    W, b = [], []
    for layer in range(len(sizes) - 1):
        fan_in, units = sizes[layer], sizes[layer + 1]
        last = layer == len(sizes) - 2
        scale = bound(fan_in, "linear" if last else activation)
        u = draw_uniform(seed, WEIGHTS, layer, np.arange(units * fan_in))
        W.append(scale * (2 * u.reshape(units, fan_in) - 1))
        b.append(np.zeros(units))
    return W, b


def forward(W, b, x, activation):
    """Give the inputs z and activities h of every layer; the last z is the output."""
    f = ACTIVATIONS[activation][0]
    z, h = [], [np.asarray(x, np.float64)]
    for layer in range(len(W)):
        z.append(np.array([W[layer][j] @ h[-1] + b[layer][j] for j in range(len(b[layer]))]))
        if layer < len(W) - 1:
            h.append(np.array([f(value) for value in z[-1]]))
    return z, h


def loss_and_slope(output, y, loss):
    """Give loss, score, and the loss's gradient with respect to the output."""
    if loss == "squared_error":
        error = output - y
        value = float(np.mean(error**2))
        return value, value, 2 * error / len(output)
    p = np.exp(output - output.max())
    p = p / p.sum()
    slope = p.copy()
    slope[y] -= 1
    return -math.log(p[y]), float(np.argmax(output) == y), slope


def backward(W, z, h, slope, activation):
    """Carry the output's gradient back; give those of all weights and biases."""
    derivative = ACTIVATIONS[activation][1]
    gW, gb = [None] * len(W), [None] * len(W)
    delta = slope
    for layer in reversed(range(len(W))):
        gW[layer], gb[layer] = np.outer(delta, h[layer]), delta.copy()
        if layer > 0:
            back = W[layer].T @ delta
            delta = np.array([back[i] * derivative(z[layer - 1][i]) for i in range(len(back))])
    return gW, gb


# Learners ---------------------------------------------------------------------------------------

class Memory:
    """What an optimiser remembers of one array of weights: two averages and a step count each."""

    def __init__(self, weights):
        self.first = np.zeros_like(weights)
        self.second = np.zeros_like(weights)
        self.steps = np.zeros_like(weights)


def move(weights, gradient, memory, optimiser, hyper):
    """Change one array of weights, entry by entry, in place."""
    step_size = hyper["step_size"]
    for k in np.ndindex(weights.shape):
        g = gradient[k]
        if optimiser == "sgd":
            weights[k] -= step_size * g
        elif optimiser == "momentum":
            memory.first[k] = hyper["momentum"] * memory.first[k] + g
            weights[k] -= step_size * memory.first[k]
        else:
            b1, b2 = hyper["beta_1"], hyper["beta_2"]
            memory.steps[k] += 1
            memory.first[k] = b1 * memory.first[k] + (1 - b1) * g
            memory.second[k] = b2 * memory.second[k] + (1 - b2) * g**2
            m = memory.first[k] / (1 - b1 ** memory.steps[k])
            v = memory.second[k] / (1 - b2 ** memory.steps[k])
            weights[k] -= step_size * m / (math.sqrt(v) + 1e-8)


class Backprop:
    """One network that learns from one example at a time."""

    def __init__(self, seed, sizes, activation="relu", loss="squared_error", optimiser="sgd",
                 **hyper):
        self.seed, self.activation, self.loss = seed, activation, loss
        self.optimiser, self.hyper = optimiser, hyper
        self.W, self.b = initial_weights(seed, sizes, activation)
        self.memory = [(Memory(w), Memory(b)) for w, b in zip(self.W, self.b)]

    def learn(self, x, y):
        """Predict, then take one gradient step; give the score of the prediction."""
        z, self.h = forward(self.W, self.b, x, self.activation)
        _, score, slope = loss_and_slope(z[-1], y, self.loss)
        gW, gb = backward(self.W, z, self.h, slope, self.activation)
        for layer in range(len(self.W)):
            for weights, g, memory in zip((self.W[layer], self.b[layer]), (gW[layer], gb[layer]),
                                          self.memory[layer]):
                move(weights, g, memory, self.optimiser, self.hyper)
        return score


class ContinualBackprop(Backprop):
    """Backprop, then generate and test, unit by unit."""

    def __init__(self, seed, sizes, utility="contribution", as_released=False, **rest):
        super().__init__(seed, sizes, **rest)
        self.kind, self.as_released, self.t = utility, as_released, 0
        hidden = sizes[1:-1]
        self.utility = [np.zeros(n) for n in hidden]
        self.mean = [np.zeros(n) for n in hidden]
        self.age = [np.zeros(n) for n in hidden]
        self.due = [0.0 for _ in hidden]
        self.replaced = []  # (time, layer, unit)

    def worth(self, layer, i, mean):
        """Give the utility y of one unit at this example."""
        h = self.h[layer + 1][i]
        w_in = sum(abs(w) for w in self.W[layer][i])
        w_out = sum(abs(w) for w in self.W[layer + 1][:, i])
        if self.kind == "contribution":
            return abs(h) * w_out
        if self.kind == "mean_corrected_contribution":
            return abs(h - mean) * w_out
        if self.kind == "adaptable_contribution":
            return abs(h - mean) * w_out / w_in
        return {"weight": lambda: w_out, "adaptation": lambda: 1 / w_in,
                "random": lambda: 0.0}[self.kind]()

    def appraise(self, layer):
        """Update one layer's averages; give the corrected utility and mean of its units."""
        eta = self.hyper["utility_decay"]
        u_hat, f_hat = [], []
        for i in range(len(self.age[layer])):
            self.age[layer][i] += 1
            correction = 1 - eta ** self.age[layer][i]
            self.mean[layer][i] += (1 - eta) * (self.h[layer + 1][i] - self.mean[layer][i])
            f_hat.append(self.mean[layer][i] / correction)
            y = self.worth(layer, i, f_hat[-1])
            self.utility[layer][i] += (1 - eta) * (y - self.utility[layer][i])
            u_hat.append(self.utility[layer][i] / correction)
            if self.kind == "random":
                u_hat[-1] = float(draw_uniform(self.seed, RANDOM_UTILITY, self.t,
                                               i + 2**20 * layer))
        return u_hat, f_hat

    def choose(self, layer, u_hat):
        """Give the least useful mature unit, if a replacement is due, else None."""
        mature = [i for i, age in enumerate(self.age[layer])
                  if age > self.hyper["maturity_threshold"]]
        self.due[layer] += self.hyper["replacement_rate"] * len(mature)
        if self.due[layer] < 1:
            return None
        self.due[layer] -= 1
        return min(mature, key=lambda i: u_hat[i])

    def replace(self, layer, i, f_hat):
        """Part one of a replacement: the unit is heard no more, and its averages begin anew."""
        if not self.as_released:
            self.b[layer + 1] += self.W[layer + 1][:, i] * f_hat
        if not self.as_released or self.optimiser == "adam":  # the release forgets Adam's alone
            memory = self.memory[layer + 1][0]
            memory.first[:, i] = memory.second[:, i] = memory.steps[:, i] = 0
        self.W[layer + 1][:, i] = 0
        self.utility[layer][i] = self.mean[layer][i] = self.age[layer][i] = 0
        self.replaced.append((self.t, layer, i))

    def regrow(self, layer, i):
        """Part two: fresh incoming weights."""
        fan_in = self.W[layer].shape[1]
        u = draw_uniform(self.seed, REBIRTH, self.t, np.arange(fan_in) + 2**20 * layer)
        self.W[layer][i] = bound(fan_in, self.activation) * (2 * u - 1)
        self.b[layer][i] = 0
        if not self.as_released or self.optimiser == "adam":
            for memory in self.memory[layer]:
                memory.first[i] = memory.second[i] = memory.steps[i] = 0

    def learn(self, x, y):
        """Take one gradient step; look at all layers; then replace in all of them."""
        score = super().learn(x, y)
        gone = []
        for layer in range(len(self.age)):
            u_hat, f_hat = self.appraise(layer)
            i = self.choose(layer, u_hat)
            if i is not None:
                gone.append((layer, i, f_hat[i]))
        for layer, i, f_hat in gone:
            self.replace(layer, i, f_hat)
        for layer, i, _ in gone:
            self.regrow(layer, i)
        self.t += 1
        return score


# A problem --------------------------------------------------------------------------------------

def threshold_network(seed, x, units=100, beta=0.7):
    """Target of slowly-changing regression for one input of bits, as published."""
    m = len(x)
    draws = draw_bits(seed, TARGET, np.arange(units * (m + 1) + units + 1))
    signs = [1 if value >= 2**31 else -1 for value in draws]
    x = list(x) + [1]
    y = signs[-1]
    for j in range(units):
        w = signs[j * (m + 1):(j + 1) * (m + 1)]
        threshold = (m + 1) * beta - w[:m].count(-1)  # the bias is not counted
        if sum(w_i * x_i for w_i, x_i in zip(w, x)) > threshold:
            y += signs[units * (m + 1) + j]
    return y
