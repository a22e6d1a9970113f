"""Images to learn from: scikit-learn's embedded digits, and MNIST where there is a copy."""

import gzip
import hashlib
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# SHA-256 of the pixels and labels of MNIST's 10 000 test images: what a download must hold.
MNIST_TEST_SHA256 = "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b"


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


def mnist(part: str = "train", folder: str | None = None) -> tuple[Tensor, Tensor]:
    """Read MNIST from IDX files in a folder, or fetch it through scikit-learn from OpenML.

    Parameters
    ----------
    part : str
        "train" (60 000 images) or "t10k" (10 000 images).
    folder : str, optional
        Where ``{part}-images-idx3-ubyte`` and ``{part}-labels-idx1-ubyte`` lie, with or
        without ``.gz``; by default the environment variable DYNDL_DATA.

    Returns
    -------
    images : float32 tensor [images, 784], from 0 to 1
    labels : int64 tensor [images]

    Raises
    ------
    ValueError
        If a file is missing, truncated or malformed, or a checksum is wrong: the message
        names the file, what was expected, and how to get it.
    """
    if part not in ("train", "t10k"):
        raise ValueError(f"MNIST has no part {part!r}: use 'train' or 't10k'")
    folder = folder or os.environ.get("DYNDL_DATA")
    if folder:
        images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), 3)
        labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"), 1)
    else:
        images, labels = _from_openml(part)
    if len(images) != len(labels) or images.shape[1:] != (28, 28) or labels.max() > 9:
        raise ValueError(f"MNIST {part}: images {images.shape} and labels {labels.shape} do not "
                         "belong together: expected [n, 28, 28] and n labels from 0 to 9")
    return (torch.from_numpy(images.reshape(len(images), -1).astype(np.float32)) / 255,
            torch.from_numpy(labels.astype(np.int64)))


def _find(folder: str, name: str) -> Path:
    for path in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{Path(folder) / name}[.gz] is missing: put MNIST's four IDX files there, "
                     "or unset DYNDL_DATA to fetch MNIST from OpenML")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an array of bytes in MNIST's IDX format, plain or gzipped.

    Raises
    ------
    ValueError
        If the file cannot be unpacked or is not such an array, whole.
    """
    try:
        raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch the file again") from error
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{path} is not an IDX file of bytes with {dimensions} dimensions: "
                         "fetch the file again")
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    expected = header + int(np.prod(shape))
    if len(raw) != expected:
        raise ValueError(f"{path} holds {len(raw)} bytes where its header says {expected}: "
                         "fetch the file again")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _from_openml(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Fetch MNIST (70 000 images, the test images last); scikit-learn checks OpenML's MD5."""
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff")
    except Exception as error:  # no network, no such host, a broken download, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"MNIST could not be fetched from OpenML ({reason}): connect to the network, or put "
            "the IDX files in a folder and name it in DYNDL_DATA") from error
    images = data.data.astype(np.uint8).reshape(-1, 28, 28)
    labels = data.target.astype(np.uint8)
    found = checksum(images[60_000:], labels[60_000:])
    if len(images) != 70_000 or found != MNIST_TEST_SHA256:
        raise ValueError(f"MNIST from OpenML has {len(images)} images and test checksum {found}; "
                         f"expected 70000 and {MNIST_TEST_SHA256}: clear scikit-learn's data "
                         "folder and fetch it again, or use IDX files through DYNDL_DATA")
    keep = slice(0, 60_000) if part == "train" else slice(60_000, 70_000)
    return images[keep], labels[keep]


def checksum(images: np.ndarray, labels: np.ndarray) -> str:
    """Give the SHA-256 of the bytes of images and labels."""
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
