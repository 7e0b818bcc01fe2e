"""Find a registered file on this machine, or fetch it, and never hand out one with a wrong hash.

Looked for in this order: the data folder, the offline mirror named by NASREPRO_MIRROR (same layout, used in
place), and, only when downloads are allowed, the registered addresses. Nothing is downloaded by default.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import partial
from pathlib import Path

import pooch
from tqdm.auto import tqdm

from nasrepro.datasets.registry import DataError, DataFile, DataSet, MissingData, find
from nasrepro.files import named_folder, user_cache, user_path

_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; nasrepro)"}  # some hosts refuse the default one
_TIMEOUT = 30.0  # seconds without a byte before the next address is tried

Root = str | os.PathLike[str] | None
"""The data folder; None as in `data_root`."""

pooch.get_logger().setLevel("WARNING")  # our bar and errors say what pooch's log would


def data_root(root: Root = None) -> Path:
    """The data folder: `root`, else NASREPRO_DATA, else a checkout's `data/`, else the cache folder's.

    Raises: ValueError for a path that begins with the home of an unknown user.
    """
    if root is not None:
        return user_path(root)
    if named := named_folder("NASREPRO_DATA"):
        return named
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data"
    try:
        return user_cache() / "data"
    except OSError:  # a user without a home folder; every file is verified, so a place that all can write to will do
        return Path(tempfile.gettempdir(), "nasrepro", "data")


def fetch(name: str, root: Root = None, download: bool | None = True) -> dict[str, Path]:
    """Make every file of data set `name` present and verified, or an archive that holds them all.

    Returns: the path of each split's file; empty for a data set that needs no files, such as "pydoc".
    Raises: DataError as `locate` does.
    """
    dataset = find(name)
    return {file.split: locate(dataset, file, root, download) for file in _choice(dataset, root, download)}


def _choice(dataset: DataSet, root: Root, download: bool | None) -> tuple[DataFile, ...]:
    """What to read a data set from: its files or one of its archives, whichever is here whole, the files first.

    Where none is, the first that can be downloaded; or, where nothing may be, what is here in part.
    """

    def merit(files: tuple[DataFile, ...]) -> tuple[bool, bool, bool]:
        here = sum(any(path.is_file() for path in _places(dataset, file, root)) for file in files)
        if here == len(files):
            return True, True, True
        return False, here > 0 and not _allowed(download), any(file.urls for file in files)

    return max((dataset.files, *((archive,) for archive in dataset.archives)), key=merit)


def _places(dataset: DataSet, file: DataFile, root: Root) -> list[Path]:
    """Where a copy of `file` may lie, in the order in which it is looked for."""
    places = [data_root(root) / dataset.folder / file.name]
    if mirror := named_folder("NASREPRO_MIRROR"):
        places.append(mirror / dataset.folder / file.name)
    return places


def _allowed(download: bool | None) -> bool:
    return os.environ.get("NASREPRO_DOWNLOAD") == "1" if download is None else download


def locate(dataset: DataSet, file: DataFile, root: Root = None, download: bool | None = None) -> Path:
    """The path of a verified copy of `file`.

    `download` allows or forbids the network; None asks the environment (NASREPRO_DOWNLOAD=1 allows). When it
    is allowed and an address is registered, a damaged copy in the data folder is replaced; the mirror is never written
    to.

    Raises: DataError if there is a damaged copy or no right to write; its subclass MissingData if there is no copy
        and no address that serves one.
    """
    download = _allowed(download) and bool(file.urls)
    candidates = _places(dataset, file, root)
    command = f"nasrepro data fetch {dataset.name}"
    for path in candidates:
        if not path.is_file():
            continue
        problem = damage(path, file)
        if problem is None:
            return path
        if not download:
            raise DataError(f"{path} {problem}. Put an intact copy there, or delete it and run `{command}`.")
    if not download:
        looked = " and ".join(map(str, candidates))
        raise MissingData(
            f"{file.name} of {dataset.name} is not on this machine: looked for {looked}. "
            f"Run `{command}` to download it, or let NASREPRO_MIRROR name a folder that holds "
            f"{dataset.folder}/{file.name} ({file.length})."
        )
    _download(dataset, file, candidates[0])
    return candidates[0]


def damage(path: Path, file: DataFile) -> str | None:
    """What is wrong with the copy of `file` at `path`, in words; None if it is the registered file."""
    size = path.stat().st_size
    if file.size is not None and size < file.size:
        return f"is truncated: expected {file.size:,} bytes, found {size:,}"
    found = _digest(path, file)
    if found != (file.sha256 or file.git_blob or file.md5):
        return f"is not the registered file: expected {file.digest}, found {found}"
    return None


def _digest(path: Path, file: DataFile) -> str:
    """The digest of the copy at `path`, of the kind by which `file` is known."""
    if file.git_blob:
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)  # as `git hash-object`
        return blob.hexdigest()
    method = partial(hashlib.md5, usedforsecurity=False) if file.md5 else hashlib.sha256
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, method).hexdigest()


def _download(dataset: DataSet, file: DataFile, local: Path) -> None:
    """Fetch `file` to `local` from the first address that serves it whole.

    It is written to a folder of its own beside the target, checked there and then put in place, so that neither an
    interrupted download nor a second process leaves half a file under the final name.
    """
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(local.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise DataError(
            f"Cannot write {file.name} into the data folder {local.parent}. Make it writable, "
            f"or let NASREPRO_DATA name another folder."
        )

    failures = []
    for url in file.urls:
        try:
            with tempfile.TemporaryDirectory(dir=local.parent) as folder:
                part = Path(folder, local.name)
                with tqdm(total=file.size, unit="B", unit_scale=True, desc=file.name) as bar:
                    pooch.HTTPDownloader(progressbar=bar, headers=_HEADERS, timeout=_TIMEOUT)(url, str(part), None)
                if problem := damage(part, file):
                    raise ValueError(f"what it serves {problem}")
                part.replace(local)
            return
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            failures.append(f"  {url}: {type(error).__name__}: {error}")
    raise MissingData(
        f"{file.name} of {dataset.name} could not be downloaded. "
        f"Expected {file.digest} ({file.length}); tried\n"
        + "\n".join(failures)
        + f"\nCheck the network and run `nasrepro data fetch {dataset.name}`, or put the file at {local}."
    )
