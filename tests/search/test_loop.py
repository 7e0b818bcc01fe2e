"""The search does what S17 states, in the same way however it is interrupted, and does nothing twice."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from nasrepro.controllers import GrowthSettings
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.profiles import load
from nasrepro.ranking import Ranker
from nasrepro.search import Record, RecordError, Search, loop, ranked_search, replay
from nasrepro.search.loop import SearchError, evaluate, search, search_id
from nasrepro.search.ranked_search import SearchSettings, select
from nasrepro.search.workers import Job, WorkerError, Workers
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import FakeTask, fake_perplexity
from tests.search.killable import AGENT_SETTINGS, SETTINGS, command

ROOT = Path(__file__).resolve().parents[2]
TASK = FakeTask(failing=True)


def run(record: Record, task: FakeTask = TASK, **changes: Any) -> Search:
    return search(task, replace(SETTINGS, **changes), record, workers=0, progress=False)


def rows(record: Record) -> list[Any]:
    """All that a search leaves behind, but for clocks."""
    evaluations = [asdict(evaluation) for evaluation in record.evaluations()]
    for evaluation in evaluations:
        del evaluation["seconds"], evaluation["created"]
        evaluation["metrics"] = sorted(evaluation["metrics"].items(), key=repr)
    return [repr(evaluations), [(record.proposals(name), record.steps(name)) for name in record.searches()]]


@pytest.fixture(scope="module")
def unbroken() -> Record:
    record = Record()
    run(record)
    return record


@pytest.fixture(scope="module")
def history(unbroken: Record) -> Search:
    return replay(unbroken, next(iter(unbroken.searches())))


# ---- what a search does


def test_the_defaults_are_the_papers() -> None:
    """S17 sections 3.2 and 4.1: 28 best and 4 sampled of 50,000, memory after 750, 21 nodes, height 8."""
    settings = SearchSettings()
    assert (settings.step - settings.sampled, settings.sampled, settings.candidates) == (28, 4, 50_000)
    assert settings.memory_after == 750
    assert (settings.growth.max_nodes, settings.growth.max_height) == (21, 8)


def test_every_step_has_best_and_sampled_cells_but_the_first(history: Search) -> None:
    frame = history.frame()
    assert frame.number.tolist() == list(range(33))
    assert frame.step.tolist() == [number // 8 for number in range(33)]
    assert frame.how.tolist() == (["random"] * 8 + 3 * (["best"] * 6 + ["sampled"] * 2) + ["best"])
    assert frame.hash.is_unique
    assert frame.predicted.isna().tolist() == [number < 8 for number in range(33)]
    for _, step in frame[frame.step > 0].groupby("step"):
        best = step[step.how == "best"].predicted
        assert best.is_monotonic_increasing
        assert (step[step.how == "sampled"].predicted >= best.max()).all()


def test_values_are_the_tasks(history: Search) -> None:
    frame = history.frame()
    failed = frame.status == "failed"
    assert 0 < failed.sum() < 33
    assert (frame[failed].reason == "exploded").all()
    assert frame[failed].valid_ppl.isna().all()
    expected = [fake_perplexity(parse(cell), 0) for cell in frame[~failed].cell]
    assert frame[~failed].valid_ppl.tolist() == expected
    assert (frame[~failed].reason == "").all()


def test_memory_comes_after_enough_valid_cells_without(history: Search) -> None:
    frame = history.frame()
    for step in frame.step.unique():
        earlier = frame[frame.step < step]
        valid = int((~has_memory(earlier) & (earlier.status == "ok")).sum())
        assert history.steps[step]["memory"] == (valid >= 10)
    assert has_memory(frame).any()
    assert not has_memory(frame[~frame.step.map(lambda step: history.steps[step]["memory"])]).any()


def has_memory(frame: pd.DataFrame) -> "pd.Series[bool]":
    return frame.cell.map(lambda text: parse(text).memory is not None).astype(bool)


def test_the_ranking_function_learns_from_all_earlier_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons: list[tuple[list[Cell], list[float | None]]] = []

    class Spy(Ranker):
        def fit(self, cells: Any, perplexities: Any, progress: bool = False) -> Ranker:
            lessons.append((list(cells), list(perplexities)))
            return super().fit(cells, perplexities, progress)

    monkeypatch.setattr(ranked_search, "Ranker", Spy)
    frame = run(Record()).frame()
    assert len(lessons) == 4
    for step, (cells, perplexities) in enumerate(lessons, start=1):
        earlier = frame[frame.step < step]
        assert [str(cell) for cell in cells] == earlier.cell.tolist()
        assert [None if np.isnan(v) else v for v in earlier.valid_ppl] == perplexities
        assert None in perplexities


def test_random_search_only_draws_and_begins_like_ranked_search(history: Search) -> None:
    control = run(Record(), method="random").frame()
    assert set(control.how) == {"random"}
    assert control.predicted.isna().all()
    assert len(control) == 33
    assert control.cell.tolist()[:8] == history.frame().cell.tolist()[:8]


def test_seeds_differ_and_child_seeds_change_values_but_not_the_first_cells(history: Search) -> None:
    other, child = run(Record(), seed=1, cells=8), run(Record(), child_seed=1, cells=8)
    first = history.frame()[:8]
    assert other.id != child.id != history.id
    assert other.frame().cell.tolist() != first.cell.tolist()
    assert child.frame().cell.tolist() == first.cell.tolist()
    assert child.frame().valid_ppl.dropna().tolist() != first.valid_ppl.dropna().tolist()


def test_a_search_ends_when_the_generator_finds_nothing_new() -> None:
    growth = GrowthSettings(words=("MM", "Add", "x_t", "h_{t-1}"), max_height=2, patience=300)
    found = run(Record(), growth=growth)
    # All cells of height 2 that read both sources, up to the order of Add's arguments.
    texts = ["Add(x, hm1)", "Add(MM(x), hm1)", "Add(x, MM(hm1))", "Add(MM(x), MM(hm1))", "MM(Add(x, hm1))"]
    expected = {parse(text).hash for text in texts}
    assert set(found.frame().hash) == expected
    assert found.steps[0]["exhausted"]


def test_without_a_valid_cell_there_is_nothing_to_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTask, "evaluate", lambda *_: Outcome("failed", "exploded"))
    assert set(run(Record(), cells=24).frame().how) == {"random"}


def test_rejected_draws_are_counted_by_reason(history: Search) -> None:
    total: Counter[str] = Counter()
    for facts in history.steps.values():
        total.update(facts["rejected"])
    assert history.rejected == total
    assert total["too large"] > 0


def test_sampling_without_replacement_has_the_right_probabilities() -> None:
    """Against the definition: one after the other, each with its weight's share of what is left."""
    predicted, settings = (
        np.array([0.0, 1.0, 1.5, 2.0, 2.5]),
        SearchSettings(step=3, sampled=2, temperature=0.7),
    )
    weights = np.exp(-predicted[1:] / 0.7)
    expected = {
        (i, j): weights[i] / weights.sum() * weights[j] / (weights.sum() - weights[i])
        for i, j in permutations(range(4), 2)
    }
    rng, draws = random.Random(1), 4000
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(draws):
        chosen = select(predicted, settings, rng)
        assert chosen[0] == (0, "best")
        counts[tuple(index - 1 for index, how in chosen if how == "sampled")] += 1
    observed = [counts[pair] for pair in expected]
    assert sum(observed) == draws
    assert chisquare(observed, [draws * share for share in expected.values()]).pvalue > 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"cells": 0},
        {"step": 0},
        {"sampled": 33},
        {"sampled": -1},
        {"memory_after": -1},
        {"candidates": 31},
        {"temperature": 0.0},
        {"method": "bayesian"},
    ],
)
def test_settings_that_make_no_search(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SearchSettings(**wrong)


def test_the_shipped_searches_are_still_those_of_their_settings() -> None:
    """A search id that changed would have every recorded search begun anew."""
    record = Record.load(ROOT / "results" / "records" / "ptb-chars-search.jsonl.gz")
    profile = load("course")
    for settings in (profile.search, profile.random_search):
        (known,) = [shipped for shipped in record.searches().values() if shipped["search"]["method"] == settings.method]
        task = SimpleNamespace(data_hash=known["task"].pop("data"), **known["task"])
        assert search_id(task, settings) in record.searches()


# ---- nothing is done twice, and the order of results does not matter


def test_a_second_run_trains_and_ranks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASK, pids=tmp_path / "calls")
    record = Record()
    first = run(record, task)
    calls = len((tmp_path / "calls").read_text().splitlines())
    assert calls == 33
    before = rows(record)
    monkeypatch.setattr(ranked_search, "propose_cells", lambda *_: pytest.fail("proposed again"))
    second = search(task, SETTINGS, record, workers=3, progress=False)  # starts no process either
    assert len((tmp_path / "calls").read_text().splitlines()) == calls
    assert rows(record) == before
    assert second.frame().equals(first.frame())


