"""The remedies that `record_remedies.py` compares, and the values that it sweeps."""

from collections.abc import Callable
from typing import NamedTuple

from record_image_classes import problem as class_pairs
from recording import swept

from dyndl_lite.algorithms.backprop import backprop, conv_backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop, conv_continual_backprop
from dyndl_lite.algorithms.layers import backprop_with, conv_backprop_with
from dyndl_lite.algorithms.optimisers import adam, l2, l2_init, momentum, upgd
from dyndl_lite.algorithms.regularisers import weight_clipping, with_noise
from dyndl_lite.algorithms.resets import conv_resetting, resetting
from dyndl_lite.algorithms.task_resets import renewed
from dyndl_lite.experiment import diagnostics

# What is swept, for slowly-changing regression, permuted digits, and pairs of image classes.
STEPS = {"scr": [0.001, 0.003, 0.01, 0.03], "permuted_digits": [0.015, 0.03, 0.06],
         "image_pairs": [0.01, 0.03, 0.07]}
# Where activities are normalised or gradients damped, the best step size may lie elsewhere.
LARGER = {"scr": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
          "permuted_digits": [0.01, 0.02, 0.03, 0.06, 0.1],
          "image_pairs": [0.003, 0.01, 0.03, 0.07]}
ADAM = {"scr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "permuted_digits": [3e-4, 1e-3, 3e-3, 1e-2],
        "image_pairs": [1e-3, 3e-3, 1e-2]}
DECAYS = {"scr": [1e-4, 1e-3, 1e-2, 3e-2, 1e-1], "permuted_digits": [3e-4, 1e-3, 3e-3, 1e-2],
          "image_pairs": [1e-5, 1e-4, 1e-3, 1e-2]}
NOISES = {"scr": [1e-4, 1e-3, 1e-2], "permuted_digits": [1e-3, 3e-3], "image_pairs": [1e-4, 1e-3, 1e-2]}
CHANGES = {"scr": 10_000, "permuted_digits": 1_797}  # examples from one to the next
PERIODS = {"scr": [30, 100, 1_000], "permuted_digits": [1_000, 10_000],
           "image_pairs": [15, 50, 500]}
DORMANCIES = {"scr": [0.0, 0.025, 0.1, 0.3], "permuted_digits": [0.0, 0.025, 0.1],
              "image_pairs": [0.0, 0.025, 0.1]}
REJECTIONS = {"scr": [1e-1, 1e-2, 1e-4], "permuted_digits": [1e-2, 1e-4, 1e-8],
              "image_pairs": [1e-1, 1e-2, 1e-4]}
THRESHOLDS = {"scr": [100, 1_000], "permuted_digits": [100, 1_000], "image_pairs": [10]}

# Sweeps: of the step size, with weight decay or noise; of ReDo, self-normalised resets, UPGD, Adam, and
# Adam whose two memories have one length.
with_decays = swept(step_size=STEPS, weight_decay=DECAYS)
stirred = swept(step_size=STEPS, weight_decay={p: v[1:-1] for p, v in DECAYS.items()}, noise=NOISES)
dormant = swept(step_size=STEPS, reset_period=PERIODS, dormancy=DORMANCIES)
silent = swept(step_size=STEPS, rejection=REJECTIONS, maturity_threshold=THRESHOLDS)
spared = swept(step_size={**STEPS, "scr": [3e-4, 1e-3, 3e-3, 1e-2]},
               weight_decay={p: [0.0, v[1]] for p, v in DECAYS.items()},
               noise={"scr": [0.1, 0.3, 1.0], "permuted_digits": [0.01, 0.1, 0.3]})
adams = swept(step_size=ADAM)
proper = swept(step_size=ADAM, beta_1=[0.99], beta_2=[0.99])


class Remedy(NamedTuple):
    """A learner, its sweep, and how to look inside it."""

    make: Callable  # sizes, or a layout, and loss -> Learner
    sweep: Callable  # problem name -> values
    probe: Callable = diagnostics.probe


def of_kind(kind: str, **more) -> Remedy:
    """Give a remedy that changes the hidden layers."""
    return Remedy(lambda sizes, loss: backprop_with(kind, sizes, loss=loss),
                  swept(step_size=LARGER, **more), lambda: diagnostics.probe(kind=kind))


