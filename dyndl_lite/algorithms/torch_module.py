"""Continual backprop for other people's networks: any `nn.Module`, any `torch.optim` optimiser.

The arithmetic is that of `continual_backprop` and `replace_units`. What is here finds it the
activities, weights and optimiser's memory of a module, and writes back what has changed.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn, Tensor

from dyndl_lite import keyed_random as random
from dyndl_lite.algorithms.continual_backprop import judge, least_useful, new_unit_stats
from dyndl_lite.algorithms.replace_units import (activities, Chosen, overwrite, reborn, reinitialise,
                                                 selected)
from dyndl_lite.models.from_module import by_unit, links


class ContinualBackprop:
    """Replace the least useful hidden units of a network, now and then, while it learns.

    Call `step` after the optimiser's. Hidden layers are linear or convolutional layers that one
    other such layer hears; a unit of a convolution is a channel. A unit's activity is what its
    listener hears, after nonlinearity, pooling and flattening, averaged over the training forwards
    (train mode, with gradients) since the last step, their examples and places.

    A replaced unit starts anew: fresh incoming weights, no bias, no outgoing weights, batch norms
    of its own as new (scale 1, shift 0, mean 0, variance 1), and no optimiser state: every tensor
    of the optimiser's state that has its parameter's shape becomes 0 at the unit's weights. What
    the optimiser keeps for a parameter as a whole stays, such as the `step` of Adam, whose bias
    correction a new weight then lacks, and Adafactor's factored averages. The unit's mean
    contribution stays in its listener's bias (or running mean, of a listener that has batch norm
    for a bias), so that the mean output does not change, but at the borders of a zero-padded
    convolution, and where the places of a channel that a linear layer hears differ in their means.

    Parameters
    ----------
    model : nn.Module
        As it was initialised: the spread of its weights is that of fresh ones. If you compile it,
        do so after this, or before its first forward pass.
    optimizer : torch.optim.Optimizer
        Any that keeps its state for each parameter (not L-BFGS).
    example : tensor, or tuple of arguments
        An input, to see which layer hears which; a minibatch of one will do.
    replacement_rate : float
        Share of a layer's mature units replaced each step.
    utility : str
        A name in `continual_backprop.UTILITIES`.
    utility_decay : float
        Of the running averages.
    maturity_threshold : float
        Steps before a unit may be replaced.
    pairs : list of (layer, listener), optional
        Names, as in ``model.named_modules()``, of the hidden layers to treat; None for all.
    seed : int
        Of the fresh weights.
    fresh : function of (layer, t), optional
        Gives incoming weights, shaped like one unit's, for a layer's name at step t. Default:
        uniform, mean 0, with the standard deviation that the layer's weights have now.

    Raises
    ------
    ValueError
        If the optimiser, a setting or the network is one that it cannot handle
        (`from_module.links`).

    Examples
    --------
    A network and an optimiser that this library has never seen:

    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
    ...                     nn.Flatten(), nn.Linear(8 * 9, 32), nn.GELU(), nn.Linear(32, 2))
    >>> optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    >>> cbp = ContinualBackprop(net, optimizer, example=torch.zeros(1, 1, 8, 8), replacement_rate=1e-3)
    >>> [(link.layer, link.listener) for link in cbp.links]
    [('0', '5'), ('5', '7')]
    >>> for _ in range(200):
    ...     y = torch.randint(2, (16,))
    ...     x = torch.randn(16, 1, 8, 8) + y[:, None, None, None]
    ...     loss = nn.functional.cross_entropy(net(x), y)
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); _ = cbp.step()
    >>> bool(loss < 0.1)
    True
    >>> int((cbp.units["5"]["age"] < 100).sum())  # of 32: 1e-3 x 32 a step from step 101 on
    3
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, example: Tensor | tuple,
                 replacement_rate: float = 1e-4, utility: str = "contribution",
                 utility_decay: float = 0.99, maturity_threshold: float = 100,
                 pairs: list[tuple[str, str]] | None = None, seed: int = 0,
                 fresh: Callable[[str, int], Tensor] | None = None):
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("L-BFGS remembers the whole network in one vector, which a new unit "
                             "cannot leave: use another optimiser")
        model = getattr(model, "_orig_mod", model)  # of a compiled one
        self.links = links(model, example, pairs)
        self.modules = {name: model.get_submodule(name) for link in self.links
                        for name in (link.layer, link.listener, *link.norms, link.listener_norm)
                        if name is not None}
        self.optimizer, self.utility, self.seed = optimizer, utility, seed
        self.settings = {"replacement_rate": replacement_rate, "utility_decay": utility_decay,
                         "maturity_threshold": maturity_threshold}
        weights = {link.layer: self.modules[link.layer].weight for link in self.links}
        least_useful(utility).check(self.settings, tuple(map(len, weights.values())))
        self.units = {name: {key: value.to(_precise(W)) for key, value in
                             new_unit_stats(len(W), W.device).items()} for name, W in weights.items()}
        self.spread = {name: W.detach().std(correction=0).item() for name, W in weights.items()}
        self.t, self.fresh = 0, fresh or self._uniform
        self._heard = {link.layer: [] for link in self.links}
        for link in self.links:
            self.modules[link.listener].register_forward_pre_hook(partial(self._hear, link.layer))

    def _hear(self, layer: str, listener: nn.Module, args: tuple) -> None:
        if listener.training and torch.is_grad_enabled():
            self._heard[layer].append(args[0].detach())

    def _uniform(self, layer: str, t: int) -> Tensor:
        """Draw fresh incoming weights, as the layer's were spread at first."""
        W = self.modules[layer].weight
        seed, where = torch.tensor(self.seed), torch.arange(W[0].numel())
        row = 2 * random.uniform(seed, random.REBIRTH, t, list(self.units).index(layer), where) - 1
        return 3**0.5 * self.spread[layer] * row

    @torch.no_grad()
    def step(self) -> dict[str, int]:
        """Update utilities, and replace the units that are due: call it after the optimiser's step.

        Gives the index of the unit that was replaced, by the name of its layer. RuntimeError if no
        training forward has been seen since the last step.
        """
        chosen, means = {}, {}
        for index, link in enumerate(self.links):
            layer, listener = self.modules[link.layer], self.modules[link.listener]
            heard, self._heard[link.layer] = self._heard[link.layer], []
            if not heard:
                raise RuntimeError(f"layer {link.listener!r} has heard nothing since the last step: call "
                                   "the model in train mode before each step, and compile it after "
                                   "making ContinualBackprop")
            W, n = layer.weight, len(layer.weight)
            stats = {key: value.to(W.device) for key, value in self.units[link.layer].items()}
            H = torch.cat([activities(by_unit(h, listener, n)) for h in heard]).to(_precise(W))
            hyper = {key: torch.tensor(value, dtype=H.dtype) for key, value in self.settings.items()}
            where = torch.tensor(self.seed, device=W.device), self.t, index
            self.units[link.layer], chosen[link.layer], means[link.layer] = selected(
                partial(judge, utility=self.utility), stats, H, W, listener.weight, hyper, where)
        now = torch.stack([now.cpu() for _, now in chosen.values()]).tolist()
        due = [link for link, is_due in zip(self.links, now) if is_due]
        for link in due:  # in the order of the forward pass: what comes into a new unit is fresh
            self._replace(link, chosen[link.layer], means[link.layer])
        self.t += 1
        return {link.layer: int(chosen[link.layer][0]) for link in due}

    def _replace(self, link, chosen: Chosen, mean: Tensor) -> None:
        """Reinitialise the chosen unit of one layer, and clear what the optimiser knows of it."""
        layer, listener = self.modules[link.layer], self.modules[link.listener]
        pair = [(layer.weight, layer.bias), (listener.weight, listener.bias)]
        row = self.fresh(link.layer, self.t).to(layer.weight).flatten()
        new = reinitialise([(W, W.new_zeros(len(W)) if b is None else b) for W, b in pair],
                           [chosen], [row], [mean.to(layer.weight)])
        kept = overwrite([(torch.ones_like(W), W.new_ones(len(W))) for W, _ in pair], [chosen], [0.0])
        for p, value, keep in zip(*(sum(each, ()) for each in (pair, new, kept))):
            if p is not None:
                p.copy_(value)
                self._forget(p, keep == 0)
        norm = self.modules.get(link.listener_norm)
        if listener.bias is None and norm.running_mean is not None:
            norm.running_mean -= new[1][1]  # it is subtracted: what it loses is a bias
        for m in map(self.modules.get, link.norms):
            mask = reborn(chosen, m.num_features, m.num_features // len(mean))
            for own, at_birth in [(m.weight, 1.0), (m.bias, 0.0), (m.running_mean, 0.0),
                                  (m.running_var, 1.0)]:
                if own is not None:
                    own.masked_fill_(mask, at_birth)
                    self._forget(own, mask)

    def _forget(self, p: Tensor, mask: Tensor) -> None:
        """Clear what the optimiser keeps for each weight of a parameter, where the mask is True."""
        for value in self.optimizer.state.get(p, {}).values():
            if isinstance(value, Tensor) and value.shape == p.shape:
                value.masked_fill_(mask, 0.0)

    def state_dict(self) -> dict:
        """All that it remembers between two steps; settings are given when it is made."""
        return {"t": self.t, "seed": self.seed, "spread": dict(self.spread),
                "units": {name: {key: value.clone() for key, value in stats.items()}
                          for name, stats in self.units.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave; ValueError if it is of another network."""
        shapes = [{name: {key: value.shape for key, value in stats.items()}
                   for name, stats in units.items()} for units in (state["units"], self.units)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"this state is of layers {list(state['units'])}, or of other sizes: the "
                             f"network's are {list(self.units)}")
        self.t, self.seed, self.spread = state["t"], state["seed"], dict(state["spread"])
        self.units = {name: {key: state["units"][name][key].to(value, copy=True)
                             for key, value in stats.items()} for name, stats in self.units.items()}
        self._heard = {name: [] for name in self._heard}


def _precise(W: Tensor) -> torch.dtype:
    return torch.promote_types(W.dtype, torch.float32)  # running averages need more than 16 bits
