"""What training loops share: failures, checkpoints of today and of before, and the time of interrupted trainings."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasrepro.datasets import corpus_from_text, parallel_from_text
from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.dsl import zoo
from nasrepro.trainers import language_model, translation
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.progress import Progress, Training
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

CHECKPOINTS = Path(__file__).parent / "checkpoints"
LINES = "the dog sleeps and the cat runs\nthe cat sleeps and the dog runs\n" * 20
PAIRS = [(" ".join("abcdefg"[: 1 + n % 5]), " ".join("uvwxyz"[: 1 + n % 4])) for n in range(40)]

MODEL = LanguageModelTask(
    training=LanguageModelSettings(layers=1, hidden=4, embedding=4, batch=4, bptt=7, epochs=4, eval_batch=3),
    own=corpus_from_text("mine", LINES, LINES[:300], LINES[:300]),
    device="cpu",
)
TRANSLATION = TranslationTask(
    training=TranslationSettings(hidden=4, layers=1, batch=8, epochs=4, halve_from=2, eval_batch=4, longest=9),
    own=parallel_from_text("toy", PAIRS, PAIRS[:9], PAIRS[:9]),
    device="cpu",
)
EITHER = pytest.mark.parametrize("task", [MODEL, TRANSLATION], ids=["language-model", "translation"])
MODULES = {LanguageModelTask: language_model, TranslationTask: translation}


# ---- the trainers


@pytest.mark.parametrize(
    ("task", "file", "rates", "perplexities"),
    [
        (MODEL, "abe1106178883867.pt", [20, 20, 20, 5], [3.1149, 2.1549, 2.2832, 1.8723]),
        (TRANSLATION, "b05f157793e959e7.pt", [1, 1, 0.5, 0.25], [4.8427, 4.6713, 4.6335, 4.6193]),
    ],
    ids=["language-model", "translation"],
)
def test_a_checkpoint_of_version_1_goes_on_to_the_same_numbers(
    task: Any, file: str, rates: list[float], perplexities: list[float], tmp_path: Path
) -> None:
    """Both files were written after epoch 2 of 4, by the code in which each trainer had a loop of its own; the numbers
    are those that it came to."""
    shutil.copy(CHECKPOINTS / file, tmp_path)
    seen: list[dict[str, float]] = []
    found = replace(task, checkpoints=str(tmp_path)).evaluate(zoo["MGU"], 5, seen.append)
    assert [point["epoch"] for point in seen] == [3, 4], "the file of that name was not found, or not gone on with"
    assert [point["learning_rate"] for point in found.curve] == rates
    assert [point["valid_ppl"] for point in found.curve] == pytest.approx(perplexities, rel=1e-3)
    unbroken = task.evaluate(zoo["MGU"], 5)
    assert found.metrics == pytest.approx(unbroken.metrics, rel=1e-3)
    assert list(tmp_path.iterdir()) == []


@EITHER
@pytest.mark.parametrize("loss", [math.inf, math.nan])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_model_that_explodes_on_the_validation_text_has_failed(
    task: Any, loss: float, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps were finite to the last, which is a validation too late to see it there."""
    losses = iter([2.0, loss] if epoch == 2 else [loss])
    monkeypatch.setattr(MODULES[type(task)], "evaluate", lambda *_: next(losses))
    seen: list[dict[str, float]] = []
    found = task.evaluate(zoo["MGU"], 5, seen.append)
    assert (found.status, found.reason) == ("failed", "exploded")
    assert seen == found.curve
    assert [point["epoch"] for point in seen] == list(range(1, epoch))
    assert found.metrics.get("valid_ppl") == (pytest.approx(math.exp(2)) if epoch == 2 else None)