def descent(optimiser, sweep: Callable) -> Remedy:
    """Give a remedy that changes the optimiser."""
    return Remedy(lambda sizes, loss: backprop(sizes, loss=loss, optimiser=optimiser), sweep)


def replacing(criterion: str, sweep: Callable) -> Remedy:
    """Give a remedy that replaces units."""
    return Remedy(lambda sizes, loss: resetting(sizes, criterion, loss=loss), sweep)


REMEDIES = {
    "bp": Remedy(lambda sizes, loss: backprop(sizes, loss=loss), swept(step_size=LARGER)),
    "cbp": Remedy(lambda sizes, loss: continual_backprop(sizes, loss=loss),
                  swept(step_size=STEPS, replacement_rate=[1e-5, 1e-4, 1e-3])),
    "l2": descent(l2(), with_decays),
    "shrink_perturb": Remedy(
        lambda sizes, loss: backprop(sizes, loss=loss, optimiser=l2(), after=(with_noise,)),
        stirred),
    "dropout": of_kind("dropout", dropout=[0.01, 0.1, 0.3]),
    "online_norm": of_kind("online_norm", forward_decay=[0.99, 0.999], backward_decay=[0.9, 0.99]),
    "layer_norm": of_kind("layer_norm"),
    "adam": descent(adam, adams),
    "adam_proper": descent(adam, proper),
    "head_reset": Remedy(lambda sizes, loss: renewed(backprop(sizes, loss=loss)),
                         lambda problem: {"step_size": LARGER[problem],
                                          "reset_period": [CHANGES[problem]]}),
    "l2_init": descent(l2_init(), with_decays),
    "redo": replacing("redo", dormant),
    "self_normalised": replacing("self_normalised", silent),
    "upgd": Remedy(lambda sizes, loss: backprop(sizes, loss=loss, optimiser=upgd),
                   spared),
    "crelu": of_kind("crelu"),
    "clipping": Remedy(lambda sizes, loss: backprop(sizes, loss=loss, after=(weight_clipping(),)),
                       swept(step_size=STEPS, clip=[1.0, 2.0, 3.0, 5.0])),
}


def of_images(make: Callable, sweep: Callable, kind: str = "plain") -> Remedy:
    """Give a remedy for pairs of classes, where all learners but one get new heads (notebook 03)."""
    return Remedy(lambda layout, loss: renewed(make(layout), "heads", class_pairs().begins),
                  sweep, lambda: diagnostics.held_back_probe(kind))


def descending(optimiser, sweep: Callable) -> Remedy:
    """Give one that changes the optimiser, which is momentum otherwise."""
    return of_images(lambda layout: conv_backprop(layout, optimiser), sweep)


def of_image_kind(kind: str, **more) -> Remedy:
    """Give one that changes the hidden layers."""
    return of_images(lambda layout: conv_backprop_with(kind, layout), swept(step_size=LARGER, **more), kind)


IMAGE_REMEDIES = {
    "bp": descending(momentum, swept(step_size=STEPS)),
    "cbp": of_images(conv_continual_backprop, swept(step_size=STEPS, replacement_rate=[1e-4, 3e-4, 1e-3])),
    "l2": descending(l2(momentum), with_decays),
    "shrink_perturb": of_images(
        lambda layout: conv_backprop(layout, l2(momentum), (with_noise,)), stirred),
    "dropout": of_image_kind("dropout", dropout=[0.001, 0.01, 0.1]),
    "layer_norm": of_image_kind("layer_norm"),
    "adam": descending(adam, adams),
    "adam_proper": descending(adam, proper),
    "heads_kept": Remedy(lambda layout, loss: conv_backprop(layout), swept(step_size=STEPS),
                         diagnostics.held_back_probe),
    "l2_init": descending(l2_init(momentum), with_decays),
    "redo": of_images(lambda layout: conv_resetting(layout, "redo"), dormant),
    "self_normalised": of_images(lambda layout: conv_resetting(layout, "self_normalised"), silent),
    "upgd": of_images(lambda layout: conv_backprop(layout, upgd),
                      lambda problem: {"step_size": [0.03, 0.1, 0.3], "noise": [1e-3, 1e-2, 1e-1]}),
    "crelu": of_image_kind("crelu"),
    "clipping": of_images(lambda layout: conv_backprop(layout, momentum, (weight_clipping(),)),
                          swept(step_size=STEPS, clip=[1.0, 2.0, 4.0])),
}
