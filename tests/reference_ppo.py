"""PPO for one agent in numpy and plain loops, as the papers write it."""

import numpy as np


def advantages(reward, value, next_value, terminal, over, gamma, decay):
    """Sum up the discounted errors from each step to the end of its episode, the long way."""
    A = np.zeros(len(reward))
    for t in range(len(reward)):
        weight = 1.0
        for k in range(t, len(reward)):
            coming = 0.0 if terminal[k] else next_value[k]
            A[t] += weight * (reward[k] + gamma * coming - value[k])
            weight *= gamma * decay
            if over[k]:
                break
    return A


def gaussian_log_probability(mean, log_deviation, action):
    total = 0.0
    for m, s, a in zip(mean, log_deviation, action):
        total += -0.5 * ((a - m) / np.exp(s)) ** 2 - s - 0.5 * np.log(2 * np.pi)
    return total


def forward(params, x):
    h, features = x, []
    for W, b in params[:-1]:
        h = np.maximum(W @ h + b, 0)
        features.append(h)
    W, b = params[-1]
    return W @ h + b, features


def backward(params, x, features, g):
    """Gradients of g . output with respect to all weights and biases."""
    gradients, inputs = [], [x, *features]
    for layer in range(len(params) - 1, -1, -1):
        W, _ = params[layer]
        gradients.append((np.outer(g, inputs[layer]), g))
        g = (W.T @ g) * (inputs[layer] > 0)
    return gradients[::-1]


def loss_and_gradients(policy, value, log_deviation, X, Y, clip, value_weight, entropy_weight):
    """PPO's loss on a minibatch and its gradients, example by example."""
    n = len(X)
    action, old, A, target = Y[:, :-3], Y[:, -3], Y[:, -2], Y[:, -1]
    A = (A - A.mean()) / (A.std(ddof=1) + 1e-8)
    zero = lambda params: [(np.zeros_like(W), np.zeros_like(b)) for W, b in params]  # noqa: E731
    g_policy, g_value, g_log = zero(policy), zero(value), np.zeros_like(log_deviation)
    variance, loss = np.exp(2 * log_deviation), 0.0

    def add(total, more):
        return [(W + dW, b + db) for (W, b), (dW, db) in zip(total, more)]

    for i in range(n):
        mean, features = forward(policy, X[i])
        ratio = np.exp(gaussian_log_probability(mean, log_deviation, action[i]) - old[i])
        free, held = ratio * A[i], np.clip(ratio, 1 - clip, 1 + clip) * A[i]
        loss -= min(free, held) / n
        if free <= held:  # else the gain is flat
            push = -ratio * A[i] / n  # dloss / dlog-probability
            away = action[i] - mean
            g_policy = add(g_policy, backward(policy, X[i], features, push * away / variance))
            g_log += push * (away**2 / variance - 1)
        v, features = forward(value, X[i])
        loss += value_weight * (v[0] - target[i]) ** 2 / n
        g = np.array([2 * value_weight * (v[0] - target[i]) / n])
        g_value = add(g_value, backward(value, X[i], features, g))
    loss -= entropy_weight * (log_deviation + 0.5 * np.log(2 * np.pi * np.e)).sum()
    return loss, g_policy, g_value, g_log - entropy_weight


def cut(gradients, most):
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, most / (norm + 1e-6)) for g in gradients]


def adam(weights, gradients, state, t, step_size, beta_1, beta_2):
    """One step of Adam on a list of arrays, with one step count t from 1 for all."""
    new = []
    for i, (w, g) in enumerate(zip(weights, gradients)):
        m, v = state.get(i, (np.zeros_like(w), np.zeros_like(w)))
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        state[i] = m, v
        new.append(w - step_size * (m / (1 - beta_1**t)) / (np.sqrt(v / (1 - beta_2**t)) + 1e-8))
    return new
