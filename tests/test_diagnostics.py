"""Dead units, weights and ranks against their formulae in numpy."""

import numpy as np
import pytest
import torch
from torch.func import vmap

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.experiment import diagnostics as look
from dyndl_lite.models.mlp import forward, initialise

RNG = np.random.default_rng(0)
MATRICES = {
    "noise": RNG.normal(size=(50, 7)),
    "wide": RNG.normal(size=(5, 12)),
    "rank 2": RNG.normal(size=(50, 2)) @ RNG.normal(size=(2, 7)),
    "one line": np.outer(RNG.normal(size=50), RNG.normal(size=7)),
    "orthogonal": np.linalg.qr(RNG.normal(size=(50, 7)))[0],
    "decaying": np.linalg.qr(RNG.normal(size=(50, 7)))[0] * 0.1 ** np.arange(7),
}


@pytest.fixture(params=MATRICES)
def H(request):
    return MATRICES[request.param]


def ranks(H):
    """Effective rank and both stable ranks, from the singular values."""
    s = np.linalg.svd(H, compute_uv=False)
    p = [x for x in s / s.sum() if x > 0]
    fewest = next(k for k in range(1, len(s) + 1) if s[:k].sum() >= 0.99 * s.sum())
    return (np.exp(-sum(x * np.log(x) for x in p)), fewest,
            np.linalg.norm(H, "fro") ** 2 / np.linalg.norm(H, 2) ** 2)


def test_ranks_are_their_formulae(H):
    A = torch.tensor(H)
    effective, stable, frobenius = ranks(H)
    np.testing.assert_allclose(look.effective_rank(A), effective, rtol=1e-9)
    assert look.stable_rank(A) == stable
    np.testing.assert_allclose(look.stable_rank_frobenius(A), frobenius, rtol=1e-9)
    assert 1 <= effective <= min(H.shape) + 1e-9


def test_ranks_of_matrices_one_can_see_through():
    eye = torch.eye(6)
    assert look.effective_rank(eye).item() == pytest.approx(6, rel=1e-5)
    assert look.stable_rank(eye) == 6
    assert look.stable_rank_frobenius(eye).item() == pytest.approx(6, rel=1e-5)
    assert look.stable_rank(torch.tensor(MATRICES["decaying"])) == 2  # .9 and .99 of the sum
    assert look.effective_rank(torch.ones(9, 4)).item() == pytest.approx(1, abs=1e-3)


def test_nothing_active_is_rank_zero_and_all_dead():
    H = torch.zeros(20, 5)
    for rank in (look.effective_rank, look.stable_rank, look.stable_rank_frobenius):
        assert rank(H) == 0
    assert look.dead_units(H) == 1 and look.rarely_active_units(H) == 1


def test_a_net_that_diverged_has_no_rank_and_spoils_no_other():
    H = torch.stack([torch.eye(4), torch.eye(4)])
    H[1, 2, 2] = torch.inf
    for rank in (look.effective_rank, look.stable_rank, look.stable_rank_frobenius):
        fine, diverged = vmap(rank)(H)
        assert fine == pytest.approx(4) and diverged.isnan()


def test_dead_and_rarely_active_units_are_counted():
    H = torch.zeros(1_000, 5)
    H[:, 0] = 1
    H[:9, 1] = -0.5  # 0.9 %
    H[:10, 2] = 2.0  # 1 %: not rare
    H[0, 3] = 1e-30
    assert look.dead_units(H).item() == pytest.approx(1 / 5)
    assert look.rarely_active_units(H).item() == pytest.approx(3 / 5)
    assert look.rarely_active_units(H, share=0.0005).item() == pytest.approx(1 / 5)


def test_weight_magnitude_is_the_mean_over_all_weights_without_biases():
    params = [(torch.full((3, 2), -2.0), torch.full((3,), 100.0)),
              (torch.full((1, 3), 1.0), torch.full((1,), 100.0))]
    assert look.weight_magnitude(params).item() == pytest.approx((6 * 2 + 3 * 1) / 9)


def test_a_network_is_diagnosed_over_its_layers():
    params = initialise(torch.tensor(4), (6, 9, 5, 2))
    params[0][1][:4] = -100.0  # four dead units of nine
    params[1][1][:1] = -100.0  # one of five
    X = torch.tensor(RNG.normal(size=(200, 6)), dtype=torch.float32)
    found = look.diagnose(params, X)
    layers = [np.array(h) for h in zip(*[[h.numpy() for h in forward(params, x)[1]] for x in X])]
    silent = [int((h == 0).all(0).sum()) for h in layers]
    assert silent[0] >= 4 and silent[1] >= 1
    assert found["dead_units"].item() == pytest.approx(sum(silent) / 14)
    for i, name in enumerate(["effective_rank", "stable_rank", "stable_rank_frobenius"]):
        mean = np.mean([ranks(h.astype(np.float64))[i] for h in layers])
        assert found[name].item() == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_over_an_ensemble_it_is_the_same_as_one_by_one(activation):
    learner, seeds = backprop((6, 9, 5, 2), activation), torch.arange(4)
    nets = vmap(learner.start)(seeds)
    X = torch.tensor(RNG.normal(size=(50, 4, 6)), dtype=torch.float32)
    together = vmap(look.probe(activation), in_dims=(0, 1))(nets, X)
    for i, seed in enumerate(seeds):
        alone = look.diagnose(learner.start(seed)["params"], X[:, i], activation)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value, rtol=1e-4, atol=1e-5)
