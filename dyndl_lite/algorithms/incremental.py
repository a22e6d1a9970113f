"""Learners of images whose classes become more: backprop and continual backprop in residual networks.

Class-incremental CIFAR-100 (Dohare et al. 2024, Methods): every increment brings classes and
begins with a large step size, which falls within it.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.backprop import named
from dyndl_lite.algorithms.continual_backprop import least_useful
from dyndl_lite.algorithms.optimisers import l2, momentum
from dyndl_lite.learning import Learner, learner, minibatch_cross_entropy, Optimiser
from dyndl_lite.models.resnet import BLOCKS, forward, in_use, Layout, resnet
from dyndl_lite.problems.image_classes import ClassIncremental

#: Shares of an increment after which the step size falls to a fifth, and again (published: after
#: 60, 120 and 160 of 200 epochs).
DROPS = (0.3, 0.6, 0.8)
_AT_ONCE = 500  # images tested together: more would not fit into memory at the published size
#: Published: momentum .9, and weight decay on all that is learned.
published = l2(momentum)._replace(settings={"step_size": 0.1, "momentum": 0.9, "weight_decay": 5e-4})


def residual_backprop(layout: Layout, optimiser: Optimiser = published) -> Learner:
    """Make a backprop learner of minibatches of images."""
    return named("residual_backprop", learner(resnet(layout), minibatch_cross_entropy, optimiser))


def residual_continual_backprop(layout: Layout, optimiser: Optimiser = published) -> Learner:
    """Make a continual-backprop learner of minibatches of images, as `conv_continual_backprop` does.

    The units are the channels within a block, from its first convolution to its second, which alone
    hears them (`resnet.BLOCKS`). What comes out of a block is heard over shortcuts by all later
    blocks, so there is no layer of outgoing weights that could be set to zero: those channels stay.
    The released code replaces them too, and silences them in the next convolution alone. A reborn
    channel's scale becomes 1, its shift 0, its running mean and variance 0 and 1.
    """
    made = learner(resnet(layout), minibatch_cross_entropy, optimiser, least_useful(chains=BLOCKS))

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        net, score = made.step(net, hyper, x, y)
        return with_new_norms(net), score

    return named("residual_continual_backprop", made._replace(step=step), replacement_rate=1e-5,
                 maturity_threshold=1000.0)


def with_new_norms(net: dict) -> dict:
    """Set the running mean and variance of channels that are of age 0, just reborn, to 0 and 1."""
    norms, (after,) = net["layers"]["norms"], net["after"]
    blocks = [{**norm, "first": tuple(torch.where(units["age"] == 0, new, old)
                                      for new, old in zip((0.0, 1.0), norm["first"]))}
              for norm, units in zip(norms["blocks"], after["units"])]
    return {**net, "layers": {**net["layers"], "norms": {**norms, "blocks": blocks}}}


def incremental(learner: Learner, stream: ClassIncremental, from_scratch: bool = False) -> Learner:
    """Let a learner of this module live through classes that are added.

    At each increment the step size begins at its full height and falls by `DROPS`, and the outputs
    of the classes so far are in use. Published too, and not done here: to begin an increment with
    the weights that did best on images held back in the one before. With `from_scratch` each
    increment begins with a new network.
    """

    def start(seed: Tensor) -> dict:
        return {**learner.start(seed), "increments": (seed.clone(), torch.zeros_like(seed))}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        seed, t = net["increments"]
        number, share = stream.increment(t)
        if from_scratch:  # else no network is drawn
            new = learner.start(random.bits(seed, random.WEIGHTS, number, 2**30))
            net = tree_map(lambda new, old: torch.where((share == 0) & (number > 0), new, old),
                           {**new, "increments": (seed, t)}, net)
        drops = sum((share >= after).to(x.dtype) for after in DROPS)
        layers = {**net["layers"], "classes": stream.together * (number + 1)}
        net, score = learner.step({**net, "layers": layers},
                                  {**hyper, "step_size": hyper["step_size"] * 0.2**drops}, x, y)
        return {**net, "increments": (seed, t + 1)}, score

    return learner._replace(start=start, step=step,
                            description=f"incremental {from_scratch=} {learner.description}")


def held_back_accuracy(net: dict, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
    """Probe a net with the images [images, 3, side, side] and labels that a stream holds back."""
    output = torch.cat([forward(net["params"], net["layers"]["norms"], some)[0]
                        for some in X.split(_AT_ONCE)])
    right = in_use(output, net["layers"]["classes"]).argmax(-1) == Y
    return {"test_accuracy": right.float().mean()}
