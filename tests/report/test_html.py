"""The page, read back by a parser: self-contained, accessible, escaped, with every entry of the papers."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from nasrepro.report import papers
from nasrepro.report import provenance as origin
from nasrepro.report.artifacts import Artifacts
from nasrepro.report.figures import failure_bars
from nasrepro.report.html import build
from nasrepro.report.ledger import WORDS, Finding, Ledger, write_findings

VOID = {"meta", "img", "br", "hr", "link", "input"}
TAU = "s17.rank.predicts"


class Page(HTMLParser):
    """The page as a list of (tag, attributes, text); fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[int] = []
        self.tags: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert not self.open, f"unclosed: {[self.tags[i][0] for i in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.tags) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.tags[self.open.pop()][0] == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.tags[i][2].append(data)

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, " ".join(" ".join(text).split())) for name, attrs, text in self.tags if name == tag]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    made = origin.provenance({"profile": "quick"}, None, 3.0)
    artifacts = Artifacts(root / "quick", notebook="04")
    artifacts.figure(
        failure_bars({"exploded": 3}),
        "s17-fig3",
        "Search progress",
        "Cells <in order>.",
        ["s17.fig3"],
        provenance=made,
    )
    table = pd.DataFrame({"cell": [f"cell {i} <script>" for i in range(50)], "ppl": np.linspace(100, 200, 50)})
    artifacts.table(table, "cells", "Cells", "All & sundry.", [TAU], provenance=made)
    artifacts.ledger.add(
        Finding(TAU, 0.123, (0.1, 0.15), budget=0.01, budget_words="10 cells", data="pydoc", supports=True)
    )
    artifacts.ledger.add(Finding("s17.table1.bc3.params", 24_162_960, scaled=False))
    shipped = Finding(
        TAU,
        0.567,
        (0.5, 0.6),
        seeds=3,
        budget=0.25,
        data="ptb",
        device="16 cores",
        source="shipped",
        supports=True,
    )
    (root / "records").mkdir()
    write_findings(root / "records" / "findings.json", {TAU: shipped})
    path = build(root / "quick", root / "records")
    return path, Page(path.read_text(encoding="utf-8"))


def test_the_page_is_one_file_that_asks_nothing_of_the_network(built):
    path, page = built
    assert path.name == "report.html"
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    for _, attrs, _ in page.tags:
        assert not (attrs.get("src") or "data:").startswith(("http", "//", "/", "file"))
        assert (attrs.get("href") or "#").startswith("#")
    assert not page.of("script")
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!data:)", text)


def test_links_lead_somewhere_and_identifiers_are_unique(built):
    _, page = built
    ids = [attrs["id"] for _, attrs, _ in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for attrs, _ in page.of("a"):
        assert attrs["href"][1:] in ids
    for _, attrs, _ in page.tags:
        if "aria-labelledby" in attrs:
            assert attrs["aria-labelledby"] in ids


def test_pictures_have_words_and_tables_have_headers(built):
    _, page = built
    ((attrs, _),) = page.of("img")
    assert attrs["src"].startswith("data:image/svg+xml;base64,")
    assert attrs["alt"] == "Search progress: Cells <in order>."
    assert len(page.of("thead")) == len(page.of("table"))
    assert all(attrs.get("scope") in ("row", "col") for attrs, _ in page.of("th"))


def test_what_comes_from_data_is_escaped(built):
    path, _ = built
    assert "cell 0 &lt;script&gt;" in path.read_text(encoding="utf-8")


def test_three_values_stand_side_by_side_with_budget_data_and_device(built):
    _, page = built
    rows = [text for _, text in page.of("tr") if TAU in text]
    assert len(rows) == 2  # in the ledger, and under the artefact that answers to it
    for row in rows:
        for part in ("stated, no value", "0.567", "ptb", "3 seeds", "16 cores", "0.123", "10 cells", "pydoc"):
            assert part in row
        assert row.index("0.567") < row.index("0.123") < row.index("same direction")


def test_every_own_entry_is_on_the_page_and_the_counts_agree_with_the_ledger(built):
    path, page = built
    codes = {text for _, text in page.of("code")}
    assert {entry.id for entry in papers.load().values() if entry.own} <= codes
    counts = Ledger(path.parent, path.parents[1] / "records" / "findings.json").counts()
    for word in WORDS:
        numbers = next(text for _, text in page.of("tr") if re.fullmatch(rf"{word}( \d+)+", text))
        assert sum(map(int, re.findall(r"\d+", numbers))) == counts[word]


def test_the_papers_tables_are_whole_with_ours_below(built):
    _, page = built
    rows = [text for _, text in page.of("tr")]
    printed = "3-layer weight drop BC3 + NT-ASGD (tied) 24,000,000 64.4 61.4"
    assert rows[rows.index(printed) + 1] == "this run 24,162,960"
    assert "NAS v1 no stride or pooling 15 4,200,000 5.50" in rows
    assert "Network in Network (Lin et al. 2013) – – 8.81" in rows


def test_a_long_table_is_cut_and_says_so(built):
    _, page = built
    assert "10 more rows in cells.csv." in [text for _, text in page.of("p")]


def test_the_seconds_are_those_of_the_runs_and_not_of_every_artefact(tmp_path):
    made = origin.provenance({"profile": "quick"}, None, 0.0)
    for notebook, name, second, seconds in (
        ("03", "old", "00:00:01", 900.0),  # of an earlier run, which was slower
        ("03", "first", "00:10:01", 40.0),
        ("03", "last", "00:10:31", 70.0),
        ("03", "at once", "00:10:31", 69.5),
        ("04", "only", "00:11:00", 6.0),
    ):
        this = {**made, "time": f"2026-01-01T{second}+00:00", "seconds": seconds}
        Artifacts(tmp_path, notebook).table(pd.DataFrame({"x": [1]}), name.replace(" ", "-"), "T", "C", provenance=this)
    page = Page(build(tmp_path).read_text(encoding="utf-8"))
    header = dict(zip([text for _, text in page.of("dt")], [text for _, text in page.of("dd")], strict=True))
    assert header["Seconds"] == "76"


def test_the_header_names_threads_of_this_machine_alone(tmp_path):
    for name, device in (("here", None), ("replayed", "NVIDIA H200")):
        made = origin.provenance({}, None, 0.0, device=device)
        Artifacts(tmp_path).table(pd.DataFrame({"x": [1]}), name, "T", "C", provenance=made)
    text = build(tmp_path).read_text(encoding="utf-8")
    assert "thread" in text
    assert "NVIDIA H200" in text
    assert not re.search(r"NVIDIA H200, \w+ thread", text)


def test_an_empty_folder_gives_a_page_without_findings(tmp_path):
    page = Page(build(tmp_path, tmp_path).read_text(encoding="utf-8"))
    assert "This folder holds no figure or table yet." in [text for _, text in page.of("p")]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"quick; run `nasrepro reproduce`"):
        build(tmp_path / "quick")
