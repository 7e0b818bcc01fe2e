"""Five sizes of the same experiments: smoke, quick, course, night, paper.

>>> import nasrepro as nr
>>> nr.profiles.load("quick").about
'two CPU cores, the data that comes with Python and nasrepro, minutes'

A profile is a name, and limits for whatever runs under it. How large an experiment is under each profile stands in the
experiment's own folder, in its `sizes.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from nasrepro.errors import known


@dataclass(frozen=True)
class Profile:
    """How large a run is."""

    name: str
    about: str
    """A few words for people."""
    hours: float | None = None
    """What it may take without being agreed to: more than that by its forecast needs `--yes`. None for a profile of
    minutes, which is not forecast."""
    timeout_s: float | None = None
    """A candidate that a search trains for longer has failed."""
    only_replays: bool = False
    """Whether long trainings that its shipped records lack are left out rather than begun."""
    speaks: bool = False
    """Whether its findings are the project's own, which ship: they come from shipped records, wherever it runs."""
    for_gpu: bool = False
    """Whether it is made for a machine with a GPU."""


_PROFILES = (
    Profile("smoke", "does everything once, in seconds; its numbers mean nothing"),
    Profile("quick", "two CPU cores, the data that comes with Python and nasrepro, minutes", timeout_s=300),
    Profile(
        "course",
        "real data (Penn Treebank by characters, Multi30k), replayed from shipped records",
        timeout_s=600,
        only_replays=True,
        speaks=True,
    ),
    Profile(
        "night",
        "one GPU, one night: published cells by their full recipe, searches at a share of it",
        hours=12,
        for_gpu=True,
    ),
    Profile("paper", "the papers' own settings: weeks, or many GPUs", hours=12, for_gpu=True),
)

profiles: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _PROFILES})


def load(name: str) -> Profile:
    """The profile of that name. Raises ValueError that lists the names and the nearest one."""
    return profiles[known(name, profiles, "profile")]


def project_root() -> Path:
    """The checkout that this package runs from; where it is installed apart, the one that holds the working folder.

    Without any it is the working folder. Notebooks work in a folder of the checkout and must find the same one.
    """
    here = Path.cwd()
    places = (Path(__file__).resolve().parents[1], here, *here.parents)
    parts = ("notebooks", "results/records")
    return next((place for place in places if all((place / part).is_dir() for part in parts)), here)
