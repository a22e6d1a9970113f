"""dyndl_lite: from loss of plasticity to dynamic deep learning, in plain torch.

A learner is a pure function of one example for one network (`learning`); an ensemble turns it into
thousands of runs at once (`experiment`); a stream is what it lives on (`problems`). The names below are
the public ones, and are imported when they are first used.
"""

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
