"""The record of the world, as the small file that `nr.worlds.base2()` reads.

nasrepro record zl17_world --profile course --export results/records/base2-world.jsonl.gz
python -m nasrepro.experiments.zl17_world.pack results/records/base2-world.jsonl.gz
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasrepro.dsl import Cell
from nasrepro.experiments.zl17_world import jobs, long_jobs
from nasrepro.experiments.zl17_world.sizes import SIZES, WorldSizes
from nasrepro.search.record import Record, evaluation_key
from nasrepro.search.workers import Job
from nasrepro.trainers.language_model import LanguageModelTask
from nasrepro.worlds import World, base_2


def pack(record: Record, sizes: WorldSizes) -> World:
    """The world that a record holds. Raises RecordError where a training is missing."""
    cells = base_2.cells(sizes.cells)
    first = _losses(record, sizes.task, jobs(sizes))
    alone, repeated = np.split(first, [sizes.cells])
    long_losses = _losses(record, sizes.long_task, long_jobs(sizes))
    # Seeds 1, 2, ... of a cell stand together among the jobs.
    again = repeated.reshape(sizes.repeated, len(sizes.seeds))
    facts = {
        "settings": sizes.task.settings,
        "long_settings": sizes.long_task.settings,
        "data": sizes.task.data_hash,
        "version": sizes.task.version,
        "devices": dict(Counter(each.device for each in record.evaluations())),
        "uniform": len(sizes.task.corpus.vocab),
    }
    return World(
        base_2.SPACE,
        tuple(map(str, cells)),
        _cell_of(cells),
        alone,
        np.column_stack([alone[: sizes.repeated], again]),
        long_losses,
        facts,
    )


def _losses(record: Record, task: LanguageModelTask, made: list[Job]) -> NDArray[np.float32]:
    found = [record[evaluation_key(task, job.cell, job.seed)] for job in made]
    return np.array([task.loss.of(each) for each in found], dtype=np.float32)  # None, a failure, becomes nan


def _cell_of(cells: tuple[Cell, ...]) -> NDArray[np.uint16]:
    """The number of the cell of each token string; of one that is not among them, the largest number there is."""
    numbers = {cell: number for number, cell in enumerate(cells)}
    missing = np.iinfo(np.uint16).max
    strings = range(base_2.SPACE.size)
    return np.array([numbers.get(base_2.described_by(each), missing) for each in strings], dtype=np.uint16)


if __name__ == "__main__":
    world = pack(Record.load(sys.argv[1]), SIZES["course"])
    world.save(Path(base_2.__file__).with_name("base2") / "losses.npz")
    print(f"{len(world.texts):,} cells, of which {np.isnan(world.losses).sum():,} failed")
