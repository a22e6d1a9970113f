"""The idea on one page: a learner is a pure function of one example, for one network.

``start(seed)`` makes a network and all that it remembers, ``step(net, hyper, x, y)`` lets it
predict one example and learn from it. `learner` puts the two together from a model, a loss, an
optimiser, and interventions that act after each gradient step. ``vmap`` and ``scan`` make that fast
(`experiment`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map


class Learner(NamedTuple):
    """One network's whole life, as two pure functions."""

    start: Callable  # seed -> net: a dict of tensors, all that the learner remembers
    step: Callable  # net, hyper, x, y -> net, score: one example, first predicted, then learned
    settings: dict[str, float]  # what `hyper` holds, with default values
    description: str  # what the two functions were built from, in words
    outputs: int  # length of what it predicts
    check: Callable = lambda setting: None  # raises ValueError for a setting that cannot run


class LayerState(NamedTuple):
    """What layers remember beside their weights: running statistics, or a source of chance."""

    init: Callable  # seed -> state
    # params, state, hyper, x -> output, features, penalty (added to the loss), seen
    apply: Callable
    update: Callable  # state, seen, gradients, hyper -> state
    predict: Callable | None = None  # params, state, x -> output, if not that of `apply`
    settings: dict[str, float] = {}
    check: Callable = lambda setting: None


class Model(NamedTuple):
    """A network, for one example (or one minibatch)."""

    init: Callable  # seed -> params
    apply: Callable  # params, x -> output, features: what every hidden layer says
    outputs: int
    description: str
    hidden: tuple[int, ...] = ()  # units of each hidden layer
    layers: LayerState | None = None  # None: they remember nothing
    # params, inputs of each layer, curvature of the outputs -> of every unit; see `mlp.curvatures`
    curvatures: Callable | None = None


class Optimiser(NamedTuple):
    """What turns gradients into weight changes, and what it remembers.

    Its state is ``{"per_weight": {name: tree like params}, "initial": {name: tree like params},
    "own": dict}``. Where a weight begins anew, whatever is kept per weight becomes 0 and whatever
    is initial becomes the new weight itself (`replace_units`); its own it keeps.
    """

    init: Callable  # params, seed -> state
    # params, gradients, state, hyper, context -> params, state. `context()` gives the inputs and the
    # curvatures of every layer; None where a model has none.
    update: Callable
    settings: dict[str, float]
    name: str
    check: Callable = lambda setting: None


class Intervention(NamedTuple):
    """What happens to a network after each gradient step: a pure function too, so they compose."""

    init: Callable  # seed, params -> state
    # params, optimiser state, state, features, hyper -> the first three
    apply: Callable
    settings: dict[str, float]
    name: str
    check: Callable = lambda setting, hidden: None  # hidden: units of each hidden layer
    of_units: bool = False  # whether it replaces single units, so that there must be some


class Chains(NamedTuple):
    """Where the layers are: each hidden layer of a chain is heard by the next layer of it alone."""

    split: Callable  # params -> list of chains: lists of (weights, biases, more per unit ...)
    join: Callable  # params, chains -> params


#: A network whose layers follow each other.
ONE_CHAIN = Chains(lambda params: [params], lambda params, chains: chains[0])


