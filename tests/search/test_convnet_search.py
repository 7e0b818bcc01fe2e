"""The search for convolutional networks does what ZL17 states, and goes on as if nothing had happened."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from nasrepro.controllers import PolicyGradientSettings
from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.convnet import ConvNet, parse
from nasrepro.search import Record, Search
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.loop import search
from nasrepro.search.plan import ByHand
from nasrepro.search.token_search import samples, trained_controller, updates
from nasrepro.settings import nested, origins
from nasrepro.trainers.images import ERROR
from nasrepro.trainers.outcome import OnEpoch, Outcome

FEW = ConvNetSearchSettings(
    networks=40, first_depth=2, deeper_by=1, deeper_every=24, space=ConvSpace((1, 3), (1, 3), filters=(4, 8))
)


def error(net: ConvNet) -> float:
    """A validation error that skips and wide filters lower."""
    skips = sum(len(inputs) for inputs in net.connections)
    return 80.0 - 3 * skips - sum(layer.filters for layer in net.layers) / 4


@dataclass(frozen=True)
class Fake:
    """Judges networks by a formula."""

    device: str = "cpu"
    name = "fake images"
    version = 1
    settings: Any = None
    data_hash = "none"
    loss = ERROR

    def read(self, text: str) -> ConvNet:
        return parse(text)

    def evaluate(self, net: ConvNet, seed: int, on_epoch: OnEpoch | None = None) -> Outcome:
        return Outcome("ok", metrics={"valid_error": error(net) + seed})


def run(record: Record, settings: ConvNetSearchSettings = FEW) -> Search:
    return search(Fake(), settings, record, workers=0, progress=False)


def test_the_defaults_are_the_papers() -> None:
    chosen = ConvNetSearchSettings()
    assert (chosen.reinforce.learning_rate, chosen.step) == (6e-4, 8)
    assert [chosen.depth(step) for step in (0, 199, 200, 399, 400, 1599)] == [6, 6, 8, 8, 10, 20]
    assert chosen.reward(5.5) == pytest.approx(0.945**3)
    stated = [one for inner in nested(chosen) for name, one in origins(inner).items() if one and one.status == "stated"]
    assert {one.paper for one in stated} == {"ZL17"}


def test_every_step_draws_as_many_layers_as_the_schedule_says() -> None:
    table = samples(run(Record()))
    assert len(table) >= 40
    depths = [FEW.space.depth([int(token) for token in tokens.split()]) for tokens in table["tokens"]]
    assert depths == [2 + 8 * step // 24 for step in table["step"]]
    assert {*depths} >= {2, 3}


def test_a_search_goes_on_where_a_smaller_one_ended() -> None:
    unbroken, continued = Record(), Record()
    whole = run(unbroken)
    run(continued, replace(FEW, networks=17))
    again = run(continued)
    assert [one.cell for _, one in again.trials] == [one.cell for _, one in whole.trials]
    assert updates(again).equals(updates(whole))


def test_by_hand_is_the_same_search() -> None:
    found = run(Record())
    by_hand = ByHand(FEW)
    asked: list[ConvNet] = []
    while nets := by_hand.ask():
        asked += nets
        by_hand.tell([error(net) for net in nets])
    assert [str(net.canonical()) for net in asked] == [one.canonical for _, one in found.trials]


def test_random_search_knows_no_controller() -> None:
    one = run(Record(), replace(FEW, method="random"))
    other = run(
        Record(),
        replace(FEW, method="random", reinforce=PolicyGradientSettings(batch=8, accumulate=1, learning_rate=1.0)),
    )
    assert [trial.cell for _, trial in one.trials] == [trial.cell for _, trial in other.trials]
    assert updates(one).empty


def test_the_controller_finds_more_of_what_is_rewarded_than_random_search() -> None:
    fast = replace(FEW.reinforce, learning_rate=0.02)
    many = replace(FEW, networks=250, deeper_by=0, first_depth=4, reinforce=fast)
    led = samples(run(Record(), many))["loss"][-50:].mean()
    drawn = samples(run(Record(), replace(many, method="random")))["loss"][-50:].mean()
    assert led < drawn - 5


def test_a_trained_controller_is_what_the_search_made_of_it() -> None:
    found = run(Record())
    learned = trained_controller(found, FEW)
    told = updates(found).drop(columns=["step", "sample"])
    assert len(told) == len(found.steps) - 1  # the last step's strings are not all trained
    assert learned.updates == told.to_dict("records")
    with pytest.raises(ValueError, match="no search by a controller"):
        trained_controller(found, replace(FEW, seed=9))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "evolution"}, "method"),
        ({"networks": 0}, "networks"),
        ({"first_depth": 0}, "first_depth"),
        ({"deeper_every": 0}, "deeper_every"),
        ({"deeper_by": -1}, "deeper_by"),
        ({"power": 0}, "power"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvNetSearchSettings(**wrong)
