"""Features that stay and features that come and go, and how they are found in a network."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from dyndl_lite.problems.features import explained, found, HiddenFeatures

SEEDS = torch.tensor([0, 1, 7])
STAY = HiddenFeatures(task_period=50)
TURNOVER = HiddenFeatures(task_period=50, arrival_period=70)
DEEP = HiddenFeatures(task_period=50, arrival_period=70, deep=16)
STREAMS = [STAY, TURNOVER, DEEP, HiddenFeatures(outputs=1, oracle=True, task_period=30)]
every_form = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)


@every_form
def test_examples_are_the_same_however_time_is_cut_and_in_any_company(stream):
    X, Y = stream.examples(SEEDS, 0, 200)
    parts = [stream.examples(SEEDS, a, count) for a, count in [(0, 1), (1, 69), (70, 80), (150, 50)]]
    assert torch.equal(torch.cat([x for x, _ in parts]), X)
    assert torch.equal(torch.cat([y for _, y in parts]), Y)
    x, y = stream.examples(SEEDS[[2, 0]], 40, 90)
    assert torch.equal(x, X[40:130, [2, 0]])
    assert torch.equal(y, Y[40:130, [2, 0]])
    assert X.shape == (200, 3, stream.inputs) and Y.shape == (200, 3, stream.outputs)


def test_a_feature_is_a_threshold_of_six_signs():
    X = STAY.inputs_at(SEEDS, torch.arange(2000))
    assert set(X.unique().tolist()) == {-1.0, 1.0} and X.mean((0, 1)).abs().max() < 0.06
    W = STAY.weights(SEEDS, 0)
    assert ((W != 0).sum(-1) == 6).all() and set(W.unique().tolist()) == {-1.0, 0.0, 1.0}
    F = STAY.present(SEEDS, X, 0)
    by_hand = np.einsum("trb,rfb->trf", X.numpy(), W.numpy()) >= 2
    assert (F.numpy() == by_hand).all()
    assert F.mean() == pytest.approx(22 / 64, abs=0.01)  # how often six signs sum to 2 or more


def test_the_target_is_the_read_out_of_the_features_and_noise():
    quiet = HiddenFeatures(noise=0)
    X, Y = quiet.examples(SEEDS, 0, 100)
    F, V = quiet.present(SEEDS, X, 0), quiet.read_out(SEEDS, 0)
    torch.testing.assert_close(Y, torch.einsum("trf,rof->tro", F, V))
    assert V.abs().unique().tolist() == pytest.approx([2 / 20**0.5])
    noisy = HiddenFeatures().examples(SEEDS, 0, 5000)[1] - HiddenFeatures(noise=0).examples(
        SEEDS, 0, 5000)[1]
    assert noisy.mean().item() == pytest.approx(0, abs=0.01)
    assert noisy.std().item() == pytest.approx(0.3, rel=0.02)


def test_one_sign_of_each_output_is_drawn_anew_at_each_task():
    V = torch.stack([STAY.read_out(SEEDS, 50 * task) for task in range(200)])
    assert torch.equal(V[3], STAY.read_out(SEEDS, 199))  # until the task ends
    turned = (V[1:] != V[:-1]).sum(-1)
    assert turned.max() == 1 and turned.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_one_feature_goes_and_one_comes_and_the_others_stay():
    W = torch.stack([TURNOVER.weights(SEEDS, 70 * period) for period in range(60)])
    new = (W[1:] != W[:-1]).any(-1)
    assert (new.sum(-1) == 1).all() and new.any(0).float().mean() > 0.9
    assert torch.equal(W[4], TURNOVER.weights(SEEDS, 349))
    assert torch.equal(STAY.weights(SEEDS, 0), STAY.weights(SEEDS, 10**6))
    came = TURNOVER.arrivals(SEEDS, 70 * 59)
    assert torch.equal((came == 59).sum(-1), torch.ones(3, dtype=torch.int64))


def test_the_oracle_sees_the_features_of_the_same_world():
    shown = HiddenFeatures(task_period=50, arrival_period=70, oracle=True)
    (X, Y), (F, same) = TURNOVER.examples(SEEDS, 100, 40), shown.examples(SEEDS, 100, 40)
    assert torch.equal(Y, same) and torch.equal(F, TURNOVER.present(SEEDS, X, 100))
    (X, Y), (F, same) = [HiddenFeatures(deep=16, oracle=o).examples(SEEDS, 0, 40) for o in (0, 1)]
    assert torch.equal(Y, same) and F.shape == (40, 3, 16)


def test_a_feature_of_the_second_level_is_a_majority_of_three_of_the_first():
    X = DEEP.inputs_at(SEEDS, torch.arange(500))
    below = 2 * dataclasses.replace(DEEP, deep=0).present(SEEDS, X, 0) - 1
    above = DEEP.present(SEEDS, X, 0)
    rules = [torch.zeros(20).index_add(0, torch.tensor(which), torch.tensor(signs))
             for which in itertools.combinations(range(20), 3)
             for signs in itertools.product((1.0, -1.0), repeat=3)]
    says = (below[:, 0] @ torch.stack(rules).T >= 1).float()  # [examples, rules]
    for f in range(16):
        assert (says == above[:, 0, f, None]).all(0).any(), f


def test_a_probe_is_given_the_features_that_were_there():
    X, F = TURNOVER.test(SEEDS, 70)
    assert X.shape == (3, 500, 20) and F.shape == (3, 500, 20)
    assert torch.equal(F, TURNOVER.present(SEEDS, X.transpose(0, 1), 69).transpose(0, 1))
    assert not torch.equal(F, TURNOVER.present(SEEDS, X.transpose(0, 1), 70).transpose(0, 1))


def test_a_feature_is_found_by_the_unit_that_says_it_and_by_no_other():
    rng = torch.Generator().manual_seed(0)
    F = (torch.rand(4000, 4, generator=rng) < 0.35).float()
    A = torch.randn(4000, 6, generator=rng)
    A[:, 2] = 3 * F[:, 0] + 1  # one unit says feature 0, two together feature 1, none feature 2
    A[:, 3] = 2 * F[:, 1] + A[:, 4]
    F[:, 3] = 1
    share = explained(A, F)
    assert share[0].item() == pytest.approx(1, abs=1e-4)
    assert 0.3 < share[1] < 0.7 and share[2] < 0.01 and share[3] == 0
    assert found(A[:, :3], F) == 0.25 and found(A[:, :2], F) == 0 and found(F[:, :3], F) == 0.75
    by_two = explained(A, F, readers=2)
    assert by_two[1].item() == pytest.approx(1, abs=1e-3) and by_two[2] < 0.01
    # Two units that say the same are no better than one, and silent units are no readers.
    same = torch.cat([A[:, 2:3], 2 * A[:, 2:3], torch.zeros(4000, 1)], 1)
    torch.testing.assert_close(explained(same, F, readers=3), explained(A[:, 2:3], F), atol=1e-3,
                               rtol=0)


def test_explained_is_the_r_squared_of_least_squares():
    rng = torch.Generator().manual_seed(1)
    A, F = torch.randn(500, 3, generator=rng), torch.randn(500, 2, generator=rng)
    F = F + A @ torch.randn(3, 2, generator=rng)
    design = np.concatenate([A.numpy(), np.ones((500, 1))], 1)
    left = F.numpy() - design @ np.linalg.lstsq(design, F.numpy(), rcond=None)[0]
    expected = 1 - (left**2).sum(0) / ((F - F.mean(0)).numpy()**2).sum(0)
    assert explained(A, F, readers=3).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("wrong", [{"bits": 40}, {"fan": 30}, {"outputs": 0}, {"task_period": 0},
                                   {"noise": -1}])
def test_what_cannot_be_is_one_clear_line(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HiddenFeatures(**wrong)
