"""What the project ships of its own runs: findings, measured times, a picture, and the README's numbers from them."""

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasrepro.files import write_atomically
from nasrepro.report.ledger import Ledger, read_findings, write_findings

PICTURE = "s17-fig3-search-progress.png"


def ship(folder: Path, records: Path) -> list[str]:
    """Copy the findings of a profile's results (as shipped ones) and the README's picture to the records' folder.

    Returns the identifiers of the findings. Raises FileNotFoundError when the folder holds no results.
    """
    if not (folder / "ledger.json").exists():
        raise FileNotFoundError(f"{folder} holds no ledger.json; run `nasrepro reproduce` for this profile first")
    path = records / "findings.json"
    found = {name: replace(finding, source="shipped") for name, finding in Ledger(folder).run.items()}
    write_findings(path, {**(read_findings(path) if path.exists() else {}), **found})
    if (folder / PICTURE).exists():
        shutil.copyfile(folder / PICTURE, records / PICTURE)
    return list(found)


def timings_table(timings: dict[str, Any]) -> str:
    """A Markdown table of the measured minutes: one row per profile, and one for the tests."""
    rows = ["| command | what it does | minutes | measured on |", "|---|---|---|---|"]
    about = {
        "tests": ("make test", "lint, types, every test, every notebook at `smoke`"),
        "quick": ("make reproduce", "every notebook on text that comes with Python"),
        "course": ("make reproduce PROFILE=course", "every notebook on the recorded Penn Treebank search"),
    }
    for profile, (command, words) in about.items():
        parts = timings.get(profile, {})
        if parts:
            minutes = math.ceil(sum(part["seconds"] for part in parts.values()) / 60)
            device = next(iter(parts.values()))["device"]
            rows.append(f"| `{command}` | {words} | {minutes} | {device} |")
    return "\n".join(rows)


def fill(text: str, name: str, content: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced; ValueError if there is none."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no place <!-- {name} --> ... <!-- /{name} --> to write to")
    return pattern.sub(lambda found: found[1] + content + found[2], text)


def update_readme(readme: Path, timings: dict[str, Any]) -> None:
    """Write the measured minutes into the README."""
    text = fill(readme.read_text("utf-8"), "timings", timings_table(timings))
    write_atomically(readme, lambda path: path.write_text(text, encoding="utf-8"))
