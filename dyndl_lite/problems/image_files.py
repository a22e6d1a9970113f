"""Real images by class: 32x32 ImageNet from a folder of arrays, CIFAR-100 from its own archive.

Both are read from the folder that DYNDL_DATA names, without unpickling anything, and give the
collections of classes that `image_tasks` makes tasks of. Neither is part of this project.
"""

import hashlib
import os
import tarfile
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# SHA-256 of CIFAR-100's binary version, as its author distributes it.
CIFAR_100_SHA256 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
CIFAR_100 = "cifar-100-binary.tar.gz"
_FROM = f"https://www.cs.toronto.edu/~kriz/{CIFAR_100}"
_BYTES = 3 * 32 * 32  # of a picture
_SUMS = "SHA256SUMS"


def folder_named(folder: str | None, what: str) -> Path:
    """Give the folder, or the one that DYNDL_DATA names.

    Raises
    ------
    ValueError
        If there is none.
    """
    folder = folder or os.environ.get("DYNDL_DATA")
    if not folder:
        raise ValueError(f"{what} has to be read from a folder: name it in DYNDL_DATA")
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder: put {what} there, or name another one in "
                         "DYNDL_DATA")
    return Path(folder)


@dataclass(frozen=True, eq=False)
class ImageNet32:
    """A folder of classes of 32x32 images, as the authors of Continual ImageNet use it.

    Each class is a file 0.npy, 1.npy, ... of an array uint8 [images, 3, 32, 32]. If there is
    a file SHA256SUMS beside them (``sha256sum *.npy > SHA256SUMS``) every file has to agree
    with it.

    Parameters
    ----------
    folder : str, optional
        By default the one that DYNDL_DATA names.
    images : int
        Pictures that every class needs to have.

    Raises
    ------
    ValueError
        If the folder holds no classes; from `of`, if a file is missing, damaged or another
        array: one line that names the file, what was expected, and what to do.
    """

    folder: str | None = None
    images: int = 700

    name = "32x32 ImageNet"
    side = 32

    def __post_init__(self):
        if not self.classes:
            raise ValueError(f"{self.where / '0.npy'} is missing: expected a file of uint8 "
                             f"[{self.images}, 3, 32, 32] for each class; {_how()}")

    @property
    def where(self) -> Path:
        """The folder."""
        return folder_named(self.folder, "32x32 ImageNet")

    @property
    def classes(self) -> int:
        """Number of classes: of files 0.npy, 1.npy, ... without a gap."""
        return next(k for k in range(10**6) if not (self.where / f"{k}.npy").is_file())

    def of(self, k: int) -> Tensor:
        """Give all pictures of class k, uint8 [images, 3, 32, 32]."""
        return _npy(self.where / f"{k}.npy", self.images)


def _how() -> str:
    return ("make it from ImageNet's 32x32 version (image-net.org, after registration), one array "
            "a class")


@lru_cache(maxsize=128)
def _npy(path: Path, images: int) -> Tensor:
    """Read one class."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected uint8 [{images}, 3, 32, 32]; {_how()}")
    known = _sums(path.parent).get(path.name)
    if known and known != (found := _sha256(path)):
        raise ValueError(f"{path} has SHA-256 {found}; {_SUMS} says {known}: make the file again")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0][:80]}): expected a "
                         f"plain array uint8 [{images}, 3, 32, 32]; make the file again") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (3, 32, 32) or (
            len(array) < images):
        raise ValueError(f"{path} holds {array.dtype} {list(array.shape)}; expected uint8 "
                         f"[{images} or more, 3, 32, 32]: make the file again")
    return torch.from_numpy(array)


def _sums(folder: Path) -> dict[str, str]:
    """Read the checksums of a folder, if there are any."""
    path = folder / _SUMS
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if any(len(line) != 2 or len(line[0]) != 64 for line in lines):
        raise ValueError(f"{path} is not a list of SHA-256 and file name: make it again with "
                         f"`sha256sum *.npy > {_SUMS}`, or remove it")
    return {name.lstrip("*").strip(): sum.lower() for sum, name in lines}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, eq=False)
class Cifar100:
    """The 100 classes of CIFAR-100, 500 training images and 100 test images each, in this order.

    Parameters
    ----------
    folder : str, optional
        Where cifar-100-binary.tar.gz lies, as it was downloaded; by default the folder that
        DYNDL_DATA names.

    Raises
    ------
    ValueError
        If the archive is missing or damaged: one line that names it, what was expected, and
        how to get it.
    """

    folder: str | None = None
    pictures: Tensor = field(init=False, repr=False)

    name = "CIFAR-100"
    side = 32
    classes = 100
    images = 600
    digest = CIFAR_100_SHA256

    def __post_init__(self):
        path = folder_named(self.folder, CIFAR_100) / CIFAR_100
        object.__setattr__(self, "pictures", cifar_100(path))

    def of(self, k: int) -> Tensor:
        """Give all pictures of class k, uint8 [600, 3, 32, 32]: 500 for training, 100 for tests."""
        return self.pictures[k]


def cifar_100(path: Path) -> Tensor:
    """Read CIFAR-100's archive: uint8 [100 classes, 600 images, 3, 32, 32].

    A record of its binary version is a coarse label, a fine label, and the pixels.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: fetch {_FROM} ({CIFAR_100_SHA256[:8]}..., 161 MB)")
    if (found := _sha256(path)) != CIFAR_100_SHA256:
        raise ValueError(f"{path} has SHA-256 {found}; expected {CIFAR_100_SHA256}: fetch {_FROM} "
                         "again")
    classes = []
    try:
        with tarfile.open(path) as archive:
            for part, each in (("train", 500), ("test", 100)):
                member = archive.extractfile(f"cifar-100-binary/{part}.bin")
                records = np.frombuffer(member.read(), np.uint8).reshape(-1, 2 + _BYTES)
                order = np.argsort(records[:, 1], kind="stable")
                if not (np.bincount(records[:, 1], minlength=100) == each).all():
                    raise ValueError(f"{part}.bin does not have {each} images of each class")
                classes.append(records[order, 2:].reshape(100, each, 3, 32, 32))
    except (OSError, EOFError, KeyError, ValueError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0][:80]}): fetch "
                         f"{_FROM} again") from error
    return torch.from_numpy(np.concatenate(classes, axis=1))
