"""Learners of images whose classes become more: backprop and continual backprop in residual networks.

Class-incremental CIFAR-100 (Dohare et al. 2024, Methods): every increment brings classes and
begins with a large step size, which falls within it.
"""

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from dyndl_lite.algorithms.channels import observed
from dyndl_lite.algorithms.continual_backprop import (
    appraise,
    check_rate,
    choose,
    forget,
    fresh_weights,
    new_units,
    newborn,
    rebirth,
    reborn,
)
from dyndl_lite.algorithms.regularisers import decayed
from dyndl_lite.learning import cross_entropy, Learner, momentum, Optimiser
from dyndl_lite.models.resnet import forward, initialise, Layout
from dyndl_lite.problems.image_classes import ClassIncremental

#: Shares of an increment after which the step size falls to a fifth, and again (published: after
#: 60, 120 and 160 of 200 epochs).
DROPS = (0.3, 0.6, 0.8)
_AT_ONCE = 500  # images tested together: more would not fit into memory at the published size


def in_use(output: Tensor, classes: Tensor) -> Tensor:
    """Leave out the outputs of classes that have not come yet: they are never predicted."""
    return torch.where(torch.arange(output.shape[-1], device=output.device) < classes, output,
                       -torch.inf)


def gradient_step(net: dict, hyper: dict, x: Tensor, y: Tensor,
                  optimiser: Optimiser) -> tuple[dict, list[Tensor], Tensor]:
    """Predict a minibatch, then move every weight down the gradient of its mean loss.

    Returns
    -------
    net : dict
    features : list of tensors, as `forward` gives them
    score : scalar tensor, share of right predictions before the step
    """

    def objective(params):
        output, features, norms = forward(params, net["norms"], x, learning=True)
        losses, scores = vmap(cross_entropy)(in_use(output, net["classes"]), y)
        return losses.mean(), (features, norms, scores.mean())

    gradients, (features, norms, score) = grad(objective, has_aux=True)(net["params"])
    params, memory = optimiser.update(net["params"], gradients, net["memory"], hyper)
    return {**net, "params": params, "norms": norms, "memory": memory}, features, score


#: Published: momentum .9, and weight decay on all that is learned.
published = decayed(momentum)
published = published._replace(settings={"step_size": 0.1, "momentum": 0.9, "weight_decay": 5e-4})


def residual_backprop(layout: Layout, optimiser: Optimiser = published) -> Learner:
    """Make a backprop learner of minibatches of images.

    Parameters
    ----------
    layout : Layout
    optimiser : Optimiser
        As for `convolution.conv_backprop`.
    """

    def start(seed: Tensor) -> dict:
        params, norms = initialise(seed, layout)
        return {"params": params, "norms": norms, "memory": optimiser.start(params),
                "classes": torch.full_like(seed, layout.outputs)}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        net, _, score = gradient_step(net, hyper, x, y, optimiser)
        return net, score

    return Learner(start, step, dict(optimiser.settings),
                   f"residual_backprop {tuple(layout)} {optimiser.name}", layout.outputs)


def residual_continual_backprop(layout: Layout, optimiser: Optimiser = published) -> Learner:
    """Make a continual-backprop learner of minibatches of images.

    All is as in `channels.conv_continual_backprop`. The units are the channels within a block,
    from its first convolution to its second, which alone listens to them. What comes out of a
    block is heard over shortcuts by all later blocks, so there is no layer of outgoing weights that could
    be set to zero: those channels stay. The released code replaces them too, and silences
    them in the next convolution alone.

    Parameters
    ----------
    layout, optimiser
        As for `residual_backprop`.

    Returns
    -------
    Learner
        With the settings of the optimiser and those of `channels.conv_continual_backprop`, at
        their published values.
    """
    plain = residual_backprop(layout, optimiser)
    shapes = [block["first"] for block in layout.shapes()["blocks"]]
    # As `fresh_weights` reads sizes: how many weights come into a unit; it leaves out two layers.
    fan_ins = (*(torch.Size(shape[1:]).numel() for shape in shapes), 0, 0)

    def check(setting: dict) -> None:
        check_rate(setting, max(layout.channels), "channels a minibatch")

    def start(seed: Tensor) -> dict:
        return {**plain.start(seed), "units": [new_units(shape[0], seed.device) for shape in shapes],
                "seed": seed.clone(), "t": torch.zeros_like(seed),
                "fresh": fresh_weights(seed, torch.zeros_like(seed), fan_ins, "relu")}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        net, features, score = gradient_step(net, hyper, x, y, optimiser)
        units = []
        for k, h in enumerate(features):
            W, W_next = (net["params"]["blocks"][k][name][0][0] for name in ("first", "second"))
            known, u_hat, f_hat = appraise(net["units"][k], *observed(h, W, W_next), hyper,
                                           "contribution")
            known, chosen = choose(known, u_hat, hyper)
            units.append(newborn(known, chosen))
            net = replaced(net, k, chosen, net["fresh"][k], f_hat)
        t = net["t"] + 1
        return {**net, "units": units, "t": t,
                "fresh": fresh_weights(net["seed"], t, fan_ins, "relu")}, score

    settings = {**optimiser.settings, "replacement_rate": 1e-5, "utility_decay": 0.99,
                "maturity_threshold": 1000.0}
    return plain._replace(start=start, step=step, settings=settings, check=check,
                          description=f"continual {plain.description}")


