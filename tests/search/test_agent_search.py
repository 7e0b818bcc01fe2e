"""The search by the agent does what S17 states, and goes on after anything as if nothing had happened."""

import math
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nasrepro.controllers import AgentSettings, PriorSettings, ReinforceSettings, draw_well_formed, ready_batches
from nasrepro.dsl import Cell, Node, parse
from nasrepro.search import Record, Search, agent_search, loop, replay
from nasrepro.search.agent_search import (
    AgentSearch,
    AgentSearchSettings,
    placements,
    pretrained_agent,
    trained_agent,
    trees,
    updates,
)
from nasrepro.search.loop import search, search_id
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import FakeTask, fake_perplexity
from tests.search.killable import AGENT_SETTINGS, QUICK_PRETRAINING, WORDS, command
from tests.search.test_loop import ROOT, rows, wait_for_results

TASK = FakeTask(failing=True)


def run(record: Record, task: FakeTask = TASK, workers: int = 0, **changes: Any) -> Search:
    return search(task, replace(AGENT_SETTINGS, **changes), record, workers=workers, progress=False)


@pytest.fixture(scope="module", autouse=True)
def quick_pretraining() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_search, "pretrain", QUICK_PRETRAINING)
        yield


@pytest.fixture(scope="module")
def unbroken() -> Record:
    record = Record()
    run(record)
    return record


@pytest.fixture(scope="module")
def history(unbroken: Record) -> Search:
    return replay(unbroken, next(iter(unbroken.searches())), AGENT_SETTINGS.cells)


def forbidden(*_: object, **__: object) -> Any:
    raise AssertionError("this was to be done no second time")


# ---- what a search does


def test_the_defaults_are_the_papers() -> None:
    """S17 section 4.2: 3450 cells; epsilon 0.05 (3.1); every operator of both groups."""
    settings = AgentSearchSettings()
    assert (settings.cells, settings.agent.epsilon) == (3450, 0.05)
    assert {"Gate3", "LayerNorm", "PosEnc", "x_{t-1}", "c_{t-1}"} <= {*settings.agent.words}


def test_every_step_draws_as_many_trees_and_trains_all_their_places_of_memory(history: Search) -> None:
    expected: list[str] = []
    for facts in history.steps.values():
        assert len(facts["trees"]) == 5
        for drawn in facts["trees"]:
            expected += [text for text in trainable(drawn["tree"]) if parse(text).hash not in hashes(expected)]
    proposed = [proposal.cell for proposal, _ in history.trials]
    assert proposed == expected[:33]
    frame = history.frame()
    assert frame.number.tolist() == list(range(33))
    assert frame.hash.is_unique
    memory = frame.cell.map(lambda text: parse(text).memory is not None)
    assert memory.any()
    assert not memory.all()


def hashes(texts: list[str]) -> set[str]:
    return {parse(text).hash for text in texts}


def trainable(tree: str) -> list[str]:
    """By the text alone: c_t is any operator below h_t over c_{t-1} and at least three nodes (S17 section 2.3)."""
    if not ("x_t" in tree and "h_{t-1}" in tree):
        return []
    if "c_{t-1}" not in tree:
        return [tree]
    subgraphs = [node.text for node in Cell(parse(tree).root).operators]
    return [
        f"{tree}|{k}"
        for k, text in enumerate(subgraphs[:-1])
        if "c_{t-1}" in text and len(re.findall(r"[A-Z]\w*\(|x_t|[xhc]_\{t-1\}", text)) >= 3
    ]


def test_a_cell_is_said_to_be_explored_where_epsilon_drew_a_word_of_its_tree(history: Search) -> None:
    for proposal, _ in history.trials:
        drawn = [drawn for drawn in history.steps[proposal.step]["trees"] if proposal.cell.startswith(drawn["tree"])]
        assert proposal.how == ("explored" if drawn[0]["explored"] else "agent")
    assert {*history.frame().how} == {"explored", "agent"}


def test_the_reward_of_a_tree_is_that_of_its_best_place_of_memory(history: Search) -> None:
    """S17's formula, written out once more."""
    table = trees(history)
    failed = 0
    for row in table.itertuples():
        cells = [parse(text) for text in trainable(row.tree)]
        losses = {fake_perplexity(cell, 0): cell.hash for cell in cells if int(cell.hash, 16) % 5}
        assert row.cells == len(cells)
        if losses:
            loss = min(losses)
            assert row.loss == loss
            assert row.reward == pytest.approx(0.2 * (140 - loss) + 4 ** (0.3815 * (140 - loss) - 50))
            assert row.hash == losses[loss]
        else:
            assert math.isnan(row.reward)
            assert math.isnan(row.loss)
            failed += 1
    assert 0 < failed < len(table)
    assert (table.cells > 1).any()
    assert table.step.is_monotonic_increasing


