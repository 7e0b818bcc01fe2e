"""How a notebook starts: parameters are checked, single cells are trained once, results have a place."""

import json
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nasrepro import experiments, notebook, profiles
from nasrepro.datasets import DataError
from nasrepro.dsl import parse, zoo
from nasrepro.experiments.experiment import Experiment
from nasrepro.hardware import DeviceError, device_name
from nasrepro.notebook import (
    RecordedData,
    Run,
    check_parameters,
    measured_seconds,
    note_seconds,
    start,
    unknown_parameter,
)
from nasrepro.search import Record
from nasrepro.search.held_out import HeldOut
from nasrepro.search.history import Search
from nasrepro.search.loop import search
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.search.workers import Job
from nasrepro.trainers.language_model import LanguageModelTask
from tests.experiments.toy import SpellingPlan, SpellingTask, Word

OWN = 'PROFILE = "quick"  # smoke | quick\nFRESH = False\nCELLS = ["LSTM"]'
SMOKE = profiles.load("smoke")
LANGUAGE = experiments.load("s17_language_model")
SIZES = LANGUAGE.sizes["smoke"]
TASK = replace(SIZES.task, training=replace(SIZES.task.training, hidden=4, embedding=4, train_tokens=500))
TINY = replace(LANGUAGE, sizes={"smoke": replace(SIZES, task=TASK, search_task=TASK)}, shipped={})
SHIPPED = replace(TINY, shipped={"smoke": ("shipped.jsonl.gz",)})


def begin(number: str, experiment: Experiment[Any] = TINY, fresh: bool = False, device: str = "auto") -> Run:
    return Run(number, SMOKE, fresh, experiment, device)


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(notebook, "WORKERS", 0)  # in this process: no start-up of others
    return begin("03")


# ---- parameters


@pytest.mark.parametrize(
    ("name", "meant"), [("PROFIL", "PROFILE"), ("profile", "PROFILE"), ("FRSH", "FRESH"), ("CELL", "CELLS")]
)
def test_a_mistyped_parameter_is_answered_with_the_nearest(name: str, meant: str) -> None:
    injected = f'# Parameters\n{name} = "smoke"\n'
    with pytest.raises(
        ValueError, match=f"unknown parameter {name}: did you mean {meant}\\? this notebook takes PROFILE, FRESH, CELLS"
    ):
        check_parameters(["import math", OWN, injected])


def test_a_parameter_like_no_other_is_answered_with_the_list() -> None:
    assert unknown_parameter("XYZ", ["PROFILE", "FRESH"]) == "unknown parameter XYZ: this notebook takes PROFILE, FRESH"


@pytest.mark.parametrize(
    "executed", [[], [OWN], [OWN, "print(1)"], [OWN, '# Parameters\nPROFILE = "smoke"\nFRESH = True\n']]
)
def test_good_parameters_and_none_pass(executed: list[str]) -> None:
    check_parameters(executed)


def test_a_wrong_profile_stops_the_notebook() -> None:
    with pytest.raises(ValueError, match="unknown profile 'quik': did you mean 'quick'"):
        start("03", "quik")


def test_a_wrong_experiment_stops_the_notebook() -> None:
    with pytest.raises(ValueError, match="unknown experiment 's17_translations': did you mean 's17_translation'"):
        start("07", "smoke", experiment="s17_translations")


def test_an_experiment_that_a_profile_leaves_out_stops_the_notebook() -> None:
    with pytest.raises(ValueError, match="s17_language_model is not made at 'paper': choose from smoke"):
        Run("03", profiles.load("paper"), experiment=TINY)


def test_a_notebook_without_an_experiment_has_no_task_and_shows_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(notebook, "display", lambda _, html: shown.append(html))
    run = start("01", "smoke")
    assert "data" not in shown[0]
    assert run.data_words() == ""
    with pytest.raises(ValueError, match=r"notebook 01 shows no experiment: name one in nr\.notebook\.start"):
        _ = run.task


def test_fresh_must_be_a_truth_value() -> None:
    with pytest.raises(ValueError, match="FRESH is True or False, got 'no'"):
        start("03", "smoke", "no")  # type: ignore[arg-type]


