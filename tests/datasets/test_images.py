"""CIFAR-10 is the same from each of its copies, what is wrong with one is named, and digits are the published ones."""

import hashlib
import io
import lzma
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nasrepro.datasets import DATASETS, DataError, load, load_images, load_parallel
from nasrepro.datasets.registry import DataFile, DataSet
from nasrepro.search import Record

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
SIZE = 20  # images in a batch
COPIES = ("batches", "binary", "python")


@pytest.fixture(autouse=True)
def alone(request, monkeypatch):
    """No copy but that of the test, unless it asks for the mirror; no permission to download."""
    for name in ("NASREPRO_DATA", "NASREPRO_DOWNLOAD", *(["NASREPRO_MIRROR"] * ("mirror" not in request.fixturenames))):
        monkeypatch.delenv(name, raising=False)


class Python2Pickler(pickle._Pickler):  # the one that is written in Python, whose steps can be replaced
    """Writes bytes and strings as Python 2's `str`, the form in which CIFAR-10's pickles are."""

    def save_text(self, content: bytes | str) -> None:
        as_bytes = content.encode() if isinstance(content, str) else content
        self.write(pickle.BINSTRING + struct.pack("<i", len(as_bytes)) + as_bytes)

    dispatch: ClassVar = pickle._Pickler.dispatch | {bytes: save_text, str: save_text}


