"""Policies: how a network's outputs become a random action, and how likely an action was.

Each is a set of pure functions of one output vector, so `vmap` makes many. An action is drawn from
uniform numbers that are given, one for each of its numbers: see `draws`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Policy(NamedTuple):
    """A distribution over actions whose parameters are the outputs of a network."""

    name: str
    outputs: int  # numbers that the network gives
    numbers: int  # numbers in an action
    start: Callable  # device -> dict of what is learned beside the network
    draw: Callable  # output, learned, u [numbers] in [0, 1) -> action [numbers]
    log_probability: Callable  # output, learned, action -> scalar
    entropy: Callable  # output, learned -> scalar


def gaussian(numbers: int, deviation: float | None = None) -> Policy:
    """Draw each number of the action from a normal distribution around its output.

    Parameters
    ----------
    numbers : int
    deviation : float, optional
        The standard deviation. None: one for each number is learned, the same everywhere, from 1 on.
    """
    learned = deviation is None

    def start(device=None) -> dict[str, Tensor]:
        return {"log_deviation": torch.zeros(numbers, device=device)} if learned else {}

    def log_deviation(more: dict) -> Tensor | float:
        return more["log_deviation"] if learned else math.log(deviation)

    def draw(output: Tensor, more: dict, u: Tensor) -> Tensor:
        normal = torch.special.ndtri(u.double() + 2.0**-25).to(u.dtype)  # u may be 0, never 1
        return output + normal * torch.exp(log_deviation(more) + torch.zeros_like(output))

    def log_probability(output: Tensor, more: dict, action: Tensor) -> Tensor:
        s = log_deviation(more) + torch.zeros_like(output)
        away = (action - output) * torch.exp(-s)
        return (-0.5 * away**2 - s - 0.5 * math.log(2 * math.pi)).sum()

    def entropy(output: Tensor, more: dict) -> Tensor:
        s = log_deviation(more) + torch.zeros_like(output)
        return (s + 0.5 * math.log(2 * math.pi * math.e)).sum()

    name = f"gaussian {numbers} {deviation}"
    return Policy(name, numbers, numbers, start, draw, log_probability, entropy)


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

    return Policy(f"categorical {choices}", choices, 1, lambda device=None: {}, draw,
                  log_probability, entropy)