def test_trees_that_cannot_be_trained_are_counted_by_reason(history: Search) -> None:
    lacking = Counter[str]()
    for facts in history.steps.values():
        for drawn in facts["trees"]:
            if not ("x_t" in drawn["tree"] and "h_{t-1}" in drawn["tree"]):
                lacking["source missing"] += 1
            elif not trainable(drawn["tree"]):
                lacking["no place for c_t"] += 1
    assert lacking["source missing"] > 0
    assert history.rejected - Counter(duplicate=history.rejected["duplicate"]) == lacking


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ("Tanh(MM(x_t))", "source missing"),
        ("Tanh(Add(MM(h_{t-1}), c_{t-1}))", "source missing"),
        ("Add(Add(x_t, h_{t-1}), Tanh(c_{t-1}))", "no place for c_t"),
    ],
)
def test_why_a_tree_cannot_be_trained(tree: str, reason: str) -> None:
    assert placements(parse(tree).root) == ([], reason)


def test_the_agent_learns_from_all_trees_in_their_order(unbroken: Record) -> None:
    """Its updates are those of the batches that one gets from all results at once, failures as reward 0."""
    search = replay(unbroken, next(iter(unbroken.searches())), 33)
    agent = trained_agent(search, AGENT_SETTINGS, unbroken)
    table = trees(search)
    table = table[table.step < len(agent.updates)]
    results = [
        (parse(row.tree).root, None if math.isnan(row.reward) else float(row.reward)) for row in table.itertuples()
    ]
    batches, waiting = ready_batches(results)
    made = [update for step in agent.updates for update in step]
    assert [update["updates"] for update in made] == list(range(1, len(batches) + 1))
    assert [update["reward"] for update in made] == pytest.approx(
        [sum(value or 0.0 for _, value in batch) / 4 for batch in batches]
    )
    assert agent.waiting == waiting
    assert any(value is None for batch in batches for _, value in batch)
    assert len(batches) >= 2
    written = [facts["updates"] for step, facts in search.steps.items() if step]
    assert written == agent.updates[: len(written)]


def test_updates_are_told_before_the_step_that_they_changed(history: Search) -> None:
    table = updates(history)
    assert (table.tree == 5 * table.step).all()
    assert table.step.min() > 0


def test_random_search_draws_from_the_priors_and_knows_no_agent() -> None:
    record = Record()
    control = run(record, method="random")
    drawn = [drawn["tree"] for facts in control.steps.values() for drawn in facts["trees"]]
    expected = []
    for step in control.steps:
        rng = random.Random(f"4/{step}")
        expected += [draw_well_formed(rng, AGENT_SETTINGS.priors).text for _ in range(5)]
    assert drawn == expected
    assert {*control.frame().how} == {"random"}
    assert len(control.trials) == 33
    assert updates(control).empty
    other = replace(
        AGENT_SETTINGS, method="random", agent=AgentSettings(width=3), reinforce=ReinforceSettings(clip=9.0)
    )
    assert search_id(TASK, other) == control.id != search_id(TASK, AGENT_SETTINGS)
    assert search_id(TASK, replace(other, priors=PriorSettings(WORDS, 3, 7))) != control.id


def test_seeds_differ_and_child_seeds_change_values_but_not_the_first_trees(history: Search) -> None:
    other, child = run(Record(), seed=1, cells=3), run(Record(), child_seed=1, cells=3)
    assert len({other.id, child.id, history.id}) == 3
    assert other.steps[0]["trees"] != history.steps[0]["trees"]
    assert child.steps[0]["trees"] == history.steps[0]["trees"]
    assert child.frame().valid_ppl.tolist() != history.frame().valid_ppl[:3].tolist()


class Adds(FakeTask):
    """Rewards a feature that is easy to see: operators Add."""

    def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
        adds = sum(node.op == "Add" for node in cell.operators)
        return Outcome("ok", "", {"valid_ppl": 120.0 - 5.0 * adds}, device="cpu")


def test_the_agent_finds_more_of_what_is_rewarded_than_its_random_control() -> None:
    """Each Add is worth a reward of 1. At the end of 60 cells a tree has, as a mean over seeds, two more of them."""
    words = tuple(word for word in WORDS if word not in ("c_{t-1}", "Gate3"))
    settings = replace(
        AGENT_SETTINGS,
        cells=60,
        step=8,
        agent=AgentSettings(words, width=12, policy=12, max_height=6, max_nodes=8),
        priors=replace(AGENT_SETTINGS.priors, words=words),
        reinforce=ReinforceSettings(learning_rate=0.05),
    )

    def late_reward(method: str, seed: int) -> float:
        changed = replace(settings, method=method, seed=seed)
        return float(trees(search(Adds(), changed, Record(), workers=0, progress=False)).reward[-20:].mean())

    gains = [late_reward("agent", seed) - late_reward("random", seed) for seed in range(3)]
    assert sum(gains) / 3 > 2.0, f"gains by seed: {gains}"


