"""Images to learn from: scikit-learn's digits, and files that are checked before they are named.

MNIST and whatever else comes as IDX files, 32x32 ImageNet as a folder of arrays, and CIFAR-100 as
its own archive are read from the folder that DYNDL_DATA names, without unpickling anything. None of
them is part of this project. A data set has its name by its checksum alone.
"""

import gzip
import hashlib
import math
import os
import struct
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dyndl_lite.files import sha256

# SHA-256 of the unpacked IDX files of images and of labels, training part and test part.
KNOWN = {
    ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
     "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"): "MNIST",
    ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
     "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"): "MNIST",
    ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
     "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"): "Fashion-MNIST",
    ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
     "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"): "Fashion-MNIST",
}
# SHA-256 of CIFAR-100's binary version, as its author distributes it.
CIFAR_100_SHA256 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
CIFAR_100 = "cifar-100-binary.tar.gz"
SUMS = "SHA256SUMS"


class Images(NamedTuple):
    """Flat images (float32 [images, pixels], from 0 to 1), labels (int64), and what they are."""

    images: Tensor
    labels: Tensor
    name: str


def digits() -> tuple[Tensor, Tensor]:
    """Give the 1 797 handwritten 8x8 digits that come with scikit-learn.

    Returns
    -------
    images : float32 tensor [1797, 64], from 0 to 1
    labels : int64 tensor [1797]
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    return (torch.tensor(data.data, dtype=torch.float32) / 16,
            torch.tensor(data.target, dtype=torch.int64))


def idx_images(part: str = "train", folder: str | None = None) -> Images:
    """Read 28x28 images of ten classes from IDX files, or fetch MNIST through scikit-learn.

    Their name is MNIST or Fashion-MNIST if their checksums say so, otherwise "IDX images" and the
    beginnings of both checksums. What is missing, malformed or a wrong download is a ValueError:
    one line that names the file, what was expected, and how to get it.

    Parameters
    ----------
    part : str
        "train" (of MNIST 60 000 images) or "t10k" (10 000).
    folder : str, optional
        Where ``{part}-images-idx3-ubyte`` and ``{part}-labels-idx1-ubyte`` lie, with or without
        ``.gz``; by default what DYNDL_DATA names. Without either MNIST is fetched from OpenML.
    """
    if part not in ("train", "t10k"):
        raise ValueError(f"IDX files have no part {part!r}: use 'train' or 't10k'")
    if folder or os.environ.get("DYNDL_DATA"):
        where = data_folder(folder, "MNIST's four IDX files")
        images = read_idx(where / f"{part}-images-idx3-ubyte", 3)
        labels = read_idx(where / f"{part}-labels-idx1-ubyte", 1)
        name = name_of(images, labels)
    else:
        images, labels, name = *_from_openml(part), "MNIST"
    if not len(images) == len(labels) > 0 or images.shape[1:] != (28, 28) or labels.max() > 9:
        raise ValueError(f"{part}: images {images.shape} and labels {labels.shape} do not "
                         "belong together: expected [n, 28, 28] and n labels from 0 to 9")
    return Images(torch.from_numpy(images.reshape(len(images), -1).astype(np.float32)) / 255,
                  torch.from_numpy(labels.astype(np.int64)), name)


def mnist(part: str = "train", folder: str | None = None) -> tuple[Tensor, Tensor]:
    """Give MNIST's images and labels as `idx_images` does, and refuse any other data set."""
    images, labels, name = idx_images(part, folder)
    if name != "MNIST":
        raise ValueError(f"{data_folder(folder, 'MNIST')} holds {name}, not MNIST: name another "
                         "folder in DYNDL_DATA, or ask for idx_images")
    return images, labels


def name_of(images: np.ndarray, labels: np.ndarray) -> str:
    """Name a data set by the checksums of its IDX files."""
    def checksum(array):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        return hashlib.sha256(header + array.tobytes()).hexdigest()

    sums = checksum(images), checksum(labels)
    return KNOWN.get(sums, f"IDX images {sums[0][:8]}-{sums[1][:8]}")


def data_folder(folder: str | os.PathLike | None, what: str) -> Path:
    """Give the folder, or the one that DYNDL_DATA names, as an absolute path; ~ is your home."""
    folder = folder or os.environ.get("DYNDL_DATA")
    if not folder:
        raise ValueError(f"{what} has to be read from a folder: name it in DYNDL_DATA")
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise ValueError(f"{path} is missing, or is not a folder: put {what} there, or name "
                         "another one in DYNDL_DATA")
    return path


