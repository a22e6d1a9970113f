"""Whatever is put together learns: every model with every optimiser and every intervention."""

import itertools

import pytest
import torch
from test_learners import one_line

from dyndl_lite.algorithms.backprop import backprop, conv_backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop, least_useful
from dyndl_lite.algorithms.layers import backprop_with, conv_backprop_with
from dyndl_lite.algorithms.optimisers import adam, l2, l2_init, momentum, upgd
from dyndl_lite.algorithms.regularisers import weight_clipping, with_noise
from dyndl_lite.algorithms.resets import unit_reset
from dyndl_lite.algorithms.step_sizes import autostep, idbd, per_unit, steady
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.learning import learner, minibatch_cross_entropy, sgd, squared_error
from dyndl_lite.models.cnn import Layout
from dyndl_lite.models.mlp import mlp
from dyndl_lite.models.resnet import BLOCKS, resnet
from dyndl_lite.models.resnet import Layout as Stages

OPTIMISERS = {"sgd": sgd, "momentum": momentum, "adam": adam, "upgd": upgd, "l2": l2(),
              "l2 adam": l2(adam), "l2_init": l2_init(), "l2_init momentum": l2_init(momentum),
              "l2_init upgd": l2_init(upgd)}
PER_UNIT = {rule.update.__name__: per_unit(rule) for rule in (idbd, autostep, steady)}
AFTER = {"nothing": (), "continual": (least_useful(),), "redo": (unit_reset("redo"),),
         "self-normalised": (unit_reset("self_normalised"),), "clipped": (weight_clipping(),),
         "noise": (with_noise,), "three": (least_useful("adaptable_contribution"), with_noise,
                                           weight_clipping())}
SETTING = {"step_size": 0.02, "momentum": 0.5, "replacement_rate": 0.02, "maturity_threshold": 20.0,
           "noise": 1e-3, "reset_period": 50.0, "rejection": 1e-3, "clip": 10.0,
           "meta_step_size": 0.01}
SIZES = (4, 6, 5, 1)


def lives(made, examples, net=None, **setting):
    """Let one net live, a new one if none is given; give it, and its scores."""
    values = {**made.settings, **{k: v for k, v in (SETTING | setting).items()
                                  if k in made.settings}}
    made.check(values)
    hyper = {name: torch.tensor(float(value)) for name, value in values.items()}
    net, scores = net or made.start(torch.tensor(1)), []
    for x, y in examples:
        net, score = made.step(net, hyper, x, y)
        scores.append(score)
    return net, torch.stack(scores)


def points(steps):
    """A smooth function of four numbers, a few points again and again."""
    X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    return itertools.islice(itertools.cycle(zip(X, X[:, :1] - X[:, 1:2].abs())), steps)