def test_a_fresh_notebook_trains_anew_what_this_machines_record_holds(run: Run) -> None:
    """As when somebody sets FRESH in JupyterLab, where no command has set the record aside."""
    made = run.evaluations([zoo["GRU"]], (1,))
    run.record.put(replace(made[0], metrics={"marked": 1.0}, key="another"))
    (run.folder / "record.sqlite.1.pretrained").touch()
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "a.pt").touch()
    again = start("04", run.profile.name, fresh=True)
    assert again.record.evaluations() == []
    assert not (again.folder / "record.sqlite.1.pretrained").exists()
    assert not (again.folder / "checkpoints").exists()
    assert len(Record(again.folder / "record.before.sqlite").evaluations()) == 2
    assert start("04", run.profile.name).record.path == again.record.path


def test_results_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "file" / "results"))
    with pytest.raises(OSError, match=r"cannot write results to .*file/results/smoke: .*choose another folder"):
        start("03", "smoke")


def test_the_start_says_what_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(notebook, "display", lambda _, html: shown.append(html))
    folder = notebook.results_folder() / "smoke"
    folder.mkdir(parents=True)
    note_seconds(folder / "timings.json", "smoke", "03", 41.26, "a machine")
    found = start("03", "smoke", experiment="s17_language_model")
    assert found.folder == folder
    for words in ("smoke: does everything once", "pydoc-characters", "about 41 s on a machine", device_name("cpu")):
        assert words in shown[0]
    assert "recorded" not in shown[0]


# ---- the device


def _tasks_in(value: Any) -> Iterator[Any]:
    """All tasks of an experiment's sizes, wherever they stand."""
    if hasattr(value, "evaluate"):
        yield value
    elif isinstance(value, tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tasks_in(each)
    elif is_dataclass(value):
        yield from _tasks_in(vars(value))


def test_a_run_puts_its_device_into_every_task_and_into_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    _sees_a_gpu(monkeypatch)
    for device, meant in (("auto", "cuda"), ("cuda:0", "cuda:0"), ("cpu", "cpu")):
        for experiment in experiments.EXPERIMENTS.values():
            run, other = (
                Run("06", profiles.load("paper"), experiment=experiment, device=one) for one in (device, "cpu")
            )
            tasks = list(_tasks_in(run.sizes))
            assert run.task in tasks
            assert len(tasks) > 1
            assert {task.device for task in tasks} == {meant}
            assert all(task.checkpoints for task in tasks if task.is_long)
            assert run.task.settings == other.task.settings
            assert experiment.sizes["paper"].task.device == "auto"


def test_a_device_that_is_not_here_stops_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="device 'cuda' was asked for, but torch"):
        start("03", "smoke", device="cuda")


def test_the_start_says_where_it_trains_and_what_was_trained_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped record and this folder's own, each holding a cell that was trained on the processor."""
    _sees_a_gpu(monkeypatch)
    shown: list[str] = []
    monkeypatch.setattr(notebook, "display", lambda _, html: shown.append(html))
    (made,) = begin("03", TINY, device="cpu").evaluations([zoo["GRU"]], (1,))
    shipped = Record()
    shipped.put(replace(made, device="a machine far away"))
    shipped.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)
    for device, fresh, recorded in (
        ("auto", False, f"{device_name('cpu')}, a machine far away"),
        ("auto", True, device_name("cpu")),
        ("cpu", False, "a machine far away"),
        ("cpu", True, ""),
    ):
        begun = begin("03", SHIPPED, fresh, device=device)
        begun.announce()
        meant = "cuda" if device == "auto" else "cpu"
        assert f"{device_name(meant)} ({meant})" in shown[-1]
        if recorded:
            assert f"what is recorded was trained on {recorded} and is replayed; FRESH trains it here" in shown[-1]
        else:
            assert "recorded" not in shown[-1]
        assert begun.provenance()["records"] == {}, "nothing was drawn from a record yet"
    begin("07", experiments.load("s17_translation")).announce()
    assert "is replayed" not in shown[-1], "language models are not what it draws on"


