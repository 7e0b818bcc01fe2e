"""A search whose candidates are no cells goes the whole way; and a plan's steps depend on its history alone."""

import doctest
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nasrepro.dsl import Cell, parse
from nasrepro.experiments import EXPERIMENTS
from nasrepro.search import Evaluation, Record, Search, replay
from nasrepro.search import plan as plan_module
from nasrepro.search.agent_search import AgentSearchSettings
from nasrepro.search.loop import search, search_id
from nasrepro.search.plan import ByHand, History, SearchPlan, Step, Trial
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.search.record import evaluation_key
from nasrepro.trainers.outcome import Outcome
from tests.experiments.toy import SpellingPlan, SpellingTask, Word, wrong
from tests.search.killable import AGENT_SETTINGS, QUICK_PRETRAINING, SETTINGS
from tests.search.test_loop import rows

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "results" / "records"
TASK, PLAN = SpellingTask(), SpellingPlan()


def run(record: Record, **changes: Any) -> Search:
    return search(TASK, replace(PLAN, **changes), record, workers=0, progress=False)


@pytest.fixture(scope="module")
def unbroken() -> Record:
    record = Record()
    run(record)
    return record


@pytest.fixture(scope="module")
def history(unbroken: Record) -> Search:
    return replay(unbroken, *unbroken.searches())


# ---- words instead of cells


def test_words_are_searched_by_the_tasks_own_loss(history: Search) -> None:
    frame = history.frame()
    assert len(frame) == 60
    assert frame.hash.is_unique
    assert (history.loss.metric, history.loss.words) == ("error", "wrong letters")
    failed = frame.cell.str.lower().str.contains("q")
    assert 0 < failed.sum() < 60
    assert (frame.reason.eq("has a q") == failed).all()
    assert frame.loss.isna().tolist() == frame.error.isna().tolist() == failed.tolist()
    expected = [wrong(Word(text), "search") + 0.003 for text in frame.cell[~failed]]
    assert frame.loss[~failed].tolist() == expected
    assert min(expected[-6:]) < min(expected[:6])
    best = rf"{failed.sum()} failed, best wrong letters {min(expected):.2f}"
    assert repr(history) == f"Search('{history.id}': 60 candidates, {best})"


def test_equal_words_are_trained_once_and_in_their_canonical_form(unbroken: Record) -> None:
    assert all(evaluation.cell == evaluation.canonical.lower() for evaluation in unbroken.evaluations())
    assert any(proposal.cell != proposal.cell.lower() for proposal in unbroken.proposals(*unbroken.searches()))


def test_a_larger_budget_goes_on(unbroken: Record) -> None:
    record = Record()
    for budget in (1, 20, 60):
        assert len(run(record, budget=budget).trials) == budget
    assert rows(record) == rows(unbroken)


def test_an_exported_search_of_words_replays(unbroken: Record, history: Search, tmp_path: Path) -> None:
    unbroken.export(tmp_path / "r.jsonl.gz")
    record = Record.load(tmp_path / "r.jsonl.gz")
    assert replay(record, history.id).frame().equals(history.frame())
    assert run(record).frame().equals(history.frame())


def test_a_plan_may_tell_no_facts() -> None:
    @dataclass(frozen=True)
    class Silent(SpellingPlan):
        def propose(self, history: History[Word], step: int) -> Step[Word]:
            return replace(super().propose(history, step), facts={})

    record = Record()
    found = search(TASK, Silent(budget=12), record, workers=0, progress=False)
    assert len(found.trials) == 12
    assert found.rejected == replay(record, found.id).rejected == {}


def test_rejected_draws_are_counted_over_all_steps(history: Search) -> None:
    told = [facts["rejected"]["duplicate"] for facts in history.steps.values()]
    assert history.rejected == {"duplicate": sum(told)}


def test_a_candidate_whose_hash_is_not_its_texts_is_refused() -> None:
    class Careless(Word):
        @property
        def hash(self) -> str:
            return str(len(self.text))

    # printf abc | sha256sum
    message = r"hash '3'; a candidate's is the SHA-256 of its canonical text, 16 hex digits: ba7816bf8f01cfea"
    with pytest.raises(ValueError, match=message):
        Evaluation.of(TASK, Careless("ABC"), 0, Outcome("failed", "careless"))


# ---- by hand


def by_hand(plan: SearchPlan[Any], losses: Any) -> ByHand[Any]:
    stepper = ByHand(plan)
    while candidates := stepper.ask():
        assert stepper.ask() == candidates, "until told, the same are asked for"
        stepper.tell(losses(candidates))
    assert stepper.ask() == []
    return stepper


@pytest.mark.parametrize(
    ("task", "plan"),
    [
        (TASK, PLAN),
        (TASK, replace(PLAN, letters="ab", patience=3)),  # which ends before its budget
    ],
)
def test_a_search_by_hand_tries_what_the_loop_tries(task: Any, plan: Any) -> None:
    made = search(task, plan, Record(), workers=0, progress=False)

    def losses(candidates: Sequence[Any]) -> list[float | None]:
        return [task.loss.of(task.evaluate(one.canonical(), plan.child_seed)) for one in candidates]

    found = by_hand(plan, losses).history
    assert [str(trial.candidate) for trial in found.trials] == [proposal.cell for proposal, _ in made.trials]
    assert found.losses == made.losses
    assert found.steps == made.steps


def test_losses_are_told_for_what_was_asked_and_for_nothing_else() -> None:
    stepper = ByHand(PLAN)
    with pytest.raises(ValueError, match="0 losses for 0 candidates: ask, then tell"):
        stepper.tell([])
    asked = stepper.ask()
    with pytest.raises(ValueError, match=f"1 losses for {len(asked)} candidates"):
        stepper.tell([1.0])
    assert stepper.ask() == asked


