"""Where a training runs: a device is found when it begins, changes no key, and its numbers by rounding alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

import nasrepro as nr
from nasrepro.datasets.parallel import parallel_from_text
from nasrepro.hardware import DeviceError, device_name
from nasrepro.search import Record
from nasrepro.search.loop import evaluate
from nasrepro.search.record import Evaluation, evaluation_key
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers import checkpoint, forecast, language_model, translation
from nasrepro.trainers.forecast import MULTI30K, WIKITEXT2, forecast_seconds, forecast_translation_seconds
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

ROOT = Path(__file__).resolve().parents[2]
LETTERS = LanguageModelSettings(
    layers=1, hidden=6, embedding=6, batch=4, bptt=5, epochs=2, train_tokens=100, valid_tokens=50, eval_batch=5
)
PAIRS = TranslationSettings(hidden=6, layers=1, batch=3, epochs=2, eval_batch=4, beam=1, longest=5, fail_above=1e9)
AnyTask = LanguageModelTask | TranslationTask


@pytest.fixture(params=["language model", "translation"])
def task(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AnyTask:
    if request.param == "language model":
        return LanguageModelTask(level="char", training=LETTERS)
    text = [("a b c"[: 2 * words - 1], "x y z"[: 2 * words - 1]) for words in (1, 3, 2, 2, 3, 1)]
    corpus = parallel_from_text("letters", text, text[:4], text[:2])
    monkeypatch.setattr(translation, "_corpus", lambda *_: corpus)
    return TranslationTask("letters", PAIRS)


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASREPRO_DEVICE")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
def test_auto_without_cuda_changes_no_number_and_no_key(task: AnyTask, tmp_path: Path) -> None:
    assert task.device == "auto"
    on_cpu = replace(task, device="cpu")
    found, expected = (one.train(nr.zoo["GRU"], 3) for one in (task, on_cpu))
    rows = [Evaluation.of(one, nr.zoo["GRU"], 3, outcome) for one, (outcome, _) in ((task, found), (on_cpu, expected))]
    ours, theirs = (vars(replace(row, seconds=0.0, created="")) for row in rows)
    assert ours == theirs
    assert ours["device"] == device_name("cpu")
    for name, weights in expected[1].state_dict().items():
        assert torch.equal(found[1].state_dict()[name], weights)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_no_device_is_in_a_key_or_in_settings(device: str, task: AnyTask) -> None:
    moved = replace(task, device=device)
    assert moved.settings == task.settings
    assert evaluation_key(moved, nr.zoo["GRU"], 1) == evaluation_key(task, nr.zoo["GRU"], 1)


@pytest.mark.usefixtures("_no_gpu")
def test_a_gpu_that_is_not_here_is_refused_before_anything_is_made(
    task: AnyTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for room, name in ((language_model, "LanguageModel"), (translation, "make_model"), (forecast, "Seq2Seq")):
        monkeypatch.setattr(room, name, lambda *_, **__: pytest.fail("a model was made"))
    refused = pytest.raises(DeviceError, match="device 'cuda' was asked for, but torch")
    with refused:
        replace(task, device="cuda", checkpoints=str(tmp_path)).evaluate(nr.zoo["GRU"], 1)
    with refused:
        forecast_seconds(nr.zoo["GRU"], LETTERS, WIKITEXT2, device="cuda")
    with refused:
        forecast_translation_seconds(nr.zoo["GRU"], PAIRS, MULTI30K, device="cuda")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_gpu")
def test_a_search_without_its_gpu_stops_and_takes_no_cell_for_a_failure(task: AnyTask) -> None:
    record = Record()
    with (
        Workers(replace(task, device="cuda"), count=0) as workers,
        pytest.raises(DeviceError, match="device 'cuda' was asked for, but torch"),
    ):
        evaluate([Job(nr.zoo["GRU"], 1)], record, workers)
    assert record.evaluations() == []
    with Workers(task, count=0) as workers:
        (made,) = evaluate([Job(nr.zoo["GRU"], 1)], record, workers)
    with Workers(replace(task, device="cuda"), count=0) as workers:  # what is recorded needs no GPU
        assert evaluate([Job(nr.zoo["GRU"], 1)], record, workers) == [made]


def test_the_row_of_a_process_that_was_killed_says_where_it_ran() -> None:
    with Workers(LanguageModelTask(level="char", training=LETTERS), count=1, timeout_s=0.0) as workers:
        (row,) = evaluate([Job(nr.zoo["GRU"], 1)], Record(), workers)
    assert (row.reason, row.device) == ("timed out", device_name("cpu"))


# ---- what a training on another kind of device left behind


def test_each_kind_of_device_has_a_checkpoint_of_its_own_and_the_processors_is_the_one_it_always_was(
    tmp_path: Path,
) -> None:
    always = b"GRU 1 {'hidden': 6} data 1"

    def place(device: str) -> Path | None:
        with checkpoint.training_checkpoint(str(tmp_path), device, "GRU", 1, {"hidden": 6}, "data", 1) as path:
            return path

    assert place("cpu") == tmp_path / f"{sha256(always).hexdigest()[:16]}.pt"
    assert place("cuda") == place("cuda:1") != place("cpu")


def test_a_checkpoint_of_another_kind_of_device_says_so(task: AnyTask, tmp_path: Path) -> None:
    """A GPU's generator has a state of 16 bytes, the processor's one of thousands."""
    path = tmp_path / "a.pt"
    room: Any = language_model if task.name == "language model" else translation
    room.train(nr.zoo["GRU"], task.corpus, task.training, checkpoint=path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "masks": content["masks"][:16]}, path)
    with pytest.raises(ValueError, match=r"a\.pt was written on another kind of device; go on there, or delete it"):
        room.train(nr.zoo["GRU"], task.corpus, task.training, checkpoint=path)


# ---- the CUDA backend


@pytest.mark.parametrize(
    "where", [pytest.param("interpreter", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)]
)
def test_a_training_on_cuda_has_the_losses_of_the_processor(where: str) -> None:
    # Triton decides when it is imported whether it compiles or interprets, so either needs a process of its own.
    pytest.importorskip("triton", reason="there is no triton for this machine")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [str(Path(__file__).with_name("trained_on_triton.py"))]
    environment = os.environ | {"TRITON_INTERPRET": str(int(where == "interpreter"))}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_on_a_gpu_a_task_trains_tests_and_names_it(device: str, task: AnyTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASREPRO_DEVICE")
    moved = replace(task, device=device)
    outcome, model = moved.train(nr.zoo["MT5"], 1)
    assert outcome.device == torch.cuda.get_device_name(0)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    on_gpu = moved.test(model, task.corpus.valid)
    here = moved.test(model.cpu(), task.corpus.valid)  # where the model is, not where the task trains
    assert here["test_ppl"] == pytest.approx(on_gpu["test_ppl"], rel=1e-4)


@pytest.mark.gpu
def test_on_a_gpu_a_forecast_times_what_is_left_after_graphs_are_recorded() -> None:
    """A first call compiles kernels or records, and takes many times as long as the later ones."""
    first = forecast_seconds(nr.zoo["LSTM"], LETTERS, WIKITEXT2, steps=1, device="cuda")
    later = forecast_seconds(nr.zoo["LSTM"], LETTERS, WIKITEXT2, steps=5, device="cuda")
    assert first < 5 * later


def test_a_forecast_on_a_gpu_leaves_the_calls_out_that_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock by which the first calls on a GPU, which record, take 100 s and later ones 1 s."""
    assert forecast._median_seconds(_recording(calls=4, monkeypatch=monkeypatch), 1, "cuda") == 1
    assert forecast._median_seconds(_recording(calls=1, monkeypatch=monkeypatch), 1, "cpu") == 1


def _recording(calls: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    now, made = [0.0], []

    def work() -> None:
        made.append(None)
        now[0] += 100 if len(made) <= calls else 1

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return work
