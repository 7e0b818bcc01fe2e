"""The ledger: for every entry of the papers, what we found, and a verdict by rule.

The rules, in the order in which they are tried (E is the paper's entry, F our finding):

1. No finding: *not attempted*.
2. A *count* is an exact fact. F equals E within E's tolerance: *reproduced*; else *not reproduced*.
3. A *number* can be *reproduced* only by a run at the paper's full budget on the paper's data, within E's
   tolerance.
4. A *claim* or *figure* at full budget is *reproduced* when F supports it; an effect (a claim with a side
   that is better) also needs an interval over seeds that excludes the opposite.
5. Anything else can at best point in the *same direction*: F supports E, and its interval over seeds excludes
   the opposite. No interval, no direction: one seed decides nothing.
6. What is left is *not reproduced*. That is a result too, and F says why.

A scaled-down finding is therefore never *reproduced*.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import pandas as pd

from nasrepro.files import user_path, write_json
from nasrepro.report import papers
from nasrepro.report.papers import Entry, number

Word = Literal["reproduced", "same direction", "not reproduced", "not attempted"]
WORDS: tuple[Word, ...] = get_args(Word)

MEANING: Mapping[Word, str] = MappingProxyType(
    {
        "reproduced": "An exact fact that agrees; or the paper's own budget and data, and a value within "
        "the stated tolerance.",
        "same direction": "A smaller budget or other data. The finding agrees with the paper, and its "
        "interval over seeds excludes the opposite.",
        "not reproduced": "Tried, and it does not agree, or the evidence is too weak to say that it does. "
        "The reason stands beside it.",
        "not attempted": "No run has answered this yet.",
    }
)


@dataclass(frozen=True)
class Finding:
    """What one run found for one entry of the papers.

    `value` is in `unit`; `interval` is its interval over `seeds` seeds. `budget` is the share of the paper's budget
    that was spent (None for facts that need none) and `budget_words` says it in words. `supports` is whether the
    finding agrees with the paper (None: cannot be said), `reason` why. `scaled` is True for anything smaller than the
    paper's experiment or on other data. `against` is the value that the interval has to exclude, such as a rival's
    result; without it the entry's own is taken. Raises ValueError on contradictions.
    """

    id: str
    value: float | str | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    seeds: int = 1
    budget: float | None = None
    budget_words: str = ""
    data: str = ""
    device: str = ""
    source: Literal["run", "shipped"] = "run"
    supports: bool | None = None
    reason: str = ""
    scaled: bool = True
    against: float | None = None

    def __post_init__(self) -> None:
        if self.interval is not None:
            object.__setattr__(self, "interval", (float(self.interval[0]), float(self.interval[1])))
        numbers = [v for v in (self.value, *(self.interval or ()), self.budget, self.against) if isinstance(v, float)]
        problem = ""
        if not all(map(math.isfinite, numbers)):
            problem = "a value, interval, budget and border must be finite; give None where there is none"
        elif self.interval is not None and self.interval[0] > self.interval[1]:
            problem = f"the interval {self.interval} is upside down"
        elif self.budget is not None and not self.scaled and self.budget < 1:
            problem = f"a budget of {self.budget:g} of the paper's is scaled down; say scaled=True"
        elif self.seeds < 1:
            problem = f"seeds is {self.seeds}; a finding comes from one seed or more"
        elif self.source not in ("run", "shipped"):
            problem = f"source is {self.source!r}, not 'run' or 'shipped'"
        if problem:
            raise ValueError(f"finding {self.id!r:.100}: {problem}")


def is_scaled(entry: Entry, budget: float | None, data: str) -> bool:
    """Whether a finding from training is anything less than the paper's experiment: by its budget, or by its data."""
    return budget is None or budget < 1 or (entry.data is not None and data != entry.data)


@dataclass(frozen=True)
class Verdict:
    """One of the four words, and the rule that gave it in words."""

    word: Word
    why: str


def verdict(entry: Entry, finding: Finding | None) -> Verdict:
    """Judge a finding by the rules at the top of this file; ValueError when it is about another entry."""
    if finding is None:
        return Verdict("not attempted", "")
    if finding.id != entry.id:
        raise ValueError(f"finding {finding.id!r:.100} cannot be held against entry {entry.id!r}")
    if entry.kind == "count":
        if finding.scaled:
            return Verdict("not reproduced", "scaled down, so not the paper's own case")
        agrees, why = _agrees(entry, finding)
        return Verdict("reproduced" if agrees else "not reproduced", why)
    full = not finding.scaled and (entry.data is None or finding.data == entry.data)
    if full and entry.kind == "number":
        agrees, why = _agrees(entry, finding)
        if agrees:
            return Verdict("reproduced", why)
    if full and entry.kind in ("claim", "figure") and finding.supports and entry.better is None:
        return Verdict("reproduced", "holds as stated")
    directed, why = _points_the_same_way(entry, finding)
    if not directed:
        return Verdict("not reproduced", why)
    if full and entry.kind in ("claim", "figure"):
        return Verdict("reproduced", f"paper's budget and data; {why}")
    return Verdict("same direction", f"{_shortfall(entry, finding)}; {why}")


