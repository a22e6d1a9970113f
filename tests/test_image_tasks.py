"""Fractals and the tasks made of them: the same from the same seed, in any company, in any piece."""

import pytest
import torch
from test_learners import one_line

from dyndl_lite.problems import fractals
from dyndl_lite.problems.fractals import Fractals
from dyndl_lite.problems.image_classes import ClassIncremental, ClassPairs, WarmStart
from dyndl_lite.problems.stream import check as check_examples

COLLECTION = Fractals(10, classes=7, images=12)


def pairs(**values):
    return ClassPairs(COLLECTION, **{"train": 8, "held_back": 4, "minibatch": 4, "epochs": 3}
                      | values)


# Fractals ---------------------------------------------------------------------------------------

def test_a_class_is_a_function_of_the_seed_alone():
    first = Fractals(10, classes=7, images=12).of(3)
    assert first.shape == (12, 3, 10, 10) and first.dtype == torch.uint8
    fractals._kept.cache_clear()
    Fractals(10, classes=7, images=12).of(2)
    torch.testing.assert_close(Fractals(10, classes=900, images=12).of(3), first)
    torch.testing.assert_close(Fractals(10, images=5).of(3), first[:5])  # however many are asked for
    assert not torch.equal(Fractals(10, images=12, seed=1).of(3), first)
    assert not torch.equal(COLLECTION.of(4), first)
    with pytest.raises(ValueError) as raised:
        COLLECTION.of(7)
    assert "0 to 6" in one_line(raised)


def test_pictures_of_a_class_vary_and_resemble_each_other():
    points = []
    for k in (0, 1):
        u = 2 * fractals.random.uniform(torch.tensor(0), fractals.random.FRACTAL, k,
                                       torch.arange(18)) - 1
        v = 2 * fractals.random.uniform(torch.tensor(0), fractals.random.VARIATION, k,
                                       torch.arange(6)[:, None], torch.arange(18)) - 1
        points.append(fractals.attractor(*fractals.affine_maps((u + 0.1 * v).reshape(6, 3, 6))))
    assert points[0].shape == (6, 729, 2)
    ink = torch.stack([fractals.density(p, 8) for p in points])
    torch.testing.assert_close(ink.amax((2, 3)), torch.ones(2, 6))
    ink = ink.flatten(2) / ink.flatten(2).norm(dim=2, keepdim=True)
    within = ((ink[0] @ ink[0].T).sum() - 6) / 30
    assert (ink[0] @ ink[1].T).mean() < within < 0.999


def test_maps_draw_points_together():
    A, _ = fractals.affine_maps(2 * torch.rand(200, 6, generator=torch.manual_seed(0)) - 1)
    assert torch.linalg.matrix_norm(A, 2).max() < 1


def test_density_counts_what_is_inside():
    points = torch.tensor([[[-0.9, -0.9], [-0.9, -0.8], [-0.9, -0.7], [0.9, 0.9], [3.0, 0.0]]])
    ink = fractals.density(points, 2)[0]
    expected = torch.log1p(torch.tensor([[3.0, 0.0], [0.0, 1.0]])) / torch.log1p(torch.tensor(3.0))
    torch.testing.assert_close(ink, expected)


# Tasks ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stream", [
    pairs(), WarmStart(COLLECTION, 8, 4, 4, 3, together=3),
    ClassIncremental(COLLECTION, 8, 4, 4, 1, together=2, tasks=3),
    ClassIncremental(COLLECTION, 8, 4, 4, 1, together=2, tasks=3, augmented=True)],
    ids=["pairs", "half, then all", "growing", "augmented"])
def test_examples_do_not_depend_on_company_or_pieces(stream):
    seeds, length = torch.tensor([4, 9]), 2 * stream.task_length
    X, Y = stream.examples(seeds, 0, length)
    check_examples(stream, X, Y, 0, (length, 2))
    assert X.shape[2:] == (4, 3, 10, 10) and -1 <= X.min() and X.max() <= 1
    for start, count in [(0, 1), (1, 5), (length - 3, 3), (stream.task_length - 1, 2)]:
        x, y = stream.examples(seeds, start, count)
        torch.testing.assert_close(x, X[start:start + count])
        torch.testing.assert_close(y, Y[start:start + count])
    alone, labels = stream.examples(seeds[1:], 0, length)
    torch.testing.assert_close(alone, X[:, 1:])
    torch.testing.assert_close(labels, Y[:, 1:])
    assert not torch.equal(X[:, 0], X[:, 1])


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own():
    stream, seeds = pairs(), torch.tensor([4])
    X, Y = stream.examples(seeds, 0, stream.task_length)
    assert stream.task_length == 12
    epochs = X.reshape(3, 16, 3, 10, 10)
    images = [sorted(map(tuple, epoch.flatten(1).tolist())) for epoch in epochs]
    assert images[0] == images[1] == images[2] and len(set(images[0])) == 16
    assert not torch.equal(epochs[0], epochs[1])
    assert Y.reshape(3, 16).sum(1).tolist() == [8, 8, 8]
    classes = stream.classes(seeds, 0)[0].tolist()
    shown = {tuple(i.flatten().tolist()): int(k) for i, k in zip(epochs[0], Y.flatten()[:16])}
    for k, label in zip(classes, (0, 1)):
        for picture in COLLECTION.of(k)[:8].float() / 127.5 - 1:
            assert shown[tuple(picture.flatten().tolist())] == label


