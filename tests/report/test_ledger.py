"""Verdicts as properties: what no finding, however it looks, can make the ledger say."""

import dataclasses
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nasrepro.report import papers
from nasrepro.report.ledger import WORDS, Finding, Ledger, Row, read_findings, verdict, write_findings
from nasrepro.report.papers import Entry

PAPERS = papers.load()
finite = st.floats(-1e6, 1e6)
entries = st.sampled_from(list(PAPERS.values()))


@st.composite
def findings(draw: st.DrawFn, entry: Entry | None = None, scaled: bool | None = None) -> Finding:
    """Any finding that can be written, often with the paper's very value."""
    entry = draw(entries) if entry is None else entry
    scaled = draw(st.booleans()) if scaled is None else scaled
    low, high = sorted((draw(finite), draw(finite)))
    return Finding(
        id=entry.id,
        value=draw(st.one_of(st.just(entry.value), finite, st.none())),
        interval=draw(st.one_of(st.none(), st.just((low, high)))),
        seeds=draw(st.integers(1, 20)),
        budget=draw(st.one_of(st.none(), st.floats(0, 3) if scaled else st.floats(1, 3))),
        data=draw(st.one_of(st.just(entry.data or ""), st.just("pydoc"))),
        source=draw(st.sampled_from(("run", "shipped"))),
        supports=draw(st.sampled_from((True, False, None))),
        scaled=scaled,
        against=draw(st.one_of(st.none(), finite)),
    )


def entry(kind: str = "number", **changes: object) -> Entry:
    given_ = {
        "value": 61.4,
        "tolerance": 0.6,
        "better": "lower",
        "data": "ptb",
        "unit": "perplexity",
        **changes,
    }
    return Entry(id="s17.x", paper="S17", kind=kind, where="here", text="x", status="verified", **given_)  # type: ignore[arg-type]


def finding(**changes: object) -> Finding:
    given_ = {"value": 61.5, "data": "ptb", "scaled": False, "budget": 1.0, "supports": True, **changes}
    return Finding(id="s17.x", **given_)  # type: ignore[arg-type]


@given(st.data(), entries)
@example(None, PAPERS["s17.table1.bc3.test"])
def test_a_scaled_down_finding_is_never_reproduced(data, entry):
    if data is None:  # the paper's own value, hit by luck at a hundredth of the budget
        lucky = Finding(entry.id, entry.value, (61.3, 61.5), budget=0.01, data="ptb", supports=True, against=70.0)
        assert verdict(entry, lucky).word == "same direction"
    else:
        assert verdict(entry, data.draw(findings(entry, scaled=True))).word != "reproduced"


@given(st.data(), entries)
def test_same_direction_needs_support_and_an_interval_that_excludes_the_opposite(data, entry):
    found = data.draw(findings(entry))
    if verdict(entry, found).word == "same direction":
        assert found.supports is True
        border = entry.against if found.against is None else found.against
        assert found.interval is not None
        assert border is not None
        assert not found.interval[0] <= border <= found.interval[1]


@given(st.data(), entries)
def test_a_number_is_reproduced_only_on_the_papers_data_within_tolerance(data, entry):
    found = data.draw(findings(entry))
    if entry.kind == "number" and verdict(entry, found).word == "reproduced":
        assert not found.scaled
        assert entry.data in (None, found.data)
        assert abs(found.value - entry.value) <= (entry.tolerance or 0) * (1 + 1e-6) + 1e-6


@given(st.data(), entries)
def test_every_finding_has_one_of_the_words_and_a_reason(data, entry):
    judged = verdict(entry, data.draw(findings(entry)))
    assert judged.word in WORDS
    assert judged.word != "not attempted"
    assert judged.why


