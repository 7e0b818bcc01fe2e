"""ZL17's search on real cells: what its arms differ in, and what is trained after the searches."""

import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from nasrepro.controllers import BaseB
from nasrepro.controllers.base_b import CONTROL_1
from nasrepro.dsl import zoo
from nasrepro.experiments import zl17_cells
from nasrepro.experiments.experiment import Resources
from nasrepro.experiments.zl17_cells import readme
from nasrepro.experiments.zl17_cells.sizes import ARMS, ON_WORDS, SIZES, CellsSizes
from nasrepro.report import papers
from nasrepro.search import Record, replay
from nasrepro.search.archive import dumps
from nasrepro.search.token_search import TokenSearchSettings
from nasrepro.trainers.language_model import LanguageModel

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"
EVERY = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def differing(sizes: CellsSizes, arm: str, other: str) -> set[str]:
    """The settings in which two arms' searches from one seed differ."""
    one, another = (asdict(sizes.plan(name, 1)) for name in (arm, other))
    flat = [{**found, **found["reinforce"], **found["space"]} for found in (one, another)]
    return {name for name in flat[0] if flat[0][name] != flat[1][name]} - {"reinforce", "space"}


@EVERY
def test_an_arm_differs_from_the_papers_search_in_what_it_is_named_for(sizes: CellsSizes) -> None:
    assert differing(sizes, "paper's rate", "scaled rate") == {"learning_rate"}
    assert differing(sizes, "paper's rate", "random") == {"method"}
    assert differing(sizes, "scaled rate", "larger space") == {"combinations", "activations"}
    assert len(sizes.plans()) == len(sizes.arms) * len(sizes.seeds)
    assert set(sizes.arms) <= set(ARMS)


def test_the_paper_profile_searches_by_the_papers_settings() -> None:
    paper = SIZES["paper"]
    assert paper.plan("paper's rate", 0) == TokenSearchSettings()
    assert paper.plan("paper's rate", 0).cells == papers.load()["zl17.search.ptb"].value
    assert paper.plan("paper's rate", 0).space == BaseB(8)
    assert paper.plan("larger space", 0).space == CONTROL_1
    assert paper.task.training.epochs == 35
    assert paper.task.training.layers == 2


def test_a_child_of_the_paper_profile_is_as_large_as_the_medium_baseline() -> None:
    """ZL17 matches "medium" of Zaremba et al. 2014, some 20 million parameters."""
    model = LanguageModel(zoo["NASCell"], 10_000, SIZES["paper"].task.training, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(20e6, rel=0.02)


@EVERY
def test_random_cells_are_distinct_and_always_the_same(sizes: CellsSizes) -> None:
    cells = sizes.random_cells()
    assert len({cell.hash for cell in cells}) == sizes.noise_cells
    assert cells == sizes.random_cells()
    assert all(sizes.search.space.tokens(cell) for cell in cells)


def test_after_the_searches_their_best_cells_are_trained_again(tmp_path: Path) -> None:
    sizes = SIZES["smoke"]
    record = Record(tmp_path / "record.sqlite")
    *_, again, first_point, second_point = zl17_cells.trainings(sizes)
    for each in (again, first_point, second_point):
        each.make(Resources(record, workers=0))
    rows = record.frame()
    trained = {
        arm: [record[proposal.key] for proposal in record.proposals(name)]
        for arm, name in zip(sizes.arms, record.searches(), strict=True)
    }
    assert [len(found) for found in trained.values()] == [sizes.search.cells] * 4
    best = {
        min((one for one in found if one.status == "ok"), key=lambda one: one.metrics["valid_ppl"]).hash
        for found in trained.values()
    }
    assert set(rows[rows.seed == 1].hash) == best | {zoo["LSTM"].hash}
    for point in (first_point, second_point):
        assert {one.hash for one in record.evaluations() if one.is_by(point.task)} == best | {zoo["LSTM"].hash}
    assert again.left([record]) == first_point.left([record]) == 0


def test_shipped_searches_are_those_of_course() -> None:
    """What ships is the beginning of each search: the same command goes on from it."""
    record = Record.load(RECORDS / "ptb-chars-cells.jsonl.gz")
    plans = [plan.identity() for plan in SIZES["course"].plans().values()]
    searches = [replay(record, name) for name in record.searches()]
    assert sorted(dumps(one.settings["search"]) for one in searches) == sorted(map(dumps, plans))
    for one in searches:
        assert one.settings["task"]["settings"] == SIZES["course"].task.settings
        assert len(one.trials) >= 140


def test_shipped_cells_on_words_are_those_of_night() -> None:
    record = Record.load(RECORDS / "ptb-words-cells.jsonl.gz")
    task = SIZES["night"].words_task
    assert all(one.settings == task.settings for one in record.evaluations())
    assert {one.hash for one in record.evaluations()} <= {zoo[name].hash for name in ON_WORDS}


def test_the_readme_tells_the_leads_of_the_shipped_searches(tmp_path: Path) -> None:
    (tmp_path / "ptb-chars-cells.jsonl.gz").symlink_to(RECORDS / "ptb-chars-cells.jsonl.gz")
    said = readme.table(tmp_path)
    lead = r" [+-]\d\.\d\d \([+-]\d\.\d\d to [+-]\d\.\d\d\) \|"
    assert len(re.findall(rf"^\| policy gradient [^|]*\|({lead}){{4}}$", said, re.MULTILINE)) == 3
    assert "has not been shipped yet" in said
    ends = [["scaled rate", 500, "top15", 0.5, 0.4, 0.6], ["paper's rate", 500, "top15", 0.1, -0.4, 0.6]]
    table = pd.DataFrame(ends, columns=["arm", "samples", "statistic", "lead", "low", "high"])
    table.to_csv(tmp_path / readme.LEADS, index=False)
    said = readme.table(tmp_path)
    assert (
        "On the surrogate, after 500 children: policy gradient at a scaled rate is ahead by the best 15 (+0.50" in said
    )
    assert "policy gradient at the paper's rate is level by the best 15 (+0.10, -0.40 to +0.60)." in said


def test_best_cells_are_counted_once_their_searches_have_ended() -> None:
    """Two searches may have the same best cell, and then there is less to train than there could be."""
    sizes = SIZES["smoke"]
    *_, again, _, _ = zl17_cells.trainings(sizes)
    record = Record()
    assert again.left([record]) == again.count == 4
    for each in zl17_cells.trainings(sizes)[: len(sizes.plans())]:
        assert each.left([record]) == 6
        each.make(Resources(record, workers=0))
        assert each.left([record]) == 0
    assert again.left([record]) > 0, "searches hold their cells from another seed"
    again.make(Resources(record, workers=0))
    assert again.left([record]) == 0
