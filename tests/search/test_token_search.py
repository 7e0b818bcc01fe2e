"""The search by ZL17's controller does what the paper states, and goes on after anything as if nothing had happened."""

import doctest
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nasrepro.controllers import CONTROL_1, BaseB, Reinforce, TokenAgent, TokenAgentSettings
from nasrepro.dsl import Cell
from nasrepro.search import Record, Search, loop, replay, token_search
from nasrepro.search.loop import search, search_id
from nasrepro.search.plan import ByHand
from nasrepro.search.token_search import (
    TokenSearch,
    TokenSearchSettings,
    samples,
    trained_controller,
    updates,
)
from nasrepro.search.workers import Job, Workers
from nasrepro.settings import nested, origins
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import FakeTask, fake_perplexity
from tests.search.killable import TOKEN_SETTINGS, command
from tests.search.test_loop import ROOT, rows, wait_for_results

TASK = FakeTask(failing=True)
TINY: dict[str, Any] = {"space": BaseB(1, ("Add", "Mult"), ("identity", "Tanh"))}  # 16 strings, 16 cells


def run(record: Record, task: FakeTask = TASK, workers: int = 0, **changes: Any) -> Search:
    return search(task, replace(TOKEN_SETTINGS, **changes), record, workers=workers, progress=False)


@pytest.fixture(scope="module")
def unbroken() -> Record:
    record = Record()
    run(record)
    return record


@pytest.fixture(scope="module")
def history(unbroken: Record) -> Search:
    return replay(unbroken, next(iter(unbroken.searches())), TOKEN_SETTINGS.cells)


# ---- what a search does


def test_the_defaults_are_the_papers() -> None:
    """ZL17 section 4.2: 15,000 cells of base 8, 10 gradients of one child each to a step, c = 80, rate 0.0005."""
    settings = TokenSearchSettings()
    assert (settings.cells, settings.space.base, settings.c, settings.step) == (15_000, 8, 80, 10)
    assert settings.reinforce.learning_rate == 5e-4
    papers = {origin.paper for each in nested(settings) for origin in origins(each).values() if origin}
    assert papers == {"ZL17"}


def test_every_step_draws_the_children_of_one_step_of_the_controller(history: Search) -> None:
    space, proposed = TOKEN_SETTINGS.space, [proposal.cell for proposal, _ in history.trials]
    expected: dict[str, str] = {}
    for facts in history.steps.values():
        assert len(facts["strings"]) == 6
        for string in facts["strings"]:
            cell = space.cell(string["tokens"])
            assert cell.hash == string["cell"]
            expected.setdefault(cell.hash, str(cell))
    assert proposed == [*expected.values()][:33]
    assert {*history.frame().how} == {"controller"}


def test_the_controller_learns_from_all_strings_in_their_order(history: Search) -> None:
    """By hand: batches of 2, a step after every 3, the reward 80 over the squared perplexity, failures 0."""
    seed = random.Random("5/controller").getrandbits(31)
    agent = TokenAgent(BaseB(2), TokenAgentSettings(units=8), seed)
    learner = Reinforce(agent, TOKEN_SETTINGS.reinforce, accumulate=3)
    steps = [*history.steps.values()]
    for number, facts in enumerate(steps[:-1]):
        for first in (0, 2, 4):
            strings = [string["tokens"] for string in facts["strings"][first : first + 2]]
            cells = [BaseB(2).cell(tokens) for tokens in strings]
            rewards = [80 / fake_perplexity(cell, 0) ** 2 if int(cell.hash, 16) % 5 else None for cell in cells]
            told = learner.update(strings, rewards)
        assert steps[number + 1]["update"] == told
    assert "update" not in steps[0]
    found = trained_controller(history, TOKEN_SETTINGS).agent
    drawn = [string["tokens"] for string in steps[0]["strings"]]
    assert len(steps) >= 3
    assert not torch.equal(
        found.log_probs(drawn), TokenAgent(BaseB(2), TokenAgentSettings(units=8), seed).log_probs(drawn)
    )


def test_tables_of_samples_and_updates(history: Search) -> None:
    table = samples(history)
    assert (table.groupby("step").size()[:-1] == 6).all()
    assert table.hash.nunique() <= 33
    for row in table.itertuples():
        cell = BaseB(2).cell([int(token) for token in row.tokens.split()])
        assert cell.hash == row.hash
        if int(cell.hash, 16) % 5:
            assert row.loss == fake_perplexity(cell, 0)
        else:
            assert math.isnan(row.loss)
    learned = updates(history)
    assert (learned["sample"] == 6 * learned["step"]).all()
    assert learned["updates"].tolist() == [3 * step for step in learned["step"]]