@pytest.mark.parametrize(
    ("of", "found", "word"),
    [
        (entry(), None, "not attempted"),
        (entry(), finding(), "reproduced"),
        (entry(), finding(value=62.0), "reproduced"),
        (entry(), finding(value=62.1), "not reproduced"),
        (entry(), finding(value=62.1, interval=(61.9, 62.3), against=74.0), "same direction"),
        (entry(), finding(data="wikitext2"), "not reproduced"),
        (entry(), finding(scaled=True, budget=0.1, interval=(61.0, 62.0)), "not reproduced"),
        (entry(), finding(scaled=True, interval=(150.0, 160.0), against=170.0), "same direction"),
        (entry(), finding(scaled=True, interval=(150.0, 171.0), against=170.0), "not reproduced"),
        (entry(), finding(scaled=True, interval=(171.0, 172.0), against=170.0), "not reproduced"),
        (entry("count", value=12, tolerance=0), finding(value=12), "reproduced"),
        (entry("count", value=12, tolerance=0), finding(value=13), "not reproduced"),
        (entry("count", value="Add(a, b)"), finding(value="Add(a, b)"), "reproduced"),
        (entry("count", value="Add(a, b)"), finding(value=None), "not reproduced"),
        (entry("claim", value=None, better=None, data=None), finding(value=None), "reproduced"),
        (entry("claim", value=None, better=None, data=None), finding(supports=False), "not reproduced"),
        (entry("claim", value=None, better=None, data=None), finding(supports=None), "not reproduced"),
        (entry("claim", better="higher", against=0.0), finding(), "not reproduced"),
        (entry("claim", better="higher", against=0.0), finding(interval=(0.1, 0.2)), "reproduced"),
        (entry("claim", better="higher", against=0.0), finding(interval=(-0.1, 0.2)), "not reproduced"),
        (
            entry("claim", better="higher", against=0.0),
            finding(interval=(0.1, 0.2), data="x"),
            "same direction",
        ),
        (entry("figure", value=None, better=None, data=None), finding(value=None), "reproduced"),
    ],
)
def test_the_rules_by_example(of, found, word):
    assert verdict(of, found).word == word


def test_a_finding_about_something_else_is_refused():
    with pytest.raises(ValueError, match=r"s17\.x"):
        verdict(PAPERS["s17.fig1"], finding())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "finite"),
        ({"interval": (0.0, float("inf"))}, "finite"),
        ({"interval": (2.0, 1.0)}, "upside down"),
        ({"budget": 0.5}, "scaled=True"),
        ({"seeds": 0}, "one seed or more"),
        ({"source": "memory"}, "'run' or 'shipped'"),
    ],
)
def test_contradictory_findings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        finding(**changes)


@settings(max_examples=40)
@given(st.data(), entries)
def test_the_finding_that_counts_is_chosen_before_its_outcome_is_known(data, entry):
    run, shipped = data.draw(findings(entry)), data.draw(findings(entry))
    chosen = Row(entry, shipped, run).finding
    blind = [dataclasses.replace(f, value=None, interval=None, supports=None, against=None) for f in (shipped, run)]
    assert (chosen is run) == (Row(entry, *blind).finding is blind[1])


@settings(max_examples=20)
@given(st.lists(findings(), unique_by=lambda f: f.id, max_size=5))
def test_findings_come_back_as_they_were_written(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("ledger") / "ledger.json"
    write_findings(path, {f.id: f for f in written})
    assert read_findings(path) == {f.id: f for f in written}


def test_a_ledger_holds_this_run_beside_the_shipped_findings(tmp_path):
    tau = "s17.rank.predicts"
    shipped = Finding(tau, 0.5, (0.4, 0.6), budget=0.25, data="ptb", source="shipped", supports=True)
    write_findings(tmp_path / "findings.json", {tau: shipped})
    ledger = Ledger(tmp_path / "quick", tmp_path / "findings.json")
    ledger.path.parent.mkdir()
    assert ledger.counts()["same direction"] == 1
    ledger.add(Finding(tau, 0.1, (-0.2, 0.3), budget=0.01, data="pydoc", supports=True))
    ledger.add(Finding("s17.dsl.index.bc3", 11, scaled=False))
    assert ledger.add(Finding("s17.dsl.index.bc3", 12, scaled=False)).word == "reproduced"  # replaces the 11
    row = next(row for row in ledger.rows() if row.entry.id == tau)
    assert (row.run.value, row.shipped.value, row.finding.source) == (0.1, 0.5, "shipped")
    own = sum(entry.own for entry in PAPERS.values())
    assert ledger.counts() == {
        "reproduced": 1,
        "same direction": 1,
        "not reproduced": 0,
        "not attempted": own - 2,
    }
    frame = ledger.frame()
    assert len(frame) == own
    assert frame.loc[tau, ["shipped", "run", "verdict"]].to_list() == [0.5, 0.1, "same direction"]


def test_an_unknown_identifier_is_not_written(tmp_path):
    with pytest.raises(KeyError, match=r"s17\.fig1"):
        Ledger(tmp_path).add(Finding("s17.fgi1"))
    assert not (tmp_path / "ledger.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"finding": []}',
        json.dumps({"findings": [{"id": "s17.fig1", "colour": 1}]}),
        '{"findings": [{"id": "s17.no"}]}',
    ],
)
def test_an_unreadable_ledger_is_named(tmp_path, content):
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(ValueError, match=r"ledger\.json is not a ledger.*move it away"):
        Ledger(tmp_path).rows()
