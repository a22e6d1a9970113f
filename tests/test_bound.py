"""The bound of the outputs, learned by trying: it finds how much of the error can be explained."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from dyndl_lite.dynamic import bound
from dyndl_lite.dynamic.network import dynamic_network
from dyndl_lite.experiment import ensemble

SEEDS = torch.arange(6)
LEARNER = dynamic_network(4, 2, 1)


def hyper(**values):
    values = {"bound": 0.33, "bound_rate": 0.1, **values}
    return {name: torch.tensor(value) for name, value in values.items()}


def judged(losses, times=1, **values):
    trials = bound.new_trials(torch.zeros(1, 3))
    for _ in range(times):
        trials = bound.judge(trials, torch.tensor(losses), hyper(**values))
    return bound.bound_of(trials, hyper(**values)).item()


def test_the_bound_goes_to_the_side_of_the_trial_that_errs_less():
    assert judged([1.0, 3.0]) < 0.33 < judged([3.0, 1.0])
    assert judged([2.0, 2.0], 50) == pytest.approx(0.33)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_difference_counts_in_units_of_what_it_commonly_is(scale):
    trials = bound.new_trials(torch.zeros(1, 3))
    for t in range(10_000):  # now the one is better by `scale`, now the other
        trials = bound.judge(trials, torch.tensor([0.0, scale])[[t % 2, 1 - t % 2]], hyper())
    moved = bound.judge(trials, torch.tensor([scale / 2, 0.0]), hyper())
    assert (moved["log"] - trials["log"]).item() == pytest.approx(0.5 * 0.1, rel=0.02)
    broken = bound.judge(trials, torch.tensor([torch.inf, torch.inf]), hyper())
    assert torch.isfinite(broken["log"])


def test_the_bound_stays_within_reason():
    assert judged([0.0, 9.0], 200) == pytest.approx(bound.LEAST)
    assert judged([9.0, 0.0], 200) == pytest.approx(bound.MOST)


@pytest.mark.parametrize("start", [0.33, 5.0])
def test_with_a_rate_of_0_the_setting_stands(start):
    assert judged([0.0, 9.0], 100, bound_rate=0.0, bound=start) == pytest.approx(start, rel=1e-7)


def lived(noise, steps=500, spoil=False, **values):
    """Live on a sum of four inputs, of which one flips its sign every 50 examples, and noise."""
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(steps, len(SEEDS), 4, generator=draw)
    signs = torch.ones(steps, len(SEEDS), 4)
    for t in range(0, steps, 50):
        signs[t:, :, t // 50 % 4] *= -1
    Y = (signs * X).sum(-1, keepdim=True) if not noise else torch.randn(steps, len(SEEDS), 1,
                                                                        generator=draw)
    nets, hypers = ensemble.start(LEARNER, ensemble.grid(LEARNER, **values), SEEDS)
    if spoil:
        nets["trials"]["weights"] += 1.0
    step = ensemble.batched(LEARNER.step)
    for x, y in zip(X, Y):
        nets, _ = step(nets, hypers, x, y)
    return nets


def test_where_there_is_only_noise_it_falls_and_where_all_can_be_explained_it_rises():
    for noise, sign in ((True, -1), (False, 1)):
        log = lived(noise, bound_rate=0.01, bound=0.1)["trials"]["log"][0]
        assert (sign * log > 0.3).all(), (noise, log)


def test_the_trials_are_heard_by_nobody():
    """Other weights of the trials change the bound that is learned, and nothing if none is."""
    kept, spoiled = (lived(False, 60, spoil, bound_rate=0.0) for spoil in (False, True))
    for a, b in zip(tree_leaves({**kept, "trials": 0}), tree_leaves({**spoiled, "trials": 0})):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    assert not torch.equal(kept["trials"]["weights"], spoiled["trials"]["weights"])


def test_trials_that_answer_alike_but_for_rounding_do_not_move_it():
    alike = [0.5, 0.5 * (1 + 2e-7)]
    assert judged(alike, 1_000, bound_rate=1e-3) == pytest.approx(0.33, rel=0.01)
    assert judged([0.0, 0.0], 100) == pytest.approx(0.33)
