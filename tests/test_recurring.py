"""Problems whose tasks return: they do, in turn, and nothing else about them changes."""

import pandas as pd
import pytest
import reference
import torch

from dyndl_lite import keyed_random as random
from dyndl_lite.experiment import compare
from dyndl_lite.problems.datasets import digits
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.recurring import RecurringContexts, ReturningImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

SEEDS = torch.tensor([0, 1, 7])


def contexts():
    """Three contexts, 40 examples a visit."""
    return RecurringContexts(flip_period=40, contexts=3)


def images():
    """Two permutations, 17 examples a visit; every pixel is unlike any other: 1/4, 2/4, ..."""
    data = torch.arange(12 * 9).reshape(12, 9) / 4
    return ReturningImages(data, torch.arange(12) % 4, 17, permutations=2)


@pytest.mark.parametrize("stream", [contexts(), images()], ids=["contexts", "images"])
def test_examples_depend_on_their_seed_and_time_alone(stream):
    X, Y = stream.examples(SEEDS, 0, 250)
    for cuts in ([0, 1, 39, 40, 41, 250], [0, 7, 17, 34, 120, 121, 250]):
        parts = [stream.examples(SEEDS, a, b - a) for a, b in zip(cuts, cuts[1:])]
        assert torch.equal(torch.cat([x for x, _ in parts]), X)
        assert torch.equal(torch.cat([y for _, y in parts]), Y)
    for choice in ([0], [2, 0], [1, 1]):
        x, y = stream.examples(SEEDS[choice], 30, 60)
        assert torch.equal(x, X[30:90, choice]) and torch.equal(y, Y[30:90, choice])


def test_contexts_are_visited_in_turn_and_return_the_same():
    X, _ = contexts().examples(SEEDS, 0, 40 * 9)
    slow = X[:, :, :15].reshape(9, 40, len(SEEDS), 15)
    assert (slow == slow[:, :1]).all()  # one pattern a visit
    visits = slow[:, 0]
    assert torch.equal(visits[:3], visits[3:6]) and torch.equal(visits[:3], visits[6:])
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (visits[a] != visits[b]).any(-1).all()
    for seed, run in zip(SEEDS.tolist(), range(3)):
        for context in range(3):
            bits = reference.draw_bits(seed, random.CONTEXT, context, torch.arange(15).numpy())
            assert visits[context, run].tolist() == (bits >= 2**31).astype(float).tolist()


def test_a_context_is_slowly_changing_regression_with_other_slow_bits():
    stream, usual = contexts(), SlowlyChangingRegression(flip_period=40)
    X, Y = stream.examples(SEEDS, 130, 20)
    assert torch.equal(X[:, :, 15:], usual.examples(SEEDS, 130, 20)[0][:, :, 15:])
    for x, y in zip(X.numpy(), Y.numpy()):
        for run, seed in enumerate(SEEDS.tolist()):
            assert y[run, 0] == reference.threshold_network(seed, x[run])


def test_permutations_return_with_the_images_in_a_new_order():
    stream = images()
    X, _ = stream.examples(SEEDS, 0, 17 * 6)
    pixels, image = (X * 4).long() % 9, (X * 4).long()[..., 0] // 9
    visits, shown = pixels.reshape(6, 17, 3, 9), image.reshape(6, 17, 3)
    assert (visits == visits[:, :1]).all()
    assert torch.equal(visits[:2, 0], visits[2:4, 0]) and torch.equal(visits[:2, 0], visits[4:, 0])
    assert (visits[0, 0] != visits[1, 0]).any(-1).all()
    for run in range(3):
        assert len({tuple(v) for v in shown[:, :, run].tolist()}) == 6


def test_with_as_many_permutations_as_tasks_they_are_permuted_images():
    data, labels = digits()
    ours = ReturningImages(data, labels, 500, permutations=4).to("cpu")
    for a, b in zip(ours.examples(SEEDS, 900, 700),
                    PermutedImages(data, labels, 500).examples(SEEDS, 900, 700)):
        assert torch.equal(a, b)
    assert ours.permutations == 4 and ours.digest == PermutedImages(data, labels, 500).digest


def test_streams_that_differ_say_so():
    assert repr(contexts()) != repr(RecurringContexts(flip_period=40, contexts=4))
    assert repr(images()) != repr(ReturningImages(images().images, images().labels, 17))


def test_what_is_remembered_is_measured_where_it_says():
    """Three cycles of two visits of 3 000 examples; the error tells the bin it is from."""
    step = pd.Series(range(100, 18_001, 100))
    within, cycle = (step - 1) % 3_000 // 100, (step - 1) // 6_000
    frame = pd.DataFrame({"learner": "it", "seed": 4, "step": step,
                          "error": 1_000.0 * cycle + within})
    found = compare.remembered(frame, "error", ["learner"], cycle=2, visit=3_000, cycles=1)
    assert found.index.tolist() == [("it", 4)]
    assert found.iloc[0].to_dict() == {"visit": 2_014.5, "first_100": 2_000.0,
                                       "last_1000": 2_024.5, "plasticity": 14.5}
    both = compare.remembered(frame, "error", ["learner"], cycle=2, visit=3_000)
    assert both.first_100.item() == 1_500.0
