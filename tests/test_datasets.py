"""The loaders: what they read, and one clear line for everything they cannot read."""

import gzip
import hashlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets
import torch

from dyndl_lite.problems import datasets

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(20, 28, 28), dtype=np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    """Whoever runs the tests may have MNIST: look away."""
    monkeypatch.delenv("DYNDL_DATA", raising=False)


def idx(array):
    """Give the bytes of an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write(folder, images=IMAGES, labels=LABELS, part="t10k", packed=False):
    """Write the two files of one part of MNIST."""
    for name, array in [("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)]:
        raw = idx(array)
        path = folder / f"{part}-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(raw) if packed else raw)
    return folder


def complaint(ask):
    """Give the one line that a failing call says."""
    with pytest.raises(ValueError) as raised:
        ask()
    message = str(raised.value)
    assert message and "\n" not in message and len(message) < 400
    return message


# Digits -----------------------------------------------------------------------------------------

def test_digits_are_there_without_a_network():
    images, labels = datasets.digits()
    assert images.shape == (1797, 64) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    assert labels.dtype == torch.int64 and labels.bincount().min() > 170


# IDX files --------------------------------------------------------------------------------------

@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("part", ["train", "t10k"])
def test_idx_files_are_read_back(tmp_path, part, packed):
    write(tmp_path, part=part, packed=packed)
    images, labels, name = datasets.idx_images(part, tmp_path)
    assert images.shape == (20, 784) and images.dtype == torch.float32
    np.testing.assert_allclose(images.numpy() * 255, IMAGES.reshape(20, 784), atol=1e-3)
    assert labels.dtype == torch.int64 and labels.tolist() == LABELS.tolist()
    assert name.startswith("IDX images ")  # nobody knows them


def test_the_folder_is_found_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNDL_DATA", str(write(tmp_path)))
    assert datasets.idx_images("t10k").images.shape == (20, 784)
    other = tmp_path / "other"
    other.mkdir()
    assert len(datasets.idx_images("t10k", write(other, IMAGES[:5], LABELS[:5]))[0]) == 5


def test_an_unknown_part_is_refused():
    assert "'test'" in complaint(lambda: datasets.idx_images("test"))


@pytest.mark.parametrize("missing", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_file_is_named_with_how_to_get_it(tmp_path, missing):
    (write(tmp_path) / missing).unlink()
    message = complaint(lambda: datasets.idx_images("t10k", tmp_path))
    assert str(tmp_path / missing) in message and "DYNDL_DATA" in message
    assert "missing" in complaint(lambda: datasets.idx_images("t10k", tmp_path / "nowhere"))


DAMAGE = {
    "empty": lambda raw: b"",
    "only a header": lambda raw: raw[:6],
    "truncated": lambda raw: raw[:-100],
    "too long": lambda raw: raw + b"x",
    "wrong magic": lambda raw: b"\x89PNG" + raw[4:],
    "of labels": lambda raw: idx(LABELS),
    "of other numbers": lambda raw: raw[:2] + b"\x0d" + raw[3:],
    "of no images": lambda raw: idx(IMAGES[:0]),
    "of absurd size": lambda raw: raw[:4] + b"\xff" * 12 + raw[16:],
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path, damage, packed):
    write(tmp_path, packed=packed)
    path = tmp_path / f"t10k-images-idx3-ubyte{'.gz' if packed else ''}"
    raw = DAMAGE[damage](idx(IMAGES))
    path.write_bytes(gzip.compress(raw) if packed else raw)
    message = complaint(lambda: datasets.idx_images("t10k", tmp_path))
    assert str(path) in message or (damage == "of no images" and "t10k" in message)


@pytest.mark.parametrize("damage", [
    lambda raw: b"not gzip at all", lambda raw: raw[:-200], lambda raw: b"",
    lambda raw: raw[:10] + b"\xff" + raw[11:],  # no such kind of block
    lambda raw: raw[:200] + bytes(200) + raw[400:],
    lambda raw: raw[:-8] + bytes(8),  # a wrong checksum
], ids=["garbage", "truncated", "empty", "no block", "overwritten", "checksum"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    write(tmp_path, packed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in complaint(lambda: datasets.idx_images("t10k", tmp_path))


@pytest.mark.parametrize("images, labels", [
    (IMAGES, LABELS[:-1]), (IMAGES[:, :27], LABELS), (IMAGES, LABELS + 1),
], ids=["counts", "size", "label 10"])
def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path, images, labels):
    write(tmp_path, images, labels)
    message = complaint(lambda: datasets.idx_images("t10k", tmp_path))
    assert "t10k" in message and "belong together" in message


# Names ------------------------------------------------------------------------------------------

def checksums(images, labels):
    """Give the SHA-256 of the unpacked IDX files."""
    return tuple(hashlib.sha256(idx(array)).hexdigest() for array in (images, labels))


@pytest.mark.parametrize("name", ["MNIST", "Fashion-MNIST"])
def test_a_data_set_is_called_what_its_checksums_say(tmp_path, monkeypatch, name):
    monkeypatch.setattr(datasets, "KNOWN", {checksums(IMAGES, LABELS): name})
    assert datasets.idx_images("t10k", write(tmp_path)).name == name
    if name == "MNIST":
        assert len(datasets.mnist("t10k", tmp_path)[0]) == 20
    else:
        assert "holds Fashion-MNIST, not MNIST" in complaint(lambda: datasets.mnist("t10k", tmp_path))
    spoilt = IMAGES.copy()
    spoilt[3, 4, 5] ^= 1
    write(tmp_path, spoilt)
    images, labels = checksums(spoilt, LABELS)
    assert datasets.idx_images("t10k", tmp_path).name == f"IDX images {images[:8]}-{labels[:8]}"
    assert "not MNIST" in complaint(lambda: datasets.mnist("t10k", tmp_path))


def test_each_known_data_set_has_a_training_and_a_test_part():
    assert sorted(datasets.KNOWN.values()) == ["Fashion-MNIST"] * 2 + ["MNIST"] * 2
    assert len({one for both in datasets.KNOWN for one in both}) == 8
    assert all(len(one) == 64 for both in datasets.KNOWN for one in both)


@pytest.mark.parametrize("named", ["relative", "home"])
def test_a_folder_may_be_relative_or_in_the_home(tmp_path, monkeypatch, named):
    (tmp_path / "images").mkdir()
    write(tmp_path / "images")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNDL_DATA", "images" if named == "relative" else "~/images")
    assert len(datasets.idx_images("t10k").images) == 20
    message = complaint(lambda: datasets.idx_images("train"))
    assert str(tmp_path / "images/train-images-idx3-ubyte") in message  # absolute


# OpenML -----------------------------------------------------------------------------------------

def offer(monkeypatch, answer):
    """Let scikit-learn's fetch_openml give an answer, or raise it."""
    def fetch(name, **_):
        assert name == "mnist_784"
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)