def test_random_search_draws_uniformly_and_knows_no_controller() -> None:
    record = Record()
    control = run(record, method="random")
    table = samples(control)
    expected = []
    for step in control.steps:
        rng = random.Random(f"5/{step}")
        expected += [" ".join(str(rng.randrange(len(place.words))) for place in BaseB(2).places) for _ in range(6)]
    assert table.tokens.tolist() == expected[: len(table)]
    assert {*control.frame().how} == {"random"}
    assert updates(control).empty
    other = replace(
        TOKEN_SETTINGS,
        method="random",
        c=1.0,
        agent=TokenAgentSettings(units=3),
        reinforce=replace(TOKEN_SETTINGS.reinforce, learning_rate=9.0),
    )
    assert search_id(TASK, other) == control.id != search_id(TASK, TOKEN_SETTINGS)
    assert search_id(TASK, replace(other, space=BaseB(3))) != control.id


def test_seeds_differ_and_child_seeds_change_values_but_not_the_first_strings(history: Search) -> None:
    other, child = run(Record(), seed=1, cells=3), run(Record(), child_seed=1, cells=3)
    assert len({other.id, child.id, history.id}) == 3
    assert other.steps[0]["strings"] != history.steps[0]["strings"]
    assert child.steps[0]["strings"] == history.steps[0]["strings"]
    assert child.frame().valid_ppl.tolist() != history.frame().valid_ppl[:3].tolist()


class Products(FakeTask):
    """Rewards a feature that is easy to see: operators Mult."""

    def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
        count = sum(node.op == "Mult" for node in cell.operators)
        return Outcome("ok", "", {"valid_ppl": 120.0 - 20.0 * count}, device="cpu")


def test_the_controller_finds_more_of_what_is_rewarded_than_random_search() -> None:
    """Four nodes of base 2 combine: uniform strings multiply at two of them, learned ones nearly always."""
    settings = replace(TOKEN_SETTINGS, cells=150, reinforce=replace(TOKEN_SETTINGS.reinforce, batch=8, accumulate=1))

    def late_loss(method: str, seed: int) -> float:
        changed = replace(settings, method=method, seed=seed)
        return float(samples(search(Products(), changed, Record(), workers=0, progress=False)).loss[-24:].mean())

    gains = [late_loss("random", seed) - late_loss("controller", seed) for seed in range(3)]
    assert sum(gains) / 3 > 25, f"gains by seed: {gains}"


def test_the_spaces_of_the_paper_are_searched() -> None:
    for space in (BaseB(), CONTROL_1):
        found = run(Record(), space=space, cells=7)
        assert len(found.trials) == 7
        assert all(len(string["tokens"]) == 34 for string in found.steps[0]["strings"])


# ---- steps by hand


def test_by_hand_is_the_same_search(history: Search) -> None:
    by_hand = ByHand(TOKEN_SETTINGS)
    asked: list[str] = []
    while cells := by_hand.ask():
        asked += map(str, cells)
        by_hand.tell([fake_perplexity(cell, 0) if int(cell.hash, 16) % 5 else None for cell in cells])
    assert asked == [proposal.cell for proposal, _ in history.trials]


def test_the_example_in_the_module() -> None:
    assert doctest.testmod(token_search).failed == 0


# ---- a controller that repeats itself


@pytest.mark.parametrize("method", ["controller", "random"])
def test_a_search_without_new_cells_ends_and_goes_on_with_more_patience(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record()
    first = run(record, method=method, patience=2, **TINY)
    found, steps = len(first.trials), len(first.steps)
    assert 0 < found < 33
    assert f"nothing new in 2 steps: ended with {found} of 33 candidates" in capsys.readouterr().err
    longer = run(record, method=method, patience=4, **TINY)
    assert longer.id == first.id
    assert len(longer.steps) >= steps + 2
    unbroken = Record()
    run(unbroken, method=method, patience=4, **TINY)
    assert rows(record) == rows(unbroken)


def test_cells_that_are_known_are_not_trained_again_but_learned_from(tmp_path: Path) -> None:
    task = FakeTask(pids=tmp_path / "calls")
    found = run(Record(), task, patience=3, **TINY)
    assert len((tmp_path / "calls").read_text().splitlines()) == len(found.trials) <= 16
    assert len(samples(found)) == 6 * len(found.steps) == found.rejected["duplicate"] + len(found.trials)
    fruitless = [step for step, facts in found.steps.items() if facts["rejected"]["duplicate"] == 6]
    assert found.steps[fruitless[0] + 1]["update"]["grad_norm"] > 0


# ---- nothing is done twice, and the order of results does not matter


def test_a_second_run_trains_and_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASK, pids=tmp_path / "calls")
    record = Record()
    first = run(record, task)
    assert len((tmp_path / "calls").read_text().splitlines()) == 33
    before = rows(record)
    monkeypatch.setattr(TokenSearch, "propose", lambda *_: pytest.fail("proposed again"))
    second = run(record, task, workers=3)  # starts no process either
    assert len((tmp_path / "calls").read_text().splitlines()) == 33
    assert rows(record) == before
    assert samples(second).equals(samples(first))


