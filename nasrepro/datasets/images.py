"""Sets of images with labels, whole in memory: CIFAR-10 from any of three copies, and scikit-learn's digits."""

from __future__ import annotations

import hashlib
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nasrepro.datasets.files import Root, fetch
from nasrepro.datasets.registry import DataError, find, unknown

Labelled = tuple[Tensor, Tensor]
"""Images (N, C, H, W), uint8, and their labels (N,), int64."""
Bytes = npt.NDArray[np.uint8]
Batch = tuple[Bytes, npt.NDArray[Any]]  # pixels (N, 3072), labels (N,)

_SIDES = {"cifar10": 32, "digits": 8}  # pixels
_CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "digits": tuple("0123456789"),
}
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_PIXELS = 3 * 32 * 32  # bytes of an image: its red, its green and its blue plane, row by row

# What reading a file that is not as it should be may raise.
_DAMAGE = (
    *(OSError, EOFError, LookupError, TypeError, ValueError, AttributeError),
    *(lzma.LZMAError, tarfile.TarError, zlib.error, pickle.UnpicklingError),
)

# All that a pickled array may ask for. NumPy's function that makes an empty one has moved to another module since.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with labels, ready for an image model.

    The test split is private on purpose: it is read through `Record.read_test`, which logs the reading.

    Attributes:
        name: the registered name, "cifar10" or "digits".
        classes: what the labels 0, 1, ... mean.
        train: images (N, C, H, W), uint8.
        train_labels: (N,), int64.
        valid: images (M, C, H, W), uint8.
        valid_labels: (M,), int64.
        hash: hex SHA-256 of the shapes, pixels and labels of all three splits.
        licence: what may be done with the images.
        source: where the images come from, in words.
        note: labels that belong beside every number measured on them ("images averaged to 16 x 16"), or "".
    """

    name: str
    classes: tuple[str, ...]
    train: Tensor
    train_labels: Tensor
    valid: Tensor
    valid_labels: Tensor
    hash: str
    licence: str
    source: str
    note: str
    _test: Labelled

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.train.shape[1:]))
        sizes = f"train={len(self.train):,}, valid={len(self.valid):,}, classes={len(self.classes)}, images={shape}"
        note = f", note={self.note!r}" if self.note else ""
        return f"ImageSet({self.name!r}, {sizes}, hash={self.hash[:12]!r}{note})"


def load_images(name: str, side: int | None = None, root: Root = None, download: bool | None = None) -> ImageSet:
    """Load a set of images, every split in its published order.

    One in ten of CIFAR-10's training images is for validation, "randomly sampled" (ZL17 4.1, which does not say how):
    which ones is guessed, the first 5,000 of a random permutation by seed 0. The digits have no splits; the first 300
    of such a permutation are for validation, the next 300 for test.

    Args:
        name: "cifar10" (45,000 / 5,000 / 10,000 images of 3 x 32 x 32) or "digits" (comes with scikit-learn; 1,197 /
            300 / 300 images of 1 x 8 x 8).
        side: average the images over squares, to so many pixels a side; each mean is rounded to the nearest whole
            number, halves up. None keeps them as they are.
        root: the data folder; None as in `data_root`.
        download: whether missing files may be downloaded; None asks NASREPRO_DOWNLOAD.

    Raises: DataError for unknown names, missing or damaged files, or a side that does not divide the images'.
    """
    if name not in _SIDES:
        raise unknown("set of images", name, _SIDES)
    divisors = [number for number in range(1, _SIDES[name] + 1) if _SIDES[name] % number == 0]
    if side is not None and side not in divisors:
        raise DataError(
            f"side={side!r:.100}: images of {name} have {_SIDES[name]} pixels a side, which are averaged to "
            f"{', '.join(map(str, divisors[:-1]))}. Leave it out to keep them as they are."
        )
    dataset = find(name)
    splits, notes = _cifar10(root, download) if name == "cifar10" else (_digits(), [])
    if side is not None and side != _SIDES[name]:
        splits = [(_averaged(images, side), labels) for images, labels in splits]
        notes = [*notes, f"images averaged to {side} x {side}"]
    (train, train_labels), (valid, valid_labels), test = splits
    return ImageSet(
        name=name,
        classes=_CLASSES[name],
        train=train,
        train_labels=train_labels,
        valid=valid,
        valid_labels=valid_labels,
        hash=_hash(splits),
        licence=dataset.licence,
        source=dataset.source,
        note="; ".join(notes),
        _test=test,
    )


def _averaged(images: Tensor, side: int) -> Tensor:
    """Means over squares, to the nearest whole number, halves up: float32 holds the sums and means exactly."""
    step = images.shape[-1] // side
    parts = images.split(5_000)  # as float32 the whole would need four times the memory
    return torch.cat([avg_pool2d(part.float(), step).add(0.5).to(torch.uint8) for part in parts])  # (N, C, side, side)


def _drawn(count: int, *sizes: int) -> list[Tensor]:
    """Indices of random parts of so many sizes, and of what is left; each part in rising order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return [part.sort().values for part in order.split([*sizes, count - sum(sizes)])]