# ---- an agent that repeats itself


SMALL: dict[str, Any] = {
    "agent": AgentSettings(("MM", "Add", "Tanh", "x_t", "h_{t-1}"), width=4, policy=4, max_height=3, max_nodes=3),
    "priors": PriorSettings(("MM", "Add", "Tanh", "x_t", "h_{t-1}"), 3, 3, batch=8, batches=1, updates=40),
}


@pytest.mark.parametrize("method", ["agent", "random"])
def test_a_search_without_new_cells_ends_and_goes_on_with_more_patience(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record()
    first = run(record, method=method, patience=3, **SMALL)
    found, steps = len(first.trials), len(first.steps)
    assert 0 < found < 33
    assert f"nothing new in 3 steps: ended with {found} of 33 candidates" in capsys.readouterr().err
    assert [len(record.proposals(first.id, step)) for step in range(steps - 4, steps)][1:] == [0, 0, 0]
    assert record.proposals(first.id, steps - 4)
    again = run(record, method=method, patience=3, **SMALL)
    assert (again.trials, again.steps) == (first.trials, first.steps)
    longer = run(record, method=method, patience=5, **SMALL)
    assert longer.id == first.id
    assert len(longer.steps) >= steps + 2
    unbroken = Record()
    run(unbroken, method=method, patience=5, **SMALL)
    assert rows(record) == rows(unbroken)


def test_trees_that_are_known_are_not_trained_again_but_learned_from(tmp_path: Path) -> None:
    record = Record()
    task = FakeTask(pids=tmp_path / "calls")
    found = run(record, task, patience=4, **SMALL)
    table = trees(found)
    assert len((tmp_path / "calls").read_text().splitlines()) == len(record.evaluations()) == len(found.trials)
    assert found.rejected["duplicate"] > 0
    known = table[table.cells > 0]
    assert len(known) > len(found.trials)
    assert known.reward.notna().all()
    fruitless = [step for step in found.steps if not record.proposals(found.id, step)]
    assert any(found.steps[step + 1]["updates"] for step in fruitless[:-1]), "it learned from what it knew"


# ---- nothing is done twice, and the order of results does not matter


def test_a_second_run_trains_and_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASK, pids=tmp_path / "calls")
    record = Record()
    first = run(record, task)
    assert len((tmp_path / "calls").read_text().splitlines()) == 33 == len(record.evaluations())
    before = rows(record)
    monkeypatch.setattr(AgentSearch, "propose", forbidden)
    second = run(record, task, workers=3)  # starts no process either
    assert len((tmp_path / "calls").read_text().splitlines()) == 33
    assert rows(record) == before
    assert second.frame().equals(first.frame())
    assert trees(second).equals(trees(first))


def test_a_larger_budget_goes_on_and_a_smaller_one_is_a_part(unbroken: Record, history: Search) -> None:
    record = Record()
    for cells in (1, 11, 33):
        part = run(record, cells=cells)
        assert len(record.evaluations()) == cells
        assert trees(part).equals(trees(history)[: len(trees(part))])
    assert rows(record) == rows(unbroken)
    part = run(record, cells=11)
    assert part.frame().equals(history.frame()[:11])
    assert len(trees(part)) < len(trees(history))
    agents = [trained_agent(found, AGENT_SETTINGS, record) for found in (part, history)]
    assert agents[0].updates == agents[1].updates[: len(agents[0].updates)]
    assert len(agents[0].updates) < len(agents[1].updates)