def test_a_larger_budget_goes_on_and_a_smaller_one_is_a_part(unbroken: Record, history: Search) -> None:
    record = Record()
    for cells in (1, 11, 33):
        part = run(record, cells=cells)
        assert len(record.evaluations()) == cells
        assert samples(part).equals(samples(history)[: len(samples(part))])
    assert rows(record) == rows(unbroken)


def test_the_order_in_which_cells_finish_does_not_matter(unbroken: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(Workers):
        def map(self, jobs: Any) -> Iterator[tuple[Job, Outcome]]:
            yield from reversed(list(super().map(jobs)))

    monkeypatch.setattr(loop, "Workers", Backwards)
    record = Record()
    run(record)
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


def test_the_same_seed_gives_the_same_search_under_any_hash_seed(history: Search) -> None:
    """Under 0 as under that of this process, which Python has drawn."""
    code = (
        "from tests.search.fakes import FakeTask; from tests.search.killable import TOKEN_SETTINGS\n"
        "from nasrepro.search import Record; from nasrepro.search.loop import search\n"
        "found = search(FakeTask(failing=True), TOKEN_SETTINGS, Record(), workers=0, progress=False)\n"
        "print(found.id); print(*[proposal.cell for proposal, _ in found.trials], sep='\\n')"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown == [history.id, *(proposal.cell for proposal, _ in history.trials)]


def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_rows(unbroken: Record, tmp_path: Path) -> None:
    path, chance, moments = tmp_path / "r.db", random.Random(), []
    with Record(path) as record:
        for _ in range(2):
            process = subprocess.Popen(command(path, "TOKEN_SETTINGS"), cwd=ROOT, stderr=subprocess.DEVNULL)
            wait_for_results(record, chance.randint(1, 7), process)
            pause = chance.random() * 0.3
            time.sleep(pause)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            moments.append((len(record.evaluations()), pause))
        assert 0 < len(record.evaluations()) < 33
        run(record)
        assert rows(record) == rows(unbroken), f"killed after {moments}"


def test_an_exported_search_replays(unbroken: Record, history: Search, tmp_path: Path) -> None:
    unbroken.export(tmp_path / "r.jsonl.gz")
    record = Record.load(tmp_path / "r.jsonl.gz")
    found = replay(record, history.id, 33)
    assert found.frame().equals(history.frame())
    assert samples(found).equals(samples(history))
    assert updates(found).equals(updates(history))
    learned = [trained_controller(each, TOKEN_SETTINGS).updates for each in (found, history)]
    assert learned[0] == learned[1]


# ---- errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "agent"}, "method is 'controller' or 'random'"),
        ({"cells": 0}, "cells=0"),
        ({"patience": 0}, "patience=0"),
        ({"c": 0.0}, r"c=0\.0 must be positive"),
        ({"seed": 0.5}, "seed is a whole number"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenSearchSettings(**wrong)


def test_a_trained_controller_is_asked_for_under_the_settings_of_its_search(history: Search) -> None:
    for wrong in ({"seed": 1}, {"method": "random"}, {"c": 79.0}):
        with pytest.raises(ValueError, match="no search by a controller under these settings"):
            trained_controller(history, replace(TOKEN_SETTINGS, **wrong))
    trained_controller(history, replace(TOKEN_SETTINGS, cells=7, patience=1))  # these are no part of what it is


def test_settings_with_equal_numbers_make_one_search() -> None:
    equal = replace(TOKEN_SETTINGS, c=80, reinforce=replace(TOKEN_SETTINGS.reinforce, clip=math.inf, failed=0))
    assert search_id(TASK, equal) == search_id(TASK, TOKEN_SETTINGS)