def pictures(steps, seed=0):
    """Minibatches of two classes: a brighter upper or lower half."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        y = torch.randint(2, (8,), generator=g)
        x = 0.3 * torch.randn(8, 3, 8, 8, generator=g)
        x[:, :, :4] += (2.0 * y - 1)[:, None, None, None]
        yield x, y


def replacements(net):
    """Count what was ever replaced: units younger than the net."""
    ages = [units["age"] for state in net["after"] if "units" in state
            for units in state["units"] if "age" in units]
    return sum(int((age < age.max()).sum()) for age in ages)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("optimiser", [*OPTIMISERS, *PER_UNIT])
def test_networks_learn_with_every_optimiser_and_intervention(optimiser, after):
    made = learner(mlp(SIZES), squared_error, (OPTIMISERS | PER_UNIT)[optimiser], *AFTER[after])
    net, scores = lives(made, points(100))
    assert torch.isfinite(scores).all()
    assert scores[-25:].mean() < 0.5 * scores[:20].mean()
    if after in ("continual", "three"):
        assert replacements(net) > 0


@pytest.mark.parametrize("after", ["nothing", "continual", "redo", "three"])
@pytest.mark.parametrize("kind", ["layer_norm", "online_norm", "dropout"])
@pytest.mark.parametrize("optimiser", ["sgd", "l2_init momentum", "adam"])
def test_other_layers_learn_too(kind, optimiser, after):
    made = backprop_with(kind, SIZES, optimiser=OPTIMISERS[optimiser], after=AFTER[after])
    _, scores = lives(made, points(100), dropout=0.05)
    assert scores[-25:].mean() < 0.7 * scores[:20].mean()


@pytest.mark.parametrize("after", ["nothing", "continual", "redo", "noise", "three"])
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "l2_init upgd", "l2 adam"])
@pytest.mark.parametrize("kind", ["plain", "layer_norm"])
def test_convolutions_learn_too(kind, optimiser, after):
    layout, parts = Layout(8, 2, (4, 5), (3, 3), (6,)), (OPTIMISERS[optimiser], AFTER[after])
    made = conv_backprop(layout, *parts) if kind == "plain" else conv_backprop_with(kind, layout, *parts)
    _, scores = lives(made, pictures(60), step_size=0.05 if "adam" not in optimiser else 0.01)
    assert scores[-20:].mean() > 0.8  # of its minibatches, right


@pytest.mark.parametrize("optimiser", ["momentum", "l2_init upgd", "l2 adam"])
@pytest.mark.parametrize("after", [(), (least_useful(chains=BLOCKS),),
                                   (least_useful(chains=BLOCKS), with_noise)], ids=len)
def test_residual_networks_learn_too(optimiser, after):
    made = learner(resnet(Stages(2, (4, 6), 1)), minibatch_cross_entropy, OPTIMISERS[optimiser], *after)
    _, scores = lives(made, pictures(40), step_size=0.05 if "adam" not in optimiser else 0.01)
    assert scores[-10:].mean() > 0.8


@pytest.mark.parametrize("optimiser", ["sgd", "l2_init momentum", "upgd"])
@pytest.mark.parametrize("renewal", ["heads", "all", "shrink and perturb"])
@pytest.mark.parametrize("inner", [backprop, continual_backprop])
def test_tasks_may_begin_anew_for_all_of_them(inner, renewal, optimiser):
    made = renewed(inner(SIZES, optimiser=OPTIMISERS[optimiser]), renewal)
    before, scores = lives(made, points(99), reset_period=99.0)
    net, score = lives(made, itertools.islice(points(100), 99, None), before, reset_period=99.0)
    kept = [torch.equal(a[0], b[0]) for a, b in zip(net["params"][:-1], before["params"][:-1])]
    assert torch.isfinite(torch.cat([scores, score])).all() and (renewal == "heads" or not any(kept))
    for part, layers in net["memory"]["initial"].items():  # w_0 begins anew with its weight
        assert not torch.equal(layers[-1][0], before["memory"]["initial"][part][-1][0])


def test_a_reborn_unit_decays_to_its_own_start():
    """L2 Init's anchor was cleared with the optimiser's memory: it drew a reborn unit to zero."""
    made = continual_backprop((4, 6, 1), optimiser=l2_init())
    net = made.start(torch.tensor(1))
    hyper = {k: torch.tensor(float(v)) for k, v in
             (made.settings | {"replacement_rate": 0.05, "maturity_threshold": 5.0}).items()}
    for x, y in points(200):
        fresh = net["after"][0]["fresh"][0]
        net, _ = made.step(net, hyper, x, y)
        reborn = net["after"][0]["units"][0]["age"] == 0
        if reborn.any():
            (W, b), (V, _) = net["memory"]["initial"]["w_0"]
            k = int(reborn.float().argmax())
            assert torch.equal(W[k], fresh) and b[k] == 0 and not V[:, k].any()
            break
    else:
        raise AssertionError("nothing was replaced")


@pytest.mark.parametrize("off", [{"replacement_rate": 0.0}, {"reset_period": 1e9, "dormancy": 0.0},
                                 {"noise": 0.0}, {"clip": 1e9}])
def test_every_intervention_that_is_off_is_backprop_bit_for_bit(off):
    which = {"replacement_rate": "continual", "reset_period": "redo", "noise": "noise",
             "clip": "clipped"}[next(iter(off))]
    plain, _ = lives(backprop(SIZES, optimiser=adam), points(100))
    net, _ = lives(backprop(SIZES, optimiser=adam, after=AFTER[which]), points(100), **off)
    for (W, b), (V, c) in zip(plain["params"], net["params"], strict=True):
        assert torch.equal(W, V) and torch.equal(b, c)


@pytest.mark.parametrize("make", [
    lambda: backprop((4, 1), after=(least_useful(),)), lambda: least_useful("beauty"),
    lambda: backprop_with("crelu", SIZES, after=(least_useful(),)),
    lambda: conv_backprop(Layout(8, 2, (), (), ()), after=(unit_reset("redo"),)),
    lambda: renewed(backprop(SIZES), "everything"),
    lambda: backprop(SIZES, after=(least_useful(),)).check({**SETTING, "replacement_rate": 0.9}),
    lambda: backprop(SIZES, after=(with_noise, unit_reset("redo"))).check({"reset_period": 0})])
def test_what_does_not_fit_is_refused_in_one_line(make):
    with pytest.raises(ValueError) as raised:
        make()
    one_line(raised)
