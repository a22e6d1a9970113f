"""One life: the agent sees, acts, is paid, learns, again and again.

A pure function of itself; `lives` makes many of one, `gym_lives` lets the world be somebody else's.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import diagnostics
from dyndl_lite.rl import stream_x
from dyndl_lite.rl.environments import World
from dyndl_lite.rl.streaming import Agent


def born(agent: Agent, hyper: dict, seed: Tensor, observation: Tensor) -> dict:
    """Begin a life: an agent, what it knows of the world's scales, and its first observation."""
    known, x = stream_x.perceive(stream_x.new_statistics(observation), observation, hyper)
    zero = torch.zeros_like(observation[0])
    return {"mind": agent.start(seed, hyper), "known": known, "x": x,
            "pay": {"sum": zero, "known": stream_x.new_statistics(zero)},
            "return": zero.clone(), "seed": seed.clone(), "t": torch.zeros_like(seed)}


def act(agent: Agent, life: dict, hyper: dict) -> tuple[Tensor, Tensor]:
    """Choose: the action, and whether it explored."""
    return agent.act(life["mind"], hyper, life["x"], life["seed"], life["t"])


def experience(agent: Agent, life: dict, hyper: dict, action: Tensor, explored: Tensor,
               observation: Tensor, reward: Tensor, terminal: Tensor, truncated: Tensor,
               next_start: Tensor) -> tuple[dict, Tensor]:
    """Live through what an action led to.

    Parameters
    ----------
    observation : tensor [observations]
        Where the action led, the last one of an episode included.
    terminal, truncated : bool scalar tensors
    next_start : tensor [observations]
        The first observation of the next episode; used only where this one is over.

    Returns
    -------
    life : dict
    report : tensor [4 + observations]
        Reward, whether an episode is over, its return if so, the value the agent expected in
        units of reward, and x.
    """
    over = terminal | truncated
    known, next_x = stream_x.perceive(life["known"], observation, hyper)
    again, first_x = stream_x.perceive(known, next_start, hyper)
    pay, scale = stream_x.earn(life["pay"], reward, over, hyper)
    seen = {"x": life["x"], "action": action, "reward": reward / scale, "next_x": next_x,
            "terminal": terminal, "over": over, "explored": explored}
    mind, value = agent.learn(life["mind"], hyper, seen, life["seed"], life["t"])
    total = life["return"] + reward
    report = torch.stack([reward, over.to(reward.dtype), torch.where(over, total, 0.0),
                          value * scale])
    return {"mind": mind, "known": tree_map(lambda a, b: torch.where(over, a, b), again, known),
            "x": torch.where(over, first_x, next_x), "pay": pay,
            "return": torch.where(over, 0.0, total), "seed": life["seed"],
            "t": life["t"] + 1}, torch.cat([report, life["x"]])


def never(seed: Tensor, t: Tensor) -> dict:
    """Nothing changes."""
    return {}


def together(agent: Agent, world: World, changes: Callable = never) -> tuple:
    """Put an agent into a world.

    Parameters
    ----------
    agent : Agent
    world : World
    changes : function of (seed, t)
        What the world is like from the next start on: a dict with ``physics`` or ``code``.

    Returns
    -------
    start : function of (seed, hyper) -> life
    step : function of (life, hyper, x, y) -> life, report; x and y are not looked at
    """
    four = torch.arange(4)

    def start(seed, hyper):
        state = world.start(random.uniform(seed, random.START, 0, four.to(seed.device)),
                            **changes(seed, torch.zeros_like(seed)))
        return {"world": state, **born(agent, hyper, seed, world.observe(state))}

    def step(life, hyper, *_):
        seed, t = life["seed"], life["t"]
        action, explored = act(agent, life, hyper)
        state, reward, terminal, truncated = world.step(life["world"], action)
        draw = random.uniform(seed, random.START, t + 1, four.to(seed.device))
        new = world.restart(state, terminal | truncated, draw, **changes(seed, t + 1))
        me = {name: part for name, part in life.items() if name != "world"}
        me, report = experience(agent, me, hyper, action, explored, world.observe(state), reward,
                                terminal, truncated, world.observe(new))
        return {"world": new, **me}, report

    return start, step


def probe(net: str = "critic") -> Callable:
    """Give the function of (life, hyper, X) that looks inside one of an agent's networks."""

    def look(life, hyper, X):
        params = life["mind"][net]["params"]
        activities = vmap(lambda x: tuple(stream_x.forward(params, x, hyper["layer_norm"])[1]))(X)
        found = diagnostics.measure(params, activities)
        return {f"{net}_{name}": value for name, value in found.items()}

    return look
