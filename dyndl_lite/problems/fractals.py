"""Classes of images made from a seed: fractals with real variation within a class.

Kataoka et al. (2020, "Pre-training without natural images") take a fractal for a class: its shape
is fixed by a few affine maps (an iterated function system, Barnsley 1988), and an image of the
class has maps that differ a little. So there are as many classes as anybody wants, without a
download, and what tells two of them apart is their shape.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dyndl_lite import keyed_random as random

_MAPS, _DEPTH = 3, 6  # 3^6 = 729 points a picture
_KEPT = 2**28  # bytes of pictures kept in memory


@dataclass(frozen=True)
class Fractals:
    """A collection of classes of generated colour images.

    A picture is an iterated function system of three maps, each near those of its class, drawn in
    one colour on another, mirrored or not, shifted, with noise. The colours tell nothing but that
    the figure tends to be lighter than its ground: so there is something for a linear classifier to
    hold on to, and much more for one that sees shapes.

    Parameters
    ----------
    side, classes, images, seed : int
        Pixels of a side, how many classes, how many pictures of each; another seed gives others.
    variation : float
        How far a picture's maps may be from those of its class, as a share of how far those of two
        classes may be from each other.
    lighter : float
        How much lighter the figure is than its ground on average, from 0 to 1.
    noise : float
        Largest noise of a pixel, where 1 is the way from black to white.
    """

    side: int = 32
    classes: int = 1_000
    images: int = 700
    seed: int = 0
    variation: float = 0.1
    lighter: float = 0.15
    noise: float = 0.1

    name = "fractals"

    def of(self, k: int) -> Tensor:
        """Give all pictures of class k, uint8 [images, 3, side, side]."""
        if not 0 <= k < self.classes:
            raise ValueError(f"fractals have no class {k}: use 0 to {self.classes - 1}")
        return _kept(max(1, _KEPT // (3 * self.side**2 * self.images)))(self, k)


@lru_cache(maxsize=8)
def _kept(most: int):
    """Give the function that draws a class, with a memory for the last `most` of them."""
    return lru_cache(maxsize=most)(draw)


def draw(kind: Fractals, k: int) -> Tensor:
    """Draw all pictures of a class, uint8 [images, 3, side, side]."""
    seed, n, side = torch.tensor(kind.seed), kind.images, kind.side
    picture = torch.arange(n)[:, None]

    def signed(purpose, *where):  # uniform from -1 to 1
        return 2 * random.uniform(seed, purpose, k, *where) - 1

    own = signed(random.FRACTAL, torch.arange(6 * _MAPS))
    varied = own + kind.variation * signed(random.VARIATION, picture, torch.arange(6 * _MAPS))
    look = signed(random.LOOK, picture, torch.arange(9))
    points = attractor(*affine_maps(varied.reshape(n, _MAPS, 6)))
    points = points * torch.where(look[:, :1] < 0, torch.tensor([-1.0, 1.0]), 1.0)[:, None]
    figure = density(points + 0.15 * look[:, None, 1:3], side)[:, None]
    colours = (1 - kind.lighter) * look[:, 3:]
    light, dark = colours[:, :3] + kind.lighter, colours[:, 3:] - kind.lighter
    mixed = figure * light[..., None, None] + (1 - figure) * dark[..., None, None]
    grain = signed(random.GRAIN, picture, torch.arange(3 * side**2)).reshape(mixed.shape)
    return ((0.5 + mixed / 2 + kind.noise * grain).clamp(0, 1) * 255).round().to(torch.uint8)


def affine_maps(u: Tensor) -> tuple[Tensor, Tensor]:
    """Turn six numbers [..., 6] around -1 to 1 into an affine map that draws points together.

    They are two angles, two lengths and a shift. The map is a turn, a shortening along both axes
    and another turn, A [..., 2, 2], and the shift, b [..., 2].
    """

    def turn(share):
        angle = math.pi * share
        return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()],
                           -1).unflatten(-1, (2, 2))

    lengths = torch.stack([0.55 + 0.3 * u[..., 2], 0.5 + 0.3 * u[..., 3]], -1)
    return turn(u[..., 0]) @ torch.diag_embed(lengths) @ turn(u[..., 1]), u[..., 4:]


def attractor(A: Tensor, b: Tensor) -> Tensor:
    """Send a point through every word of maps: where they end is the fractal.

    Maps A [images, maps, 2, 2] and b [images, maps, 2] give points [images, points, 2], centred,
    and as wide as all others.
    """
    points = torch.zeros(len(A), 1, 2)
    for _ in range(_DEPTH):
        points = (torch.einsum("nkij,npj->nkpi", A, points) + b[:, :, None]).flatten(1, 2)
    points = points - points.mean(1, keepdim=True)
    return points / (2.5 * points.abs().mean((1, 2), keepdim=True) + 1e-6)


def density(points: Tensor, side: int) -> Tensor:
    """Count the points [images, points, 2] in each pixel of a picture from -1 to 1.

    Gives the logarithm of 1 + the count [images, side, side], the fullest pixel of a picture 1.
    """
    row, column = ((points + 1) * (side / 2)).floor().unbind(-1)
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    cell = torch.where(inside, row * side + column, float(side**2)).long()  # one cell for all outside
    cell += (side**2 + 1) * torch.arange(len(points))[:, None]
    counts = torch.bincount(cell.flatten(), minlength=len(points) * (side**2 + 1))
    ink = torch.log1p(counts.reshape(len(points), -1)[:, :-1].float()).reshape(-1, side, side)
    return ink / ink.amax((1, 2), keepdim=True).clamp(min=1)
