"""Find a registered file on this machine, or fetch it, and never hand out one with a wrong hash.

Looked for in this order: the data folder, the offline mirror named by NASREPRO_MIRROR (same layout, used in place), and,
only when downloads are allowed, the registered addresses. Nothing is downloaded by default.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs
import pooch
from tqdm.auto import tqdm

from nasrepro.datasets.registry import DataError, DataFile, DataSet, find

# Some hosts refuse the default agent of `requests`.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; nasrepro)"}
_TIMEOUT = 30.0  # seconds without a byte before the next address is tried

pooch.get_logger().setLevel("WARNING")  # our own bar and errors say what pooch's log would


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: `root`, else NASREPRO_DATA, else a checkout's `data/`, else the user's cache folder."""
    if root is not None:
        return Path(root)
    if named := os.environ.get("NASREPRO_DATA"):
        return Path(named)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data"
    return platformdirs.user_cache_path("nasrepro") / "data"


def fetch(
    name: str, root: str | os.PathLike[str] | None = None, download: bool | None = True
) -> dict[str, Path]:
    """Make every file of data set `name` present and verified.

    Returns: the path of each split's file; empty for "pydoc", which needs no files.
    Raises: DataError as `locate` does.
    """
    dataset = find(name)
    return {file.split: locate(dataset, file, root, download) for file in dataset.files}


def locate(
    dataset: DataSet,
    file: DataFile,
    root: str | os.PathLike[str] | None = None,
    download: bool | None = None,
) -> Path:
    """The path of a verified copy of `file`.

    `download` allows or forbids the network; None asks the environment (NASREPRO_DOWNLOAD=1 allows). A damaged copy in the
    data folder is replaced when downloads are allowed; the mirror is never written to.

    Raises: DataError if no copy is found, a copy is damaged, no address can be reached or the folder cannot be written.
    """
    allowed = os.environ.get("NASREPRO_DOWNLOAD", "") == "1" if download is None else download
    local = data_root(root) / dataset.folder / file.name
    mirror = os.environ.get("NASREPRO_MIRROR")
    mirrored = Path(mirror) / dataset.folder / file.name if mirror else None

    if local.is_file():
        problem = damage(local, file)
        if problem is None:
            return local
        if not allowed:
            raise DataError(
                f"{local} {problem}. Run `nasrepro data fetch {dataset.name}` to replace it, "
                f"or delete it and put an intact copy there."
            )
    if mirrored is not None and mirrored.is_file():
        problem = damage(mirrored, file)
        if problem is None:
            return mirrored
        raise DataError(f"{mirrored} {problem}. Put an intact copy there, or unset NASREPRO_MIRROR.")
    if not allowed:
        looked = f"{local} and {mirrored}" if mirrored else str(local)
        raise DataError(
            f"{dataset.name} is not on this machine: looked for {looked}. Run `nasrepro data fetch {dataset.name}` "
            f"to download it ({file.size:,} bytes in {file.name}), or let NASREPRO_MIRROR name a folder that holds "
            f"{dataset.folder}/{file.name}."
        )
    _download(dataset, file, local)
    return local


def damage(path: Path, file: DataFile) -> str | None:
    """What is wrong with the copy at `path`, in words that follow its name; None if it is the registered file."""
    size = path.stat().st_size
    if size < file.size:
        return f"is truncated: it has {size:,} of {file.size:,} bytes"
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        return f"is not the registered file: expected SHA-256 {file.sha256}, found {found}"
    return None


def _download(dataset: DataSet, file: DataFile, local: Path) -> None:
    """Fetch `file` to `local` from the first address that serves it whole.

    pooch writes to a temporary name beside the target, checks the hash and renames, so that an interrupted download or a
    second process never leaves half a file under the final name.
    """
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(local.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise DataError(
            f"Cannot write {file.name} to {local.parent}. Make that folder writable, or let NASREPRO_DATA name another."
        )

    failures = []
    for url in file.urls:
        try:
            with tqdm(total=file.size, unit="B", unit_scale=True, desc=f"{dataset.name}/{file.name}") as bar:
                pooch.retrieve(
                    url,
                    known_hash=f"sha256:{file.sha256}",
                    fname=local.name,
                    path=local.parent,
                    downloader=pooch.HTTPDownloader(progressbar=bar, headers=_HEADERS, timeout=_TIMEOUT),
                )
            return
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors; pooch says a wrong hash by ValueError
            failures.append(f"  {url}: {type(error).__name__}: {error}")
    raise DataError(
        f"{file.name} of {dataset.name} could not be downloaded (expected {file.size:,} bytes, SHA-256 {file.sha256}). "
        f"Tried:\n"
        + "\n".join(failures)
        + f"\nCheck the network and run `nasrepro data fetch {dataset.name}` again, "
        f"put the file at {local} by hand, or let NASREPRO_MIRROR name a folder that holds {dataset.folder}/{file.name}."
    )
