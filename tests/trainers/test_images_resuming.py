"""Trainings on images are repeated by their seed, and go on after they were broken off, to the same bits."""

import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from nasrepro.convnet import ConvNet
from nasrepro.datasets import ImageSet
from nasrepro.trainers.checkpoint import CheckpointError
from nasrepro.trainers.images import ImageSettings, ImageTask, train
from tests.trainers.killable_images import NET, STEPS, TINY
from tests.trainers.small_images import TASK, same_weights, weights_of

ROOT = Path(__file__).resolve().parents[2]


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
