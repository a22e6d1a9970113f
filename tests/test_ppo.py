"""PPO beside numpy and plain loops; its policies, and what happens after its steps."""

import numpy as np
import pytest
import reference_ppo as reference
import torch
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_leaves

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.continual_backprop import least_useful
from dyndl_lite.algorithms.optimisers import adam, l2, l2_init
from dyndl_lite.algorithms.regularisers import with_noise
from dyndl_lite.algorithms.resets import unit_reset
from dyndl_lite.experiment.ensemble import grid
from dyndl_lite.models.mlp import forward
from dyndl_lite.rl import ppo as algorithm
from dyndl_lite.rl.policies import categorical, gaussian
from dyndl_lite.rl.ppo import ppo, RolloutConfig

SEED = torch.tensor(7)


def hyper(agent, **values):
    return {k: torch.tensor(float(v)) for k, v in {**agent.settings, **values}.items()}


def minibatch(n=12, observations=3, numbers=2, seed=0):
    """Random examples whose old log-probabilities spread widely enough for both sides of the clip."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, observations)), rng.normal(size=(n, numbers + 3))
    y[:, -3] = -2.5 + 0.5 * y[:, -3]
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def net_of(agent, which):
    """Weights of the policy or the value network of one agent, and what is shaped like them."""
    return [tuple(a["policy value".split().index(which)] for a in pair) for pair in agent["nets"]]


def as_numpy(pairs):
    return [(W.double().numpy(), b.double().numpy()) for W, b in pairs]


# GAE and objective ------------------------------------------------------------------------------

def test_advantages_are_sums_of_discounted_errors_and_time_limits_are_bootstrapped():
    rng = np.random.default_rng(1)
    reward, value, after = rng.normal(size=(3, 40))
    terminal = rng.random(40) < 0.1
    over = terminal | (rng.random(40) < 0.1)
    assert terminal.any() and (over & ~terminal).any()
    expected = reference.advantages(reward, value, after, terminal, over, 0.9, 0.8)
    found = algorithm.advantages(*map(torch.tensor, (reward, value, after, terminal, over)),
                                 torch.tensor(0.9, dtype=torch.double),
                                 torch.tensor(0.8, dtype=torch.double))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    as_terminal = algorithm.advantages(*map(torch.tensor, (reward, value, after, over, over)),
                                       torch.tensor(0.9, dtype=torch.double),
                                 torch.tensor(0.8, dtype=torch.double))
    assert not np.allclose(as_terminal, expected)  # the mistake would be seen


def test_advantages_go_agent_by_agent():
    reward, value, after = torch.randn(3, 10, 2, 4, generator=torch.Generator().manual_seed(0))
    over = torch.zeros(10, 2, 4, dtype=torch.bool)
    over[3, 0, 1] = over[7, 1] = True
    gamma, decay = torch.tensor([[0.9], [0.5]]), torch.tensor([[0.8], [1.0]])
    found = algorithm.advantages(reward, value, after, over, over, gamma, decay)
    for a in range(2):
        for e in range(4):
            one = reference.advantages(*(v[:, a, e].double().numpy() for v in (reward, value, after)),
                                       *2 * (over[:, a, e].numpy(),), float(gamma[a]), float(decay[a]))
            np.testing.assert_allclose(found[:, a, e], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio, advantage, expected", [
    (1.1, 2.0, 2.2), (1.5, 2.0, 2.4), (0.5, 2.0, 1.0), (1.5, -2.0, -3.0), (0.5, -2.0, -1.6)])
def test_nothing_is_gained_beyond_the_clip(ratio, advantage, expected):
    moved = torch.tensor(ratio).log()
    gain = algorithm.clipped_surrogate(moved, torch.tensor(advantage), torch.tensor(0.2))
    assert float(gain) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("most", [1e9, 0.1])
def test_updates_are_those_of_a_plain_loop(most):
    agent = ppo(3, gaussian(2), (5, 4))
    given = hyper(agent, step_size=0.01, max_grad_norm=most, entropy_weight=0.01, beta_2=0.99)
    net = agent.start(SEED)
    policy, value = (as_numpy(net_of(net["params"], k)) for k in ("policy", "value"))
    value[-1] = tuple(a[:1] for a in value[-1])
    log_deviation, state = np.zeros(2), {}
    for t in range(1, 4):
        x, y = minibatch(seed=t)
        net, loss = agent.step(net, given, x, y)
        expected, g_policy, g_value, g_log = reference.loss_and_gradients(
            policy, value, log_deviation, x.double().numpy(), y.double().numpy(), 0.2, 0.5, 0.01)
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        flat = [*sum(policy, ()), *sum(value, ()), log_deviation]
        gradients = reference.cut([*sum(g_policy, ()), *sum(g_value, ()), g_log], most)
        flat = reference.adam(flat, gradients, state, t, 0.01, 0.9, 0.99)
        policy, value = ([(flat[i + 2 * k], flat[i + 2 * k + 1]) for k in range(3)] for i in (0, 6))
        log_deviation = flat[-1]
    for expected, found in zip(policy + value, sum((net_of(net["params"], k)
                                                  for k in ("policy", "value")), [])):
        for a, b in zip(expected, found):
            assert (b[len(a):] == 0).all()  # the value network's other outputs
            b = b[:len(a)]
            np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(net["params"]["log_deviation"], log_deviation, rtol=1e-3)


def test_minibatches_lay_out_every_row_once_an_epoch():
    agents, config = 3, RolloutConfig(envs=2, steps=6, epochs=2, minibatches=3)
    agent, seeds = ppo(4, categorical(3), (5,)), torch.arange(agents)
    nets, given = vmap(agent.start)(seeds), {k: torch.full((agents,), float(v))
                                             for k, v in agent.settings.items()}
    shape, g = (6, agents, 2), torch.Generator().manual_seed(3)
    rollout = {"observation": torch.randn(*shape, 4, generator=g),
               "reward": torch.randn(shape, generator=g),
               "next_observation": torch.randn(*shape, 4, generator=g),
               "action": torch.randint(3, (*shape, 1), generator=g).float(),
               "log_probability": torch.randn(shape, generator=g),
               "terminal": torch.rand(shape, generator=g) < 0.2}
    rollout["over"] = rollout["terminal"] | (torch.rand(shape, generator=g) < 0.2)
    X, Y = algorithm.minibatches(nets, given, rollout, "relu", seeds, 5, config)
    assert X.shape == (6, agents, 4, 4) and Y.shape == (6, agents, 4, 4)
    for a in range(agents):
        params = [(W[a], b[a]) for W, b in algorithm.networks(nets["params"])["value"]]
        rows = {}
        for e in range(2):
            def see(name):
                return np.array([float(forward(params, o)[0][0]) for o in rollout[name][:, a, e]])
            value = see("observation")
            A = reference.advantages(rollout["reward"][:, a, e].numpy(), value, see("next_observation"),
                                     rollout["terminal"][:, a, e].numpy(),
                                     rollout["over"][:, a, e].numpy(), 0.99, 0.95)
            for t in range(6):
                rows[tuple(rollout["observation"][t, a, e].tolist())] = [
                    float(rollout["action"][t, a, e, 0]), float(rollout["log_probability"][t, a, e]),
                    A[t], A[t] + value[t]]
        for epoch in (X[:3, a], Y[:3, a]), (X[3:, a], Y[3:, a]):
            seen = [tuple(x.tolist()) for x in epoch[0].flatten(0, 1)]
            assert set(seen) == set(rows) and len(seen) == 12
            np.testing.assert_allclose(epoch[1].flatten(0, 1), [rows[x] for x in seen],
                                       rtol=1e-4, atol=1e-5)
        assert not torch.equal(X[:3, a], X[3:, a])


# policies ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("deviation", [None, 0.5])
def test_gaussian_beside_torch(deviation):
    policy = gaussian(2, deviation)
    more = {"log_deviation": torch.tensor([0.3, -0.7])} if deviation is None else {}
    scale = more["log_deviation"].exp() if deviation is None else torch.tensor([0.5, 0.5])
    output, action = torch.tensor([0.2, -1.0]), torch.tensor([0.5, 0.1])
    theirs = torch.distributions.Normal(output, scale)
    assert float(policy.log_probability(output, more, action)) == pytest.approx(
        float(theirs.log_prob(action).sum()), rel=1e-5)
    assert float(policy.entropy(output, more)) == pytest.approx(float(theirs.entropy().sum()), rel=1e-5)
    u = random.uniform(torch.arange(20_000)[:, None], random.ACTION, torch.arange(2))
    drawn = vmap(lambda u: policy.draw(output, more, u))(u)
    torch.testing.assert_close(drawn.mean(0), output, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(0), scale, rtol=0.02, atol=0)
    assert torch.isfinite(policy.draw(output, more, torch.tensor([0.0, 1 - 2**-24]))).all()


def test_categorical_beside_torch():
    policy, output = categorical(3), torch.tensor([0.1, 1.0, -2.0])
    theirs = torch.distributions.Categorical(logits=output)
    for k in range(3):
        action = torch.tensor([float(k)])
        assert float(policy.log_probability(output, {}, action)) == pytest.approx(
            float(theirs.log_prob(torch.tensor(k))), rel=1e-5)
    assert float(policy.entropy(output, {})) == pytest.approx(float(theirs.entropy()), rel=1e-5)
    u = random.uniform(torch.arange(200_000)[:, None], random.ACTION, torch.arange(1))
    drawn = vmap(lambda u: policy.draw(output, {}, u))(u)[:, 0]
    for k in range(3):
        assert float((drawn == k).float().mean()) == pytest.approx(float(theirs.probs[k]), abs=0.005)
    assert float(policy.draw(output, {}, torch.tensor([1 - 2**-24]))) == 2


# interventions ----------------------------------------------------------------------------------

AFTER = {"nothing": (), "noise": (with_noise,), "continual backprop": (least_useful(),),
         "random": (least_useful("random"),), "ReDo": (unit_reset("redo"),),
         "silence": (unit_reset("self_normalised"),), "two": (least_useful(), with_noise)}


@pytest.mark.parametrize("optimiser", [l2(adam), l2_init(adam)], ids=lambda o: o.name)
@pytest.mark.parametrize("name", AFTER)
def test_an_agent_comes_back_in_the_form_it_was_given(name, optimiser):
    agent = ppo(3, gaussian(2), (5, 4), "relu", optimiser, *AFTER[name])
    net = agent.start(SEED)
    new, _ = agent.step(net, hyper(agent), *minibatch())
    (old, form), (leaves, new_form) = tree_flatten(net), tree_flatten(new)
    assert form == new_form
    assert [(a.shape, a.dtype) for a in old] == [(a.shape, a.dtype) for a in leaves]
    assert all(torch.isfinite(a).all() for a in leaves)


def lived(agent, steps, **values):
    net = agent.start(SEED)
    for t in range(steps):
        net, _ = agent.step(net, hyper(agent, **values), *minibatch(seed=t))
    return net


@pytest.mark.parametrize("utility", ["contribution", "random"])
def test_the_least_useful_unit_of_both_networks_is_replaced_and_adam_forgets_it(utility):
    """One step before a replacement is due and the step itself, beside the formulas by hand."""
    agent = ppo(3, gaussian(2), (5,), "relu", adam, least_useful(utility))
    values = dict(replacement_rate=0.1, maturity_threshold=10, step_size=0.01, utility_decay=0.9)
    before, after = lived(agent, 11, **values), lived(agent, 12, **values)  # 11: 0.5 due, 12: 1
    plain = ppo(3, gaussian(2), (5,))
    for i, net in enumerate(["policy", "value"]):
        ages = after["after"][0]["units"][0]["age"][i]
        assert torch.equal(before["after"][0]["units"][0]["age"][i], torch.full((5,), 11.0))
        assert (ages == 0).sum() == 1 and (ages == 12).sum() == 4
        k = int(ages.argmin())
        unchanged = {"params": before["params"], "memory": before["memory"],
                     "after": []}
        learned, _ = plain.step(unchanged, hyper(plain, step_size=0.01), *minibatch(seed=11))
        (W, b), (W_out, b_out) = net_of(after["params"], net)
        (L, _), (L_out, Lb_out) = net_of(learned["params"], net)
        assert torch.equal(W[k], before["after"][0]["fresh"][0][i]) and b[k] == 0
        others = torch.arange(5) != k
        torch.testing.assert_close(W[others], L[others])
        assert (W_out[:, k] == 0).all() and torch.equal(W_out[:, others], L_out[:, others])
        for memory in after["memory"]["per_weight"].values():  # m, v, and each weight's own count of steps
            (m, mb), (m_out, _) = net_of(memory, net)
            assert (m[k] == 0).all() and mb[k] == 0 and (m_out[:, k] == 0).all()
            assert (m[others] != 0).any()
        x = minibatch(seed=11)[0]
        W, b = net_of(before["params"], net)[0]
        h = torch.relu(x @ W.T + b).mean(0)
        units = {name: part[i] for name, part in before["after"][0]["units"][0].items()}
        f = (0.9 * units["mean_activity"] + 0.1 * h) / (1 - 0.9**12)
        torch.testing.assert_close(b_out, Lb_out + L_out[:, k] * f[k])
        if utility == "contribution":
            u = 0.9 * units["utility"] + 0.1 * h * L_out.abs().sum(0)
            assert int(u.argmin()) == k


def test_after_a_replacement_adam_is_bounded_where_one_step_count_would_explode():
    """A newborn weight's first step is the step size, as at the beginning of life."""
    agent = ppo(3, gaussian(2), (5,), "relu", adam, least_useful())
    values = dict(replacement_rate=0.1, maturity_threshold=10, step_size=0.01)
    before, after = lived(agent, 12, **values), lived(agent, 13, **values)
    for (W, _), (V, _) in zip(before["params"]["nets"], after["params"]["nets"]):
        assert float((W - V).abs().max()) <= 0.011


