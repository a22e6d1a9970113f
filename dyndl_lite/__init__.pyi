from .algorithms.backprop import backprop, conv_backprop
from .algorithms.continual_backprop import continual_backprop, least_useful
from .algorithms.optimisers import adam, l2, l2_init, momentum, upgd
from .algorithms.regularisers import weight_clipping, with_noise
from .algorithms.replace_units import replace_units
from .algorithms.resets import unit_reset
from .algorithms.torch_module import ContinualBackprop
from .dynamic.network import dynamic_network
from .experiment.compare import paired, table, window_mean
from .experiment.diagnostics import diagnose
from .experiment.ensemble import grid, live, run
from .experiment.plots import curves
from .learning import (
    Intervention,
    Learner,
    Model,
    Optimiser,
    cross_entropy,
    learner,
    sgd,
    squared_error,
)
from .models.cnn import cnn
from .models.from_module import from_module
from .models.mlp import mlp
from .models.resnet import resnet
from .problems.datasets import digits
from .problems.features import HiddenFeatures
from .problems.images import PermutedImages
from .problems.regression import SlowlyChangingRegression
from .problems.stream import Stream

__version__: str