def test_what_is_replayed_keeps_its_device_and_what_is_trained_has_its_own(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from this folder's own record, which a run on another device goes on with."""
    here = device_name("cpu")
    record = run.record
    run.evaluations([zoo["GRU"]], (1,))
    (other,) = begin("03").evaluations([zoo["GRU"]], (2,))
    record.forget([other.key])
    record.put(replace(other, device="a GPU"))
    assert run.device == here
    assert {e.device for e in run.evaluations([zoo["GRU"]], (1, 2))} == {here, "a GPU"}
    assert run.provenance()["device"] == f"{here}, a GPU"
    run.data = TASK.corpus  # from here on the notebook trains by itself
    assert run.device == here
    assert begin("04").device == here


def test_the_searches_a_notebook_draws_on_name_all_their_devices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def made_on(device: str, settings: SearchSettings) -> Search:
        trained = search(TASK, settings, Record(), workers=0, progress=False)
        return replace(trained, trials=[(p, replace(e, device=device)) for p, e in trained.trials])

    small = replace(SIZES.search, method="random", cells=2, step=2)
    found = iter([made_on("one GPU", small), made_on("", small), made_on("another GPU", small)])
    monkeypatch.setattr(notebook, "search", lambda *_: next(found))
    run.search(small)
    assert run.device == "one GPU"
    run.search(small)
    run.search(small)
    assert run.device == "another GPU, one GPU"


def _sees_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASREPRO_DEVICE")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"a GPU by the name of {device}")


# ---- times


def test_measured_times_are_kept_by_profile_and_notebook(tmp_path: Path) -> None:
    (tmp_path / "results" / "quick").mkdir(parents=True)
    path = tmp_path / "results" / "quick" / "timings.json"
    for number, seconds in (("03", 10.0), ("04", 20.0), ("03", 12.04)):
        note_seconds(path, "quick", number, seconds, "a machine")
    assert (measured_seconds("quick", "03") or {})["seconds"] == 12.0
    assert (measured_seconds("quick", "04") or {})["seconds"] == 20.0
    assert measured_seconds("quick", "77") is None


# ---- single cells


def test_cells_are_trained_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [zoo["TanhRNN"], parse("Tanh(Add(MM(x_t), MM(h_{t-1})))"), zoo["GRU"]]  # the first two are one
    found = run.evaluations(cells, (1, 2))
    assert [(e.hash, e.seed) for e in found] == [(cell.hash, seed) for cell in cells for seed in (1, 2)]
    assert len(run.record.evaluations()) == 4
    assert found[0].metrics == TASK.evaluate(zoo["TanhRNN"].canonical(), 1).metrics
    assert run.data is TASK.corpus
    monkeypatch.setattr(LanguageModelTask, "evaluate", lambda *_: pytest.fail("trained again"))
    assert run.evaluations(cells, (1, 2)) == found
    assert begin("04").evaluations(cells[:1], (2,)) == [found[1]]


@pytest.mark.parametrize(("cells", "seeds"), [(zoo["GRU"], (1,)), ("GRU", (1,)), ([zoo["GRU"]], 1)])
def test_one_cell_or_seed_is_no_list(run: Run, cells: Any, seeds: Any) -> None:
    with pytest.raises(TypeError, match=r"cells and seeds are lists, got .*: pass \[cell\], \[seed\]"):
        run.evaluations(cells, seeds)


def test_a_shipped_record_is_replayed_without_its_data_and_not_when_fresh(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record()
    made = run.evaluations([zoo["GRU"]], (1,))[0]
    marked = replace(made, metrics={**made.metrics, "marked": 1.0})
    record.put(marked)
    record.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))
    assert begin("03", SHIPPED).evaluations([zoo["GRU"]], (1,)) == [marked]
    replayed = begin("03", SHIPPED)
    replayed.evaluations([zoo["GRU"]], (1,))
    assert isinstance(replayed.data, RecordedData)
    replayed.evaluations([zoo["GRU"]], (1, 2))
    assert replayed.data is TASK.corpus, "one of the two was trained here"
    assert "marked" not in begin("03", SHIPPED, fresh=True).evaluations([zoo["GRU"]], (1,))[0].metrics
    without = begin("03", replace(TINY, shipped={"smoke": ("not-there.gz",)}))
    assert "marked" not in without.evaluations([zoo["GRU"]], (1,))[0].metrics

    def missing(_: LanguageModelTask) -> None:
        raise DataError("ptb is not here; fetch it")

    monkeypatch.setattr(LanguageModelTask, "corpus", property(missing))
    alone = begin("03", SHIPPED)
    assert alone.evaluations([zoo["GRU"], zoo["LSTM"]], (1, 2)) == [marked]
    assert alone.data == RecordedData(
        "pydoc", made.data, f"recorded {made.created[:10]}", made.device, "pydoc-characters"
    )
    assert (
        "Nothing can be trained here, going on with what is recorded. ptb is not here; fetch it"
        in capsys.readouterr().out
    )


