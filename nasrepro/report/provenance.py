"""Where an artefact came from: commit, parameters, versions, device, data, seconds, hashes of its records."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch

from nasrepro.hardware import device_name


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

    `seconds` is the time the artefact took, `device` what its numbers were computed on (this processor when None);
    `records` are the files it was drawn from, named by their SHA-256. Raises FileNotFoundError when one is missing.
    """
    return {
        "commit": commit(),
        "parameters": dict(parameters),
        "versions": versions(),
        "device": device or device_name(),
        "threads": torch.get_num_threads(),
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
    parts = []
    profile = provenance["parameters"].get("profile")
    if profile is not None:
        parts.append(f"profile {profile}")
    data = provenance["data"]
    if data is not None:
        note = f", {data['note']}" if data["note"] else ""
        parts.append(f"data {data['name']} {data['hash'][:8]}{note}")
    threads = provenance["threads"]
    parts.append(f"{provenance['device']}, {threads} thread{'s' if threads != 1 else ''}")
    parts.append(
        f"{provenance['seconds']:.3g} s" if provenance["seconds"] < 1000 else f"{provenance['seconds']:,.0f} s"
    )
    parts.extend(f"record {name} {digest[:8]}" for name, digest in provenance["records"].items())
    parts.append(f"commit {provenance['commit']}")
    return " | ".join(parts)


def commit() -> str:
    """The short commit of the package's checkout, "(changed)" if files differ, or "not a checkout"."""
    folder = Path(__file__).resolve().parent
    head = _git(folder, "rev-parse", "--short=10", "HEAD")
    # A package installed inside somebody else's repository must not claim that repository's commit.
    if head is None or _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return "not a checkout"
    return f"{head} (changed)" if _git(folder, "status", "--porcelain", "--untracked-files=no") else head


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
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, or None where there is no git or the command fails."""
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
