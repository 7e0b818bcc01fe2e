"""Where an artefact came from: commit, parameters, versions, device, data, seconds, hashes of its records."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch

from nasrepro.datasets.strings import refuse_string
from nasrepro.files import user_path
from nasrepro.hardware import device_name

CHECKOUT = Path(__file__).resolve().parents[2]
"""Where the package lies: the top of a checkout, or where it is installed."""


class Data(Protocol):
    """What provenance needs to know of a corpus."""

    @property
    def name(self) -> str:
        """The name it is loaded by."""

    @property
    def hash(self) -> str:
        """Hex digest of its vocabulary and all its ids."""

    @property
    def note(self) -> str:
        """Labels such as "stand-in"; may be empty."""


def provenance(
    parameters: Mapping[str, Any],
    data: Data | None,
    seconds: float,
    records: Sequence[str | Path] = (),
    device: str | None = None,
) -> dict[str, Any]:
    """Everything needed to make an artefact again, as plain JSON values.

    `seconds` is the time since its notebook began, `device` what its numbers were computed on (this processor when
    None); `records` are the files it was drawn from, named by their SHA-256. `threads` are torch's where the device is
    this processor, else None. Raises FileNotFoundError when a record is missing, TypeError when `records` is one path.
    """
    refuse_string(records, "records", "a list of paths")
    here = device_name("cpu")
    return {
        "commit": commit(),
        "parameters": dict(parameters),
        "versions": versions(),
        "device": device or here,
        "threads": torch.get_num_threads() if device in (None, here) else None,
        "platform": platform.platform(),
        "data": None if data is None else {"name": data.name, "hash": data.hash, "note": data.note},
        "seconds": round(float(seconds), 1),
        "records": {Path(path).name: sha256(path) for path in records},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def caption(provenance: Mapping[str, Any]) -> str:
    """One line for under a figure: profile, data, device, seconds, commit.

    >>> caption({"commit": "1f3c9d2 (changed)", "parameters": {"profile": "quick"}, "device": "CPU",
    ...          "threads": 2, "data": None, "seconds": 12.0, "records": {}})
    'profile quick | CPU, 2 threads | 12 s | commit 1f3c9d2 (changed)'
    """
    profile, data = provenance["parameters"].get("profile"), provenance["data"]
    parts = [] if profile is None else [f"profile {profile}"]
    if data is not None:
        note = f", {data['note']}" if data["note"] else ""
        parts.append(f"data {data['name']} {data['hash'][:8]}{note}")
    seconds = f"{provenance['seconds']:{'.3g' if provenance['seconds'] < 1000 else ',.0f'}} s"
    records = [f"record {name} {digest[:8]}" for name, digest in provenance["records"].items()]
    return " | ".join([*parts, device_words(provenance), seconds, *records, f"commit {provenance['commit']}"])


def device_words(provenance: Mapping[str, Any]) -> str:
    """The device, and the threads where they were those of the machine that drew the artefact."""
    threads = provenance["threads"]
    if threads is None:
        return str(provenance["device"])
    return f"{provenance['device']}, {threads} thread{'s' if threads != 1 else ''}"


def commit(checkout: Path = CHECKOUT) -> str:
    """The short commit of the package's checkout, "(changed)" if files differ, or "not a checkout".

    Where git is missing or refuses, the commit is read from the files, with "(git cannot tell what changed)".
    """
    head = _git(checkout, "rev-parse", "--short=10", "HEAD")
    if head is None:
        head = _recorded_head(checkout)
        return "not a checkout" if head is None else f"{head[:10]} (git cannot tell what changed)"
    # A package installed inside somebody else's repository must not claim that repository's commit.
    if _git(checkout, "ls-files", "--error-unmatch", "nasrepro/report/provenance.py") is None:
        return "not a checkout"
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    if changes is None:  # it took too long, as on a slow network folder
        return f"{head} (git cannot tell what changed)"
    return f"{head} (changed)" if changes else head


def _recorded_head(checkout: Path) -> str | None:
    """The commit that the files in `.git` name, all its digits; None where there is none, or a file is damaged."""
    try:
        named = _named_head(checkout)
    except (OSError, ValueError):
        return None
    return named if named and re.fullmatch("[0-9a-f]{40,64}", named) else None


def _named_head(checkout: Path) -> str | None:
    """What the files in `.git` name as the commit. Raises OSError or ValueError where one cannot be read."""
    folder = checkout / ".git"
    if folder.is_file():  # a further working tree of a repository that lies elsewhere
        folder = checkout / folder.read_text("utf-8").removeprefix("gitdir:").strip()
    head = (folder / "HEAD").read_text("utf-8").strip()
    if not head.startswith("ref: "):
        return head
    name = head.removeprefix("ref: ")
    common = folder / "commondir"
    shared = folder / common.read_text("utf-8").strip() if common.exists() else folder
    if (shared / name).exists():
        return (shared / name).read_text("utf-8").strip()
    lines = (shared / "packed-refs").read_text("utf-8").splitlines()
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)


def versions() -> dict[str, str]:
    """Versions of Python, this package, torch and numpy."""
    found = {"python": platform.python_version()}
    for name in ("nasrepro", "torch", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    with user_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(checkout: Path, *arguments: str) -> str | None:
    """The output of a git command that reads only, or None where there is no git or the command fails."""
    # A hook of another repository names that one, which is not asked for here.
    elsewhere = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"}
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    # git refuses a folder of another user, as mounts into containers are, because settings there may run programs. The
    # programs of this one run already, so this one is safe to ask; a repository around it is not.
    given = environment.get("GIT_CONFIG_COUNT", "")
    settings = int(given) if given.isdecimal() else 0  # git itself would refuse to run
    environment |= {
        "GIT_CONFIG_COUNT": str(settings + 1),
        f"GIT_CONFIG_KEY_{settings}": "safe.directory",
        f"GIT_CONFIG_VALUE_{settings}": os.fspath(checkout),
        "GIT_OPTIONAL_LOCKS": "0",  # nor is anything written there in this user's name
    }
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(checkout), *arguments],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
