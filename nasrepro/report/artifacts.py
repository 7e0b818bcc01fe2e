"""Figures and tables on disk, each with its caption, the paper entries it answers to, and its provenance."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from nasrepro.datasets.strings import refuse_string
from nasrepro.files import make_writable, user_path, write_atomically, write_json
from nasrepro.report import papers
from nasrepro.report import provenance as origin
from nasrepro.report.ledger import Ledger

Facts = Mapping[str, Any]
RESERVED = ("ledger", "report", "stopped", "timings")  # files of the same folder that are not artefacts


@dataclass(frozen=True)
class Artifact:
    """What the sidecar NAME.json of a figure or table says. `files` are names inside the same folder."""

    artifact: Literal["figure", "table"]
    name: str
    title: str
    caption: str
    paper: list[str]
    notebook: str
    files: list[str]
    provenance: dict[str, Any]


class Artifacts:
    """The outputs of one profile in one folder.

    `notebook` is the number of the notebook that writes, and orders the report; `shipped` is the findings file that
    comes with the records. Raises OSError, naming the folder and what to do, where nothing can be written to it.
    """

    def __init__(self, folder: str | Path, notebook: str = "", shipped: str | Path | None = None) -> None:
        self.folder = user_path(folder)
        self.notebook = notebook
        make_writable(self.folder)
        self.ledger = Ledger(self.folder, shipped)

    def figure(
        self, fig: Figure, name: str, title: str, caption: str, paper: Sequence[str] = (), *, provenance: Facts
    ) -> Artifact:
        """Save NAME.png and NAME.svg, provenance printed small below, and describe them in NAME.json."""
        self._check(name, paper)
        below = _print_below(fig, origin.caption(provenance))
        # A fixed salt and no date: the same figure gives the same bytes, so a diff shows real changes only.
        with mpl.rc_context({"svg.hashsalt": name}):
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
                save = partial(fig.savefig, format=suffix, dpi=150, bbox_inches="tight", metadata=metadata)
                write_atomically(self.folder / f"{name}.{suffix}", save)
        below.remove()
        files = [f"{name}.png", f"{name}.svg"]
        return self._describe(files, name, title, caption, paper, provenance)

    def drawing(
        self, svg: str, name: str, title: str, caption: str, paper: Sequence[str] = (), *, provenance: Facts
    ) -> Artifact:
        """Save a drawing, SVG text such as cells write, as NAME.svg, and describe it in NAME.json."""
        self._check(name, paper)
        write_atomically(self.folder / f"{name}.svg", lambda path: path.write_text(svg, encoding="utf-8"))
        return self._describe([f"{name}.svg"], name, title, caption, paper, provenance)

    def table(
        self, df: pd.DataFrame, name: str, title: str, caption: str, paper: Sequence[str] = (), *, provenance: Facts
    ) -> Artifact:
        """Save a table as NAME.csv and describe it in NAME.json. The index is kept where it has a name."""
        self._check(name, paper)
        keep_index = any(level is not None for level in df.index.names)
        write_atomically(self.folder / f"{name}.csv", partial(df.to_csv, index=keep_index))
        return self._describe([f"{name}.csv"], name, title, caption, paper, provenance)

    def _check(self, name: str, paper: Sequence[str]) -> None:
        if not name or name in RESERVED or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError(
                f"{name!r:.100} cannot name a figure or table: use letters, digits, '-', '_' and '.'; "
                f"{', '.join(RESERVED)} are taken"
            )
        refuse_string(paper, "paper", f"a list, [{paper!r:.100}]")
        known = papers.load()
        for identifier in paper:
            known[identifier]  # an unknown identifier raises here, with the nearest ones

    def _describe(
        self, files: list[str], name: str, title: str, caption: str, paper: Sequence[str], provenance: Facts
    ) -> Artifact:
        kind: Literal["figure", "table"] = "table" if files == [f"{name}.csv"] else "figure"
        artifact = Artifact(kind, name, title, caption, list(paper), self.notebook, files, dict(provenance))
        write_json(self.folder / f"{name}.json", asdict(artifact))
        return artifact


def read_all(folder: str | Path) -> list[Artifact]:
    """All figures and tables of a folder whose files are there, in the order of notebooks, then of time."""
    found = []
    for path in sorted(user_path(folder).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "artifact" in content:
            artifact = Artifact(**content)
            if all((path.parent / file).exists() for file in artifact.files):
                found.append(artifact)
    return sorted(found, key=lambda a: (a.notebook, a.provenance.get("time", ""), a.name))


def _print_below(fig: Figure, line: str) -> Text:
    """Print a line small below the figure, wrapped to its width; the caller removes it after saving."""
    characters = max(40, int(fig.get_figwidth() * 72 / 3.5))  # 6 pt DejaVu Sans takes about 3.5 pt a character
    return fig.text(0.01, -0.01, textwrap.fill(line, characters), fontsize=6, color="#555555", va="top", ha="left")
