"""A checkpoint that cannot be written or read is the machine's fault: it says why, and leaves nothing half done."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from nasrepro import files
from nasrepro.dsl import zoo
from nasrepro.search import Record
from nasrepro.search.faults import WorkerError
from nasrepro.search.loop import evaluate
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers.checkpoint import write_tensors
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask

GRU = zoo["GRU"]
TINY = LanguageModelSettings(
    layers=1, hidden=6, embedding=6, batch=8, bptt=16, epochs=2, train_tokens=1_000, valid_tokens=200
)


def task(folder: Path) -> LanguageModelTask:
    return LanguageModelTask(level="char", training=TINY, checkpoints=str(folder))


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Every temporary file in a folder is a link to the device that refuses each byte, as a full disk does."""
    mkstemp = files.tempfile.mkstemp

    def make(**where: Any) -> tuple[int, str]:
        if where["dir"] != folder:
            return mkstemp(**where)
        link = folder / f"{where['prefix']}0{where['suffix']}"
        link.symlink_to("/dev/full")
        return os.open(link, os.O_WRONLY), str(link)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.tempfile, "mkstemp", make)
        yield


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(tmp_path: Path) -> None:
    with full_disk(tmp_path), pytest.raises(OSError, match=r"No space left on device: '.*weights\.pt'") as caught:
        write_tensors(tmp_path / "weights.pt", {"weights": torch.zeros(1_000)})
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_torch_reads(tmp_path: Path) -> None:
    write_tensors(tmp_path / "weights.pt", {"weights": torch.arange(5)})
    assert torch.load(tmp_path / "weights.pt", weights_only=True)["weights"].tolist() == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_a_full_checkpoint_folder_stops_a_search_which_goes_on_when_there_is_room(tmp_path: Path) -> None:
    record = Record()
    with Workers(task(tmp_path), 0) as workers:
        with (
            full_disk(tmp_path),
            pytest.raises(WorkerError, match=r"No space left on device.* Make room on that disk") as caught,
        ):
            evaluate([Job(GRU, 0)], record, workers)
        assert f"{tmp_path}/" in str(caught.value)
        assert record.evaluations() == []
        (found,) = evaluate([Job(GRU, 0)], record, workers)
    assert found.status == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1])
def test_a_checkpoint_folder_that_cannot_be_made_is_not_the_cells_fault(tmp_path: Path, count: int) -> None:
    (tmp_path / "checkpoints").write_text("no folder")
    record = Record()
    with Workers(task(tmp_path / "checkpoints"), count) as workers, pytest.raises(WorkerError, match="checkpoints'"):
        evaluate([Job(GRU, 0)], record, workers)
    assert record.evaluations() == []


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_not_the_cells_fault(tmp_path: Path, content: bytes | None) -> None:
    def stop(point: dict[str, float]) -> None:
        if point["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task(tmp_path).evaluate(GRU.canonical(), 0, stop)
    (path,) = tmp_path.iterdir()
    if content is None:
        torch.save(torch.zeros(3), path)  # a file of torch's, but no checkpoint
    else:
        path.write_bytes(content)
    record = Record()
    with Workers(task(tmp_path), 0) as workers:
        with pytest.raises(WorkerError, match=r"is not a checkpoint of ours, or damaged; delete it to start anew"):
            evaluate([Job(GRU, 0)], record, workers)
        assert record.evaluations() == []
        path.unlink()
        assert evaluate([Job(GRU, 0)], record, workers)[0].status == "ok"
