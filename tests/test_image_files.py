"""Real images by class: what the loaders read, and one clear line for all they cannot read."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch
from test_datasets import complaint

from dyndl_lite.problems import datasets
from dyndl_lite.problems.datasets import Cifar100, CIFAR_100, ImageNet32
from dyndl_lite.problems.image_classes import ClassPairs

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    """Whoever runs the tests may have the data: look away, and forget."""
    monkeypatch.delenv("DYNDL_DATA", raising=False)
    datasets._npy.cache_clear()


def write_classes(folder, count=3, images=8):
    """Write some classes; give their pictures."""
    pictures = RNG.integers(256, size=(count, images, 3, 32, 32), dtype=np.uint8)
    for k, one in enumerate(pictures):
        np.save(folder / f"{k}.npy", one)
    return pictures


# ImageNet ---------------------------------------------------------------------------------------

def test_classes_are_read_back_and_make_tasks(tmp_path, monkeypatch):
    pictures = write_classes(tmp_path)
    collection = ImageNet32(tmp_path, images=8)
    assert collection.classes == 3
    for k in range(3):
        np.testing.assert_array_equal(collection.of(k), pictures[k])
    stream = ClassPairs(collection, train=6, held_back=2, minibatch=4, epochs=1)
    X, Y = stream.examples(torch.tensor([0, 1]), 0, 3)
    assert X.shape == (3, 2, 4, 3, 32, 32) and tmp_path.name in stream.name
    monkeypatch.setenv("DYNDL_DATA", str(tmp_path))
    assert ImageNet32(images=8).classes == 3
    assert "folder" in repr(stream)


def test_without_a_folder_or_classes_one_line_says_what_to_do(tmp_path):
    assert "DYNDL_DATA" in complaint(ImageNet32)
    assert str(tmp_path / "x") in complaint(lambda: ImageNet32(tmp_path / "x"))
    message = complaint(lambda: ImageNet32(tmp_path))
    assert str(tmp_path / "0.npy") in message and "image-net.org" in message


def test_a_missing_class_is_named(tmp_path):
    write_classes(tmp_path)
    assert "3.npy is missing" in complaint(lambda: ImageNet32(tmp_path, 8).of(3))


DAMAGE = {
    "truncated": lambda raw: raw[:-100],
    "header only": lambda raw: raw[:40],
    "empty": lambda raw: b"",
    "garbage": lambda raw: b"not an array" * 10,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_class_is_named(tmp_path, damage):
    write_classes(tmp_path)
    path = tmp_path / "1.npy"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    message = complaint(lambda: ImageNet32(tmp_path, 8).of(1))
    assert str(path) in message and "[8, 3, 32, 32]" in message


@pytest.mark.parametrize("array", [
    np.zeros((8, 3, 32, 32), np.float32), np.zeros((8, 32, 32, 3), np.uint8),
    np.zeros((7, 3, 32, 32), np.uint8), np.zeros(8, np.uint8),
], ids=["floats", "channels last", "too few", "one dimension"])
def test_another_array_is_refused(tmp_path, array):
    write_classes(tmp_path)
    np.save(tmp_path / "1.npy", array)
    message = complaint(lambda: ImageNet32(tmp_path, 8).of(1))
    assert str(tmp_path / "1.npy") in message and str(list(array.shape)) in message


def test_a_pickled_object_is_never_loaded(tmp_path):
    write_classes(tmp_path)
    np.save(tmp_path / "1.npy", np.array([{"an": "object"}], object), allow_pickle=True)
    assert "plain array" in complaint(lambda: ImageNet32(tmp_path, 8).of(1))


def test_checksums_beside_the_classes_are_kept_to(tmp_path):
    write_classes(tmp_path)
    sums = [f"{hashlib.sha256((tmp_path / f'{k}.npy').read_bytes()).hexdigest()}  {k}.npy"
            for k in range(3)]
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    assert len(ImageNet32(tmp_path, 8).of(1)) == 8
    datasets._npy.cache_clear()
    raw = bytearray((tmp_path / "1.npy").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "1.npy").write_bytes(raw)
    message = complaint(lambda: ImageNet32(tmp_path, 8).of(1))
    assert str(tmp_path / "1.npy") in message and sums[1][:64] in message
    (tmp_path / "SHA256SUMS").write_text("nonsense\n")
    assert "SHA256SUMS" in complaint(lambda: ImageNet32(tmp_path, 8).of(2))


# CIFAR-100 --------------------------------------------------------------------------------------

def archive(folder, monkeypatch, spoil=None, known=True):
    """Write an archive of CIFAR-100's form, dull but whole; give its pixels by class."""
    files, kept = {}, []
    for part, each in (("train", 500), ("test", 100)):
        labels = RNG.permutation(np.repeat(np.arange(100), each)).astype(np.uint8)
        records = np.zeros((len(labels), 2 + 3072), np.uint8)
        records[:, 0], records[:, 1] = labels // 5, labels
        records[:, 2], records[:, 3] = labels, np.arange(len(labels)) % 256
        kept.append(records)
        files[f"cifar-100-binary/{part}.bin"] = records.tobytes()
    if spoil:
        spoil(files)
    path = folder / CIFAR_100
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    if known:
        monkeypatch.setattr(datasets, "CIFAR_100_SHA256",
                            hashlib.sha256(path.read_bytes()).hexdigest())
    return kept


def test_cifar_is_read_by_class_training_images_first(tmp_path, monkeypatch):
    train, test = archive(tmp_path, monkeypatch)
    collection = Cifar100(tmp_path)
    for k in (0, 57, 99):
        pictures = collection.of(k)
        assert pictures.shape == (600, 3, 32, 32) and pictures.dtype == torch.uint8
        assert (pictures[:, 0, 0, 0] == k).all()
        expected = np.concatenate([train[train[:, 1] == k, 3], test[test[:, 1] == k, 3]])
        np.testing.assert_array_equal(pictures[:, 0, 0, 1], expected)
    assert len(repr(collection)) < 200


def test_cifar_without_a_folder_or_an_archive(tmp_path):
    assert "DYNDL_DATA" in complaint(Cifar100)
    message = complaint(lambda: Cifar100(tmp_path))
    assert str(tmp_path / CIFAR_100) in message and "kriz" in message


def test_an_archive_with_another_checksum_is_refused(tmp_path, monkeypatch):
    (tmp_path / CIFAR_100).write_bytes(b"truncated")
    message = complaint(lambda: Cifar100(tmp_path))
    assert str(tmp_path / CIFAR_100) in message and datasets.CIFAR_100_SHA256 in message


SPOILT = {
    "no test images": lambda files: files.pop("cifar-100-binary/test.bin"),
    "truncated": lambda files: files.update(
        {"cifar-100-binary/train.bin": files["cifar-100-binary/train.bin"][:-5]}),
    "an image less": lambda files: files.update(
        {"cifar-100-binary/train.bin": files["cifar-100-binary/train.bin"][:-3074]}),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_an_archive_of_another_content_is_refused(tmp_path, monkeypatch, spoil):
    archive(tmp_path, monkeypatch, SPOILT[spoil])
    assert str(tmp_path / CIFAR_100) in complaint(lambda: Cifar100(tmp_path))
