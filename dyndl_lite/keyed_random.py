"""Random numbers that are pure functions of where they are used.

A draw is a hash of (seed, counter, counter, ...), so the number that run 7 uses for its
123rd example does not depend on how many other runs travel with it, on the chunk length,
or on whether the run was interrupted: there is no generator whose state could differ.
The hash is written in 64-bit integer arithmetic that never overflows, so it gives the same
bits on CPU, on CUDA, inside compiled code, and in numpy (see the tests). Its state is two words,
a place on a cycle of 2^32 numbers and a key: with the place alone, every draw would be a window of
that one cycle, and two large layers would share a stretch of it.
"""

import torch
from torch import Tensor

_32_BITS = 0xFFFFFFFF
_GOLDEN, _SILVER = 0x1E3779B9, 0x2C1B3C6D

# First counter of every draw: what it is for. Two purposes never share random numbers.
WEIGHTS, REBIRTH, RANDOM_UTILITY, TARGET, SLOW_BITS, FAST_BITS, PIXELS, ORDER = range(1, 9)
CONTEXT, NOISE, DROPPED, ARRIVALS, FEATURES = range(10, 15)
SIGNALS, FLIPS, DRIFT, DISTURBANCE = range(20, 24)
WIRES, EXPLORED, NEW_WIRE = range(25, 28)
NEWBORN = 30
FRACTAL, VARIATION, LOOK, GRAIN, CLASSES = range(40, 45)
START, ACTION, EXPLORE, CODE, PHYSICS, SPARSE, REPLAYED = range(60, 67)
VALUE, SHUFFLE, FRICTION = range(70, 73)
SHIFTED, MIRRORED = 48, 49


def _mix(h: Tensor, key: Tensor | int = 0) -> Tensor:
    """Scramble 32 bits (xor-shift-multiply; both factors are under 2^31), with a key halfway."""
    h = ((h ^ (h >> 16)) * 0x21F0AAAD) & _32_BITS
    h = h ^ key
    h = ((h ^ (h >> 15)) * 0x735A2D97) & _32_BITS
    return h ^ (h >> 15)


def bits(seed: Tensor, *counters: Tensor | int) -> Tensor:
    """Draw 32 random bits for each element of the broadcast counters.

    Parameters
    ----------
    seed : int64 tensor
        The run's seed.
    counters : int64 tensors or ints, from 0 to 2^32 - 1
        What the draw is for (a purpose of this module), then where it is used.

    Returns
    -------
    int64 tensor of the broadcast shape, values from 0 to 2^32 - 1
    """
    *before, last = counters
    here, key = (seed & _32_BITS) ^ 0x5BF03635, seed & _32_BITS
    for counter in before:
        here = _mix((here + (counter + 1) * _GOLDEN) & _32_BITS)
        key = (key * _SILVER + counter) & _32_BITS
    # Two products an element and no more: continual backprop draws at every example.
    return _mix((here + (last + 1) * _GOLDEN) & _32_BITS, _mix(key))


def uniform(seed: Tensor, *counters: Tensor | int) -> Tensor:
    """Draw float32 numbers uniformly from [0, 1), as `bits` does."""
    return (bits(seed, *counters) >> 8).to(torch.float32) * 2.0**-24


def normal_of(u: Tensor) -> Tensor:
    """Turn uniform numbers into normal ones of mean 0 and variance 1; u may be 0, never 1."""
    return torch.special.ndtri(u.double() + 2.0**-25).to(u.dtype)


def permutation(seed: Tensor, length: int, *counters: Tensor | int) -> Tensor:
    """Draw a random order of ``range(length)`` for each seed.

    Parameters
    ----------
    seed : int64 tensor [runs]
    length : int
    counters : ints, shared by all runs

    Returns
    -------
    int64 tensor [runs, length]
    """
    where = torch.arange(length, device=seed.device)
    keys = bits(seed[:, None], *counters, where)
    # Equal keys are rare but real; the index in the low bits makes the order unique.
    return torch.argsort(keys * 2**30 + where, dim=1)