def replaced(net: dict, k: int, chosen: tuple[Tensor, Tensor], row: Tensor, mean: Tensor) -> dict:
    """Replace the chosen channel within block k, if its replacement is due.

    Its scale becomes 1, its shift 0, its running mean and variance 0 and 1, and the optimiser's memory of
    all its weights is cleared.

    Parameters
    ----------
    row, mean : tensors
        The fresh incoming weights, and what each channel would leave behind (`rebirth`).
    """

    def afresh(values: tuple, new: tuple) -> tuple:
        mask = reborn(chosen, len(values[0]))
        return tuple(torch.where(mask, a, value) for a, value in zip(new, values))

    def within_block(tree: dict, change, norm: tuple) -> dict:
        block = tree["blocks"][k]
        (conv, its_norm), (listener, other_norm) = block["first"], block["second"]
        conv, listener = change([conv, listener])
        block = {**block, "first": (conv, afresh(its_norm, norm)), "second": (listener, other_norm)}
        return {**tree, "blocks": [*tree["blocks"][:k], block, *tree["blocks"][k + 1:]]}

    params = within_block(net["params"], lambda convs: rebirth(convs, [chosen], [row], [mean]),
                          (1.0, 0.0))
    memory = {name: within_block(part, lambda convs: forget({"": convs}, [chosen])[""], (0.0, 0.0))
              for name, part in net["memory"].items()}
    blocks = list(net["norms"]["blocks"])
    blocks[k] = {**blocks[k], "first": afresh(blocks[k]["first"], (0.0, 1.0))}
    return {**net, "params": params, "memory": memory, "norms": {**net["norms"], "blocks": blocks}}


def incremental(learner: Learner, stream: ClassIncremental) -> Learner:
    """Let a learner of this module live through classes that are added.

    At each increment the step size begins at its full height and falls by `DROPS`, and the outputs of
    the classes so far are in use. Published too, and not done here: to begin an increment with the
    weights that did best on images held back in the one before.

    Parameters
    ----------
    learner : Learner
    stream : ClassIncremental

    Returns
    -------
    Learner
        With the setting ``from_scratch``: 1 lets each increment begin with a new network.
    """

    def start(seed: Tensor) -> dict:
        return {**learner.start(seed), "increments": (seed.clone(), torch.zeros_like(seed))}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        seed, t = net["increments"]
        number, share = stream.increment(t)
        afresh = (hyper["from_scratch"] > 0) & (share == 0)
        net = tree_map(lambda new, old: torch.where(afresh, new, old),
                       {**learner.start(seed + 2**20 * number), "increments": (seed, t)}, net)
        drops = sum((share >= after).to(x.dtype) for after in DROPS)
        net, score = learner.step({**net, "classes": stream.together * (number + 1)},
                                  {**hyper, "step_size": hyper["step_size"] * 0.2**drops}, x, y)
        return {**net, "increments": (seed, t + 1)}, score

    return learner._replace(start=start, step=step, settings={**learner.settings, "from_scratch": 0.0},
                            description=f"incremental {learner.description}")


def held_back_accuracy(net: dict, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
    """Probe a net with the images [images, 3, side, side] and labels that a stream holds back."""
    output = torch.cat([forward(net["params"], net["norms"], some)[0]
                        for some in X.split(_AT_ONCE)])
    right = in_use(output, net["classes"]).argmax(-1) == Y
    return {"test_accuracy": right.float().mean()}
