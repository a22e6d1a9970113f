"""An agent and its environment: it observes, acts, is rewarded and learns, again and again.

A pure function of the interaction's state, a dict; `train_streaming` makes many of one. The
environment is ours (`interaction`) or somebody else's simulator (`in_simulator`).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import diagnostics
from dyndl_lite.rl import stream_x
from dyndl_lite.rl.environments import check_fit, either, Environment
from dyndl_lite.rl.streaming import Agent


def begin(agent: Agent, hyper: dict, seed: Tensor, observation: Tensor) -> dict:
    """Give the state of an interaction: agent, observation statistics, reward scaler, x."""
    statistics, x = stream_x.normalise(stream_x.new_statistics(observation), observation, hyper)
    zero = torch.zeros_like(observation[0])
    return {"agent": agent.start(seed, hyper), "statistics": statistics, "x": x,
            "scaler": stream_x.new_scaler(zero), "return": zero.clone(), "seed": seed.clone(),
            "t": torch.zeros_like(seed)}


def learn(agent: Agent, state: dict, hyper: dict, action: Tensor, explored: Tensor,
          observation: Tensor, reward: Tensor, terminal: Tensor, truncated: Tensor,
          next_start: Tensor) -> tuple[dict, Tensor]:
    """Learn from what an action led to: an observation, the last of an episode included.

    `next_start` is the first one of the next episode, used only where this one is over.

    Returns
    -------
    state : dict
    report : tensor [4 + observations]
        Reward, whether an episode is over, its return if so, the value the agent expected in
        units of reward, and x.
    """
    over = terminal | truncated
    statistics, next_x = stream_x.normalise(state["statistics"], observation, hyper)
    again, first_x = stream_x.normalise(statistics, next_start, hyper)
    scaler, scale = stream_x.scale_reward(state["scaler"], reward, over, hyper)
    transition = {"x": state["x"], "action": action, "reward": reward / scale, "next_x": next_x,
                  "terminal": terminal, "over": over, "explored": explored}
    learned, value = agent.learn(state["agent"], hyper, transition, state["seed"], state["t"])
    total = state["return"] + reward
    report = torch.stack([reward, over.to(reward.dtype), torch.where(over, total, 0.0),
                          value * scale])
    return {"agent": learned,
            "statistics": either(over, again, statistics), "x": torch.where(over, first_x, next_x),
            "scaler": scaler, "return": torch.where(over, 0.0, total), "seed": state["seed"],
            "t": state["t"] + 1}, torch.cat([report, state["x"]])


def never(seed: Tensor, t: Tensor) -> dict:
    """Nothing changes."""
    return {}


def interaction(agent: Agent, environment: Environment, changes: Callable = never) -> tuple:
    """Put an agent into an environment.

    Parameters
    ----------
    agent, environment
    changes : function of (seed, t)
        What the environment is like from the next start on: a dict with ``physics`` or ``code``.

    Returns
    -------
    start : function of (seed, hyper) -> state
    step : function of (state, hyper, ...) -> state, report
    """
    check_fit(agent.made_for, environment)

    def draw(seed, t):  # its counters are made inside the step: what is kept of it holds no tensors
        return random.uniform(seed, random.START, t, torch.arange(4, device=seed.device))

    def start(seed, hyper):
        place = environment.start(draw(seed, 0), **changes(seed, torch.zeros_like(seed)))
        return {"environment": place, **begin(agent, hyper, seed, environment.observe(place))}

    def step(state, hyper, *_):
        seed, t = state["seed"], state["t"]
        action, explored = agent.act(state["agent"], hyper, state["x"], seed, t)
        after, reward, terminal, truncated = environment.step(state["environment"], action)
        new = environment.restart(after, terminal | truncated, draw(seed, t + 1),
                                  **changes(seed, t + 1))
        state, report = learn(agent, state, hyper, action, explored, environment.observe(after),
                              reward, terminal, truncated, environment.observe(new))
        return {"environment": new, **state}, report

    return start, step


def in_simulator(agent: Agent) -> tuple:
    """Let an agent answer a simulator, which is stepped elsewhere.

    Returns
    -------
    start : function of (seed, hyper, observation) -> state, with the first action
    step : function of (state, hyper, outcome, y) -> state, report
        Outcome: reward, terminal, truncated, observation, next_start as of `learn`, in one tensor.
    """

    def decide(state, hyper):
        action, explored = agent.act(state["agent"], hyper, state["x"], state["seed"], state["t"])
        return {**state, "action": action, "explored": explored}

    def start(seed, hyper, observation):
        return decide(begin(agent, hyper, seed, observation), hyper)

    def step(state, hyper, outcome, _):
        (reward, terminal, truncated), seen = outcome[:3], outcome[3:].unflatten(0, (2, -1))
        state, report = learn(agent, state, hyper, state["action"], state["explored"], seen[0],
                              reward, terminal > 0, truncated > 0, seen[1])
        return decide(state, hyper), report

    return start, step


def probe(net: str = "critic") -> Callable:
    """Give the function of (agent, hyper, X) that looks inside one of an agent's networks."""

    def look(agent, hyper, X):
        params = agent[net]["params"]
        activities = vmap(lambda x: tuple(stream_x.apply(params, x, hyper["layer_norm"])[1]))(X)
        return {f"{net}_{name}": value
                for name, value in diagnostics.measure(params, activities).items()}

    return look
