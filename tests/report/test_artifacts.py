"""Artefacts on disk: the same bytes twice, nothing half-written, errors that say what to do."""

import base64
import json
import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nasrepro import files
from nasrepro.report import provenance as origin
from nasrepro.report.artifacts import Artifacts, read_all
from nasrepro.report.html import build
from nasrepro.report.ledger import Finding

MADE = origin.provenance({"profile": "smoke"}, None, 1.5)


def figure() -> Figure:
    fig = Figure(figsize=(3, 2))
    fig.add_subplot().plot([1, 2, 3], [3, 1, 2])
    return fig


def test_a_figure_is_saved_as_png_svg_and_a_description(tmp_path):
    fig = figure()
    artifact = Artifacts(tmp_path, notebook="04").figure(fig, "s17-fig3", "T", "C", ["s17.fig3"], provenance=MADE)
    assert (tmp_path / "s17-fig3.png").read_bytes().startswith(b"\x89PNG\r\n")
    svg = (tmp_path / "s17-fig3.svg").read_text()
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "profile smoke" in svg  # matplotlib keeps drawn text as a comment beside its outlines
    assert "Date" not in svg
    described = json.loads((tmp_path / "s17-fig3.json").read_text())
    assert described["provenance"] == MADE
    assert described["paper"] == ["s17.fig3"]
    assert read_all(tmp_path) == [artifact]
    assert not fig.texts, "the caller's figure must stay as it was"


def test_a_drawing_is_kept_as_it_is_and_described(tmp_path):
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><text>h_t \N{MINUS SIGN}</text></svg>'
    artifact = Artifacts(tmp_path, "01").drawing(svg, "s17-fig2", "T", "C", ["s17.fig2"], provenance=MADE)
    assert (tmp_path / "s17-fig2.svg").read_text("utf-8") == svg
    assert read_all(tmp_path) == [artifact]
    page = build(tmp_path).read_text("utf-8")
    assert base64.b64encode(svg.encode()).decode() in page


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        Artifacts(tmp_path / folder).figure(figure(), "f", "T", "C", provenance=MADE)
    for suffix in ("png", "svg", "json"):
        assert (tmp_path / f"a/f.{suffix}").read_bytes() == (tmp_path / f"b/f.{suffix}").read_bytes()


def test_a_table_comes_back_as_it_was(tmp_path):
    frame = pd.DataFrame({"cell": ["BC3", "GRU"], "valid_ppl": [64.4, 76.1]})
    artifacts = Artifacts(tmp_path)
    artifacts.table(frame, "plain", "T", "C", provenance=MADE)
    artifacts.table(frame.set_index("cell"), "named", "T", "C", provenance=MADE)
    for name in ("plain", "named"):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"{name}.csv"), frame)


def test_artefacts_are_read_in_the_order_of_notebooks_and_time(tmp_path):
    frame = pd.DataFrame({"x": [1]})
    for notebook, name, time in (("04", "b", "2"), ("04", "c", "1"), ("01", "d", "3")):
        Artifacts(tmp_path, notebook).table(frame, name, "T", "C", provenance={**MADE, "time": time})
    Artifacts(tmp_path).ledger.add(Finding("s17.fig1"))  # ledger.json lies beside them and is none of them
    assert [artifact.name for artifact in read_all(tmp_path)] == ["d", "c", "b"]
    (tmp_path / "c.csv").unlink()
    assert [artifact.name for artifact in read_all(tmp_path)] == ["d", "b"]


@pytest.mark.parametrize("name", ["", "ledger", "report", "a/b", "../a", "a b"])
def test_names_that_would_leave_the_folder_or_clash_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a figure or table"):
        Artifacts(tmp_path).figure(figure(), name, "T", "C", provenance=MADE)


def test_an_unknown_paper_entry_stops_before_anything_is_written(tmp_path):
    with pytest.raises(KeyError, match=r"did you mean s17\.fig"):
        Artifacts(tmp_path).figure(figure(), "f", "T", "C", ["s17.figure3"], provenance=MADE)
    assert not list(tmp_path.iterdir())


def test_one_paper_entry_is_no_list_of_them(tmp_path):
    with pytest.raises(TypeError, match=r"paper is the string 's17\.fig3', whose letters .*: pass a list"):
        Artifacts(tmp_path).table(pd.DataFrame(), "a", "T", "C", "s17.fig3", provenance={})


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot write results to .*results.*choose another folder"):
        Artifacts(tmp_path / "results" / "quick")


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"x": float("nan")})

    def half(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, half)
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_pyplot_figure_can_be_saved_too(tmp_path):
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    Artifacts(tmp_path).figure(fig, "f", "T", "C", provenance=MADE)
    plt.close(fig)
    assert (tmp_path / "f.svg").exists()
