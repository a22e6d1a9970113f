"""Environments to act in: classic control as pure functions of one environment.

The dynamics are those of gymnasium's CartPole-v1, Acrobot-v1, MountainCar-v0 and Pendulum-v1,
number for number (see the tests). `vmap` makes many of one, and a compiled loop can hold agent and
environment together. Physics and the observations' code are part of the state: an environment that
changes is one whose state does.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random


class Environment(Protocol):
    """What agents can act in: pure functions of one environment, its state a dict of tensors.

    A draw [4] is of uniform numbers from [0, 1); changed is what is not as usual, for example
    ``physics`` or ``code``. An action is a whole number from 0 to actions - 1, or real numbers: a
    scalar of one, [reals] of more. What comes after a terminal state is worth nothing; where it is
    truncated only time ran out, and it would go on.
    """

    name: str
    observations: int
    actions: int  # to choose from; 0: an action is real numbers
    reals: int  # numbers in such an action, else 0
    start: Callable  # draw, **changed -> state: an episode begins
    step: Callable  # state, action -> state (not yet of a new episode), reward, terminal, truncated
    observe: Callable  # state -> observation [observations]
    # state, over, draw, **changed -> state: a new episode where the last one is over; what is not
    restart: Callable  # changed stays as it was


def check_fit(made_for: tuple[int, int, int], environment) -> None:
    """Raise ValueError if an agent is made for other observations or actions than there are.

    It is made for (observations, actions, reals) of an `Environment` or `Adapted`; without actions
    and reals it only predicts.
    """
    observations, actions, reals = made_for
    has = environment.observations, environment.actions, environment.reals
    if observations != has[0] or (actions or reals) and (actions, reals) != has[1:]:
        raise ValueError("the agent is made for {} observations, {} actions to choose from and {} "
                         "real numbers, the environment has {}, {} and {}".format(*made_for, *has))


def either(condition: Tensor, new, old):
    """Give all tensors of the tree `new` where a condition holds, else those of the `old` one."""
    return tree_map(lambda a, b: torch.where(condition, a, b), new, old)


def restart(environment: Environment, state: dict, over: Tensor, draw: Tensor, **changed) -> dict:
    """Do what `Environment.restart` says where physics and code are all that may change."""
    kept = {name: state[name] for name in ("physics", "code") if name in state}
    return either(over, environment.start(draw, **(kept | changed)), state)


class ClassicControl(NamedTuple):
    """An `Environment` whose state holds body, physics, code and age, the steps of this episode."""

    name: str  # gymnasium's
    observations: int
    actions: int
    limit: int  # steps after which an episode is cut off
    physics: dict[str, float]  # what the dynamics depend on
    place: Callable  # draw [4] -> body, where an episode starts
    move: Callable  # body, action, physics -> body, reward, terminal
    see: Callable  # body -> observation, before it is coded
    reals: int = 0

    def start(self, draw: Tensor, **changed) -> dict:
        """Begin an episode, with other ``physics``, a dict, or ``code``, a matrix, if given."""
        body = self.place(draw)
        usual = {"physics": {name: torch.full_like(body[0], v) for name, v in self.physics.items()},
                 "code": torch.eye(self.observations, dtype=body.dtype, device=body.device)}
        return {"body": body, **usual, **changed, "age": torch.zeros_like(body[0])}

    def step(self, state: dict, action: Tensor) -> tuple[dict, Tensor, Tensor, Tensor]:
        """Act once."""
        body, reward, terminal = self.move(state["body"], action, state["physics"])
        age = state["age"] + 1
        truncated = (age >= self.limit) & ~terminal
        return {**state, "body": body, "age": age}, reward, terminal, truncated

    def observe(self, state: dict) -> Tensor:
        """Give the observation [observations] as the present code has it."""
        return state["code"] @ self.see(state["body"])

    restart = restart


def signed_permutation(seed: Tensor, number: Tensor | int, size: int) -> Tensor:
    """Draw a code [size, size]: observations in another order, some with the other sign.

    All such codes are equally hard: nothing is lost and nothing is scaled.
    """
    where = torch.arange(size, device=seed.device)
    key = random.uniform(seed, random.CODE, number, where)
    rank = (key[None, :] < key[:, None]).sum(1)
    sign = torch.where(random.uniform(seed, random.CODE, number, where + size) < 0.5, -1.0, 1.0)
    return (rank[:, None] == where) * sign[:, None]


def slipped(seed: Tensor, number: Tensor | int, usual: dict[str, float],
            ranges: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
    """Draw physics: each constant times a factor, log-uniform in a range as ``"force": (0.3, 3)``.

    What has no range stays as usual, and so does all in draw `number` 0.
    """
    physics = {}
    for i, (name, value) in enumerate(usual.items()):
        low, high = ranges.get(name, (1.0, 1.0))
        u = random.uniform(seed, random.PHYSICS, number, i)
        factor = low * torch.exp(u * math.log(high / low))
        physics[name] = value * torch.where(torch.as_tensor(number) == 0, 1.0, factor)
    return physics


def _between(low: float, high: float, u: Tensor) -> Tensor:
    return low + (high - low) * u


# CartPole-v1 (Barto, Sutton and Anderson 1983): balance a pole by pushing its cart.

def _cart_move(body, action, p):
    x, v, angle, w = body
    force = torch.where(action > 0, p["force"], -p["force"])
    cos, sin = torch.cos(angle), torch.sin(angle)
    mass = p["cart_mass"] + p["pole_mass"]
    moment = p["pole_mass"] * p["length"]  # length is half the pole's
    push = (force + moment * w**2 * sin) / mass
    turn = (p["gravity"] * sin - cos * push) / (
        p["length"] * (4 / 3 - p["pole_mass"] * cos**2 / mass))
    slide = push - moment * turn * cos / mass
    new = torch.stack([x + 0.02 * v, v + 0.02 * slide, angle + 0.02 * w, w + 0.02 * turn])
    fallen = (new[0].abs() > 2.4) | (new[2].abs() > 12 * 2 * math.pi / 360)
    return new, torch.ones_like(x), fallen


cart_pole = ClassicControl(
    "CartPole-v1", 4, 2, 500,
    {"gravity": 9.8, "cart_mass": 1.0, "pole_mass": 0.1, "length": 0.5, "force": 10.0},
    place=lambda draw: _between(-0.05, 0.05, draw), move=_cart_move, see=lambda body: body)


# Acrobot-v1 (Sutton 1996): swing the tip of two links up by the torque at the joint.

def _acrobot_turn(s, torque, p):
    """Time derivative of both angles and both velocities (Sutton and Barto's book)."""
    a1, a2, w1, w2 = s
    m1, m2, g = p["mass_1"], p["mass_2"], p["gravity"]  # links of length 1, centres at 0.5
    cos2, sin2 = torch.cos(a2), torch.sin(a2)
    d1 = m1 * 0.25 + m2 * (1.25 + cos2) + 2
    d2 = m2 * (0.25 + 0.5 * cos2) + 1
    phi2 = m2 * 0.5 * g * torch.cos(a1 + a2 - math.pi / 2)
    phi1 = (-m2 * 0.5 * w2**2 * sin2 - m2 * w2 * w1 * sin2
            + (m1 * 0.5 + m2) * g * torch.cos(a1 - math.pi / 2) + phi2)
    turn2 = ((torque + d2 / d1 * phi1 - m2 * 0.5 * w1**2 * sin2 - phi2)
             / (m2 * 0.25 + 1 - d2**2 / d1))
    return torch.stack([w1, w2, -(d2 * turn2 + phi1) / d1, turn2])


def _acrobot_move(s, action, p):
    torque, dt = p["torque"] * (action - 1), 0.2
    k1 = _acrobot_turn(s, torque, p)  # Runge-Kutta, fourth order
    k2 = _acrobot_turn(s + dt / 2 * k1, torque, p)
    k3 = _acrobot_turn(s + dt / 2 * k2, torque, p)
    k4 = _acrobot_turn(s + dt * k3, torque, p)
    s = s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    angles = s[:2] - 2 * math.pi * torch.floor((s[:2] + math.pi) / (2 * math.pi))
    w1, w2 = s[2].clamp(-4 * math.pi, 4 * math.pi), s[3].clamp(-9 * math.pi, 9 * math.pi)
    up = -torch.cos(angles[0]) - torch.cos(angles[1] + angles[0]) > 1
    return torch.cat([angles, torch.stack([w1, w2])]), torch.where(up, 0.0, -1.0).to(s.dtype), up


acrobot = ClassicControl(
    "Acrobot-v1", 6, 3, 500, {"gravity": 9.8, "mass_1": 1.0, "mass_2": 1.0, "torque": 1.0},
    place=lambda draw: _between(-0.1, 0.1, draw), move=_acrobot_move,
    see=lambda s: torch.stack([torch.cos(s[0]), torch.sin(s[0]), torch.cos(s[1]), torch.sin(s[1]),
                               s[2], s[3]]))


# MountainCar-v0 (Moore 1990): too weak to drive up at once, the car has to swing.

def _mountain_move(body, action, p):
    place, speed = body
    speed = speed + (action - 1) * p["force"] - p["gravity"] * torch.cos(3 * place)
    speed = speed.clamp(-0.07, 0.07)
    place = (place + speed).clamp(-1.2, 0.6)
    speed = torch.where((place <= -1.2) & (speed < 0), 0.0, speed)
    return (torch.stack([place, speed]), -torch.ones_like(place), (place >= 0.5) & (speed >= 0))


mountain_car = ClassicControl(
    "MountainCar-v0", 2, 3, 200, {"force": 0.001, "gravity": 0.0025},
    place=lambda draw: torch.stack([_between(-0.6, -0.4, draw[0]), torch.zeros_like(draw[0])]),
    move=_mountain_move, see=lambda body: body)


# Pendulum-v1: swing up and hold. Its action, from -1 to 1, is the torque over the largest one.

def _pendulum_move(body, action, p):
    angle, w = body
    torque = 2 * action.reshape(()).clamp(-1, 1)
    off = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    cost = off**2 + 0.1 * w**2 + 0.001 * torque**2
    w = w + 0.05 * (3 * p["gravity"] / (2 * p["length"]) * torch.sin(angle)
                    + 3 / (p["mass"] * p["length"]**2) * torque)
    w = w.clamp(-8, 8)
    return torch.stack([angle + 0.05 * w, w]), -cost, torch.zeros_like(cost) > 0


pendulum = ClassicControl(
    "Pendulum-v1", 3, 0, 200, {"gravity": 10.0, "mass": 1.0, "length": 1.0},
    place=lambda draw: torch.stack([_between(-math.pi, math.pi, draw[0]),
                                    _between(-1, 1, draw[1])]), move=_pendulum_move,
    see=lambda s: torch.stack([torch.cos(s[0]), torch.sin(s[0]), s[1]]), reals=1)

# To be predicted; no action has an effect. Its reward is the next value of the series
# of Mackey and Glass (1977), delay 17, and four of its last values are observed.

def _series_move(past, action, p):
    delayed = past[-1]
    value = past[0] + p["gain"] * delayed / (1 + delayed**10) - p["decay"] * past[0]
    return torch.cat([value[None], past[:-1]]), value, value > torch.inf


mackey_glass = ClassicControl(
    "Mackey-Glass series", 4, 1, 10**9, {"gain": 0.2, "decay": 0.1},
    place=lambda draw: 0.7 + 0.5 * draw[0] + 0.1 * torch.sin(torch.arange(18.0) * (1 + draw[1])),
    move=_series_move, see=lambda past: torch.stack([past[0], past[6], past[12], past[17]]))

#: gymnasium's, by name.
CLASSIC_CONTROL = {one.name: one for one in (cart_pole, acrobot, mountain_car, pendulum)}