@contextmanager
def reading(path: Path, expected: str, remedy: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line: which, why, what to do."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: expected {expected}; {remedy}")
    try:
        yield
    except (OSError, EOFError, KeyError, ValueError, zlib.error, tarfile.TarError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise ValueError(f"{path} cannot be used ({reason}): expected {expected}; {remedy}") from error


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an array of bytes in MNIST's IDX format, plain or, with the suffix .gz, gzipped."""
    packed = path.with_name(f"{path.name}.gz")
    path = packed if packed.is_file() and not path.is_file() else path
    with reading(path, f"bytes in IDX format with {dimensions} dimensions",
                 "put the file there, with or without .gz, or unset DYNDL_DATA to fetch MNIST"):
        raw = gzip.open(path).read() if path is packed else path.read_bytes()
        start = 4 + 4 * dimensions
        if len(raw) < start or raw[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError("its first bytes are others")
        shape = struct.unpack(f">{dimensions}I", raw[4:start])
        if len(raw) != start + math.prod(shape):
            raise ValueError(f"it holds {len(raw)} bytes, and its header speaks of {list(shape)}")
        return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _from_openml(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Fetch MNIST (70 000 images, the test images last); scikit-learn checks OpenML's MD5."""
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff")
    except Exception as error:  # no network, no such host, a broken download, ...
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"MNIST could not be fetched from OpenML ({reason}): connect to the network, "
                         "or put the IDX files in a folder and name it in DYNDL_DATA") from error
    images, labels = data.data.astype(np.uint8).reshape(-1, 28, 28), data.target.astype(np.uint8)
    found = name_of(images[60_000:], labels[60_000:])
    if len(images) != 70_000 or found != "MNIST":
        raise ValueError(f"OpenML sent {len(images)} images, the last of which are {found}; expected "
                         "MNIST's 70000: clear scikit-learn's data folder and fetch it again, or use "
                         "IDX files through DYNDL_DATA")
    keep = slice(0, 60_000) if part == "train" else slice(60_000, 70_000)
    return images[keep], labels[keep]


@dataclass(frozen=True, eq=False)
class ImageNet32:
    """A folder of classes of 32x32 images, as the authors of Continual ImageNet use ImageNet's.

    Each class is a file 0.npy, 1.npy, ... of an array uint8 [images, 3, 32, 32]. If there is a file
    SHA256SUMS beside them (``sha256sum *.npy > SHA256SUMS``) every file has to agree with it.
    Nobody has published checksums, so the images are named after their folder. What is missing,
    damaged or another array is a ValueError, as in `idx_images`.

    Parameters
    ----------
    folder : str, optional
        By default the one that DYNDL_DATA names.
    images : int
        Pictures that every class needs to have.
    """

    folder: str | None = None
    images: int = 700

    side = 32

    def __post_init__(self):
        object.__setattr__(self, "folder", data_folder(self.folder, "32x32 ImageNet"))
        if not self.classes:
            self.of(0)  # says what is missing

    @property
    def name(self) -> str:
        return f"32x32 images ({self.folder.name})"

    @property
    def classes(self) -> int:
        """Number of classes: of files 0.npy, 1.npy, ... without a gap."""
        return next(k for k in range(10**6) if not (self.folder / f"{k}.npy").is_file())

    def of(self, k: int) -> Tensor:
        """Give all pictures of class k, uint8 [images, 3, 32, 32]."""
        return _npy(self.folder / f"{k}.npy", self.images)


@lru_cache(maxsize=128)
def _npy(path: Path, images: int) -> Tensor:
    """Read one class."""
    with reading(path, f"a plain array uint8 [{images}, 3, 32, 32]",
                 "make it from ImageNet's 32x32 version (image-net.org, after registration)"):
        known = _sums(path.parent).get(path.name)
        if known and known != (found := sha256(path)):
            raise ValueError(f"SHA-256 {found}, in {SUMS} {known}")
        array = np.load(path, allow_pickle=False)
        if array.dtype != np.uint8 or array.shape[1:] != (3, 32, 32) or len(array) < images:
            raise ValueError(f"{array.dtype} {list(array.shape)}")
        return torch.from_numpy(array)


def _sums(folder: Path) -> dict[str, str]:
    """Read the checksums of a folder, if there are any."""
    path = folder / SUMS
    text = path.read_text() if path.is_file() else ""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    if any(len(line) != 2 or len(line[0]) != 64 for line in lines):
        raise ValueError(f"{SUMS} is not a list of SHA-256 and file name: make it again with "
                         f"`sha256sum *.npy > {SUMS}`, or remove it")
    return {name.lstrip("*").strip(): sum.lower() for sum, name in lines}


@dataclass(frozen=True, eq=False)
class Cifar100:
    """The 100 classes of CIFAR-100, 500 training images and 100 test images each, in this order.

    ``folder`` holds cifar-100-binary.tar.gz as it was downloaded; by default it is what DYNDL_DATA
    names. An archive that is missing or damaged is a ValueError, as in `idx_images`.
    """

    folder: str | None = None
    pictures: Tensor = field(init=False, repr=False)

    name, digest = "CIFAR-100", CIFAR_100_SHA256
    side, classes, images = 32, 100, 600

    def __post_init__(self):
        path, classes = data_folder(self.folder, CIFAR_100) / CIFAR_100, []
        with reading(path, "CIFAR-100's binary version (161 MB)",
                     f"fetch https://www.cs.toronto.edu/~kriz/{CIFAR_100}"):
            if (found := sha256(path)) != CIFAR_100_SHA256:
                raise ValueError(f"SHA-256 {found}, expected {CIFAR_100_SHA256}")
            with tarfile.open(path) as archive:
                for part, each in (("train", 500), ("test", 100)):
                    member = archive.extractfile(f"cifar-100-binary/{part}.bin")
                    # A record is a coarse label, a fine label, and the pixels.
                    records = np.frombuffer(member.read(), np.uint8).reshape(-1, 2 + 3 * 32 * 32)
                    order = np.argsort(records[:, 1], kind="stable")
                    if not (np.bincount(records[:, 1], minlength=100) == each).all():
                        raise ValueError(f"{part}.bin does not have {each} images of each class")
                    classes.append(records[order, 2:].reshape(100, each, 3, 32, 32))
        object.__setattr__(self, "pictures", torch.from_numpy(np.concatenate(classes, axis=1)))

    def of(self, k: int) -> Tensor:
        """Give all pictures of class k, uint8 [600, 3, 32, 32]."""
        return self.pictures[k]
