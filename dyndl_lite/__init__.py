"""dyndl_lite: from loss of plasticity to dynamic deep learning, in plain torch.

A learner is a pure function of one example for one network (``backprop``,
``continual_backprop``); ``ensemble`` turns it into thousands of runs at once;
``streams`` are the problems it lives on.
"""

__version__ = "0.1.0"
