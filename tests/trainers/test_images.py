"""The trainer of images cuts, whitens, steps, judges and goes on as ZL17 says, and as torch's own parts do."""

import copy
import json
import math
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro import datasets
from nasrepro.convnet import ConvNet, ConvNetError
from nasrepro.convnet.network import Layer
from nasrepro.datasets import ImageSet
from nasrepro.rnn.recording import Recording
from nasrepro.search import Record
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.record import evaluation_key
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers import images
from nasrepro.trainers.checkpoint import CheckpointError
from nasrepro.trainers.images import Crops, ImageSettings, ImageStep, ImageTask, build, evaluate, shown_crops, train
from tests.rnn.fake_gpu import CountOperators, FakeGPU, tensors_look_like_a_gpus
from tests.trainers.killable_images import NET, STEPS, TINY

ROOT = Path(__file__).resolve().parents[2]
TASK = ImageTask(training=TINY)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return datasets.load_images("digits")


def random_images(count: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def random_labels(count: int) -> Tensor:
    return torch.randint(10, (count,), generator=torch.Generator().manual_seed(8))


def tiny_step(net: ConvNet = NET, count: int = 40, settings: ImageSettings = TINY, device: str = "cpu") -> ImageStep:
    """A step on random images in colour, of 8 x 8 pixels."""
    crops = Crops(random_images(count), settings.upsampled, device)
    return ImageStep(build(net, (3, 8, 8), 1, device), crops, random_labels(count).to(device), settings)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- what is cut out of the images


@pytest.mark.parametrize(("channels", "height", "width", "side"), [(3, 8, 8, 10), (1, 5, 7, 7), (3, 6, 6, 6)])
def test_a_cut_is_the_crop_of_each_image_upsampled_whitened_and_mirrored_by_itself(
    channels: int, height: int, width: int, side: int
) -> None:
    pixels = random_images(12, channels, height, width)
    crops = Crops(pixels, side, "cpu")
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(12, (20,), generator=generator)
    top = torch.randint(side - height + 1, (20,), generator=generator)
    left = torch.randint(side - width + 1, (20,), generator=generator)
    mirrored = torch.randint(2, (20,), generator=generator)
    found = crops.cut(rows, top, left, mirrored)
    assert found.shape == (20, channels, height, width)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for number, (row, y, x, flip) in enumerate(zip(rows, top, left, mirrored, strict=True)):
        image = pixels[row].float()
        large = F.interpolate(image[None], (side, side), mode="bilinear", align_corners=False)[0].round()
        crop = large[:, y : y + height, x : x + width]
        expected = ((crop.flip(-1) if flip else crop) - image.mean()) / image.std(correction=0)
        torch.testing.assert_close(found[number], expected)


def test_images_of_their_own_size_are_not_interpolated() -> None:
    pixels = random_images(5)
    assert torch.equal(Crops(pixels, 8, "cpu").pixels.permute(0, 3, 1, 2), pixels)


def test_many_images_are_upsampled_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_images(7)
    whole = Crops(pixels, 11, "cpu")
    monkeypatch.setattr(images, "_EVALUATED", 3)
    parts = Crops(pixels, 11, "cpu")
    assert torch.equal(whole.pixels, parts.pixels)
    torch.testing.assert_close(whole.mean, parts.mean)
    torch.testing.assert_close(whole.scale, parts.scale)


def test_images_are_not_cut_out_of_smaller_ones(digits: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="upsampled=7 is less than the 8 x 8 pixels of the images"):
        train(NET, digits, replace(TINY, upsampled=7), checkpoint=tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_whitening_is_tensorflows() -> None:
    """(x - mean) / max(deviation, 1 / sqrt(number of values)), as tf.image.per_image_standardization documents it."""
    pixels = random_images(4)
    pixels[1] = 77
    pixels[2] = 200
    pixels[2, 0, 3, 4] = 201  # its deviation is just the bound
    pixels[3, 0, 0, :2] = 0
    found = Crops(pixels, 8, "cpu").shown(0, 4, "image").numpy()
    values = pixels.numpy().astype(float)
    for one, whitened in zip(values, found, strict=True):
        adjusted = max(one.std(), 1 / math.sqrt(one.size))
        np.testing.assert_allclose(whitened, (one - one.mean()) / adjusted, atol=2e-3 if one.std() < 1 else 1e-5)
    for whitened in found[[0, 3]]:
        assert whitened.mean() == pytest.approx(0, abs=1e-5)
        assert whitened.std() == pytest.approx(1, abs=1e-5)
    assert (found[1] == 0).all()


def test_a_trained_network_is_shown_the_image_or_the_middle_or_the_whole_of_the_larger_one() -> None:
    pixels = random_images(3)
    mean, deviation = (getattr(pixels.float(), name)((1, 2, 3), keepdim=True) for name in ("mean", "std"))
    deviation *= math.sqrt((192 - 1) / 192)  # as a population's
    large = F.interpolate(pixels.float(), (12, 12), mode="bilinear").round()
    expected = {"image": pixels.float(), "crop": large[:, :, 2:10, 2:10], "whole": large}
    for on, cut in expected.items():
        settings = replace(TINY, upsampled=12, evaluated_on=on)
        found = shown_crops(pixels, settings, "cpu").shown(0, 3, on)
        torch.testing.assert_close(found, (cut - mean) / deviation)


def test_an_epoch_sees_every_image_once_and_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = tiny_step(), []

    def note(chosen: Tensor) -> tuple[Tensor]:
        seen.append(chosen)
        return (chosen.double().mean(),)

    step._step = note  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    loss = step.over_all(0.1, generator)
    assert [part.shape[1] for part in seen] == [16, 16, 8]
    first = torch.cat(seen, 1)
    assert loss == pytest.approx(first.double().mean().item())  # of each image, not of each batch
    assert sorted(first[0].tolist()) == list(range(40))
    for drawn, values in zip(first[1:], (3, 3, 2), strict=True):
        assert set(drawn.tolist()) == set(range(values))
    seen.clear()
    step.over_all(0.1, generator)
    second = torch.cat(seen, 1)
    assert sorted(second[0].tolist()) == list(range(40))
    assert not torch.equal(first, second)
    step.settings = replace(TINY, flipped=False)
    assert not step.draw(generator)[3].any()


# ---- a step


class InDouble(ImageStep):
    """A step on a model in double precision."""

    def model_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.model(images.double()), labels)


DEAD_LAYER = replace(NET, layers=(*NET.layers, Layer("conv", (1,), 3, 3, filters=7)), output=(3,))


@pytest.mark.parametrize("net", [NET, DEAD_LAYER], ids=["all layers are read", "one is not"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_torchs_sgd(dtype: torch.dtype, momentum: float, net: ConvNet) -> None:
    settings = replace(TINY, momentum=momentum, weight_decay=0.01)
    model = build(net, (3, 8, 8), 1, "cpu").to(dtype)
    twin = copy.deepcopy(model)
    kind = InDouble if dtype == torch.float64 else ImageStep
    step = kind(model, Crops(random_images(40), 10, "cpu"), random_labels(40), settings)
    optimiser = torch.optim.SGD(
        twin.parameters(), lr=1.0, momentum=momentum, weight_decay=0.01, nesterov=momentum > 0, foreach=False
    )
    chosen = step.draw(torch.Generator().manual_seed(5))
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-5}
    for number, batch in enumerate(chosen.split(8, 1)):
        rate = 0.125 if number < 3 else 0.03125  # numbers that float32 holds
        step.rate.fill_(rate)
        (loss,) = step.descend(batch)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        expected = F.cross_entropy(twin(step.crops.cut(*batch).to(dtype)), step.labels[batch[0]])
        expected.backward()
        optimiser.step()
        torch.testing.assert_close(loss, expected.detach(), **tolerance)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)
    assert not torch.equal(model.classifier.weight, build(net, (3, 8, 8), 1, "cpu").to(dtype).classifier.weight)


def test_a_gradient_is_laid_out_as_its_weight() -> None:
    """Sides of one pixel: torch itself says that any stride is theirs."""
    weight = torch.randn(6, 5, 1, 3).to(memory_format=torch.channels_last)
    gradient = torch.randn(6, 1, 3, 5).permute(0, 3, 1, 2).as_strided((6, 5, 1, 3), (15, 1, 99, 5))
    assert gradient.stride() != weight.stride()
    found = images._laid_out_as(weight, gradient)
    assert found.stride() == weight.stride()
    assert torch.equal(found, gradient)
    assert images._laid_out_as(weight, found) is found


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


# ---- seeds, and trainings that go on


def test_a_seed_gives_the_same_bits_and_another_seed_others(digits: ImageSet) -> None:
    curves = [train(NET, digits, TINY, seed)[0].curve for seed in (1, 1, 2)]
    assert curves[0] == curves[1]
    assert curves[0][0]["train_loss"] != curves[2][0]["train_loss"]
    torch.manual_seed(99)  # global randomness has no part in it
    assert train(NET, digits, TINY, 1)[0].curve == curves[0]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(digits: ImageSet, tmp_path: Path, epoch: int) -> None:
    unbroken, model = train(NET, digits, TINY, seed=2)

    def interrupt(point: dict[str, float]) -> None:
        if point["epoch"] == epoch + 1:
            raise KeyboardInterrupt

    path = tmp_path / "deep" / "net.pt"
    with pytest.raises(KeyboardInterrupt):
        train(NET, digits, TINY, seed=2, on_epoch=interrupt, checkpoint=path)
    seen: list[dict[str, float]] = []
    resumed, again = train(NET, digits, TINY, seed=2, on_epoch=seen.append, checkpoint=path)
    assert [point["epoch"] for point in seen] == list(range(epoch + 1, 5))
    assert (resumed.metrics, resumed.curve) == (unbroken.metrics, unbroken.curve)
    assert same_weights(weights_of(again), weights_of(model))
    assert [file.name for file in path.parent.iterdir()] == ["net.pt"]


def test_killed_within_an_epoch_it_goes_on_to_the_same_bits(digits: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    command = [sys.executable, "-m", "tests.trainers.killable_images", str(path), str(2 * STEPS + 1)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt"]
    seen: list[dict[str, float]] = []
    resumed, again = train(NET, digits, TINY, seed=2, on_epoch=seen.append, checkpoint=path)
    unbroken, model = train(NET, digits, TINY, seed=2)
    assert [point["epoch"] for point in seen] == [3, 4]
    assert (resumed.metrics, resumed.curve) == (unbroken.metrics, unbroken.curve)
    assert same_weights(weights_of(again), weights_of(model))


def test_a_finished_training_answers_from_its_checkpoint(digits: ImageSet, tmp_path: Path) -> None:
    first, model = train(NET, digits, TINY, checkpoint=tmp_path / "net.pt")
    nothing = partial(pytest.fail, "trained")
    again, same = train(NET, digits, TINY, checkpoint=tmp_path / "net.pt", on_epoch=lambda _: nothing())
    assert (again.metrics, again.curve) == (first.metrics, first.curve)
    assert same_weights(weights_of(same), weights_of(model))


def test_a_checkpoint_of_another_training_is_refused(digits: ImageSet, tmp_path: Path) -> None:
    train(NET, digits, replace(TINY, epochs=1), checkpoint=tmp_path / "net.pt")
    others: list[tuple[ConvNet, ImageSet, ImageSettings, int]] = [
        (NET, digits, replace(TINY, epochs=1), 1),
        (NET, digits, replace(TINY, epochs=1, weight_decay=0.0), 0),
        (replace(NET, learning_rate=0.2), digits, replace(TINY, epochs=1), 0),
        (NET, replace(digits, hash="0" * 64), replace(TINY, epochs=1), 0),
    ]
    for net, data, settings, seed in others:
        with pytest.raises(CheckpointError, match=r"net\.pt is a checkpoint of another model or run .*; delete it"):
            train(net, data, settings, seed, checkpoint=tmp_path / "net.pt")


def test_a_long_task_leaves_no_checkpoint_behind(tmp_path: Path) -> None:
    task = replace(TASK, checkpoints=str(tmp_path))

    def stop(point: dict[str, float]) -> None:
        if point["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task.evaluate(NET, 0, stop)
    assert len(list(tmp_path.iterdir())) == 1
    assert task.evaluate(NET, 0).curve == TASK.evaluate(NET, 0).curve
    assert list(tmp_path.iterdir()) == []
    assert (TASK.is_long, ImageTask().is_long) == (False, True)


# ---- precision


def test_both_precisions_run_on_a_processor_and_learn_alike(digits: ImageSet) -> None:
    exact, rounded = (train(NET, digits, replace(TINY, precision=each))[0].curve for each in ("float32", "bfloat16"))
    assert [point["train_loss"] for point in rounded] == pytest.approx([p["train_loss"] for p in exact], rel=0.05)
    assert rounded[0]["train_loss"] != exact[0]["train_loss"]


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


# ---- steps as CUDA graphs, on a fake GPU


@contextmanager
def no_graphs() -> Iterator[None]:
    before, Recording.possible = Recording.possible, False
    try:
        yield
    finally:
        Recording.possible = before


class PlainNorm(nn.BatchNorm2d):
    """Batch normalisation by operators each of which says what it writes: torch's own for processors does not."""

    def forward(self, maps: Tensor) -> Tensor:
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
        count = maps.numel() // maps.shape[1]
        with torch.no_grad():
            self.running_mean.mul_(0.9).add_(mean, alpha=0.1)
            self.running_var.mul_(0.9).add_(variance, alpha=0.1 * count / (count - 1))
        scale = self.weight / (variance + self.eps).sqrt()
        return (maps - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


def epochs(device: str, settings: ImageSettings = TINY, plain_norms: bool = False) -> tuple[list[float], nn.Module]:
    """Losses of three epochs at falling rates, and the model after them."""
    step = tiny_step(settings=settings, device=device)
    if plain_norms:
        for module in step.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = PlainNorm
    generator = torch.Generator().manual_seed(4)
    return [step.over_all(rate, generator) for rate in (0.1, 0.05, 0.01)], step.model.cpu()


@pytest.mark.skipif(torch.__version__ < (2, 4), reason="torch's fused SGD is for GPUs alone here")
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_replayed_steps_are_those_of_the_processor(momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(TINY, momentum=momentum)
    by_the_processor, there = epochs("cpu", settings)
    tensors_look_like_a_gpus(monkeypatch)
    gpu = FakeGPU(monkeypatch)
    with no_graphs():
        expected, plain = epochs("cpu", settings, plain_norms=True)
    assert (gpu.captured, gpu.replayed) == (0, 0)
    found, model = epochs("cpu", settings, plain_norms=True)
    # An epoch is two batches of 16 and one of 8. Of either kind the first call runs launch by launch, the second is
    # recorded.
    assert (gpu.captured, gpu.replayed) == (2, 4 + 1)
    assert found == expected
    assert same_weights(weights_of(model), weights_of(plain))
    assert found == pytest.approx(by_the_processor, rel=1e-4)
    for ours, theirs in zip(model.parameters(), there.parameters(), strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


@pytest.mark.skipif(torch.__version__ < (2, 4), reason="torch's fused SGD is for GPUs alone here")
def test_python_waits_for_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors_look_like_a_gpus(monkeypatch)
    step = tiny_step()
    with CountOperators() as counted:
        step.descend(step.draw(torch.Generator())[:, :16])
    assert counted.work > 0
    assert counted.waits == 0


# ---- on a GPU


@pytest.fixture
def _full_float32() -> Iterator[None]:
    """Convolutions and products that round nothing to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.gpu
@pytest.mark.usefixtures("_full_float32")
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_on_a_gpu_steps_with_and_without_graphs_are_those_of_the_processor(momentum: float) -> None:
    settings = replace(TINY, momentum=momentum)
    expected, there = epochs("cpu", settings)
    with no_graphs():
        launched, _ = epochs("cuda", settings)
    replayed, here = epochs("cuda", settings)
    assert launched == pytest.approx(expected, rel=1e-3)
    assert replayed == pytest.approx(expected, rel=1e-3)
    # On a GPU maps are added up to a multiple of 8, which stay zero.
    ours, theirs = (sum(each.square().sum().item() for each in model.parameters()) for model in (here, there))
    assert ours == pytest.approx(theirs, rel=0.2)


@pytest.mark.gpu
def test_on_a_gpu_a_step_waits_for_nothing() -> None:
    step = tiny_step(device="cuda")
    chosen = step.draw(torch.Generator())[:, :16].cuda().contiguous()
    try:
        with warnings.catch_warnings():  # torch says once that this mode is a prototype
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        for _ in range(4):  # launch by launch, recorded, replayed
            step._step(chosen)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
