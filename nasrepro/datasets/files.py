"""Find a registered file on this machine, or fetch it, and never hand out one with a wrong hash.

Looked for in this order: the data folder, the offline mirror named by NASREPRO_MIRROR (same layout, used in
place), and, only when downloads are allowed, the registered addresses. Nothing is downloaded by default.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
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
    """Make every file of data set `name` present and verified.

    Returns: the path of each split's file; empty for "pydoc", which needs no files.
    Raises: DataError as `locate` does.
    """
    dataset = find(name)
    return {file.split: locate(dataset, file, root, download) for file in dataset.files}


def locate(dataset: DataSet, file: DataFile, root: Root = None, download: bool | None = None) -> Path:
    """The path of a verified copy of `file`.

    `download` allows or forbids the network; None asks the environment (NASREPRO_DOWNLOAD=1 allows). When it
    is allowed, a damaged copy in the data folder is replaced; the mirror is never written to.

    Raises: DataError if there is a damaged copy or no right to write; its subclass MissingData if there is no copy
        and no address that serves one.
    """
    if download is None:
        download = os.environ.get("NASREPRO_DOWNLOAD") == "1"
    local = data_root(root) / dataset.folder / file.name
    candidates = [local]
    if mirror := named_folder("NASREPRO_MIRROR"):
        candidates.append(mirror / dataset.folder / file.name)

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
    _download(dataset, file, local)
    return local


def damage(path: Path, file: DataFile) -> str | None:
    """What is wrong with the copy of `file` at `path`, in words; None if it is the registered file."""
    size = path.stat().st_size
    if file.size is not None and size < file.size:
        return f"is truncated: expected {file.size:,} bytes, found {size:,}"
    found = _digest(path, file)
    if found != (file.sha256 or file.git_blob):
        return f"is not the registered file: expected {file.digest}, found {found}"
    return None


def _digest(path: Path, file: DataFile) -> str:
    """The digest of the copy at `path`, of the kind by which `file` is known."""
    if not file.sha256:
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)  # as `git hash-object`
        return blob.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