def test_a_dormant_unit_is_replaced():
    agent = ppo(3, gaussian(2), (5,), "relu", adam, unit_reset("redo"))
    net = agent.start(SEED)
    net["params"]["nets"][0][1][0, 2] = -100.0  # silent for ever
    given = hyper(agent, reset_period=4, dormancy=0.02)
    for t in range(4):
        assert float(net["params"]["nets"][0][1][0, 2]) < -99
        net, _ = agent.step(net, given, *minibatch(seed=t))
    assert float(net["params"]["nets"][0][1][0, 2]) == 0


def test_without_noise_or_replacement_nothing_differs():
    plain = lived(ppo(3, gaussian(2), (5,)), 5)
    for name, values in (("noise", {"noise": 0}), ("continual backprop", {"replacement_rate": 0})):
        same = lived(ppo(3, gaussian(2), (5,), "relu", adam, *AFTER[name]), 5, **values)
        for a, b in zip(tree_leaves(plain["params"]), tree_leaves(same["params"])):
            assert torch.equal(a, b)
    stirred = lived(ppo(3, gaussian(2), (5,), "relu", adam, with_noise), 5, noise=0.1)
    assert not torch.equal(stirred["params"]["nets"][0][0], plain["params"]["nets"][0][0])


@pytest.mark.parametrize("name, values, message", [
    ("continual backprop", {"replacement_rate": 0.9}, "replacement_rate 0.9"),
    ("ReDo", {"reset_period": 0}, "reset_period 0"), ("silence", {"rejection": 0}, "rejection 0"),
    ("two", {"replacement_rate": 0.9}, "replacement_rate 0.9")])
def test_a_setting_that_cannot_run_is_refused(name, values, message):
    agent = ppo(3, gaussian(2), (5, 4), "relu", adam, *AFTER[name])
    grid(agent)
    with pytest.raises(ValueError, match=message):
        grid(agent, **values)


def test_the_optimiser_s_own_check_is_asked():
    def refuse(setting):
        raise ValueError(f"step_size {setting['step_size']}: no")

    with pytest.raises(ValueError, match="step_size 7: no"):
        grid(ppo(3, gaussian(2), (5,), "relu", adam._replace(check=refuse)), step_size=7)


def test_the_two_networks_differ_and_the_first_policy_is_nearly_the_same_everywhere():
    net = ppo(3, categorical(2), (64, 64)).start(SEED)["params"]
    policy, value = net_of(net, "policy"), net_of(net, "value")
    assert not torch.equal(policy[0][0], value[0][0])
    outputs = vmap(lambda x: forward(policy, x)[0])(minibatch(50)[0])
    assert float(outputs.abs().max()) < 0.1