def test_held_back_images_are_those_of_the_task_that_is_over():
    stream, seeds = pairs(), torch.tensor([4, 9])
    X, Y = stream.test(seeds, 2 * stream.task_length)  # the end of the second task
    assert X.shape == (2, 8, 3, 10, 10) and Y.tolist() == [[0] * 4 + [1] * 4] * 2
    for run, classes in enumerate(stream.classes(seeds, 1).tolist()):
        for i, k in enumerate(classes):
            expected = COLLECTION.of(k)[8:12].float() / 127.5 - 1
            torch.testing.assert_close(X[run, 4 * i:4 * i + 4], expected)


def test_all_classes_come_before_any_comes_again():
    stream, seeds = pairs(), torch.arange(5)
    orders = [torch.cat([stream.classes(seeds, 3 * a + k) for k in range(3)], 1) for a in range(2)]
    for order in orders:  # seven classes: three pairs, one is left over
        assert all(len(set(row)) == 6 for row in order.tolist())
    assert not torch.equal(*orders)
    assert stream.begins(torch.tensor([0, 5, 12, 13])).tolist() == [True, False, True, False]


def test_half_then_all():
    stream = WarmStart(COLLECTION, 8, 4, 4, 3, together=3)
    seeds = torch.tensor([4])
    assert stream.outputs == 3 and stream.task_length == 18
    torch.testing.assert_close(stream.classes(seeds, 0), stream.classes(seeds, 1))
    X, _ = stream.examples(seeds, 0, 36)
    half = {tuple(i.flatten().tolist()) for i in X[:18].flatten(0, 2)}
    everything = {tuple(i.flatten().tolist()) for i in X[18:].flatten(0, 2)}
    assert len(half) == 12 and len(everything) == 24 and half < everything


def test_growing_classes():
    stream = ClassIncremental(COLLECTION, 8, 4, 4, 1, together=2, tasks=3)
    assert stream.task_length == 4 and stream.steps == 24 and stream.outputs == 6
    assert [stream.task(t) for t in (0, 3, 4, 11, 12, 23)] == [
        (0, 0), (0, 0), (1, 4), (1, 4), (2, 12), (2, 12)]
    assert [t for t in range(24) if stream.begins(torch.tensor(t))] == [0, 4, 12]
    found = [stream.increment(torch.tensor(t)) for t in range(24)]
    assert [int(number) for number, _ in found] == 4 * [0] + 8 * [1] + 12 * [2]
    expected = [k / n for n in (4, 8, 12) for k in range(n)]
    torch.testing.assert_close(torch.stack([share for _, share in found]), torch.tensor(expected))
    _, Y = stream.examples(torch.tensor([4]), 0, 24)
    assert [sorted(set(Y[a:b].flatten().tolist())) for a, b in [(0, 4), (4, 12), (12, 24)]] == [
        [0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert stream.test(torch.tensor([4]), 12)[0].shape == (1, 16, 3, 10, 10)


def test_augmented_images_are_mirrored_and_shifted_and_reflected_at_the_border():
    values = {"train": 8, "held_back": 4, "minibatch": 4, "epochs": 6, "together": 2, "tasks": 1}
    collection, seeds = Fractals(16, images=12), torch.tensor([4, 9])
    X, Y = ClassIncremental(collection, **values).examples(seeds, 0, 24)
    changed, labels = ClassIncremental(collection, **values, augmented=True).examples(seeds, 0, 24)
    torch.testing.assert_close(labels, Y)
    found = []
    for old, new in zip(X.flatten(0, 2), changed.flatten(0, 2), strict=True):
        wide = torch.nn.functional.pad(old[None], (2, 2, 2, 2), mode="reflect")[0]
        ways = {(mirrored, down, right): view.flip(-1) if mirrored else view
                for mirrored in (False, True) for down in range(5) for right in range(5)
                for view in [wide[:, down:down + 16, right:right + 16]]}
        found += [way for way, view in ways.items() if torch.equal(view, new)]
    assert len(found) == 24 * 2 * 4 and len(set(found)) > 45  # nearly all of the 50 ways
    assert 0.35 < sum(mirrored for mirrored, _, _ in found) / len(found) < 0.65


def test_what_cannot_be_is_refused_in_one_line():
    for ask, word in [(lambda: pairs(minibatch=5), "minibatch 5"),
                      (lambda: pairs(together=8), "7 classes"),
                      (lambda: pairs(train=10).examples(torch.tensor([0]), 0, 1), "12 images")]:
        with pytest.raises(ValueError) as raised:
            ask()
        assert word in one_line(raised)


def test_a_minibatch_of_another_shape_does_not_pass_the_check():
    stream = pairs()
    X, Y = stream.examples(torch.tensor([0]), 0, 2)
    for x, y, word in [(X[:, :, :3], Y, "4, 3, 10, 10"), (X, Y[..., :3], "[steps, runs, 4]"),
                       (X / 0, Y, "NaN or infinite"), (X, Y + 1, "outside 0..1")]:
        with pytest.raises(ValueError) as raised:
            check_examples(stream, x, y, 0)
        assert word in one_line(raised)