def test_a_larger_budget_goes_on_and_a_smaller_one_is_a_part(unbroken: Record, history: Search) -> None:
    record = Record()
    run(record, cells=11)
    assert len(record.evaluations()) == 11
    run(record)
    assert rows(record) == rows(unbroken)
    assert run(record, cells=11).frame().equals(history.frame()[:11])


def test_the_order_in_which_cells_finish_does_not_matter(unbroken: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(Workers):
        def map(self, jobs: Any) -> Iterator[tuple[Job, Outcome]]:
            yield from reversed(list(super().map(jobs)))

    monkeypatch.setattr(loop, "Workers", Backwards)
    record = Record()
    run(record)
    assert rows(record) == rows(unbroken)


def test_evaluations_that_the_record_holds_are_used_by_another_search(tmp_path: Path) -> None:
    record = Record()
    run(record)
    control = run(record, replace(TASK, pids=tmp_path / "calls"), method="random")  # it begins with the same 8 cells
    known = len(control.trials) + 33 - len(record.evaluations())
    assert known >= 8
    assert len((tmp_path / "calls").read_text().splitlines()) == 33 - known


def test_equal_cells_are_evaluated_once_and_given_back_in_order(tmp_path: Path) -> None:
    a, b = parse("Tanh(Add(MM(x_t), MM(h_{t-1})))"), parse("Tanh(Add(MM(h_{t-1}), MM(x_t)))")
    task = FakeTask(pids=tmp_path / "calls")
    with Record() as record, Workers(task, 0) as workers:
        found = evaluate([Job(cell, 5) for cell in (a, zoo["GRU"], b)], record, workers)
        assert [e.hash for e in found] == [a.hash, zoo["GRU"].hash, a.hash]
        assert TASK.loss.of(found[0]) == fake_perplexity(a, 5)
        assert len(record.evaluations()) == len((tmp_path / "calls").read_text().splitlines()) == 2


# ---- faults


def test_a_task_that_always_crashes_stops_the_search_and_leaves_no_results() -> None:
    class Broken(FakeTask):
        def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
            raise TypeError("a slip of the programmer")

    record = Record()
    with pytest.raises(SearchError, match=r"all 8 candidates crashed, .*TypeError: a slip of the programmer"):
        run(record, Broken())
    assert record.evaluations() == []
    assert len(run(record, FakeTask()).trials) == 33  # mended, it goes on


def test_the_machines_fault_ends_the_search_and_stands_in_no_row(history: Search, unbroken: Record) -> None:
    bad = history.frame().hash[11]
    record = Record()
    with pytest.raises(WorkerError, match="No space left on device"):
        run(record, replace(TASK, behaviour={bad: "disk"}))
    assert bad not in {evaluation.hash for evaluation in record.evaluations()}
    assert len(record.evaluations()) == 11
    run(record)  # there is room again
    assert rows(record) == rows(unbroken)


def test_a_limit_that_no_cell_keeps_stops_the_search_and_leaves_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTask, "evaluate", lambda *_: Outcome("failed", "out of memory"))
    record = Record()
    with pytest.raises(SearchError, match=r"all 8 candidates crashed, .*'out of memory'.* its limits"):
        run(record)
    assert record.evaluations() == []


