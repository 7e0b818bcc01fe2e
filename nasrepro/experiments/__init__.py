"""The experiments of both papers, a folder for each. A new one is registered here, by one line, and nowhere else."""

from typing import Any

from nasrepro.errors import known
from nasrepro.experiments import (
    final_models,
    s17_language_model,
    s17_translation,
    zl17_cells,
    zl17_convnets,
    zl17_transfer,
    zl17_world,
)
from nasrepro.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment[Any]] = {
    each.name: each
    for each in (
        s17_language_model.EXPERIMENT,
        s17_translation.EXPERIMENT,
        zl17_cells.EXPERIMENT,
        zl17_world.EXPERIMENT,
        zl17_convnets.EXPERIMENT,
        zl17_transfer.EXPERIMENT,
        final_models.EXPERIMENT,
    )
}
"""By name, in the order in which the papers' results are made."""


def load(name: str) -> Experiment[Any]:
    """The experiment of that name. Raises ValueError that lists the names and the nearest one."""
    return EXPERIMENTS[known(name, EXPERIMENTS, "experiment")]