@EITHER
def test_the_seconds_of_an_interrupted_training_are_those_of_all_its_parts(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that stands still but for the epochs, of a minute each, and an hour between the two parts."""
    now = [1000.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def evaluate(*_: object) -> float:
        now[0] += 60
        return 1.0

    def stop(point: dict[str, float]) -> None:
        if point["epoch"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(MODULES[type(task)], "evaluate", evaluate)
    task = replace(task, checkpoints=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        task.evaluate(zoo["MGU"], 5, stop)
    now[0] += 3600
    assert task.evaluate(zoo["MGU"], 5).seconds == 4 * 60, "the third epoch was not kept, and not counted twice"


@EITHER
def test_a_deadline_stops_after_a_checkpoint_and_the_numbers_are_those_of_an_unbroken_training(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken: list[dict[str, float]] = []
    whole = task.evaluate(zoo["MGU"], 5, unbroken.append)
    task = replace(task, checkpoints=str(tmp_path))
    seen: list[dict[str, float]] = []
    monkeypatch.setenv(VARIABLE, "0 9")  # a moment that was long ago: every training stops after an epoch
    for epochs in (1, 2, 3):
        with pytest.raises(TimeIsUp, match="stopped after 9 minutes"):
            task.evaluate(zoo["MGU"], 5, seen.append)
        assert len(seen) == epochs
    found = task.evaluate(zoo["MGU"], 5, seen.append)  # the last epoch is the end: there is nothing to stop
    assert seen == unbroken == found.curve
    assert found.metrics == whole.metrics
    assert list(tmp_path.iterdir()) == []


@EITHER
def test_a_training_without_a_checkpoint_goes_on_to_its_end(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0 9")
    assert len(task.evaluate(zoo["MGU"], 5).curve) == 4


# ---- a trainer to come: several metrics, an optimiser with a memory, epochs of so many steps


@dataclass
class WithOptimiser(Progress):
    optimiser: dict[str, Any] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)


def descend(
    checkpoint: Path | None, on_epoch: Callable[[dict[str, float]], None] | None = None
) -> tuple[list[dict[str, float]], Tensor]:
    """Nesterov's momentum on noisy gradients of |w - 1|^2, validated after every five steps: the curve, and w."""
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    noise = torch.Generator().manual_seed(4)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    state = WithOptimiser(0.05, optimiser=optimiser.state_dict())
    training = Training(model, noise, state, "a toy", "cpu", checkpoint, on_epoch)
    for _ in training.epochs(6):
        optimiser.load_state_dict(state.optimiser)
        for _ in range(5):
            model.weight.grad = model.weight.detach() - 1 + torch.randn(1, 3, generator=noise)
            optimiser.step()
        error = (model.weight - 1).abs().sum().item()
        state.errors.append(error)
        training.note(error, error=error, mean_error=sum(state.errors) / len(state.errors))
        state.optimiser = optimiser.state_dict()
    assert training.outcome({"error": state.best_loss}).parameters == 3
    return state.curve, model.weight.detach()


@pytest.mark.parametrize("epoch", [1, 2, 6])
def test_a_trainer_with_more_to_remember_goes_on_to_the_same_bits(epoch: int, tmp_path: Path) -> None:
    def stop(point: dict[str, float]) -> None:
        if point["epoch"] == epoch:
            raise KeyboardInterrupt

    curve, weights = descend(None)
    with pytest.raises(KeyboardInterrupt):
        descend(tmp_path / "toy.pt", stop)
    assert (tmp_path / "toy.pt").exists() == (epoch > 1)
    again, same = descend(tmp_path / "toy.pt")
    assert again == curve
    assert torch.equal(same, weights)


@pytest.mark.parametrize("epoch", [1, 5])
def test_a_trainer_with_more_to_remember_is_stopped_by_a_deadline(
    epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve, weights = descend(None)
    seen = []

    def pass_deadline(point: dict[str, float]) -> None:
        seen.append(point["epoch"])
        if point["epoch"] == epoch:
            monkeypatch.setenv(VARIABLE, "0 9")

    with pytest.raises(TimeIsUp):
        descend(tmp_path / "toy.pt", pass_deadline)
    assert seen == list(range(1, epoch + 1))
    monkeypatch.delenv(VARIABLE)
    again, same = descend(tmp_path / "toy.pt")
    assert again == curve
    assert torch.equal(same, weights)


def test_a_training_that_has_failed_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0 9")
    training = Training(nn.Linear(1, 1), torch.Generator(), Progress(1.0), "a toy", checkpoint=tmp_path / "toy.pt")
    for _ in training.epochs(5):
        training.fail("too slow")
    assert training.outcome({}).reason == "too slow"


def test_the_first_reason_stays_and_ends_the_training() -> None:
    training = Training(nn.Linear(1, 1), torch.Generator(), state := Progress(1.0), "a toy")
    seen = []
    for epoch in training.epochs(5):
        seen.append(epoch)
        training.note(1.0)
        if epoch == 2:
            training.fail("too slow")
            training.note(math.nan)
    assert seen == [1, 2]
    found = training.outcome({})
    assert (found.status, found.reason, len(state.curve)) == ("failed", "too slow", 2)


def test_epochs_end_when_the_learning_rate_is_too_low() -> None:
    training = Training(nn.Linear(1, 1), torch.Generator(), state := Progress(1.0), "a toy")
    for epoch in training.epochs(9, lowest_rate=0.25):
        training.note(1.0 / epoch)
        state.learning_rate /= 2
    assert [point["learning_rate"] for point in state.curve] == [1, 0.5, 0.25]


def test_a_training_that_went_on_elsewhere_names_both_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, most in (("card A", 2), ("card A", 3), ("card B", 5)):
        monkeypatch.setattr("nasrepro.trainers.progress.device_name", lambda _, device=device: device)
        model = nn.Linear(1, 1)
        training = Training(model, torch.Generator(), Progress(1.0), "a toy", "cuda", tmp_path / "toy.pt")
        for epoch in training.epochs(most):
            training.note(1 / epoch)
    assert training.outcome({}).device == "card A, card B"
    assert len(training.outcome({}).curve) == 5
