"""All that the command `dyndl bench` times."""

from dyndl_lite.bench import rl, supervised


def everything(rounds: int = 5, quick: bool = False) -> list[dict]:
    """Time learners, then streaming agents and PPO."""
    return (supervised.measure(rounds, quick) + rl.measure(rounds, quick)
            + rl.measure_ppo(rounds, quick))