def openml(n=70_000):
    """Give something that looks like MNIST from OpenML: a dull one."""
    data = np.zeros((n, 784))
    data[:, 0] = np.arange(n) % 256
    return SimpleNamespace(data=data, target=np.array([str(i % 10) for i in range(n)], object))


@pytest.mark.parametrize("error", [
    ConnectionError("no route to host\nand a second line"), TimeoutError(),
    ValueError("md5 checksum of local file does not match"),
], ids=["no network", "time out", "broken download"])
def test_without_openml_one_line_says_what_to_do(monkeypatch, error):
    offer(monkeypatch, error)
    message = complaint(datasets.mnist)
    assert "OpenML" in message and "DYNDL_DATA" in message
    assert (str(error).split("\n")[0] or type(error).__name__) in message


def test_a_download_is_checked_against_the_known_checksums(monkeypatch):
    answer = openml()
    offer(monkeypatch, answer)
    assert "expected MNIST's 70000" in complaint(datasets.mnist)

    test_images = answer.data[60_000:].astype(np.uint8).reshape(-1, 28, 28)
    test_labels = (np.arange(60_000, 70_000) % 10).astype(np.uint8)
    monkeypatch.setattr(datasets, "KNOWN", {checksums(test_images, test_labels): "MNIST"})
    images, labels = datasets.mnist("train")
    assert images.shape == (60_000, 784) and labels.tolist()[:12] == [*range(10), 0, 1]
    images, labels = datasets.mnist("t10k")
    assert len(images) == 10_000
    torch.testing.assert_close(images[0, 0] * 255, torch.tensor(60_000.0 % 256))


def test_a_download_of_the_wrong_length_is_refused(monkeypatch):
    offer(monkeypatch, openml(100))
    assert "100 images" in complaint(datasets.mnist)
