"""Find the middle, seen through a code that changes: cheap enough to watch an agent for long.

A point in a walled unit square moves a little in the direction of the action and is paid by how
near it is to a goal. It is not told where it is, but sees random Fourier features of its place
(Rahimi and Recht 2007), and now and then the features are drawn anew. So nothing gets harder, the
best behaviour in the square stays the same, and all that an agent knew how to read is lost.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.rl.environments import restart

GOAL, STRIDE = (0.5, 0.5), 0.2
# Standard deviation of the features' frequencies, in radians a side of the square.
ROUGHNESS = 4.0


class Navigation(NamedTuple):
    """One square, as an `Environment`."""

    name: str = "Navigation"
    observations: int = 16
    actions: int = 0
    reals: int = 2
    limit: int = 6  # steps after which an episode is cut off

    def start(self, draw: Tensor, code: tuple[Tensor, Tensor]) -> dict:
        """Begin an episode at a random place (draw [2 or more], uniform in [0, 1)), with a code."""
        return {"place": draw[:2], "code": code, "age": torch.zeros_like(draw[0])}

    def step(self, state: dict, action: Tensor) -> tuple[dict, Tensor, Tensor, Tensor]:
        """Act once; no end is real, time runs out."""
        place = (state["place"] + STRIDE * action).clamp(0, 1)
        away = torch.stack([place[0] - GOAL[0], place[1] - GOAL[1]])
        reward = -torch.sqrt((away**2).sum() + 1e-12)
        age = state["age"] + 1
        return {**state, "place": place, "age": age}, reward, age < 0, age >= self.limit

    def observe(self, state: dict) -> Tensor:
        """Give the features [observations] of the place: sqrt(2) cos(W place + phase)."""
        W, phase = state["code"]
        return math.sqrt(2) * torch.cos(W @ state["place"] + phase)

    restart = restart

    def code(self, seed: Tensor, number: Tensor | int) -> tuple[Tensor, Tensor]:
        """Draw the features of task `number`: frequencies [observations, 2] and phases."""
        where = torch.arange(3 * self.observations, device=seed.device)
        u = random.uniform(seed, random.CODE, number, where)
        W = random.normal_of(u[self.observations:]) * ROUGHNESS
        return W.reshape(self.observations, 2), 2 * math.pi * u[:self.observations]


navigation = Navigation()


def expected_return(choose, deviation: float = 0.5, episodes: int = 20_000) -> float:
    """Mean return of an episode in which the mean action is ``choose(place)``, by simulation.

    `straight` and `aimless` give the ends of the scale on which agents are measured.
    """
    place = random.uniform(torch.tensor(0), random.START, torch.arange(episodes)[:, None],
                           torch.arange(2))
    total = torch.zeros(episodes)
    for t in range(navigation.limit):
        u = random.uniform(torch.tensor(0), random.ACTION, t, torch.arange(2 * episodes))
        action = choose(place) + deviation * random.normal_of(u).reshape(episodes, 2)
        place = (place + STRIDE * action).clamp(0, 1)
        total -= (place - torch.tensor(GOAL)).norm(dim=1)
    return float(total.mean())


def straight(place: Tensor) -> Tensor:
    """Go to the goal in one stride: the best mean action where chance cannot be undone."""
    return (torch.tensor(GOAL) - place) / STRIDE


def aimless(place: Tensor) -> Tensor:
    """Go nowhere in particular."""
    return torch.zeros_like(place)


def new_code(seed: Tensor, number: Tensor | int) -> dict:
    """Give what changes from task to task, for `torch_rollouts`: the code, and nothing else."""
    return {"code": navigation.code(seed, number)}