def test_the_order_in_which_cells_finish_does_not_matter(unbroken: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(Workers):
        def map(self, jobs: Any) -> Iterator[tuple[Job, Outcome]]:
            yield from reversed(list(super().map(jobs)))

    monkeypatch.setattr(loop, "Workers", Backwards)
    record = Record()
    run(record)
    assert rows(record) == rows(unbroken)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_the_number_of_workers(unbroken: Record, workers: int) -> None:
    record = Record()
    run(record, replace(TASK, sleep=0.05), workers=workers)
    assert rows(record) == rows(unbroken)


def test_bits_do_not_depend_on_the_number_of_threads(unbroken: Record) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        record = Record()
        run(record)
        assert rows(record) == rows(unbroken)
    finally:
        torch.set_num_threads(before)


def test_a_language_model_search_and_one_by_the_agent_share_a_record(unbroken: Record) -> None:
    record = Record()
    loop.search(TASK, SearchSettings(cells=4, step=4, sampled=0), record, workers=0, progress=False)
    run(record)
    assert len(record.searches()) == 2
    name = search_id(TASK, AGENT_SETTINGS)
    assert record.proposals(name) == unbroken.proposals(name)


# ---- faults


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


def test_when_every_cell_fails_the_search_goes_on_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTask, "evaluate", lambda *_: Outcome("failed", "exploded"))
    found = run(Record())
    assert len(found.trials) == 33
    assert trees(found).reward.isna().all()
    assert updates(found).empty


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "ranked"}, "method is 'agent' or 'random', got 'ranked'"),
        ({"cells": 0}, "cells=0"),
        ({"step": 0}, "step=0"),
        ({"patience": 0}, "patience=0"),
        ({"agent": AgentSettings(("MM", "Tanh", "Add", "x_t", "h_{t-1}"))}, "not among the agent's words"),
        ({"agent": AgentSettings(max_nodes=24)}, "up to 25 operators .* grows 24"),
        ({"agent": AgentSettings(max_height=10)}, "height 11, .* height 10"),
    ],
)
def test_settings_that_make_no_search(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgentSearchSettings(**wrong)


def test_a_trained_agent_is_asked_for_under_the_settings_of_its_search(unbroken: Record, history: Search) -> None:
    for wrong in ({"seed": 1}, {"method": "random"}):
        with pytest.raises(ValueError, match="no search by an agent under these settings"):
            trained_agent(history, replace(AGENT_SETTINGS, **wrong), unbroken)
    trained_agent(history, replace(AGENT_SETTINGS, cells=7, patience=1), unbroken)  # these are no part of what it is


# ---- replay, kill -9, and the file of the pre-trained agent


def test_an_exported_search_replays(unbroken: Record, history: Search, tmp_path: Path) -> None:
    unbroken.export(tmp_path / "r.jsonl.gz")
    record = Record.load(tmp_path / "r.jsonl.gz")
    found = replay(record, history.id, 33)
    assert found.frame().equals(history.frame())
    assert trees(found).equals(trees(history))
    assert updates(found).equals(updates(history))
    record.begin("other", {})
    assert run(record).frame().equals(history.frame())
    assert (
        trained_agent(found, AGENT_SETTINGS, record).updates == trained_agent(history, AGENT_SETTINGS, unbroken).updates
    )


def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_rows(unbroken: Record, tmp_path: Path) -> None:
    path, chance, moments = tmp_path / "r.db", random.Random(), []
    with Record(path) as record:
        for _ in range(2):
            process = subprocess.Popen(command(path, "AGENT_SETTINGS"), cwd=ROOT, stderr=subprocess.DEVNULL)
            wait_for_results(record, chance.randint(1, 7), process)
            pause = chance.random() * 0.3
            time.sleep(pause)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            moments.append((len(record.evaluations()), pause))
        assert 0 < len(record.evaluations()) < 33
        run(record)
        assert rows(record) == rows(unbroken), f"killed after {moments}"


def test_a_search_that_goes_on_does_not_pretrain_again(
    unbroken: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Record(tmp_path / "r.db") as record:
        run(record, cells=11)
        monkeypatch.setattr(agent_search, "pretrain", forbidden)
        run(record)
        assert rows(record) == rows(unbroken)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_content(path: Path) -> None:
    torch.save([1, 2], path)


def other_agent(path: Path) -> None:
    """Of a search with other pre-training facts: another version of the code would leave such a file."""
    content = torch.load(path, weights_only=True)
    for weight in content["agent"].values():
        weight += 1.0
    content["facts"]["nats"][-1] += 1e-9
    torch.save(content, path)


@pytest.mark.parametrize("change", [Path.unlink, damage, empty, other_content, other_agent])
def test_a_file_that_is_not_of_this_agent_is_made_again(change: Callable[[Path], None], tmp_path: Path) -> None:
    with Record(tmp_path / "r.db") as record:
        search = run(record, cells=1)
        (path,) = tmp_path.glob("*.pretrained")
        before = torch.load(path, weights_only=True)
        change(path)
        made = pretrained_agent(search, AGENT_SETTINGS, record)
        after = torch.load(path, weights_only=True)
        assert made.pretraining == after["facts"] == before["facts"] == search.steps[0]["pretraining"]
        for agent in (made.reinforce.agent.state_dict(), after["agent"]):
            assert all(torch.equal(agent[name], weight) for name, weight in before["agent"].items())


def test_the_same_moment_of_a_search_has_the_same_agent_in_memory_and_gone_on(
    history: Search, unbroken: Record
) -> None:
    agent = trained_agent(history, AGENT_SETTINGS, unbroken).reinforce.agent
    again = trained_agent(history, AGENT_SETTINGS, unbroken).reinforce.agent
    tree: Node = parse(history.frame().cell[0]).root
    assert torch.equal(agent.log_probs([tree]), again.log_probs([tree]))
