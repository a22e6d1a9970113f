"""The problems: what changes, when, and that an example depends on its seed and time alone."""

import dataclasses

import numpy as np
import pytest
import reference
import torch

from dyndl_lite.problems.datasets import digits
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression
from dyndl_lite.problems.stream import check as check_examples

SEEDS = torch.tensor([0, 1, 7])


def short(**changes):
    """Slowly-changing regression that changes every 100 examples."""
    return SlowlyChangingRegression(flip_period=100, **changes)


def images(task_length, n=12, pixels=9):
    """Permuted images whose every pixel is unlike any other: 1/4, 2/4, ..."""
    data = torch.arange(n * pixels).reshape(n, pixels) / 4
    return PermutedImages(data, torch.arange(n) % 4, task_length)


STREAMS = [short(), short(released=True), short(bits=8, slow_bits=8), images(30), images(7)]
NAMES = ["published", "released", "all slow", "several passes", "part of a pass"]


# Any stream -------------------------------------------------------------------------------------

@pytest.mark.parametrize("stream", STREAMS, ids=NAMES)
def test_examples_are_the_same_however_time_is_cut(stream):
    X, Y = stream.examples(SEEDS, 0, 250)
    for cuts in ([0, 250], [0, 1, 99, 100, 101, 250], [0, 7, 30, 60, 61, 200, 250]):
        parts = [stream.examples(SEEDS, a, b - a) for a, b in zip(cuts, cuts[1:])]
        assert torch.equal(torch.cat([x for x, _ in parts]), X)
        assert torch.equal(torch.cat([y for _, y in parts]), Y)


@pytest.mark.parametrize("stream", STREAMS, ids=NAMES)
def test_examples_are_the_same_in_any_company(stream):
    X, Y = stream.examples(SEEDS, 40, 90)
    for choice in ([0], [2], [2, 0], [1, 2, 0], [1, 1]):
        x, y = stream.examples(SEEDS[choice], 40, 90)
        assert torch.equal(x, X[:, choice]) and torch.equal(y, Y[:, choice])
    assert not torch.equal(X[:, 0], X[:, 1])


@pytest.mark.parametrize("stream", STREAMS, ids=NAMES)
def test_examples_have_the_shapes_they_promise(stream):
    X, Y = stream.examples(SEEDS, 5, 20)
    assert X.shape == (20, 3, stream.inputs) and X.dtype == torch.float32
    if Y.is_floating_point():
        assert Y.shape == (20, 3, stream.outputs)
    else:
        assert Y.shape == (20, 3) and Y.max() < stream.outputs
    check_examples(stream, X, Y, 5)


# Slowly-changing regression ---------------------------------------------------------------------

def slow_bits(stream, periods):
    """Give the slow bits [periods, examples, runs, bits] of the stream's first periods."""
    X, _ = stream.examples(SEEDS, 0, 100 * periods)
    return X[:, :, :stream.slow_bits].reshape(periods, 100, len(SEEDS), -1)


def test_one_slow_bit_flips_each_period_and_none_within():
    slow = slow_bits(short(), 60)
    assert (slow == slow[:, :1]).all()
    flips = (slow[1:, 0] != slow[:-1, 0]).sum(-1)
    assert (flips == 1).all()
    flipped = (slow[1:, 0] != slow[:-1, 0]).sum(0)  # over 59 periods every bit has its turn
    assert (flipped > 0).float().mean() > 0.9


def test_as_released_all_slow_bits_are_redrawn():
    slow = slow_bits(short(released=True), 60)
    assert (slow == slow[:, :1]).all()
    flips = (slow[1:, 0] != slow[:-1, 0]).sum(-1).float()
    assert 7.0 < flips.mean() < 8.0  # half of 15


def test_fast_bits_are_fair_coins():
    X, _ = SlowlyChangingRegression().examples(SEEDS, 0, 10_000)
    fast = X[:, :, 15:]
    assert ((fast == 0) | (fast == 1)).all()
    assert (fast.mean(0) - 0.5).abs().max() < 0.025  # 5 standard errors
    among = torch.corrcoef(fast[:, 0].T) - torch.eye(5)
    assert among.abs().max() < 0.05
    later = torch.corrcoef(torch.stack([fast[:-1, 0, 0], fast[1:, 0, 0]]))[0, 1]
    assert abs(later) < 0.05


def test_the_target_is_the_networks_of_threshold_units():
    stream = short()
    X, Y = stream.examples(SEEDS, 350, 8)
    for x, y in zip(X.numpy(), Y.numpy()):
        for run, seed in enumerate(SEEDS.tolist()):
            assert y[run, 0] == reference.threshold_network(seed, x[run])


def test_the_released_target_has_the_bias_in_the_threshold():
    stream = SlowlyChangingRegression(target_units=1, released=True)
    differ = 0
    for seed in range(30):
        signs = np.where(reference.draw_bits(seed, reference.TARGET, np.arange(23)) >= 2**31, 1, -1)
        w, bias, v, c = signs[:20], signs[20], signs[21], signs[22]
        threshold = 21 * 0.7 - (20 - sum(w) + bias) / 2
        x = (np.arange(20) % 3 > 0) * (w > 0) + (np.arange(20) % 7 == 0) * (w < 0)
        y = v * float(w @ x + bias > threshold) + c
        found = stream.target(torch.tensor([seed]), torch.tensor(x[None, None]).float())
        assert float(found) == y
        differ += y != reference.threshold_network(seed, x.tolist(), units=1)
    assert differ  # the variant is another target