def test_settings_with_equal_numbers_make_one_search() -> None:
    equal = replace(
        SETTINGS,
        cells=np.int64(33),
        step=8.0,
        temperature=1,
        growth=replace(SETTINGS.growth, weights={"MM": 2}),
        ranker=replace(SETTINGS.ranker, learning_rate=np.float64(1e-3), favour=1),
    )
    same = replace(SETTINGS, growth=replace(SETTINGS.growth, weights={"MM": 2.0}))
    assert search_id(TASK, equal) == search_id(TASK, same) != search_id(TASK, SETTINGS)
    assert equal == same
    agent = replace(AGENT_SETTINGS, reinforce=replace(AGENT_SETTINGS.reinforce, clip=1), step=np.int8(5))
    assert search_id(TASK, agent) == search_id(TASK, AGENT_SETTINGS)


def test_seeds_of_any_library_are_trained(tmp_path: Path) -> None:
    """Through a worker and into a file: what torch and SQLite take from Python's own int only."""
    with Record(tmp_path / "r.db") as record, Workers(FakeTask(), 0) as workers:
        for seed in (np.int64(5), 5.0):
            (found,) = evaluate([Job(zoo["GRU"], seed)], record, workers)  # type: ignore[arg-type]
            assert TASK.loss.of(found) == fake_perplexity(zoo["GRU"], 5)
        assert len(record.evaluations()) == 1


