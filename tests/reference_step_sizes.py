"""The textbook of learned step sizes: numpy in float64, one weight after another, no torch.

Step sizes are kept as their logs beta, where dyndl_lite keeps them as they are.
"""

import math

import reference


def idbd(unit, error, x, c, hyper):
    """Sutton (1992), Figure 2, for one unit, in place; give the changes of its weights."""
    changes = []
    for weight, x_i in zip(unit, x):
        weight["beta"] += hyper["meta_step_size"] * error * x_i * weight["h"]
        alpha = hyper["step_size"] * math.exp(weight["beta"])
        changes.append(alpha * error * x_i)
        weight["h"] = weight["h"] * max(0.0, 1 - alpha * c * x_i**2) + changes[-1]
    return changes


def plan(unit, error, x, c, hyper):
    """Mahmood et al. (2012), Table 1, its first half; give the sum of alpha x^2."""
    for weight, x_i in zip(unit, x):
        product = error * x_i * weight["h"]
        alpha = hyper["step_size"] * math.exp(weight["beta"])
        slow = weight["v"] + alpha * c * x_i**2 / hyper["tau"] * (abs(product) - weight["v"])
        weight["v"] = max(abs(product), slow)
        if weight["v"] > 0:
            weight["beta"] += hyper["meta_step_size"] * product / weight["v"]
    return sum(hyper["step_size"] * math.exp(weight["beta"]) * x_i**2
               for weight, x_i in zip(unit, x))


def go(unit, error, x, c, hyper, M=1.0):
    """Second half: the step, divided by M."""
    changes = []
    for weight, x_i in zip(unit, x):
        alpha = hyper["step_size"] * math.exp(weight["beta"]) / M
        changes.append(alpha * error * x_i)
        weight["h"] = weight["h"] * (1 - alpha * c * x_i**2) + changes[-1]
    return changes


def cap(unit, hyper):
    """No step size of a `steady` unit is over 1."""
    for weight in unit:
        weight["beta"] = min(weight["beta"], -math.log(hyper["step_size"]))


def autostep(unit, error, x, c, hyper):
    """M divides the step sizes themselves."""
    M = max(c * plan(unit, error, x, c, hyper), 1.0)
    for weight in unit:
        weight["beta"] -= math.log(M)
    return go(unit, error, x, c, hyper)


def steady(unit, error, x, c, hyper):
    """M divides only the step."""
    changes = go(unit, error, x, c, hyper, max(c * plan(unit, error, x, c, hyper), 1.0))
    cap(unit, hyper)
    return changes


def swift(unit, error, x, c, hyper):
    """Javed et al. (2024): the bound and the decay; a meta-step in proportion to 1 / alpha."""
    share = 0.0
    for weight, x_i in zip(unit, x):
        alpha = hyper["step_size"] * math.exp(weight["beta"])
        weight["beta"] += hyper["meta_step_size"] / alpha * error * x_i * weight["h"]
        weight["beta"] = min(weight["beta"], math.log(hyper["bound"] / hyper["step_size"]))
        share += hyper["step_size"] * math.exp(weight["beta"]) * c * x_i**2
    changes = []
    for weight, x_i in zip(unit, x):
        alpha = hyper["step_size"] * math.exp(weight["beta"])
        changes.append(min(1.0, hyper["bound"] / share) * alpha * error * x_i if share else 0.0)
        weight["h"] = weight["h"] * max(0.0, 1 - alpha * c * x_i**2) + changes[-1]
        if share > hyper["bound"]:
            weight["beta"] += math.log(hyper["decay"]) * c * x_i**2
            weight["h"] = 0.0
    return changes


def meta_optimize(unit, error, x, c, hyper):
    """Sharifnassab et al. (2024), base SGD, meta Lion, one step size for all weights."""
    z = sum(weight["h"] * error * x_i for weight, x_i in zip(unit, x))
    direction = 0.9 * unit[0]["m"] + 0.1 * z
    changes = []
    for weight, x_i in zip(unit, x):
        changes.append(hyper["step_size"] * math.exp(weight["beta"]) * error * x_i)
        weight["h"] = hyper["discount"] * weight["h"] + changes[-1]
        weight["m"] = 0.99 * weight["m"] + 0.01 * z
        if direction != 0:
            weight["beta"] += math.copysign(hyper["meta_step_size"], direction)
    return changes


RULES = {"idbd": idbd, "autostep": autostep, "steady": steady, "swift": swift,
         "meta_optimize": meta_optimize}


def new_weight():
    """What a rule remembers of a weight that has not learned yet."""
    return {"beta": 0.0, "v": 0.0, "h": 0.0, "m": 0.0}


class Linear:
    """One linear unit without a bias."""

    def __init__(self, rule, inputs, **hyper):
        self.rule, self.hyper = RULES[rule], hyper
        self.w = [0.0] * inputs
        self.unit = [new_weight() for _ in range(inputs)]

    def learn(self, x, y):
        """Predict and learn; give the squared error of the prediction."""
        error = y - sum(w * x_i for w, x_i in zip(self.w, x))
        for i, change in enumerate(self.rule(self.unit, error, x, 1.0, self.hyper)):
            self.w[i] += change
        return error**2

    def step_sizes(self):
        return [self.hyper["step_size"] * math.exp(weight["beta"]) for weight in self.unit]


class Deep(reference.Backprop):
    """A net in which every unit follows a rule with its own local error and curvature."""

    def __init__(self, seed, sizes, rule="autostep", **rest):
        super().__init__(seed, sizes, **rest)
        self.rule = RULES[rule]
        # The last weight of a unit is its bias.
        self.units = [[[new_weight() for _ in range(n + 1)] for _ in range(m)]
                      for n, m in zip(sizes, sizes[1:])]

    def curvatures(self, z, output):
        """Give the curvature of every unit of every layer, from the last to the first."""
        if self.loss == "squared_error":
            c = [[2 / len(output)] * len(output)]
        else:
            total = sum(math.exp(o) for o in output)
            c = [[math.exp(o) / total * (1 - math.exp(o) / total) for o in output]]
        slope = reference.ACTIVATIONS[self.activation][1]
        for layer in reversed(range(len(z) - 1)):
            c.insert(0, [slope(z[layer][j]) ** 2
                         * sum(self.W[layer + 1][k, j] ** 2 * c[0][k] for k in range(len(c[0])))
                         for j in range(len(z[layer]))])
        return c

    def learn(self, x, y):
        z, self.h = reference.forward(self.W, self.b, x, self.activation)
        _, score, slope = reference.loss_and_slope(z[-1], y, self.loss)
        _, gb = reference.backward(self.W, z, self.h, slope, self.activation)
        c = self.curvatures(z, z[-1])
        for layer, units in enumerate(self.units):
            for j, unit in enumerate(units):
                heard = [*self.h[layer], 1.0]
                *incoming, bias = self.rule(unit, -gb[layer][j], heard, c[layer][j], self.hyper)
                self.W[layer][j] += incoming
                self.b[layer][j] += bias
        return score

    def step_sizes(self, layer):
        return [[self.hyper["step_size"] * math.exp(weight["beta"]) for weight in unit]
                for unit in self.units[layer]]


class ContinualDeep(reference.ContinualBackprop, Deep):
    """The same with generate and test: new weights begin with a new memory."""

    def replace(self, layer, i, f_hat):
        super().replace(layer, i, f_hat)
        for listener in self.units[layer + 1]:
            listener[i] = new_weight()

    def regrow(self, layer, i):
        super().regrow(layer, i)
        self.units[layer][i] = [new_weight() for _ in self.units[layer][i]]