def _hash(splits: Iterable[Labelled]) -> str:
    digest = hashlib.sha256()
    for images, labels in splits:
        digest.update(f"{tuple(images.shape)}\n".encode())
        digest.update(images.numpy().tobytes())
        digest.update(labels.numpy().astype("<i8").tobytes())  # the same bytes on every machine
    return digest.hexdigest()


# ---- digits


def _digits() -> list[Labelled]:
    from sklearn.datasets import load_digits  # importing it takes a second, which no other data set should cost

    digits = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]  # (1797, 1, 8, 8)
    labels = torch.from_numpy(digits.target.astype(np.int64))  # (1797,)
    valid, test, train = _drawn(len(images), 300, 300)
    return [(images[part], labels[part]) for part in (train, valid, test)]


# ---- CIFAR-10


def _cifar10(root: Root, download: bool | None) -> tuple[list[Labelled], list[str]]:
    """Train, valid and test, with notes on what is not as published."""
    paths = fetch("cifar10", root, download)
    notes = []
    if "binary" in paths:
        batches = _from_binary_archive(paths["binary"])
    elif "python" in paths:
        batches = _from_python_archive(paths["python"])
    else:
        with ThreadPoolExecutor() as threads:
            batches = list(threads.map(_from_batch, paths.values()))
        notes.append("116 of 60,000 images are JPEG copies")
    known, test = _joined(batches[:-1]), _joined(batches[-1:])
    valid, train = _drawn(len(known[0]), len(known[0]) // 10)
    return [(known[0][train], known[1][train]), (known[0][valid], known[1][valid]), test], notes


def _joined(batches: Sequence[Batch]) -> Labelled:
    pixels, labels = map(np.concatenate, zip(*batches, strict=True))
    return torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels.astype(np.int64))


def _from_batch(path: Path) -> Batch:
    with _reading(path):
        return _records(path.name, lzma.decompress(path.read_bytes()))


def _from_binary_archive(path: Path) -> list[Batch]:
    with _reading(path):
        members = _members(path, [f"cifar-10-batches-bin/{batch}.bin" for batch in _BATCHES])
        return [_records(name, content) for name, content in members.items()]


def _from_python_archive(path: Path) -> list[Batch]:
    with _reading(path):
        members = _members(path, [f"cifar-10-batches-py/{batch}" for batch in _BATCHES])
        return [_unpickled(name, content) for name, content in members.items()]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file into a DataError that names it, with what to do."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{path} cannot be read as CIFAR-10: {error}. Put an intact copy there, or delete it and run "
            f"`nasrepro data fetch cifar10`."
        ) from error


def _members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """These members of an archive, in this order. It is read once, from its beginning to its end."""
    found = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            if member.name in names and (file := archive.extractfile(member)):
                found[member.name] = file.read()
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return {name: found[name] for name in names}


def _records(name: str, content: bytes) -> Batch:
    """The images and labels of a batch in the binary layout: for each image its label, a byte, and its pixels."""
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(f"{name} holds {len(content):,} bytes, which are no records of {1 + _PIXELS:,} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return _checked(name, records[:, 1:], records[:, 0])


def _unpickled(name: str, content: bytes) -> Batch:
    """The images and labels of a batch in the Python layout, a pickled dict."""
    batch = _ArraysAlone(BytesIO(content), encoding="bytes").load()
    pixels, labels = batch[b"data"], np.array(batch[b"labels"])
    if (pixels.dtype, pixels.shape, labels.shape) != (np.uint8, (len(labels), _PIXELS), (len(labels),)):
        raise ValueError(f"{name} holds {pixels.shape} pixels of {pixels.dtype} and {len(labels):,} labels")
    return _checked(name, pixels, labels)


def _checked(name: str, pixels: Bytes, labels: npt.NDArray[Any]) -> Batch:
    wrong = labels[~np.isin(labels, range(len(_CLASSES["cifar10"])))]
    if len(wrong):
        raise ValueError(f"{name} holds the label {wrong[0]}, which is none of 0 to 9")
    return pixels, labels


class _ArraysAlone(pickle.Unpickler):
    """Unpickles NumPy's arrays and Python's containers, strings and numbers; a file that names more is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return _ARRAYS[module, name]