def test_the_example_of_the_module_runs() -> None:
    assert doctest.testmod(plan_module) == doctest.TestResults(0, 4)


# ---- S17's plans


SHIPPED_IDS = {
    "ptb-chars-search.jsonl.gz": {"bb48a4f52540": "ranked", "e371fb363541": "random"},
    "multi30k-translation.jsonl.gz": {
        "f2d24090d0d2": "agent", "c57939dae60d": "agent", "b9f89b8aab93": "random", "7a54aaff835f": "agent",
        "97c8aede73f3": "random", "f0d269b43d8d": "agent", "03c611bb5011": "random",
    },
}  # fmt: skip
SHIPPED_KEYS = {
    ("bb48a4f52540", 0): "d31fff3aacde7e3aba9711b8439e7f75884236fa17e4892e31290420a156afc8",
    ("bb48a4f52540", 223): "6b078faffa5e447b1dac8247e3f7a1c11ca6b2f9f681016612698b7a16abd39f",
    ("e371fb363541", 223): "ddc941cf301caeb4a57ef51868d4be8bd555d67b3af0aeddf6592b3e2dd96a5c",
    ("f2d24090d0d2", 163): "d56c587a911fb9c0c89454af32f6f4e77a86fdeb145ccd5451f058af48d5e64b",
    ("03c611bb5011", 25): "0b920d1d427740ce006c6720a8f273051a7ae17afa472caa7a02c261555167a0",
}


def shipped_plans() -> dict[str, SearchPlan[Cell]]:
    """The plans of the profile that replays the shipped searches, by the ids of these."""
    texts, runs = (EXPERIMENTS[name].sizes["course"] for name in ("s17_language_model", "s17_translation"))
    agents = zip(
        ("c57939dae60d", "b9f89b8aab93", "7a54aaff835f", "97c8aede73f3", "f0d269b43d8d", "03c611bb5011"),
        runs.controls(),
        strict=True,
    )
    return {
        "bb48a4f52540": texts.search,
        "e371fb363541": texts.random_search,
        "f2d24090d0d2": runs.search,
        **dict(agents),
    }


@pytest.mark.parametrize("file", SHIPPED_IDS)
def test_ids_and_keys_of_the_shipped_searches_are_what_they_were(file: str) -> None:
    record = Record.load(RECORDS / file)
    assert {name: known["search"]["method"] for name, known in record.searches().items()} == SHIPPED_IDS[file]
    for name, known in record.searches().items():
        task: Any = shipped_task(known)
        assert search_id(task, shipped_plans()[name]) == name
        found = replay(record, name)
        assert (found.loss.metric, found.loss.words) == ("valid_ppl", "validation perplexity")
        for proposal, evaluation in found.trials:
            assert evaluation_key(task, parse(proposal.cell), 0) == proposal.key == evaluation.key
            assert SHIPPED_KEYS.get((name, proposal.number), proposal.key) == proposal.key


def shipped_task(known: dict[str, Any]) -> SimpleNamespace:
    """The identity of a shipped search's task, without its data."""
    identity = dict(known["task"])
    return SimpleNamespace(data_hash=identity.pop("data"), **identity)


RANDOM_SEARCHES = [(file, name) for file, ids in SHIPPED_IDS.items() for name, how in ids.items() if how == "random"]


@pytest.mark.parametrize(("file", "name"), RANDOM_SEARCHES)
def test_from_the_shipped_results_alone_a_plan_works_out_the_shipped_steps(file: str, name: str) -> None:
    """The random ones: a ranking function and an agent differ from machine to machine in their last digits."""
    record = Record.load(RECORDS / file)
    found = replay(record, name)
    propose = shipped_plans()[name].proposer()
    history: History[Cell] = History()
    for step, facts in found.steps.items():
        new = propose(history, step)
        recorded = record.proposals(name, step)
        assert [str(choice.candidate) for choice in new.choices] == [proposal.cell for proposal in recorded]
        assert [choice.how for choice in new.choices] == [proposal.how for proposal in recorded]
        assert new.facts == facts
        cells = [parse(proposal.cell) for proposal in recorded]
        if any(cell.hash not in found.losses for cell in cells):
            break  # the budget ended within this step
        history = history.after(step, facts, [Trial(cell, found.losses[cell.hash]) for cell in cells])


@pytest.mark.parametrize(
    "plan",
    [
        SETTINGS,
        replace(SETTINGS, method="random"),
        AGENT_SETTINGS,
        replace(AGENT_SETTINGS, method="random"),
    ],
    ids=lambda plan: f"{type(plan).__name__}-{plan.method}",
)
def test_equal_histories_give_equal_steps_whatever_was_asked_before(
    plan: SearchSettings | AgentSearchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasrepro.search.agent_search.pretrain", QUICK_PRETRAINING)
    stepper = ByHand(plan)
    for _ in range(3):
        stepper.tell([float(len(str(cell))) for cell in stepper.ask()])
    found, last = stepper.history, len(stepper.history.steps)
    again = plan.proposer()
    first = written(again(History(), 0))
    expected = written(plan.proposer()(found, last))
    assert written(again(found, last)) == written(plan.proposer()(found, last)) == expected
    assert written(plan.proposer()(History(), 0)) == first != expected


def written(step: Step[Cell]) -> str:
    return repr([(str(choice.candidate), choice.how, choice.predicted) for choice in step.choices] + [step.facts])
