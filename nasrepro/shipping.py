"""What the project ships of its own runs: findings, measured times, pictures, and the README's numbers from them."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasrepro.experiments import EXPERIMENTS
from nasrepro.files import write_atomically
from nasrepro.report import markdown, papers, speed
from nasrepro.report.ledger import Finding, Ledger, read_findings, verdict, write_findings


def ship(folder: Path, records: Path) -> list[str]:
    """Copy the findings of a profile's results (as shipped ones), and what the README shows, to the records' folder.

    Returns the identifiers of the findings. Raises FileNotFoundError when the folder holds no results.
    """
    if not (folder / "ledger.json").exists():
        raise FileNotFoundError(f"{folder} holds no ledger.json; run `nasrepro reproduce` for this profile first")
    path = records / "findings.json"
    found = {name: replace(finding, source="shipped") for name, finding in Ledger(folder).run.items()}
    write_findings(path, {**(read_findings(path) if path.exists() else {}), **found})
    for experiment in EXPERIMENTS.values():
        for name in filter(None, (experiment.picture, *experiment.tables)):
            if (folder / name).exists():
                shutil.copyfile(folder / name, records / name)
    return list(found)


def timings_table(timings: Mapping[str, Any]) -> str:
    """A Markdown table of the measured minutes: one row per profile, and one for the tests."""
    about = {
        "tests": ("make test", "lint, types, every test, every notebook at `smoke`"),
        "quick": ("make reproduce", "every notebook on data that comes with Python and nasrepro"),
        "course": ("make reproduce PROFILE=course", "every notebook on recorded searches of real data"),
    }
    rows = []
    for profile, (command, words) in about.items():
        if parts := timings.get(profile, {}).values():
            minutes = math.ceil(sum(part["seconds"] for part in parts) / 60)
            rows.append((f"`{command}`", words, minutes, ", ".join(sorted({part["device"] for part in parts}))))
    return markdown.table(["command", "what it does", "minutes", "measured on"], rows)


def findings_table(found: Mapping[str, Finding]) -> str:
    """A Markdown table of the shipped findings on claims of the papers, with their verdicts."""
    rows = []
    for name, finding in found.items():
        entry = papers.load()[name]
        if entry.kind == "claim" and isinstance(finding.value, float):
            claim, ours = entry.text.split(" The paper gives")[0], f"{finding.value:+.3f} {finding.unit}"
            spread = "too few seeds" if finding.interval is None else "{:+.3f} to {:+.3f}".format(*finding.interval)
            rows.append((claim, ours, spread, verdict(entry, finding).word))
    return markdown.table(["claim", "ours", "95% interval", "verdict"], rows)


def fill(text: str, name: str, content: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced; ValueError if there is none."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no place <!-- {name} --> ... <!-- /{name} --> to write to")
    return pattern.sub(lambda found: found[1] + content + found[2], text)


def filled_readme(text: str, records: Path) -> str:
    """The README's text with its numbers made from the files in the records' folder, and the benchmarks' beside it."""
    timings = json.loads((records / "timings.json").read_text("utf-8"))
    text = fill(text, "timings", timings_table(timings))
    for experiment in EXPERIMENTS.values():
        for place, made in experiment.readme.items():
            text = fill(text, place, made(records))
    for place, table in speed.TABLES.items():
        text = fill(text, place, table(records.parent / "benchmarks"))
    text = fill(text, "gpu", speed.gpu_section(records.parent / "benchmarks" / "gpu"))
    return fill(text, "findings", findings_table(read_findings(records / "findings.json")))


def update_readme(readme: Path, records: Path) -> None:
    """Write the README's numbers into it."""
    text = filled_readme(readme.read_text("utf-8"), records)
    write_atomically(readme, lambda path: path.write_text(text, encoding="utf-8"))
