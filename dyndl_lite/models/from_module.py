"""Somebody else's network: which layer of an `nn.Module` hears which, and the module as a `Model`."""

import copy
from collections import Counter
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from dyndl_lite import keyed_random as random
from dyndl_lite.learning import Model

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Link(NamedTuple):
    """A hidden layer and the one layer that hears it, by their names in the module."""

    layer: str
    listener: str
    norms: tuple[str, ...]  # batch norms between the two
    listener_norm: str | None  # the batch norm that takes the listener's output as it is


class _Call(NamedTuple):
    """What one module took and gave, and the nodes of autograd's graph at that moment."""

    heard: Tensor
    heard_from: object
    said: Tensor
    node: object


def links(module: nn.Module, example: Tensor | tuple,
          pairs: list[tuple[str, str]] | None = None) -> list[Link]:
    """Find a network's hidden layers, and who hears them, in one forward pass.

    What a layer hears is found by walking autograd's graph back from its input, however the module
    is written. The pass is in eval mode: no running statistic changes, no random number is drawn.

    Parameters
    ----------
    module : nn.Module
    example : tensor, or tuple of arguments
        What the module takes, for instance a minibatch of one.
    pairs : list of (layer, listener), optional
        Names of the layers to look at; None for all that are heard by another.

    Returns
    -------
    list of Link, in the order in which the network calls the layers

    Raises
    ------
    ValueError
        If there is no hidden layer, or if one does not speak unit by unit to exactly one listener
        (skip connections, heads, attention, recurrence, layer norm), shares its weights, or its
        listener has no bias.
    """
    modules = dict(module.named_modules())
    layers = {name: m for name, m in modules.items() if isinstance(m, LAYERS)}
    norms = {name: m for name, m in modules.items() if isinstance(m, BatchNorm)}
    calls, output = _forward(module, example, {**layers, **norms})
    called = [name for name in calls if name in layers]
    spoken = {calls[name].node: name for name in called}
    parameters = {id(p): name for name, p in module.named_parameters()}
    of_norms = {id(p) for norm in norms.values() for p in norm.parameters()}

    def sources(nodes: list) -> set[str]:  # what reaches them without going through a layer
        found, seen, stack = set(), {None}, list(nodes)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in spoken:
                found.add(spoken[node])
                continue
            if hasattr(node, "variable") and id(node.variable) not in of_norms:
                found.add(parameters.get(id(node.variable), "the input"))
            stack.extend(following for following, _ in node.next_functions)
        return found

    heard = {name: sources([call.heard_from]) for name, call in calls.items()}
    heard["the output"] = sources([o.grad_fn for o in tree_leaves(output) if isinstance(o, Tensor)])
    hearers = {name: [other for other in heard if other not in norms and name in heard[other]]
               for name in layers}
    if pairs is None:
        pairs = [(name, other) for name in called for other in hearers[name][:1] if other in layers]
        if not pairs:
            raise ValueError(f"{type(module).__name__} has no hidden layer: no linear or "
                             "convolutional layer hears another")
    for name in {name for pair in pairs for name in pair}:
        if name not in called:
            raise ValueError(f"{name!r} is no linear or convolutional layer that the network calls: "
                             f"use {', '.join(called)}")
    shared = Counter(id(p) for m in modules.values() for p in m.parameters(recurse=False))
    found = []
    for layer, listener in sorted(pairs, key=lambda pair: called.index(pair[0])):
        if heard[listener] != {layer} or hearers[layer] != [listener]:
            by, of = (", ".join(map(repr, sorted(names))) or "nothing"
                      for names in (hearers[layer], heard[listener]))
            raise ValueError(f"layer {layer!r} is heard by {by}, and {listener!r} hears {of}: a "
                             "hidden layer needs one listener that hears it alone; name the layers "
                             "that have one with pairs=[(layer, listener), ...]")
        for name in (layer, listener):
            if any(shared[id(p)] > 1 for p in layers[name].parameters()):
                raise ValueError(f"layer {name!r} shares its weights with another module")
        _check_units(layer, layers[layer], calls[layer].said,
                     listener, layers[listener], calls[listener].heard)
        after = next((name for name in norms if name in calls
                      and calls[name].heard_from is calls[listener].node), None)
        if layers[listener].bias is None and after is None:
            raise ValueError(f"layer {listener!r} has no bias to keep the mean of a replaced unit "
                             f"of {layer!r}: give it one, or batch norm after it")
        between = tuple(name for name in norms if heard.get(name) == {layer})
        found.append(Link(layer, listener, between, after))
    return found


def _forward(module: nn.Module, example, watched: dict[str, nn.Module]):
    """Run a module on an example in eval mode; give a `_Call` for each watched module, and the output."""
    calls, names = {}, {m: name for name, m in watched.items()}

    def hook(m, args, output) -> None:
        if names[m] in calls:
            raise ValueError(f"layer {names[m]!r} is called twice in a forward pass: shared "
                             "weights, as in recurrent networks, are not supported")
        calls[names[m]] = _Call(args[0], args[0].grad_fn, output, output.grad_fn)

    args = tree_map(lambda a: a.detach().requires_grad_().clone()  # a graph, though weights be frozen
                    if isinstance(a, Tensor) and a.is_floating_point() else a,
                    example if isinstance(example, tuple) else (example,))
    training = [m for m in module.modules() if m.training]
    with ExitStack() as undo:
        for m in names:
            undo.callback(m.register_forward_hook(hook).remove)
        for m in training:
            m.training = False
            undo.callback(setattr, m, "training", True)
        undo.enter_context(torch.enable_grad())
        undo.enter_context(torch.compiler.set_stance("force_eager"))
        return calls, module(*args)


