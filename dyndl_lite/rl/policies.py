"""Policies: how a network's outputs become a random action, and how likely an action was.

Each is a set of pure functions of one output vector, so `vmap` makes many. An action is drawn from
uniform numbers that are given, one for each of its numbers: see `keyed_random`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random


class Policy(NamedTuple):
    """A distribution over actions whose parameters are the outputs of a network."""

    name: str
    outputs: int  # numbers that the network gives
    numbers: int  # numbers in an action
    choices: int  # actions to choose from; 0: an action is real numbers
    start: Callable  # device -> dict of what is learned beside the network
    draw: Callable  # output, learned, u [numbers] in [0, 1) -> action [numbers]
    log_probability: Callable  # output, learned, action [numbers] -> scalar
    entropy: Callable  # output, learned -> scalar


def gaussian(numbers: int, deviation: float | str | None = None) -> Policy:
    """Draw each number of the action from a normal distribution.

    Parameters
    ----------
    numbers : int
    deviation : float, "output" or None
        The standard deviation. None: one for each number is learned, the same everywhere, from 1
        on. "output": after its means the network also gives the deviations, through a softplus.
    """
    learned, given = deviation is None, deviation == "output"

    def start(device=None) -> dict[str, Tensor]:
        return {"log_deviation": torch.zeros(numbers, device=device)} if learned else {}

    def parts(output: Tensor, more: dict) -> tuple[Tensor, Tensor]:
        """Give mean and logarithm of the deviation, both [numbers]."""
        if given:
            mean, z = output[:numbers], output[numbers:]
            return mean, torch.log(torch.clamp(z, min=0) + torch.log1p(torch.exp(-z.abs())))
        s = more["log_deviation"] if learned else math.log(deviation)
        return output, s + torch.zeros_like(output)

    def draw(output: Tensor, more: dict, u: Tensor) -> Tensor:
        mean, s = parts(output, more)
        return mean + random.normal_of(u) * torch.exp(s)

    def log_probability(output: Tensor, more: dict, action: Tensor) -> Tensor:
        mean, s = parts(output, more)
        away = (action - mean) * torch.exp(-s)
        return (-0.5 * away**2 - s - 0.5 * math.log(2 * math.pi)).sum()

    def entropy(output: Tensor, more: dict) -> Tensor:
        return (parts(output, more)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum()

    outputs = numbers * (2 if given else 1)
    return Policy(f"gaussian {numbers} {deviation}", outputs, numbers, 0, start, draw,
                  log_probability, entropy)


def categorical(choices: int) -> Policy:
    """Choose one of some actions by a softmax; an action is its number, as a float."""

    def draw(output: Tensor, more: dict, u: Tensor) -> Tensor:
        below = torch.cumsum(torch.softmax(output, 0), 0)[:-1]
        return (u >= below).sum(0, keepdim=True).to(output.dtype)

    def log_probability(output: Tensor, more: dict, action: Tensor) -> Tensor:
        chosen = torch.arange(choices, device=output.device) == action
        return torch.where(chosen, torch.log_softmax(output, 0), 0.0).sum()

    def entropy(output: Tensor, more: dict) -> Tensor:
        log_p = torch.log_softmax(output, 0)
        return -(log_p.exp() * log_p).sum()

    return Policy(f"categorical {choices}", choices, 1, choices, lambda device=None: {},
                  draw, log_probability, entropy)
