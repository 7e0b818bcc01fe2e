"""The world of base-2 cells: how many there are, that a stopped training goes on, and that all read one text."""

import time
from pathlib import Path

import pytest

from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.experiments.experiment import Resources, on_device
from nasrepro.experiments.zl17_world import SIZES, jobs, long_jobs, trainings
from nasrepro.search import Record
from nasrepro.search.record import evaluation_key
from nasrepro.worlds import base_2

SMOKE = on_device(SIZES["smoke"], "cpu")


def made_by(record: Record) -> dict[str, object]:
    return {one.key: (one.status, one.metrics, one.curve) for one in record.evaluations()}


def test_cells_are_canonical_of_the_space_and_in_the_order_of_their_hashes() -> None:
    cells = base_2.cells(50)
    assert [cell.hash for cell in cells] == sorted({cell.hash for cell in cells})
    for cell in cells:
        assert cell == cell.canonical()
        assert base_2.SPACE.cell(base_2.SPACE.tokens(cell)).canonical() == cell


def test_the_text_is_the_one_on_which_the_world_was_trained() -> None:
    assert base_2.text().hash == "b640d218ae10ecb5a20370c7cd8fc37a00f173661fc6524e8ceabfce4cae07ae"
    assert len(base_2.text().train) >= 60_000
    assert len(base_2.text().valid) >= 15_000


def test_what_is_trained_from_other_seeds_or_longer_is_trained_from_seed_0_too() -> None:
    first = {job.cell for job in jobs(SMOKE) if job.seed == 0}
    repeated = {job.cell for job in jobs(SMOKE) if job.seed == SMOKE.seeds[0]}
    longer = {job.cell for job in long_jobs(SMOKE)}
    assert longer <= repeated < first
    assert (len(first), len(repeated), len(longer)) == (SMOKE.cells, SMOKE.repeated, SMOKE.lengthened)
    assert len({evaluation_key(SMOKE.task, *job) for job in jobs(SMOKE)}) == SMOKE.trainings


def test_a_world_whose_training_was_stopped_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = Record(), Record(tmp_path / "record.sqlite")
    for each in trainings(SMOKE):
        each.make(Resources(whole, workers=0))
        assert each.left([whole]) == 0
    put = broken.put

    def put_and_run_out(evaluation) -> None:
        put(evaluation)
        if len([*broken]) == 5:
            monkeypatch.setenv(VARIABLE, f"{time.monotonic()} 1")

    monkeypatch.setattr(broken, "put", put_and_run_out)
    with pytest.raises(TimeIsUp):
        trainings(SMOKE)[0].make(Resources(broken, workers=0))
    assert len([*broken]) == 5
    monkeypatch.delenv(VARIABLE)
    for each in trainings(SMOKE):
        each.make(Resources(broken, workers=0))
    assert made_by(broken) == made_by(whole)
