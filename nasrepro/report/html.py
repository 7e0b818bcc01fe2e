"""`report.html`: one self-contained page with every figure, table and number beside the papers'.

No script, no network: images are embedded, the style is inline, and a content policy in the page forbids the rest.
"""

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from nasrepro.files import make_writable, user_path, write_atomically
from nasrepro.report import papers
from nasrepro.report import provenance as origin
from nasrepro.report.artifacts import Artifact, read_all
from nasrepro.report.ledger import MEANING, WORDS, Finding, Ledger, Row, counts
from nasrepro.report.papers import Entry, number

HEAVY = 400_000  # bytes; a drawing with thousands of points is smaller as PNG
LONG = 40  # rows of a table that the page shows; the CSV has them all


def build(folder: str | Path, shipped_folder: str | Path | None = None) -> Path:
    """Write the report of a profile's folder, such as `results/quick`: `report.html` in it, whose path is returned.

    `shipped_folder` holds the findings that come with the records (`findings.json`). Raises FileNotFoundError when the
    folder is not there, OSError when the page cannot be written.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there are no results in {folder}; run `nasrepro reproduce` first")
    out = folder / "report.html"
    make_writable(folder)
    shipped = None if shipped_folder is None else user_path(shipped_folder) / "findings.json"
    rows = {row.entry.id: row for row in Ledger(folder, shipped).rows()}
    artifacts, known = read_all(folder), papers.load()
    rows_of_paper = {paper: [row for row in rows.values() if row.entry.paper == paper] for paper in known.papers}
    page = (
        _environment()
        .get_template("page.html")
        .render(
            profile=folder.name,
            header=_header(artifacts),
            meaning=MEANING,
            words=WORDS,
            papers=known.papers,
            counts={paper: counts(of) for paper, of in rows_of_paper.items()},
            rows=rows_of_paper,
            artifacts=[(artifact, _picture(folder, artifact), _table(folder, artifact)) for artifact in artifacts],
            rows_of={artifact.name: [rows[i] for i in artifact.paper if i in rows] for artifact in artifacts},
            tables={name: _paper_table(entries, rows) for name, entries in known.tables().items()},
            caption=origin.caption,
        )
    )
    write_atomically(out, lambda path: path.write_text(page, encoding="utf-8"))
    return out


def _environment() -> jinja2.Environment:
    """Templates beside this file; what goes in is escaped, and a name that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, slug=_slug, budget=_budget, nice=_nice)
    return environment


def _header(artifacts: list[Artifact]) -> dict[str, str]:
    """What the artefacts say together about where they came from; several values are all named."""
    made = [artifact.provenance for artifact in artifacts]
    data = [p["data"] for p in made if p["data"] is not None]
    facts = {
        "Commit": [p["commit"] for p in made],
        "Device": [origin.device_words(p) for p in made],
        "Data": [f"{d['name']} ({d['note']})" if d["note"] else d["name"] for d in data],
        "Versions": [", ".join(f"{name} {version}" for name, version in p["versions"].items()) for p in made],
        "Platform": [p["platform"] for p in made],
    }
    header = {name: "; ".join(dict.fromkeys(values)) for name, values in facts.items() if values}
    if made:
        # An artefact's seconds are those since its notebook began, so the last of each notebook has them all.
        in_time = sorted(artifacts, key=lambda artifact: (artifact.provenance["time"], artifact.provenance["seconds"]))
        took = {artifact.notebook: artifact.provenance["seconds"] for artifact in in_time}
        header["Seconds"] = number(sum(took.values()))
        header["Last artefact"] = max(p["time"] for p in made)
    return header


def _picture(folder: Path, artifact: Artifact) -> str | None:
    """A figure as a data URI: the drawing, or the pixels where the drawing is heavy."""
    if artifact.artifact != "figure":
        return None
    *pixels, svg = (folder / file for file in artifact.files)
    heavy = svg.stat().st_size > HEAVY
    path, kind = (pixels[0], "png") if pixels and heavy else (svg, "svg+xml")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Table:
    """A table as texts: rows of a head and cells; `marks` says whose each row is, for the style."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    marks: list[str]
    left_out: int = 0


def _table(folder: Path, artifact: Artifact) -> Table | None:
    """The first rows of a table's CSV."""
    if artifact.artifact != "table":
        return None
    frame = pd.read_csv(folder / artifact.files[0])
    shown = frame.head(LONG)
    rows = [(_nice(row[0]), [_nice(value) for value in row[1:]]) for row in shown.itertuples(index=False, name=None)]
    return Table([str(name) for name in frame.columns], rows, [""] * len(rows), len(frame) - len(shown))


def _paper_table(entries: list[Entry], ledger: dict[str, Row]) -> Table:
    """A paper's table as printed, and under each row that has findings, ours in the same columns."""
    by_row: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        by_row.setdefault(str(entry.row), {})[str(entry.column)] = entry
    fullest = max(by_row.values(), key=len)  # some rows lack columns; the order is that of a full one
    columns = list(fullest)
    # As many decimals as the paper printed, as far as JSON keeps them: 64.0 comes as 64.0, 4.60 as 4.6.
    printed = {c: [str(cells[c].value) for cells in by_row.values() if c in cells] for c in columns}
    decimals = {c: max(len(value.partition(".")[2]) for value in values) for c, values in printed.items()}
    rows: list[tuple[str, list[str]]] = []
    marks = []
    for name, cells in by_row.items():
        rows.append((name, [f"{cells[c].value:,.{decimals[c]}f}" if c in cells else "–" for c in columns]))
        marks.append("own" if any(entry.own for entry in cells.values()) else "quoted")
        for whose in ("shipped", "run"):
            found = {c: getattr(ledger[e.id], whose) for c, e in cells.items() if e.id in ledger}
            found = {c: finding for c, finding in found.items() if finding is not None}
            if found:
                words = "; ".join(dict.fromkeys(filter(None, map(_budget, found.values()))))
                head = {"shipped": "shipped record", "run": "this run"}[whose] + (f": {words}" if words else "")
                rows.append((head, [number(found[c].value) if c in found else "" for c in columns]))
                marks.append(whose)
    return Table(["model", *columns], rows, marks)


def _budget(finding: Finding) -> str:
    """What stands beside every number: budget, share of the paper's, data, seeds, device."""
    words = [finding.budget_words]
    if finding.budget is not None and finding.budget < 1:
        words.append(f"{finding.budget:.2g} of the paper's budget")
    words += [finding.data, f"{finding.seeds} seeds" if finding.seeds > 1 else "", finding.device]
    words.append("scaled down" if finding.scaled else "")
    return ", ".join(filter(None, words))


def _nice(value: Any) -> str:
    """A cell of a data frame for reading; nothing for a missing one."""
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else number(float(value)) if not isinstance(value, bool) else str(value)


def _slug(text: str) -> str:
    """A name for an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