def test_cells_that_crash_here_and_there_are_failures(history: Search) -> None:
    bad = history.frame().hash[2]
    record = Record()
    frame = run(record, replace(TASK, behaviour={bad: "raise"}), cells=16).frame()
    assert frame[frame.hash == bad].reason.tolist() == ["crashed: ValueError: no such cell"]
    assert len(frame) == 16


def test_ctrl_c_says_how_to_go_on(unbroken: Record, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(FakeTask):
        left = 12

        def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().evaluate(cell, seed)

    record = Record()
    with pytest.raises(KeyboardInterrupt):
        run(record, Interrupted(failing=True))
    assert "stopped with 12 of 33 candidates; run it again to go on" in capsys.readouterr().err
    run(record)
    assert rows(record) == rows(unbroken)


# ---- replay


def test_an_exported_search_replays_without_torch(unbroken: Record, history: Search, tmp_path: Path) -> None:
    unbroken.export(tmp_path / "r.jsonl.gz")
    program = (
        "import sys; from nasrepro.search import Record, replay\n"
        f"record = Record.load({str(tmp_path / 'r.jsonl.gz')!r})\n"
        f"replay(record, {history.id!r}).frame().to_csv(sys.stdout, index=False)\n"
        "assert 'torch' not in sys.modules"
    )
    csv = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert csv == history.frame().to_csv(index=False)


def test_replaying_a_search_that_is_not_there(unbroken: Record, history: Search) -> None:
    with pytest.raises(RecordError, match=f"holds no search 'nil'; it holds {history.id}"):
        replay(unbroken, "nil")


# ---- kill -9


def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_rows(unbroken: Record, tmp_path: Path) -> None:
    path, chance, moments = tmp_path / "r.db", random.Random(), []
    with Record(path) as record:
        for _ in range(2):
            process = subprocess.Popen(command(path), cwd=ROOT, stderr=subprocess.DEVNULL)
            wait_for_results(record, chance.randint(1, 7), process)
            pause = chance.random() * 0.3
            time.sleep(pause)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            moments.append((len(record.evaluations()), pause))
        assert 0 < len(record.evaluations()) < 33
        run(record)
        assert rows(record) == rows(unbroken), f"killed after {moments}"


def wait_for_results(record: Record, more: int, process: "subprocess.Popen[Any]") -> None:
    wanted = len(record.evaluations()) + more
    while len(record.evaluations()) < wanted:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.03)