def by_unit(heard: Tensor, listener: nn.Module, units: int) -> Tensor:
    """See what a listener hears of a layer as [minibatch, units, places]."""
    weight = listener.weight
    heard = heard if heard.ndim >= weight.ndim else heard[None]  # one example, no minibatch
    return heard.movedim(1 - weight.ndim, 1).reshape(len(heard), units, -1)


def _check_units(name, layer, said, listener_name, listener, heard) -> None:
    """Raise ValueError unless a listener hears the units of a layer one after the other, unmixed."""
    units, inputs = len(layer.weight), heard.shape[1 - listener.weight.ndim]
    groups = getattr(listener, "groups", 1)
    if groups != 1 or inputs % units:
        raise ValueError(f"layer {listener_name!r} has {inputs} inputs in {groups} group(s) for "
                         f"the {units} units of {name!r}: the inputs must be a multiple of the "
                         "units, in one group")
    view = by_unit(heard, listener, units)
    for unit in {0, units // 2, units - 1}:
        slope, = torch.autograd.grad(view[:, unit].sum(), said, retain_graph=True)
        if (slope.movedim(1 - layer.weight.ndim, 0)[torch.arange(units) != unit] != 0).any():
            raise ValueError(f"what {listener_name!r} hears of unit {unit} of {name!r} depends on "
                             "other units (a normalisation over units, attention, or another order "
                             "of the inputs): such a unit cannot be replaced alone")


def from_module(module: nn.Module, example: Tensor,
                pairs: list[tuple[str, str]] | None = None) -> Model:
    """Make a `Model` of somebody else's network, to run it as an ensemble.

    Initial weights are uniform, keyed by the seed, with the mean and standard deviation that each
    parameter has in `module`; one whose entries are all equal starts as it is in every run.

    Parameters
    ----------
    module : nn.Module
        A pure function of its parameters and inputs; it is copied.
    example : tensor
        One input, without a minibatch's axis.
    pairs : list of (layer, listener), optional
        The hidden layers whose features to give, as in `links`; [] for none.

    Returns
    -------
    Model
        Its `params` are a list of (weights, biases), which every intervention takes, if the network
        is a chain of layers with biases and nothing else; else a dict by name. `apply` takes one
        input or a minibatch; its features are [units], [minibatch, units] or, of several places,
        [minibatch, units, places], a single input being a minibatch of one.

    Raises
    ------
    ValueError
        As `links`, or if the module keeps running statistics or draws random numbers.
    """
    module = copy.deepcopy(module).requires_grad_(False)
    for name, m in module.named_modules():
        if isinstance(m, BatchNorm) and m.track_running_stats or isinstance(m, Dropout) and m.p:
            raise ValueError(f"{name!r}, {type(m).__name__}, is no function of parameters and inputs "
                             "alone: running statistics and dropout are not supported")
    found = links(module, example[None], pairs)
    parameters = dict(module.named_parameters())
    chain = [*(link.layer for link in found), *(link.listener for link in found[-1:])]
    names = [(f"{name}.weight", f"{name}.bias") for name in chain]
    if sorted(tree_leaves(names)) != sorted(parameters):
        names = {name: name for name in parameters}
    flat, spec = tree_flatten(names)
    heard = {}
    for link in found:
        module.get_submodule(link.listener).register_forward_pre_hook(
            lambda _, args, name=link.layer: heard.__setitem__(name, args[0]))

    def draw(seed: Tensor, which: int, name: str) -> Tensor:
        p = parameters[name].to(seed.device)
        if (p == p.flatten()[0]).all():
            return p.clone()
        where = torch.arange(p.numel(), device=seed.device)
        row = 2 * random.uniform(seed, random.WEIGHTS, which, where) - 1
        return p.mean() + 3**0.5 * p.std(correction=0) * row.to(p.dtype).reshape(p.shape)

    def init(seed: Tensor):
        return tree_unflatten([draw(seed, *each) for each in enumerate(flat)], spec)

    def apply(params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        one = x.ndim == example.ndim
        state = {**{name: b.to(x.device) for name, b in module.named_buffers()},
                 **dict(zip(flat, tree_leaves(params), strict=True))}
        output = functional_call(module, state, (x[None] if one else x,))
        features = []
        for link in found:
            units = len(state[f"{link.layer}.weight"])
            h = by_unit(heard.pop(link.layer), module.get_submodule(link.listener), units)
            h = h[..., 0] if h.shape[2] == 1 else h
            features.append(h[0] if one and h.ndim == 2 else h)
        return output[0] if one else output, features

    outputs = module(example[None]).shape[-1]
    heard.clear()
    hidden = tuple(len(parameters[f"{link.layer}.weight"]) for link in found)
    return Model(init, apply, outputs, f"{type(module).__name__} {hidden}", hidden)