def test_the_target_is_neither_constant_nor_wild():
    _, Y = short().examples(torch.arange(20), 0, 3_000)
    assert (Y.std(0) > 0.3).float().mean() > 0.9 and Y.abs().max() <= 101


@pytest.mark.parametrize("wrong", [{"slow_bits": 0}, {"bits": 5, "slow_bits": 6},
                                   {"bits": 40, "slow_bits": 10}])
def test_impossible_numbers_of_bits_are_refused(wrong):
    with pytest.raises(ValueError, match="slow_bits") as raised:
        SlowlyChangingRegression(**wrong)
    assert "\n" not in str(raised.value)


# Permuted images --------------------------------------------------------------------------------

def unpermute(stream, x):
    """Tell which image a permuted one is, and the order of its pixels."""
    pixels = (x * 4).long()
    image = pixels // stream.inputs
    assert (image == image[0]).all()
    return int(image[0]), (pixels % stream.inputs).tolist()


def tasks(stream, run, n):
    """Give for each of the first n tasks its (image, order of pixels, label), one by one."""
    X, Y = stream.examples(SEEDS, 0, n * stream.task_length)
    seen = [(*unpermute(stream, x), int(y)) for x, y in zip(X[:, run], Y[:, run])]
    return [seen[i * stream.task_length:(i + 1) * stream.task_length] for i in range(n)]


def test_a_task_is_one_permutation_of_the_pixels():
    stream, orders = images(30), []
    for run in range(len(SEEDS)):
        for task in tasks(stream, run, 4):
            used = {tuple(order) for _, order, _ in task}
            assert len(used) == 1
            orders += used
            assert sorted(orders[-1]) == list(range(9))
    assert len(set(orders)) == len(orders) == 12  # tasks differ, runs differ


def test_every_image_is_seen_once_a_pass_with_its_own_label():
    stream, passes = images(30), []
    for task in tasks(stream, 0, 3):
        shown = [image for image, _, _ in task]
        assert sorted(shown[:12]) == sorted(shown[12:24]) == list(range(12))
        assert len(set(shown[24:])) == 6
        assert all(label == image % 4 for image, _, label in task)
        passes += [tuple(shown[:12]), tuple(shown[12:24])]
    assert len(set(passes)) == 6  # in another order every time


def test_a_short_task_shows_another_part_of_the_images_each_time():
    shown = [frozenset(i for i, _, _ in task) for task in tasks(images(7), 0, 6)]
    assert all(len(part) == 7 for part in shown) and len(set(shown)) > 1


def test_the_digest_tells_data_apart():
    a = images(30)
    assert a.digest == images(7).digest
    assert a.digest != dataclasses.replace(a, labels=(a.labels + 1) % 4).digest


def test_images_and_labels_must_fit():
    with pytest.raises(ValueError, match="permuted images") as raised:
        PermutedImages(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64), 3)
    assert "\n" not in str(raised.value)


def test_permuted_digits_keep_every_pixel():
    data, labels = digits()
    stream = PermutedImages(data, labels, 1_797)
    X, Y = stream.examples(SEEDS, 0, 1_797)
    assert torch.equal(X[:, 0].sum(1).sort().values, data.sum(1).sort().values)
    assert torch.equal(Y[:, 2].sort().values, labels.sort().values)
    assert (stream.inputs, stream.outputs) == (64, 10)


# Malformed examples -----------------------------------------------------------------------------

def spoil(what):
    """Give a regression stream's and an image stream's examples with one fault."""
    stream = images(30) if "label" in what else short()
    X, Y = (a.clone() for a in stream.examples(SEEDS, 200, 20))
    if what == "NaN in X" or what == "NaN in X of labels":
        X[4, 1, 0] = torch.nan
    if what == "infinite X":
        X[4, 1, 0] = -torch.inf
    if what == "NaN in Y":
        Y[4, 1, 0] = torch.nan
    if what == "label too large":
        Y[4, 1] = 4
    if what == "label negative":
        Y[4, 1] = -1
    return stream, X, Y


@pytest.mark.parametrize("what", ["NaN in X", "NaN in X of labels", "infinite X", "NaN in Y",
                                  "label too large", "label negative"])
def test_a_bad_number_is_named_with_its_stream_step_and_run(what):
    stream, X, Y = spoil(what)
    with pytest.raises(ValueError) as raised:
        check_examples(stream, X, Y, 200)
    message = str(raised.value)
    assert f"{stream.name!r}, step 204, run 1" in message and "\n" not in message


@pytest.mark.parametrize("reshape", [
    lambda X, Y: (X[:, :, 1:], Y), lambda X, Y: (X[:, 0], Y), lambda X, Y: (X[1:], Y),
    lambda X, Y: (X, Y[:, 1:]), lambda X, Y: (X, Y[:, :, 0]), lambda X, Y: (X, Y.repeat(1, 1, 2)),
    lambda X, Y: (X, Y.long()),
])
def test_a_wrong_shape_is_named_with_its_stream_and_step(reshape):
    stream = short()
    with pytest.raises(ValueError) as raised:
        check_examples(stream, *reshape(*stream.examples(SEEDS, 200, 20)), 200)
    message = str(raised.value)
    assert f"{stream.name!r}, step 200" in message and "\n" not in message