def test_a_notebook_searches_for_words_as_it_does_for_cells(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, task = SpellingPlan(budget=8), SpellingTask()
    made = run.search(plan, task, workers=0)
    assert len(made.trials) == 8
    assert run.data is task.corpus
    assert run.evaluations([Word("Search")], (1,), task)[0].metrics == {"error": 0.001}
    run.record.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))

    replayed = begin("03", SHIPPED)
    assert replayed.search(plan, task).frame().equals(made.frame())
    assert isinstance(replayed.data, RecordedData)
    assert (replayed.data.name, replayed.data.hash) == (task.corpus.name, task.corpus.hash)
    assert replayed.search(replace(plan, budget=3), task).frame().equals(made.frame()[:3])


@pytest.mark.parametrize("fresh", [True, False])
def test_where_nothing_can_be_trained_as_asked_the_notebook_stops(
    fresh: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh results are not recorded ones, and with no results at all there is nothing to go on with."""
    recorded = run.evaluations([zoo["GRU"]], (1,))
    run.record.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))

    def missing(_: LanguageModelTask) -> None:
        raise DataError("ptb is not here; fetch it")

    monkeypatch.setattr(LanguageModelTask, "corpus", property(missing))
    again = begin("03", SHIPPED, fresh)
    with pytest.raises(DataError, match="ptb is not here; fetch it"):
        again.evaluations([zoo["LSTM"]], (1,))
    if fresh:
        with pytest.raises(DataError, match="ptb is not here; fetch it"):
            again.evaluations([zoo["GRU"]], (1,))
        with pytest.raises(DataError, match="ptb is not here; fetch it"):
            again.test_evaluation(zoo["GRU"], 1, "a row")
        with pytest.raises(DataError, match="ptb is not here; fetch it"):
            again.search(SIZES.search)
    else:
        assert again.evaluations([zoo["GRU"]], (1,)) == recorded


def test_cells_of_another_task_are_trained_by_that_task(run: Run) -> None:
    other = replace(TASK, training=replace(TASK.training, hidden=5))
    (found,) = run.evaluations([zoo["TanhRNN"]], (1,), other)
    assert found.settings == other.settings != TASK.settings
    assert found.metrics == other.evaluate(zoo["TanhRNN"].canonical(), 1).metrics


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "pydoc-characters"),  # the task's
        (SimpleNamespace(name="ptb", hash="0", note="", words="ptb"), "ptb"),
        (SimpleNamespace(name="ptb", hash="0", note="", words="ptb-characters"), "ptb-characters"),
        (SimpleNamespace(name="captions", hash="0", note=""), "captions"),
        (RecordedData("ptb", "0", "", "a machine", "ptb-characters"), "ptb-characters"),
        (RecordedData("multi30k", "0", "", "a machine", "multi30k"), "multi30k"),
    ],
)
def test_a_finding_names_the_data_in_use(run: Run, data: Any, words: str) -> None:
    run.data = data
    run.finding("s17.mt.loss_not_bleu", value=0.5)
    (written,) = json.loads((run.folder / "ledger.json").read_text("utf-8"))["findings"]
    assert written["data"] == words


# ---- the test split


def test_rows_of_the_shipped_record_are_stamped_with_its_data_and_others_with_this_machines(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {f"LSTM, seed {seed}": Job(zoo["LSTM"], seed) for seed in (1, 2)}
    made = run.test_evaluation(zoo["LSTM"], 1, "LSTM, seed 1")
    assert (run.data, run.device) == (TASK.corpus, device_name())
    shipped = Record()
    shipped.put(replace(made, device="a machine far away"))
    shipped.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))
    replayed = begin("07", SHIPPED)
    assert replayed.test_evaluation(zoo["LSTM"], 1, "LSTM, seed 1").device == "a machine far away"
    assert replayed.data == RecordedData(
        "pydoc", made.data, f"recorded {made.created[:10]}", "a machine far away", "pydoc-characters"
    )
    assert replayed.provenance()["device"] == "a machine far away"
    assert replayed.record.test_reads() == []

    found = replayed.test_evaluations(rows)
    assert [(e.seed, e.device) for e in found.values()] == [(1, "a machine far away"), (2, device_name())]
    assert replayed.data is TASK.corpus
    assert [reading["row"][:12] for reading in replayed.record.test_reads()] == ["LSTM, seed 2"]

    assert begin("07", SHIPPED, fresh=True).test_evaluation(zoo["LSTM"], 1, "LSTM, seed 1").device == device_name()


def test_without_its_data_a_row_comes_from_the_shipped_record_or_not_at_all(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run.test_evaluation(zoo["LSTM"], 1, "LSTM, seed 1")
    run.record.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)

    def missing(_: LanguageModelTask) -> None:
        raise DataError("pydoc is not here")

    monkeypatch.setattr(LanguageModelTask, "corpus", property(missing))
    with pytest.raises(DataError, match="pydoc is not here"):
        run.test_evaluation(zoo["LSTM"], 1, "LSTM, seed 1")  # though this machine's record holds it
    shipped = begin("07", SHIPPED)
    assert shipped.test_evaluation(zoo["LSTM"], 1, "LSTM, seed 1") == made


def test_looking_into_the_shipped_record_does_not_change_the_data_in_use(run: Run) -> None:
    used = run.data = TASK.corpus
    assert run._shipped_evaluations(HeldOut(TASK), [Job(zoo["LSTM"], 1)]) == {}
    assert run.data is used


def test_another_experiments_record_is_looked_at_beside_ones_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record()
    made = run.evaluations([zoo["GRU"]], (1,))[0]
    record.put(made)
    record.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))
    sizes = {"quick": TINY.sizes["smoke"]}
    other = replace(SHIPPED, name="other", sizes=sizes, shipped={"quick": ("shipped.jsonl.gz",)})
    monkeypatch.setattr(experiments, "load", {"other": other}.__getitem__)
    mine = begin("03", fresh=True)
    beside = mine.beside("other", "quick")
    assert beside.recorded(TASK) == beside.evaluations([zoo["GRU"]], (1,)) == [made]
    assert beside.folder == mine.folder
    assert (mine.fresh, mine.profile, mine.experiment, mine.data) == (True, SMOKE, TINY, None)


def test_what_records_hold_is_looked_up_without_training_or_data(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = run.evaluations([zoo["GRU"]], (1,))
    run.record.export(tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr(notebook, "records_folder", lambda: tmp_path)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))
    other = begin("03", SHIPPED)
    (second,) = begin("03").evaluations([zoo["GRU"]], (2,))
    monkeypatch.setattr(LanguageModelTask, "corpus", property(lambda _: pytest.fail("loaded")))
    assert other.recorded(TASK) == [first, second]
    assert other.recorded(replace(TASK, level="word")) == other.recorded(HeldOut(TASK)) == []
    assert begin("03", SHIPPED, fresh=True).recorded(TASK) == [second]


# ---- findings


@pytest.mark.parametrize(
    ("entry", "budget", "data", "scaled"),
    [
        ("s17.mt.beats_lstm", 1.0, "multi30k", False),
        ("s17.mt.beats_lstm", 0.99, "multi30k", True),
        ("s17.mt.beats_lstm", 1.0, "captions", True),
        ("s17.mt.beats_lstm", None, "multi30k", True),
        ("s17.rank.predicts", 1.0, "anything", False),  # the paper names no data for it
    ],
)
def test_budget_and_data_decide_whether_a_finding_is_scaled_down(
    entry: str, budget: float | None, data: str, scaled: bool, run: Run
) -> None:
    run.finding(entry, value=1.0, budget=budget, data=data)
    assert run.artifacts.ledger.run[entry].scaled == scaled
    with pytest.raises(TypeError, match="scaled"):
        run.finding(entry, value=1.0, budget=budget, scaled=not scaled)


def test_an_exact_fact_is_never_scaled_down_and_no_result_of_training_is_one(run: Run) -> None:
    run.exact("s17.dsl.index.bc3", value=12)
    assert run.artifacts.ledger.run["s17.dsl.index.bc3"].scaled is False
    for entry in ("s17.table3.mt1.multi30k_bleu", "s17.mt.beats_lstm", "s17.rank.predicts"):
        with pytest.raises(ValueError, match=f"{entry} is what training has to show"):
            run.exact(entry, supports=True)
