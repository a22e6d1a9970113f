"""Slippery Ant: a robot that walks on ground whose friction changes now and then.

Dohare et al. (2024, Nature 632, Methods): friction is drawn log-uniformly from [0.02, 2]; it
changes at the first end of an episode after each period of steps. The robot is gymnasium's Ant-v5,
which needs MuJoCo (``pip install "gymnasium[mujoco]"``).
"""

import importlib.util
import math

import gymnasium
import torch

from dyndl_lite import keyed_random as random

LEAST, MOST = 0.02, 2.0


def friction(seed: int, number: int) -> float:
    """Give the friction of period `number`, from 0: a function of the seed alone."""
    u = float(random.uniform(torch.tensor(seed), random.FRICTION, number))
    return LEAST * math.exp(u * math.log(MOST / LEAST))


def missing() -> str:
    """Say in one line what is missing for the Ant to run; an empty string if nothing is."""
    if importlib.util.find_spec("mujoco") is None:
        return ("MuJoCo is not installed, so the Ant is left out: "
                "pip install \"gymnasium[mujoco]\" brings it in")
    return ""


class Slippery(gymnasium.Wrapper):
    """Change a MuJoCo environment's friction at the first reset after each `period` of steps."""

    def __init__(self, env: gymnasium.Env, seed: int, period: int):
        super().__init__(env)
        self.seed, self.period = seed, period
        self.lived = 0  # steps in all
        self.number = 0  # of the present friction
        self.slip()

    def slip(self) -> None:
        """Put the present friction under the robot's feet.

        Where two bodies touch, MuJoCo takes the larger of their frictions, so the robot's own must
        change with the ground's.
        """
        self.friction = friction(self.seed, self.number)
        self.unwrapped.model.geom_friction[:, 0] = self.friction

    def get_state(self) -> dict[str, int]:
        """Give all that the ground depends on, for `gymnasium_adapters.save`."""
        return {"lived": self.lived, "number": self.number}

    def set_state(self, state: dict[str, int]) -> None:
        """Take it back."""
        self.lived, self.number = state["lived"], state["number"]
        self.slip()

    def reset(self, **given):
        """Begin an episode, on new ground if a period is over."""
        if self.lived // self.period > self.number:
            self.number = self.lived // self.period
            self.slip()
        return super().reset(**given)

    def step(self, action):
        """Act once."""
        self.lived += 1
        return super().step(action)


def ant(seed: int, period: int | None = None) -> gymnasium.Env:
    """Make an Ant, slippery if there is a period; it sees no contact forces, as in Ant-v4."""
    env = gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=False, disable_env_checker=True)
    return Slippery(env, seed, period) if period else env