def python2_pickle(content: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def archive(folder: str, members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


class Small:
    """A CIFAR-10 of a few random images, with all its copies, as the official ones are laid out."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.pixels = random.integers(256, size=(6, SIZE, 3, 32, 32), dtype=np.uint8)
        self.labels = random.integers(10, size=(6, SIZE), dtype=np.uint8)
        self.binary, self.pickled = {}, {}
        for name, pixels, labels in zip(BATCHES, self.pixels, self.labels, strict=True):
            self.binary[name] = np.hstack([labels[:, None], pixels.reshape(SIZE, -1)]).tobytes()
            self.pickled[name] = python2_pickle(
                {b"data": pixels.reshape(SIZE, -1), b"labels": labels.tolist(), b"filenames": [b"a.png"] * SIZE}
            )

    @property
    def copies(self) -> dict[str, dict[str, bytes]]:
        """The files of each copy. The members of an archive are in no particular order."""
        binary = {f"{name}.bin": content for name, content in reversed(self.binary.items())}
        return {
            "batches": {f"{name}.bin.xz": lzma.compress(content, preset=0) for name, content in self.binary.items()},
            "binary": {"cifar-10-binary.tar.gz": archive("cifar-10-batches-bin", binary | {"readme.html": b"text"})},
            "python": {"cifar-10-python.tar.gz": archive("cifar-10-batches-py", self.pickled)},
        }


@pytest.fixture
def small() -> Small:
    return Small()


@pytest.fixture
def bring(monkeypatch, tmp_path) -> Callable[..., Path]:
    """Register copies in place of the official ones, and put those that are named into a data folder."""

    def put(copies: dict[str, dict[str, bytes]], *names: str) -> Path:
        files = tuple(
            DataFile(file, file, len(content), hashlib.sha256(content).hexdigest(), ())
            for file, content in copies["batches"].items()
        )
        archives = tuple(
            DataFile(name, file, len(content), "", (), md5=hashlib.md5(content).hexdigest())
            for name in ("binary", "python")
            for file, content in copies[name].items()
        )
        dataset = DataSet("cifar10", "cifar10", "a test", "none", "none", files, archives)
        monkeypatch.setitem(DATASETS, "cifar10", dataset)
        (tmp_path / "cifar10").mkdir(exist_ok=True)
        for name in names:
            for file, content in copies[name].items():
                (tmp_path / "cifar10" / file).write_bytes(content)
        return tmp_path

    return put


# ---- CIFAR-10


@pytest.mark.parametrize("copy", COPIES)
def test_every_copy_gives_the_same_images(small, bring, copy):
    images = load_images("cifar10", root=bring(small.copies, copy))
    pixels, labels = torch.from_numpy(small.pixels).flatten(0, 1), torch.from_numpy(small.labels).flatten().long()
    # One in ten of what is not for test: the first of a permutation by seed 0, each part in the published order.
    order = torch.randperm(5 * SIZE, generator=torch.Generator().manual_seed(0)).tolist()
    valid, train = sorted(order[: SIZE // 2]), sorted(order[SIZE // 2 :])
    assert torch.equal(images.train, pixels[train])
    assert torch.equal(images.train_labels, labels[train])
    assert torch.equal(images.valid, pixels[valid])
    assert torch.equal(images.valid_labels, labels[valid])
    test, test_labels = Record().read_test(images, "a row")
    assert torch.equal(test, pixels[5 * SIZE :])
    assert torch.equal(test_labels, labels[5 * SIZE :])
    assert images.train.dtype == images.valid.dtype == test.dtype == torch.uint8
    assert images.train_labels.dtype == images.valid_labels.dtype == test_labels.dtype == torch.int64
    assert images.classes[3] == "cat"  # as batches.meta.txt of the official archives has it
    assert images.note == ("116 of 60,000 images are JPEG copies" if copy == "batches" else "")


def test_the_hash_tells_a_label_or_a_pixel_of_any_split(small, bring):
    hashes = [load_images("cifar10", root=bring(small.copies, "binary")).hash]
    for name, byte in (("data_batch_2", 0), ("data_batch_2", 1), ("test_batch", 0), ("test_batch", 3072)):
        whole = small.binary[name]
        small.binary[name] = whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :]
        hashes.append(load_images("cifar10", root=bring(small.copies, "binary")).hash)
        small.binary[name] = whole
    assert len(set(hashes)) == 5
    assert load_images("cifar10", root=bring(small.copies, "binary")).hash == hashes[0]


def test_the_first_copy_that_is_whole_is_read(small, bring):
    folder = bring(small.copies, *COPIES)
    assert "JPEG" in load_images("cifar10", root=folder).note
    (folder / "cifar10" / "data_batch_2.bin.xz").unlink()
    (folder / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"")  # nor is this one looked at
    assert load_images("cifar10", root=folder).note == ""


def test_a_copy_that_is_not_here(tmp_path):
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz.*not on this machine.*nasrepro data fetch cifar10"):
        load_images("cifar10", root=tmp_path)


@pytest.mark.parametrize(("copy", "digest"), [("batches", "SHA-256"), ("binary", "MD5"), ("python", "MD5")])
def test_a_truncated_or_changed_copy_is_refused(small, bring, copy, digest):
    copies = small.copies
    folder = bring(copies, copy)
    file, content = next(iter(copies[copy].items()))
    path = folder / "cifar10" / file
    path.write_bytes(content[:-1])
    again = "delete it and run `nasrepro data fetch cifar10`"
    with pytest.raises(DataError, match=rf"{file} is truncated: expected {len(content):,} bytes.*{again}"):
        load_images("cifar10", root=folder)
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(DataError, match=rf"{file} is not the registered file: expected {digest} .*{again}"):
        load_images("cifar10", root=folder)
    assert len(list(folder.rglob("*.*"))) == len(copies[copy])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda batch: batch[:-1], r"holds 61,459 bytes, which are no records of 3,073 bytes"),
        (lambda batch: b"", r"holds 0 bytes"),
        (lambda batch: b"\x0a" + batch[1:], r"holds the label 10"),
    ],
)
@pytest.mark.parametrize("copy", ["batches", "binary"])
def test_records_that_are_none(small, bring, copy, change, problem):
    small.binary["data_batch_3"] = change(small.binary["data_batch_3"])
    with pytest.raises(DataError, match=rf"cannot be read as CIFAR-10: .*data_batch_3\.bin.* {problem}.*data fetch"):
        load_images("cifar10", root=bring(small.copies, copy))


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("change", [lambda content: content[: len(content) // 2], lambda content: b"no archive"])
def test_a_registered_file_that_is_no_archive(small, bring, copy, change):
    copies = small.copies
    copies[copy] = {file: change(content) for file, content in copies[copy].items()}
    with pytest.raises(DataError, match=r"cannot be read as CIFAR-10: .*data fetch"):
        load_images("cifar10", root=bring(copies, copy))


@pytest.mark.parametrize("copy", ["binary", "python"])
def test_an_archive_that_lacks_a_batch(small, bring, copy):
    del small.binary["data_batch_4"], small.pickled["data_batch_4"]
    with pytest.raises(DataError, match=r"it lacks cifar-10-batches-\w+/data_batch_4"):
        load_images("cifar10", root=bring(small.copies, copy))


class Harmful:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("call", [os.mkdir, eval, Path, np.load, np.lib.format.open_memmap])
def test_a_pickle_runs_no_code(small, bring, tmp_path, call):
    trap = tmp_path / "trap"
    harmful = Harmful(call, f"__import__('os').mkdir({str(trap)!r})" if call is eval else str(trap))
    small.pickled["data_batch_1"] = pickle.dumps({b"data": harmful, b"labels": []}, protocol=2)
    with pytest.raises(DataError, match=r"it asks for [\w.]+, which is no part of an array"):
        load_images("cifar10", root=bring(small.copies, "python"))
    assert not trap.exists()


PIXELS = np.zeros((SIZE, 3072), np.uint8)
LABELS = [0] * SIZE


@pytest.mark.parametrize(
    "content",
    [
        {b"data": PIXELS},
        {b"data": PIXELS, b"labels": LABELS[1:]},
        {b"data": PIXELS, b"labels": 3},
        {b"data": PIXELS, b"labels": [*LABELS[1:], -1]},
        {b"data": PIXELS, b"labels": [*LABELS[1:], b"cat"]},
        {b"data": PIXELS.astype(float), b"labels": LABELS},
        {b"data": PIXELS[:, 1:], b"labels": LABELS},
        {b"data": None, b"labels": LABELS},
        [PIXELS, LABELS],
        3,
    ],
)
def test_a_pickle_of_something_else(small, bring, content):
    small.pickled["test_batch"] = python2_pickle(content)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz cannot be read as CIFAR-10: .*data fetch"):
        load_images("cifar10", root=bring(small.copies, "python"))


def test_cifar10_is_the_published_one(mirror):
    images = load_images("cifar10")
    assert (len(images.train), len(images.valid)) == (45_000, 5_000)
    test, test_labels = Record().read_test(images, "a row")
    assert torch.cat([images.train_labels, images.valid_labels]).bincount().tolist() == [5_000] * 10
    assert test_labels.bincount().tolist() == [1_000] * 10
    assert test.shape == (10_000, 3, 32, 32)
    # The means and deviations that are in general use for CIFAR-10, of the red, the green and the blue plane.
    general = ((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))
    values = np.arange(256) / 255
    for channel, (mean, deviation) in enumerate(general):
        counts = sum(split[:, channel].flatten().bincount(minlength=256) for split in (images.train, images.valid))
        assert np.average(values, weights=counts) == pytest.approx(mean, abs=5e-5)
        assert np.average((values - mean) ** 2, weights=counts) ** 0.5 == pytest.approx(deviation, abs=5e-5)


# ---- digits


def test_digits_are_scikit_learns():
    images = load_images("digits")
    test, test_labels = Record().read_test(images, "a row")
    splits = [(images.train, images.train_labels), (images.valid, images.valid_labels), (test, test_labels)]
    assert [tuple(pixels.shape) for pixels, _ in splits] == [(count, 1, 8, 8) for count in (1197, 300, 300)]
    assert all(pixels.dtype == torch.uint8 and labels.dtype == torch.int64 for pixels, labels in splits)
    # Every image is in one split, with its label: 16 steps of grey in 255.
    published = load_digits()
    ours = [(*pixels.flatten().tolist(), label) for split in splits for pixels, label in zip(*split, strict=True)]
    theirs = [
        (*(round(value * 255 / 16) for value in pixels.flatten()), label)
        for pixels, label in zip(published.images, published.target, strict=True)
    ]
    assert sorted(ours) == sorted(theirs)
    assert images.classes == tuple(map(str, published.target_names))
    assert min(labels.bincount(minlength=10).min().item() for _, labels in splits) >= 20


def test_digits_are_the_same_under_every_version():
    # Keys of records depend on it. Another generator of torch or other digits of scikit-learn would be other data.
    assert load_images("digits").hash == "1b973847f0bc3f750a661ac4af063fa98b9ee15efc0abcdca8fe44e0c649fea6"


def test_a_set_of_images_cannot_be_changed_and_shows_itself():
    images = load_images("digits", side=4)
    with pytest.raises(AttributeError):
        images.note = ""
    assert repr(images) == (
        f"ImageSet('digits', train=1,197, valid=300, classes=10, images=1 x 4 x 4, hash='{images.hash[:12]}', "
        f"note='images averaged to 4 x 4')"
    )


# ---- sides


@pytest.mark.parametrize("side", [1, 2, 4])
def test_images_are_averaged_over_squares(side):
    whole, images = load_images("digits"), load_images("digits", side)
    step = 8 // side
    for before, after in (
        (whole.train, images.train),
        (whole.valid, images.valid),
        (Record().read_test(whole, "a row")[0], Record().read_test(images, "a row")[0]),
    ):
        rows = before.double().unfold(2, step, step)  # (N, 1, side, 8, step)
        means = rows.unfold(3, step, step).mean((-2, -1))  # (N, 1, side, side)
        assert torch.equal(after, (means + 0.5).floor().to(torch.uint8))
        assert (means % 1 == 0.5).any() or side == 1  # halves are met, and go up
    assert images.note == f"images averaged to {side} x {side}"
    assert images.hash != whole.hash
    assert torch.equal(images.train_labels, whole.train_labels)


def test_every_channel_is_averaged(small, bring):
    folder = bring(small.copies, "batches")
    whole, images = load_images("cifar10", root=folder), load_images("cifar10", 16, folder)
    assert images.valid.shape == (SIZE // 2, 3, 16, 16)
    square = whole.valid[2, 1, 6:8, 30:32].float()
    assert images.valid[2, 1, 3, 15] == int(square.mean() + 0.5)
    assert images.note == "116 of 60,000 images are JPEG copies; images averaged to 16 x 16"


def test_the_side_that_images_have_changes_nothing():
    images = load_images("digits", side=8)
    assert (images.hash, images.note) == (load_images("digits").hash, "")


@pytest.mark.parametrize("side", [3, 0, -4, 16, 2.5, "4"])
def test_a_side_that_does_not_divide_is_refused(side):
    with pytest.raises(DataError, match=r"side=.*digits have 8 pixels a side, which are averaged to 1, 2, 4\."):
        load_images("digits", side)


# ---- names


def test_names():
    with pytest.raises(DataError, match=r"Unknown set of images: 'cifar'\. Did you mean 'cifar10'\? Known: .*digits"):
        load_images("cifar")
    with pytest.raises(DataError, match=r"Unknown set of images: 'ptb'"):
        load_images("ptb")
    for loader in (load, load_parallel):
        with pytest.raises(DataError, match=r"cifar10 holds no text: use load_images\('cifar10'\)"):
            loader("cifar10")