def _agrees(entry: Entry, finding: Finding) -> tuple[bool, str]:
    """Whether a value equals the paper's within tolerance; texts must be the same text."""
    ours, theirs = finding.value, entry.value
    if isinstance(ours, str) or isinstance(theirs, str) or ours is None or theirs is None:
        agrees = ours is not None and ours == theirs
        return agrees, "equal" if agrees else "differs from the paper's"
    tolerance = entry.tolerance or 0.0
    difference = abs(ours - theirs)
    # A hair of slack: 61.4 + 0.614 must not fail for the sake of the last binary digit.
    agrees = difference <= tolerance + 1e-9 * abs(theirs)
    return agrees, f"{number(difference)} away, tolerance {number(tolerance)}"


def _points_the_same_way(entry: Entry, finding: Finding) -> tuple[bool, str]:
    """Whether the finding supports the entry and its interval excludes the opposite."""
    against = entry.against if finding.against is None else finding.against
    if finding.supports is None:
        return False, "cannot be compared with the paper"
    if not finding.supports:
        return False, "contradicts the paper"
    if finding.interval is None:
        return False, "no interval over seeds"
    if against is None:
        return False, "nothing to hold the interval against"
    low, high = finding.interval
    above, below = low > against, high < against
    excluded = {"higher": above, "lower": below, None: above or below}[entry.better]
    return excluded, f"the interval {'excludes' if excluded else 'does not exclude'} the opposite ({number(against)})"


def _shortfall(entry: Entry, finding: Finding) -> str:
    """Why a finding that agrees is not called reproduced."""
    if finding.scaled:
        return "scaled down"
    if entry.data is not None and finding.data != entry.data:
        return f"on {finding.data or 'unnamed data'}, not {entry.data}"
    return "outside the tolerance"


@dataclass(frozen=True)
class Row:
    """One line of the ledger: the paper's entry, the shipped finding and this run's (either may lack)."""

    entry: Entry
    shipped: Finding | None
    run: Finding | None

    @property
    def finding(self) -> Finding | None:
        """The finding nearest to the paper's experiment: full before scaled, then its data, then budget.

        The choice looks at how a finding was made and never at how it came out. Equal ones: this run's.
        """
        found = [finding for finding in (self.run, self.shipped) if finding is not None]
        return max(found, key=lambda f: (not f.scaled, f.data == self.entry.data, f.budget or 0.0), default=None)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the finding nearest to the paper's experiment."""
        return verdict(self.entry, self.finding)


class Ledger:
    """The findings of one profile's folder in `ledger.json`, read beside those that ship with the records.

    `shipped` is a findings file; one that does not exist is empty. Raises ValueError naming the file when a
    ledger cannot be read.
    """

    def __init__(self, folder: str | Path, shipped: str | Path | None = None) -> None:
        self.path = user_path(folder) / "ledger.json"
        self.shipped = {} if shipped is None else read_findings(user_path(shipped))

    @property
    def run(self) -> dict[str, Finding]:
        """This folder's findings by identifier, as on disk now: notebooks write one after the other."""
        return read_findings(self.path)

    def add(self, finding: Finding) -> Verdict:
        """Write a finding in place of an earlier one and judge it; KeyError on an unknown identifier."""
        judged = verdict(papers.load()[finding.id], finding)
        write_findings(self.path, {**self.run, finding.id: finding})
        return judged

    def rows(self) -> list[Row]:
        """A row for every entry of the papers that is the papers' own result, in their order."""
        run, own = self.run, [entry for entry in papers.load().values() if entry.own]
        return [Row(entry, self.shipped.get(entry.id), run.get(entry.id)) for entry in own]

    def counts(self) -> dict[Word, int]:
        """How many entries have each verdict."""
        return counts(self.rows())

    def frame(self) -> pd.DataFrame:
        """The ledger as a table by id: the paper's value, the shipped one, this run's, the verdict."""
        return pd.DataFrame(
            {
                "id": row.entry.id,
                "where": f"{row.entry.paper} {row.entry.where}",
                "what": row.entry.row or row.entry.text,
                "unit": row.entry.unit,
                "paper": row.entry.value,
                "shipped": row.shipped.value if row.shipped else None,
                "run": row.run.value if row.run else None,
                "budget": row.finding.budget_words if row.finding else "",
                "data": row.finding.data if row.finding else "",
                "seeds": row.finding.seeds if row.finding else 0,
                "verdict": row.verdict.word,
                "why": row.verdict.why,
            }
            for row in self.rows()
        ).set_index("id")


def counts(rows: Iterable[Row]) -> dict[Word, int]:
    """How many of these entries have each verdict."""
    words = [row.verdict.word for row in rows]
    return {word: words.count(word) for word in WORDS}


def read_findings(path: Path) -> dict[str, Finding]:
    """Findings by identifier, none without the file; ValueError names a file that cannot be read."""
    if not path.exists():
        return {}
    known = papers.load()
    try:
        findings = [Finding(**raw) for raw in json.loads(path.read_text(encoding="utf-8"))["findings"]]
        for finding in findings:
            known[finding.id]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a ledger that this version can read ({error}); move it away and run again"
        ) from error
    return {finding.id: finding for finding in findings}


def write_findings(path: Path, findings: Mapping[str, Finding]) -> None:
    """Write findings, sorted by identifier so that a diff shows what changed."""
    write_json(path, {"findings": [asdict(findings[key]) for key in sorted(findings)]})
