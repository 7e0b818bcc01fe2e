"""ZL17's transfer to translation: its sizes, what is recorded of it, and what it says where the data is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from nasrepro.datasets import DataError
from nasrepro.dsl import zoo
from nasrepro.experiments import zl17_transfer
from nasrepro.experiments.experiment import Resources, on_device
from nasrepro.experiments.zl17_transfer.sizes import COMPARED, SIZES, row
from nasrepro.report import papers
from nasrepro.search import Record
from nasrepro.trainers import forecast
from nasrepro.trainers.forecast import MULTI30K, WMT14, PairsSize
from nasrepro.trainers.gnmt import multiply_adds
from nasrepro.trainers.gnmt_translation import GnmtSettings, GnmtTask, model_sizes


def test_the_paper_profile_changes_nothing_of_the_papers() -> None:
    paper = SIZES["paper"]
    assert paper.task == GnmtTask("wmt14", GnmtSettings())
    assert (paper.task.training.layers, paper.task.training.hidden, paper.task.training.batch) == (8, 1024, 128)
    assert paper.task.data_words == papers.load()["zl17.gnmt"].data


def test_a_course_replays_what_a_night_trains() -> None:
    assert SIZES["course"].task == SIZES["night"].task
    assert SIZES["course"].seeds == SIZES["night"].seeds
    assert len(SIZES["course"].seeds) >= 3, "fewer than three seeds show no spread"


@pytest.mark.parametrize("name", SIZES)
def test_models_are_shown_without_files(name: str) -> None:
    assert SIZES[name].shown_task.corpus_name == "captions"
    assert (SIZES[name].task.corpus_name == "captions") == (name in ("smoke", "quick"))


@pytest.mark.parametrize(("profile", "text"), [("night", MULTI30K), ("paper", WMT14)])
def test_the_cells_cost_the_same_to_a_hundredth(profile: str, text: PairsSize) -> None:
    settings = SIZES[profile].task.training
    words = (min(text.source_words, settings.vocab_size), min(text.target_words, settings.vocab_size))
    found = [model_sizes(zoo[name], settings, *words, text.source_length) for name in COMPARED]
    costs = [multiply_adds(zoo[name], sizes, text.source_length) for name, sizes in zip(COMPARED, found, strict=True)]
    assert costs[1] == pytest.approx(costs[0], rel=0.01)
    assert found[0].hidden == settings.hidden > found[1].hidden


def test_both_cells_are_recorded_from_every_seed_on_the_test_split(tmp_path: Path) -> None:
    sizes = on_device(SIZES["smoke"], "cpu")
    (made,) = zl17_transfer.trainings(sizes)
    assert made.answers == ["zl17.gnmt"]
    with Record(tmp_path / "record.sqlite") as record:
        assert made.left([record]) == made.count == 4
        made.make(Resources(record, workers=0))
        assert made.left([record]) == 0
        found = {(zoo_name(one.hash), one.seed): one for one in record.evaluations()}
        assert found.keys() == {(name, seed) for name in COMPARED for seed in (1, 2)}
        assert all("test_multi_bleu" in one.metrics for one in found.values())
        reads = {reading["row"].rpartition(" ")[0] for reading in record.test_reads()}
        assert reads == {row(name, seed) for name in COMPARED for seed in (1, 2)}


def zoo_name(found: str) -> str:
    return next(name for name in COMPARED if zoo[name].hash == found)


def test_the_papers_own_data_is_said_to_be_missing(tmp_path: Path) -> None:
    (made,) = zl17_transfer.trainings(on_device(SIZES["paper"], "cpu"))
    with Record(tmp_path / "record.sqlite") as record:
        assert made.left([record]) == 6, "to count them needs no data"
        with pytest.raises(DataError, match=r"WMT'14 English to German .* is not available"):
            made.make(Resources(record, workers=0))
        assert not record.evaluations()


def test_a_forecast_is_steps_times_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_median_seconds", lambda *_: 2.0)
    settings = SIZES["night"].task.training
    task = GnmtTask("multi30k", replace(settings, hidden=8, layers=2, vocab_size=50))
    # 29,000 pairs in batches of 64 and 1,014 in batches of 100, twelve times; then these are translated.
    expected = 2.0 * (12 * (29_000 / 64 + 10.14) + 10.14)
    assert zl17_transfer.seconds(task, "cpu") == pytest.approx(expected)


def test_a_forecast_is_measured() -> None:
    assert 0 < zl17_transfer.seconds(SIZES["smoke"].task, "cpu") < 60
