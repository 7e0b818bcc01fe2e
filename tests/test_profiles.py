"""Profiles: five names in order, and a wrong one is answered."""

from typing import Any

import pytest

from nasrepro import profiles
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.experiment import Experiment
from nasrepro.profiles import load
from tests.experiments import toy


def test_the_five_sizes_in_order() -> None:
    assert list(profiles.profiles) == ["smoke", "quick", "course", "night", "paper"]
    assert all(profile.name == name for name, profile in profiles.profiles.items())


@pytest.mark.parametrize("experiment", [*EXPERIMENTS.values(), toy.EXPERIMENT], ids=lambda each: each.name)
def test_an_experiment_has_sizes_for_known_profiles_in_their_order(experiment: Experiment[Any]) -> None:
    assert experiment.sizes
    assert list(experiment.sizes) == [name for name in profiles.profiles if name in experiment.sizes]
    assert set(experiment.shipped) <= set(profiles.profiles)


def test_what_may_take_hours_is_forecast() -> None:
    assert [name for name, profile in profiles.profiles.items() if profile.hours is not None] == ["night", "paper"]


@pytest.mark.parametrize(("typed", "meant"), [("qiuck", "quick"), ("curse", "course"), ("papers", "paper")])
def test_a_mistyped_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"unknown profile '{typed}': did you mean '{meant}'\\? choose from smoke, quick, course, night, paper",
    ):
        load(typed)


def test_a_name_like_no_other_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match="unknown profile 'xyz': choose from smoke, quick, course, night, paper"):
        load("xyz")


def test_a_long_name_is_not_repeated_whole():
    with pytest.raises(ValueError, match="unknown profile") as caught:
        profiles.load("smoke" * 50_000)
    assert len(str(caught.value)) < 500
