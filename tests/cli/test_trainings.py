"""The commands `forecast`, `record` and `train`, and what `reproduce` asks before it trains for long."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nasrepro import cli, experiments
from nasrepro.cli import NOT_FINISHED
from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.dsl import zoo
from nasrepro.experiments import forecasts
from nasrepro.hardware import device_name
from nasrepro.search import Record, replay
from nasrepro.search.loop import search
from nasrepro.search.record import Evaluation
from nasrepro.trainers.forecast import lstm_seconds
from nasrepro.trainers.outcome import Outcome
from tests.cli.command import fails, see_two_gpus


@pytest.fixture
def _known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model takes 2 hours, an encoder 1."""

    def known(seconds: Callable[..., float], _task: object) -> forecasts.Cost:
        is_text = seconds is lstm_seconds
        return forecasts.Cost(7200.0 if is_text else 3600.0, 1_500_000_000, None)

    monkeypatch.setattr(forecasts, "_measured", known)


@pytest.mark.usefixtures("_known_times")
def test_days_of_training_need_consent(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for profile in ("night", "paper"):
        (project / "results" / profile).mkdir(parents=True)
    for name in ("03_cells", "04_search", "07_encoders"):
        shutil.copy(project / "notebooks" / "05_small.ipynb", project / "notebooks" / f"{name}.ipynb")
    ran = []
    monkeypatch.setattr("nasrepro.notebook.WORKERS", 2)
    monkeypatch.setattr(cli, "_execute", lambda path, *_: ran.append(path.name) or 1.0)
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    for profile in ("night", "paper"):
        assert f"nothing was begun: {profile} shall take 12 hours at most" in fails(
            capsys, "reproduce", "--profile", profile, "--device", "cpu"
        )
    assert not ran
    assert cli.main(["reproduce", "--profile", "night", "--yes", "--device", "cpu"]) == 0
    assert [name[:2] for name in ran] == ["03", "04", "05", "06", "07"]


@pytest.mark.usefixtures("_known_times")
@pytest.mark.parametrize(
    ("arguments", "trains", "total"),
    [
        # 20 cells compared, one measured on the test text and 2,000 of the searches, of 2 hours; 3,450 and 3 LSTMs,
        # 3,000 of the controls, 21 encoders and 9 on the larger set, of 1 hour. By 2 workers where none are named.
        (["record", "s17_language_model", "--workers", "16"], {"20", "1", "2000"}, "16 workers:.* together 11 days"),
        (
            ["record", "s17_translation", "--workers", "16"],
            {"3453", "3000", "21", "9"},
            "16 workers:.* together 17 days",
        ),
        (["record", "s17_translation", "--workers", "0"], {"3453", "3000", "21", "9"}, "together 270 days"),
        (["reproduce", "--notebook", "04"], {"2000"}, "2 workers:.* together 83 days"),
        (["reproduce", "--notebook", "06"], {"3453", "3000"}, "2 workers:.* together 134 days"),
        (["reproduce", "--notebook", "07"], {"21", "9"}, "2 workers:.* together 15.0 hours"),
    ],
)
def test_a_forecast_holds_what_will_run_by_the_workers_that_will(
    arguments: list[str],
    trains: set[str],
    total: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nasrepro.notebook.WORKERS", 2)
    monkeypatch.setattr("nasrepro.notebook.known_records", lambda *_: [])
    assert cli.main([*arguments, "--profile", "paper", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert set(re.findall(r", (\d+) trainings?, \d\.0 hours and 1.5 GB of memory each", said.out)) == trains
    assert re.search(total, said.out, re.DOTALL)
    assert "nothing was begun: paper shall" in said.err


@pytest.mark.parametrize(("given", "meant"), [([], "cuda"), (["--device", "cpu"], "cpu")])
def test_a_forecast_is_for_the_device_that_would_train(
    given: list[str], meant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    see_two_gpus(monkeypatch)
    told = []
    monkeypatch.setattr(
        forecasts, "_measured", lambda _, task: told.append(task.device) or forecasts.Cost(1e9, 10**9, None)
    )
    assert cli.main(["forecast", "--profile", "night", *given]) == 0
    for name in experiments.EXPERIMENTS:
        assert cli.main(["record", name, "--profile", "paper", "--fresh", *given]) == 1
    assert set(told) == {meant}
    said = capsys.readouterr().out
    assert f"forecast for paper on {device_name(meant)}, 2 workers:" in said
    assert ("workers that share a GPU" in said) == (meant == "cuda")
    assert ("paper is made for a GPU, and this is a processor: --device cuda takes" in said) == (meant == "cpu")


@pytest.mark.parametrize("profile", ["smoke", "quick", "course"])
def test_short_profiles_pay_for_no_forecast(profile: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "results" / profile).mkdir(parents=True)
    monkeypatch.setattr(forecasts, "_measured", lambda *_: pytest.fail("it was forecast"))
    monkeypatch.setattr(cli, "_execute", lambda *_: 1.0)
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    assert cli.main(["reproduce", "--profile", profile]) == 0


def test_a_cell_is_trained_once_and_kept_in_the_record(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "GRU", "--profile", "smoke", "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{zoo['GRU']}: 1 x 12 units, 1 epoch over 6,000 characters of pydoc, seed 1, on {device_name()}"
    assert said[1].startswith("epoch 1, learning_rate 20, train_ppl ")
    assert " parameters, " in said[2]
    (made,) = Record(project / "results" / "smoke" / "record.sqlite").evaluations()
    task = experiments.load("s17_language_model").sizes["smoke"].task
    assert made.metrics == task.evaluate(zoo["GRU"].canonical(), 1).metrics
    assert cli.main(["train", str(zoo["GRU"].canonical()), "--profile", "smoke", "--device", "cpu"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[1:] == said[2:], "from the record"


@pytest.mark.usefixtures("_known_times")
def test_one_long_training_needs_consent_too(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasts, "_measured", lambda *_: forecasts.Cost(13 * 3600.0, None, None))
    task, began = experiments.load("s17_language_model").at("night").task, []
    monkeypatch.setattr(type(task), "evaluate", lambda *_: began.append(1) or Outcome("ok", metrics={"valid_ppl": 9.0}))
    monkeypatch.setattr(type(task), "data_hash", "d" * 64)
    train = ("train", "LSTM", "--profile", "night", "--device", "cpu")
    assert "nothing was begun: night shall take 12 hours at most. Say --yes" in fails(capsys, *train)
    assert not began
    assert cli.main([*train, "--yes"]) == 0
    assert began
    assert "1 training, 13.0 hours each: 13.0 hours" in capsys.readouterr().out
    assert cli.main(train) == 0, "it is in the record"


def test_without_ipython_trainings_are_recorded(tmp_path: Path) -> None:
    """Such as on a machine that is lent for its GPU, where nobody opens a notebook."""
    made = ["zl17_cells", "--profile", "smoke", "--device", "cpu", "--workers", "0", "--only", "known"]
    code = f"""import sys
for name in ("IPython", "jupyterlab", "papermill", "nbformat"):
    sys.modules[name] = None
from nasrepro import cli
sys.exit(cli.main(["record", *{made}, "--export", "part.jsonl.gz"]))"""
    where = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "NASREPRO_RESULTS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=where, check=True, capture_output=True)
    assert len(Record.load(tmp_path / "part.jsonl.gz").evaluations()) == 10


def test_a_fresh_run_that_goes_on_counts_nothing_that_ships(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = []
    monkeypatch.setattr("nasrepro.notebook.known_records", lambda *given: known.append(given) or [])
    monkeypatch.setattr(forecasts, "_measured", lambda *_: forecasts.Cost(1.0, None, None))
    monkeypatch.setattr(cli, "_report", lambda *_: None)

    def stopped(*_: object) -> float:
        raise TimeIsUp("stopped")

    (project / "results" / "night").mkdir(parents=True)
    command = ["reproduce", "--profile", "night", "--device", "cpu"]
    monkeypatch.setattr(cli, "_execute", stopped)
    assert cli.main([*command, "--fresh"]) == NOT_FINISHED
    assert known == [], "all is set aside"
    assert cli.main(command) == NOT_FINISHED
    assert known == [("night", True)]
    monkeypatch.setattr(cli, "_execute", lambda *_: 1.0)
    assert [cli.main(command), cli.main(command)] == [0, 0]
    assert known == [("night", True), ("night", True), ("night", False)]


def test_a_name_like_no_candidates_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    train = ("train", "MT6", "--experiment", "s17_translation", "--profile", "smoke")
    assert "unknown name 'MT6': did you mean 'MT5'?" in fails(capsys, *train)


def test_no_number_of_workers_below_zero_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["record", "s17_translation", "--workers", "-1"])
    assert "'-1' is no number of processes, 0 or more" in capsys.readouterr().err


def test_what_ships_is_not_made_again_and_another_experiments_rows_are_not_exported(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "records"
    monkeypatch.setattr("nasrepro.notebook.records_folder", lambda: records)
    ships = {"smoke": ("cells.jsonl.gz",)}
    for name, experiment in experiments.EXPERIMENTS.items():
        compared = [each for each in experiment.trainings(experiment.at("smoke")) if each.notebook in ("03", "07")][:1]
        short = replace(experiment, trainings=lambda _, compared=compared: compared, shipped=ships)
        monkeypatch.setitem(experiments.EXPERIMENTS, name, short)
    make = ("--profile", "smoke", "--device", "cpu", "--workers", "0")
    assert cli.main(["train", "BC3", "--experiment", "s17_translation", "--profile", "smoke", "--device", "cpu"]) == 0
    assert cli.main(["record", "s17_language_model", *make, "--export", str(records / "cells.jsonl.gz")]) == 0
    shipped = Record.load(records / "cells.jsonl.gz").evaluations()
    assert len(shipped) == 8
    assert {one.task for one in shipped} == {"language model"}

    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("nasrepro.trainers.language_model.train", lambda *_, **__: pytest.fail("trained"))
    assert cli.main(["record", "s17_language_model", *make]) == 0
    assert cli.main(["train", "GRU", "--profile", "smoke", "--device", "cpu"]) == 0


def test_a_wrong_experiment_or_candidate_is_answered(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown experiment 's17': choose from" in fails(capsys, "record", "s17")
    assert "did you mean 's17_translation'?" in fails(capsys, "train", "LSTM", "--experiment", "s17_translations")
    err = fails(capsys, "train", "Tanh(MN(x_t))", "--profile", "smoke")
    assert "MN" in err
    assert "^" in err
    assert not (project / "results").exists()


def _recorded(folder: Path, only: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    """Where a command has exported what it recorded into a folder of its own."""
    monkeypatch.setenv("NASREPRO_RESULTS", str(folder))
    make = ("record", "zl17_cells", "--profile", "smoke", "--device", "cpu", "--workers", "0")
    assert cli.main([*make, "--only", only, "--export", str(folder / "part.jsonl.gz"), *more]) == 0
    return folder / "part.jsonl.gz"


def test_searches_made_apart_are_merged_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as by twelve processes with a folder each, on a machine with many cores."""
    parts = [
        _recorded(tmp_path / str(number), only, monkeypatch)
        for number, only in enumerate(("at a scaled rate, seed 1", "random search, seed 1"))
    ]
    sizes = experiments.load("zl17_cells").at("smoke")
    plans = [sizes.plan(arm, 1) for arm in ("scaled rate", "random")]
    assert [len(Record.load(part).searches()) for part in parts] == [1, 1]
    merged = Record(tmp_path / "merged.sqlite")
    for part in parts:
        merged.import_(part)
    monkeypatch.setattr("nasrepro.trainers.language_model.train", lambda *_, **__: pytest.fail("trained"))
    for plan, part in zip(plans, parts, strict=True):
        found = search(sizes.task, plan, merged, workers=0, progress=False)
        assert len(found.trials) == plan.cells
        apart = replay(Record.load(part), found.id)
        assert (found.trials, found.steps) == (apart.trials, apart.steps)


def test_an_experiments_trainings_are_chosen_by_their_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = _recorded(tmp_path, "on words", monkeypatch)
    said = [line for line in capsys.readouterr().out.splitlines() if " trainings, " in line]
    assert [line.partition(":")[0] for line in said] == ["known cells on words"]
    assert len(Record.load(part).evaluations()) == 3
    err = fails(capsys, "record", "zl17_cells", "--profile", "smoke", "--only", "seed 9")
    assert "no trainings with 'seed 9' in their words, which are: policy gradient at the paper's rate, seed 1;" in err


def test_what_is_ready_is_exported_when_the_minutes_are_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path))
    put = Record.put

    def put_and_run_out(record: Record, evaluation: Evaluation) -> None:
        put(record, evaluation)
        monkeypatch.setenv(VARIABLE, f"{time.monotonic()} 1")

    monkeypatch.setattr(Record, "put", put_and_run_out)
    part = tmp_path / "part.jsonl.gz"
    make = ("record", "zl17_cells", "--profile", "smoke", "--device", "cpu", "--workers", "0", "--only", "on words")
    assert cli.main([*make, "--export", str(part)]) == NOT_FINISHED
    assert "stopped after 1 minute" in capsys.readouterr().err
    assert len(Record.load(part).evaluations()) == 1


@pytest.mark.usefixtures("_known_times")
def test_consent_is_asked_for_what_was_chosen_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["record", "zl17_cells", "--profile", "paper", "--device", "cpu", "--only", "max and sin"]) == 1
    assert re.findall(r", (\d+) trainings, ", capsys.readouterr().out) == ["15000"]