def learner(model: Model, loss: Callable, optimiser: Optimiser, *after: Intervention) -> Learner:
    """Put a learner together.

    Parameters
    ----------
    model : Model
        `mlp`, `cnn`, `resnet`, or ``from_module``.
    loss : function of (output, y)
        Gives the loss and the score of one example: `squared_error`, `cross_entropy`, or
        ``over_minibatch`` of one.
    optimiser : Optimiser
    *after : Intervention
        In the order in which they act.

    Returns
    -------
    Learner
        With the settings of all parts. Its net holds ``params``, the optimiser's ``memory``, and
        the states of the layers (``layers``) and of the interventions (``after``).
    """
    layers = model.layers
    for each in after:
        if each.of_units and not model.hidden:
            raise ValueError(f"{model.description}: {each.name.split()[0]} needs a hidden layer")

    def start(seed: Tensor) -> dict:
        params = model.init(seed)
        return {"params": params, "memory": optimiser.init(params, seed),
                "layers": layers.init(seed) if layers else {},
                "after": [each.init(seed, params) for each in after]}

    def step(net: dict, hyper: dict, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        params = net["params"]

        def objective(params):
            if layers:
                output, features, penalty, seen = layers.apply(params, net["layers"], hyper, x)
            else:
                (output, features), penalty, seen = model.apply(params, x), None, ()
            value, score = loss(output, y)
            value = value if penalty is None else value + penalty
            return value, (output, features, seen, score)

        gradients, (output, features, seen, score) = grad(objective, has_aux=True)(params)
        if layers and layers.predict:
            score = loss(layers.predict(params, net["layers"], x), y)[1]

        def context():  # a function, so that it costs nothing where nobody asks
            inputs = [x, *features]
            return inputs, model.curvatures(params, inputs, CURVATURE[loss](output))

        params, memory = optimiser.update(params, gradients, net["memory"], hyper, context)
        states = []
        for each, state in zip(after, net["after"]):
            params, memory, state = each.apply(params, memory, state, features, hyper)
            states.append(state)
        state = layers.update(net["layers"], seen, gradients, hyper) if layers else {}
        return {"params": params, "memory": memory, "layers": state, "after": states}, score

    parts = [optimiser, *([layers] if layers else []), *after]

    def check(setting: dict) -> None:
        for part in parts:
            part.check(setting, *([model.hidden] if isinstance(part, Intervention) else []))

    settings = {name: value for part in parts for name, value in part.settings.items()}
    words = [model.description, getattr(loss, "__name__", str(loss)), optimiser.name,
             *(each.name for each in after)]
    return Learner(start, step, settings, " ".join(words), model.outputs, check)


def squared_error(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and score of a regression: both are the mean squared error of the prediction."""
    if output.shape != y.shape:  # torch would broadcast in silence
        raise ValueError(f"squared_error of {tuple(output.shape)} outputs and a target of shape "
                         f"{tuple(y.shape)}")
    loss = ((output - y) ** 2).mean()
    return loss, loss


def cross_entropy(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and score of a classification: -log softmax(output)[y], and 1.0 if y is on top."""
    if y.is_floating_point() or y.ndim:
        raise ValueError("cross_entropy needs one whole number, the label, as target")
    chosen = torch.arange(output.shape[0], device=output.device) == y
    loss = torch.logsumexp(output, 0) - torch.where(chosen, output, 0.0).sum()
    return loss, (output.detach().argmax(0) == y).to(output.dtype)


def minibatch_cross_entropy(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `cross_entropy` over outputs [minibatch, classes] and labels [minibatch]."""
    losses, scores = vmap(cross_entropy)(output, y)
    return losses.mean(), scores.mean()


def _of_cross_entropy(output):
    p = torch.softmax(output, 0)
    return p * (1 - p)


#: Second derivative of a loss with respect to each output.
CURVATURE = {squared_error: lambda output: torch.full_like(output, 2 / output.shape[0]),
             cross_entropy: _of_cross_entropy}


def optimizer_state(*names: str, initial: tuple[str, ...] = (), own: Callable = lambda seed: {}
                    ) -> Callable:
    """Give an optimiser's `init`: zeros per weight, copies of the weights, and what is its own."""

    def init(params, seed: Tensor) -> dict:
        return {"per_weight": {name: tree_map(torch.zeros_like, params) for name in names},
                "initial": {name: tree_map(torch.clone, params) for name in initial},
                "own": own(seed)}

    return init


def _sgd(params, gradients, state, hyper, context=None):
    return tree_map(lambda w, g: w - hyper["step_size"] * g, params, gradients), state


#: Stochastic gradient descent: w <- w - step_size g.
sgd = Optimiser(optimizer_state(), _sgd, {"step_size": 0.01}, "sgd")
