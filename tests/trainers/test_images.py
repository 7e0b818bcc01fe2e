"""The trainer of images trains, judges and fails as ZL17 says, and its task is told, kept and tested."""

import json
import math
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasrepro import datasets
from nasrepro.convnet import ConvNet, ConvNetError
from nasrepro.convnet.network import Layer
from nasrepro.datasets import ImageSet
from nasrepro.search import Record
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.record import evaluation_key
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers import images
from nasrepro.trainers.checkpoint import CheckpointError
from nasrepro.trainers.images import ImageSettings, ImageTask, evaluate, shown_crops, train
from tests.trainers.killable_images import NET, TINY
from tests.trainers.small_images import TASK, same_weights, tiny_step, weights_of

# ---- the schedule


@pytest.mark.parametrize("epochs", [4, 40, 300])
def test_rates_fall_as_densenets_do(epochs: int) -> None:
    """0.1, "divided by 10 at 50% and 75% of the total number of training epochs" (Huang et al. 2016, section 4.2)."""
    settings = ImageSettings(epochs=epochs)
    found = [settings.rate(epoch, settings.learning_rate) for epoch in range(1, epochs + 1)]
    assert found == pytest.approx([0.1] * (epochs // 2) + [0.01] * (epochs // 4) + [0.001] * (epochs // 4))


def test_a_training_uses_the_rates_of_its_schedule_and_the_rate_that_a_network_predicts(digits: ImageSet) -> None:
    curve = train(NET, digits, TINY)[0].curve
    assert [point["learning_rate"] for point in curve] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    predicted = train(replace(NET, learning_rate=0.02), digits, TINY)[0].curve
    assert [point["learning_rate"] for point in predicted] == pytest.approx([0.02, 0.02, 0.002, 0.0002])
    asked = train(NET, digits, replace(TINY, learning_rate=0.02))[0].curve
    assert [(point["train_loss"], point["valid_error"]) for point in asked] == [
        (point["train_loss"], point["valid_error"]) for point in predicted
    ]
    assert predicted[0]["train_loss"] != curve[0]["train_loss"]


# ---- what counts


def test_the_best_of_the_last_five_epochs_counts_and_its_weights_are_kept(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([5.0, 10.0, 40.0, 20.0, 35.0, 20.0, 25.0])  # the two lowest come too early to count
    kept: list[dict[str, Tensor]] = []

    def fake(model: nn.Module, *_: Any) -> tuple[float, float]:
        kept.append(weights_of(model))
        return next(errors), 1.0

    monkeypatch.setattr(images, "evaluate", fake)
    outcome, model = train(NET, digits, replace(TINY, epochs=7, counted_epochs=5))
    assert outcome.metrics == {"valid_error": 20.0}
    assert [point["valid_error"] for point in outcome.curve] == [5, 10, 40, 20, 35, 20, 25]
    assert same_weights(weights_of(model), kept[3])
    assert not same_weights(kept[3], kept[5])


def test_the_error_is_the_share_of_images_whose_largest_score_is_anothers(digits: ImageSet) -> None:
    outcome, model = train(NET, digits, TINY)
    shown = shown_crops(digits.valid[:30], TINY, "cpu").shown(0, 30, "crop")
    model.eval()
    scores, labels = model(shown).detach().double().numpy(), digits.valid_labels[:30].numpy()
    error = 100 * np.mean([int(row.argmax()) != label for row, label in zip(scores, labels, strict=True)])
    nats = np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(scores, labels, strict=True)])
    assert evaluate(model, shown_crops(digits.valid[:30], TINY, "cpu"), digits.valid_labels[:30], TINY) == (
        pytest.approx(error),
        pytest.approx(nats, rel=1e-5),
    )
    assert outcome.metrics["valid_error"] == pytest.approx(error)
    assert outcome.parameters == NET.parameters(channels=1)


def test_it_learns_digits(digits: ImageSet) -> None:
    """Ten digits, so nine in ten guesses are wrong."""
    net = ConvNet(tuple(Layer("conv", (number,), 3, 3, filters=12) for number in range(3)))
    settings = ImageSettings(
        epochs=10, batch=16, upsampled=9, flipped=False, evaluated_on="image", train_images=300, valid_images=200
    )
    found = train(net, digits, settings)[0]
    assert found.curve[0]["train_loss"] > 1.5
    assert found.metrics["valid_error"] < 50


# ---- failures


def test_a_rate_that_is_far_too_high_fails_with_a_reason(digits: ImageSet) -> None:
    outcome, _ = train(NET, digits, replace(TINY, learning_rate=1e30))
    assert (outcome.status, outcome.reason, outcome.metrics) == ("failed", "exploded", {})
    assert all(math.isfinite(value) for point in outcome.curve for value in point.values())


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_weights_that_explode_with_an_epochs_last_step_have_failed(
    loss: float, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their error is a number all the same: of scores that are none, too, one is the largest."""
    found = iter([(50.0, 1.0), (90.0, loss)])
    monkeypatch.setattr(images, "evaluate", lambda *_: next(found))
    outcome, _ = train(NET, digits, replace(TINY, epochs=2))
    assert (outcome.status, outcome.reason, len(outcome.curve)) == ("failed", "exploded", 1)
    assert TASK.loss.of(outcome) is None


def test_an_epoch_that_explodes_is_not_trained_to_its_end() -> None:
    step, steps = tiny_step(count=250, settings=replace(TINY, batch=1)), []
    step._step = lambda chosen: steps.append(1) or (torch.tensor(math.nan),)  # type: ignore[assignment,func-returns-value]
    assert math.isnan(step.over_all(0.1, torch.Generator()))
    assert len(steps) == 100


def test_images_that_are_too_small_and_classes_that_are_too_few_are_told_before_training(
    digits: ImageSet, tmp_path: Path
) -> None:
    large = ConvNet((Layer("conv", (), 9, 3, filters=4),))
    with pytest.raises(ConvNetError, match="layer_1 has filter_height = 9 and reads maps of 8 x 8"):
        train(large, digits, TINY, checkpoint=tmp_path / "a.pt")
    with pytest.raises(ValueError, match="the network tells 9 classes apart, and digits has 10"):
        train(replace(NET, classes=9), digits, TINY, checkpoint=tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())
    with Workers(TASK, count=0) as workers:
        (_, outcome), *_ = workers.map([Job(large, 1)])
    assert outcome.status == "failed"
    assert outcome.reason.startswith("does not fit: layer_1 has filter_height = 9")


TO_ONE_PIXEL = ConvNet((Layer("conv", (), 3, 3, 4, 4, filters=3), Layer("conv", (1,), 1, 1, 2, 2, filters=3)))
"""Of 8 x 8 pixels its first layer leaves 2 x 2, and its second one."""


def test_strides_that_made_maps_too_small_are_told_with_the_size_of_the_images() -> None:
    net = ConvNet((*TO_ONE_PIXEL.layers, Layer("conv", (2,), 1, 3, filters=2)))
    assert TASK.evaluate(net, 0).reason == (
        "does not fit: layer_3 has filter_width = 3 and reads maps of 1 x 1 pixels, "
        "which is what strides leave of 8 x 8"
    )


def test_batches_of_one_image_are_refused_where_maps_of_one_pixel_are_normalised(digits: ImageSet) -> None:
    for settings in (replace(TINY, batch=1), replace(TINY, train_images=1)):
        with pytest.raises(ConvNetError, match="layer_2 normalises maps of one pixel, which takes batches of 2 images"):
            train(TO_ONE_PIXEL, digits, settings)
        outcome = replace(TASK, training=settings).evaluate(TO_ONE_PIXEL, 0)
        assert outcome.reason.startswith("does not fit: layer_2 normalises maps of one pixel")
        pooled = ConvNet((Layer("conv", (), 3, 3, filters=3), Layer("max_pool", (1,), 8, 8, 8, 8)))
        assert train(pooled, digits, replace(settings, epochs=1))[0].status == "ok"


def test_an_image_left_over_of_which_maps_of_one_pixel_are_made_is_trained_on(digits: ImageSet) -> None:
    """33 images in batches of 16: torch's own batch normalisation refuses the last."""
    outcome, _ = train(TO_ONE_PIXEL, digits, replace(TINY, train_images=33))
    assert outcome.status == "ok"
    assert len(outcome.curve) == 4


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"upsampled": -1}, "upsampled must be 1 or more, got -1"),
        ({"momentum": 1.0}, "momentum=1.0 is at least 0 and below 1"),
        ({"drop": 0.0}, "drop=0.0 is positive"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
        ({"train_images": 0}, "train_images must be 1 or more, got 0"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
        ({"evaluated_on": "all"}, "evaluated_on must be one of image, crop, whole, got 'all'"),
        ({"learning_rate": math.nan}, "learning_rate is a number, got nan"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageSettings(**setting)


def test_the_defaults_are_the_papers() -> None:
    """Section 4.1: 50 epochs, the best of the last 5, rate 0.1, decay 1e-4, Nesterov's momentum 0.9."""
    found = ImageSettings()
    assert (found.epochs, found.counted_epochs) == (50, 5)
    assert (found.learning_rate, found.weight_decay, found.momentum) == (0.1, 1e-4, 0.9)
    assert (found.train_images, found.valid_images, found.precision, found.flipped) == (None, None, "float32", True)


# ---- precision


def test_both_precisions_run_on_a_processor_and_learn_alike(digits: ImageSet) -> None:
    exact, rounded = (train(NET, digits, replace(TINY, precision=each))[0].curve for each in ("float32", "bfloat16"))
    assert [point["train_loss"] for point in rounded] == pytest.approx([p["train_loss"] for p in exact], rel=0.05)
    assert rounded[0]["train_loss"] != exact[0]["train_loss"]


# ---- compiled


COMPILED = replace(TINY, compiled=True)


def compiles() -> str:
    """Why torch.compile cannot work here; "" where it can."""
    try:
        torch.compile(lambda x: x.sin() + 1, dynamic=False)(torch.ones(2))
    except Exception as error:
        return f"torch.compile does not work here: {str(error).splitlines()[0]:.150}"
    return ""


@pytest.mark.slow
def test_a_compiled_network_has_the_same_numbers_but_for_rounding(digits: ImageSet) -> None:
    """Of one layer, and all images in one batch: each size of a batch takes seconds to compile."""
    if reason := compiles():
        pytest.skip(reason)
    net, settings = ConvNet((Layer("conv", (), 3, 3, filters=3),)), replace(COMPILED, batch=40)
    expected, plain = train(net, digits, replace(settings, compiled=False), seed=2)
    found, model = train(net, digits, settings, seed=2)
    for name in ("train_loss", "valid_loss"):
        assert [p[name] for p in found.curve] == pytest.approx([p[name] for p in expected.curve], rel=1e-4)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_to_compile_or_not_is_in_a_key_only_where_it_is_asked_for() -> None:
    compiled = replace(TASK, training=COMPILED)
    assert "compiled" not in TASK.settings
    assert compiled.settings == {**TASK.settings, "compiled": True}
    assert ImageTask.of_settings(json.loads(json.dumps(compiled.settings))) == replace(compiled, device="auto")
    assert evaluation_key(compiled, NET, 1) != evaluation_key(TASK, NET, 1)
    assert "compiled" not in repr(TINY)  # which checkpoints of trainings in progress are named by


def test_only_what_is_asked_for_is_compiled(digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda _, **how: asked.append(how))
    train(NET, digits, replace(TINY, epochs=1))
    assert asked == []
    train(NET, digits, replace(COMPILED, epochs=1), checkpoint=tmp_path / "net.pt")
    assert len(asked) == 1
    with pytest.raises(CheckpointError):  # which is not that of a training without
        train(NET, digits, replace(TINY, epochs=1), checkpoint=tmp_path / "net.pt")


# ---- the bar


def test_a_long_epoch_shows_images_per_second_and_a_short_one_and_a_worker_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "tqdm", partial(images.tqdm, mininterval=0))
    step = tiny_step()
    step.over_all(0.1, torch.Generator(), "epoch 3 of 7")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(images, "_BAR_AFTER", 0.0)
    step.over_all(0.1, torch.Generator(), "epoch 3 of 7")
    shown = capsys.readouterr().err
    assert "epoch 3 of 7:  40%" in shown
    assert "32/40" in shown
    assert "image/s" in shown
    monkeypatch.setattr(images, "parent_process", object)  # as in a process of a search
    step.over_all(0.1, torch.Generator(), "epoch 3 of 7")
    assert capsys.readouterr().err == ""


# ---- the task


def test_a_task_is_made_again_from_its_settings_and_pickles() -> None:
    task = ImageTask("digits", 4, replace(TINY, precision="bfloat16", flipped=False, train_images=None), "cpu", "a")
    again = ImageTask.of_settings(json.loads(json.dumps(task.settings)))
    assert again == replace(task, device="auto", checkpoints=None)
    assert again.settings == task.settings
    assert pickle.loads(pickle.dumps(task)) == task
    assert len(pickle.dumps(task)) < 5_000, "it takes no images along"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_no_device_is_in_a_key(device: str) -> None:
    moved = replace(TASK, device=device, checkpoints="somewhere")
    assert evaluation_key(moved, NET, 1) == evaluation_key(TASK, NET, 1)


def test_what_changes_a_number_changes_the_key() -> None:
    others = [
        replace(TASK, side=4),
        replace(TASK, training=replace(TINY, upsampled=11)),
        replace(TASK, training=replace(TINY, precision="bfloat16")),
    ]
    keys = {evaluation_key(task, NET, 1) for task in (TASK, *others)}
    assert len(keys) == 4


def test_a_task_says_in_words_how_it_trains() -> None:
    assert ImageTask().words() == "50 epochs over all images of digits"
    assert ImageTask("cifar10", 16, TINY).words() == "4 epochs over 40 images of cifar10 at 16 x 16"
    assert ImageTask("cifar10").data_words == "cifar10"


def test_a_task_trains_what_its_settings_say_on_images_of_the_size_that_they_say(digits: ImageSet) -> None:
    small = replace(TASK, side=4, training=replace(TINY, upsampled=5))
    expected, _ = train(NET, datasets.load_images("digits", 4), small.training, seed=3)
    assert small.evaluate(small.read(str(NET)), 3).curve == expected.curve
    assert expected.curve != TASK.evaluate(NET, 3).curve


def test_the_test_split_is_read_once_for_a_row(digits: ImageSet, tmp_path: Path) -> None:
    with Record(tmp_path / "record.sqlite") as record:
        rows = {"a row": Job(NET, 1)}
        found = evaluate_tests(TASK, rows, record, workers=0)["a row"]
        assert evaluate_tests(TASK, rows, record, workers=0)["a row"] == found
        assert [reading["corpus"] for reading in record.test_reads()] == ["digits"]
    _, model = TASK.train(NET, 1)
    pixels, labels = digits._test
    model.eval()
    told = model(shown_crops(pixels, TINY, "cpu").shown(0, 300, "crop")).argmax(1)
    assert found.metrics["test_error"] == pytest.approx(100 * (told != labels).double().mean().item())


# ---- on a GPU


@pytest.mark.gpu
def test_on_a_gpu_a_task_trains_tests_and_goes_on(digits: ImageSet, tmp_path: Path) -> None:
    task = replace(TASK, device="cuda", checkpoints=str(tmp_path))

    def stop(point: dict[str, float]) -> None:
        if point["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task.evaluate(NET, 1, stop)
    outcome, model = task.train(NET, 1)
    assert outcome.device == torch.cuda.get_device_name(0)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    expected = TASK.evaluate(NET, 1)
    losses = [[point["train_loss"] for point in found.curve] for found in (outcome, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert set(task.test(model, digits._test)) == {"test_error", "test_loss"}
