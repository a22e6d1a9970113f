"""What tests of learners share: weights in torch's own layers, and one ensemble driven in two ways."""

from torch import nn

from dyndl_lite.experiment import drivers, ensemble


class Copied(nn.Module):
    """A network of some kind in torch's own layers, with a copy of our weights."""

    def __init__(self, kind, params):
        super().__init__()
        self.kind = kind
        self.W = nn.ParameterList(W.clone() for W, _ in params)
        self.b = nn.ParameterList(b.clone() for _, b in params)


def driven(kind, learner, settings, seeds, X, Y):
    """Let a new ensemble learn from examples with a driver; give its nets and scores."""
    nets, hypers = ensemble.start(learner, settings, seeds)
    return drivers.make(kind, ensemble.batched(learner.step))(nets, hypers, X, Y)
