"""The search for convolutional networks does what ZL17 states, and goes on as if nothing had happened."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nasrepro.controllers import PolicyGradientSettings, TokenAgentSettings
from nasrepro.controllers.conv_space import V3, ConvSpace
from nasrepro.convnet import ConvNet, parse
from nasrepro.search import Record, Search
from nasrepro.search.archive import dumps
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.history import replay
from nasrepro.search.loop import search, search_id
from nasrepro.search.plan import ByHand, History, Trial
from nasrepro.search.token_search import samples, trained_controller, updates
from nasrepro.settings import nested, origins
from nasrepro.trainers.images import ERROR, ImageSettings, ImageTask
from nasrepro.trainers.outcome import OnEpoch, Outcome

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"

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
    name: str = "fake images"
    version: int = 1
    settings: Any = None
    data_hash: str = "none"
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


# ---- types of layers, learning rates and blocks

TYPED = ConvSpace(
    (1, 3),
    (1, 3),
    filters=(2, 4),
    types=("conv", "max_pool", "batch_norm", "contrast_norm"),
    pool_sizes=(2,),
    learning_rates=(0.2, 0.05, 0.01),
)
SMALL_V3 = ConvSpace((1, 3), (1, 3), filters=(2, 3), block=3, pools=(5,))
TRAINING = ImageSettings(
    epochs=1, batch=16, first_drop=1, second_drop=1, upsampled=9, counted_epochs=1, train_images=32, valid_images=20
)


@pytest.mark.parametrize("method", ["controller", "random"])
@pytest.mark.parametrize(
    "space", [TYPED, SMALL_V3, ConvSpace((1, 3), (1, 3), (1, 2), (2, 4))], ids=["types and rates", "v3", "v2"]
)
def test_a_search_in_each_space_trains_what_it_draws(space: ConvSpace, method: str) -> None:
    """On digits, of the size at which a network takes some hundredths of a second."""
    task = ImageTask(training=TRAINING, device="cpu")
    plan = replace(FEW, method=method, networks=10, first_depth=3, deeper_by=0, space=space)
    found = search(task, plan, record := Record(), workers=0, progress=False)
    assert len(found.trials) == 10
    trained = 0
    for string in [string for facts in found.steps.values() for string in facts["strings"]]:
        assert space.tokens(space.network(string["tokens"])) == tuple(string["tokens"])
    for one in record.evaluations():
        net = parse(one.cell)
        assert one.status == "ok" or one.reason.startswith("does not fit")
        trained += one.status == "ok"
        if one.status == "ok":
            assert one.curve[0]["learning_rate"] == (net.learning_rate or TRAINING.learning_rate)
            assert one.parameters == net.parameters(channels=1)
    assert trained >= 5
    if space is TYPED:
        assert len({parse(one.cell).learning_rate for one in record.evaluations()}) > 1
        assert len({layer.type for one in record.evaluations() for layer in parse(one.cell).layers}) == 4


def test_a_search_for_types_goes_on_where_a_smaller_one_ended() -> None:
    plan = replace(FEW, space=TYPED)
    unbroken, continued = Record(), Record()
    whole = run(unbroken, plan)
    run(continued, replace(plan, networks=17))
    again = run(continued, plan)
    assert [one.cell for _, one in again.trials] == [one.cell for _, one in whole.trials]
    assert updates(again).equals(updates(whole))


def test_the_papers_third_space_is_searched_by_13_predictions() -> None:
    plan = replace(FEW, networks=8, first_depth=13, deeper_by=0, space=V3)
    for _, trial in run(Record(), plan).trials:
        layers = parse(trial.cell).layers
        assert sum(layer.type == "conv" for layer in layers) == 39


# ---- searches that were recorded before there were types of layers


@pytest.mark.parametrize("name", ["digits-convnets.jsonl.gz", "cifar10-convnets.jsonl.gz"])
def test_recorded_searches_are_found_and_gone_on_with(name: str) -> None:
    """By the id under which they were written, and with the strings that were drawn then, bit for bit."""
    record = Record.load(RECORDS / name)
    assert record.searches()
    for which, settings in record.searches().items():
        told = settings["search"]
        space = ConvSpace(**{key: tuple(v) if isinstance(v, list) else v for key, v in told["space"].items()})
        of_controller = {}
        if told["method"] == "controller":
            of_controller = {
                "agent": TokenAgentSettings(**told["agent"]),
                "reinforce": PolicyGradientSettings(**told["reinforce"]),
                "power": told["power"],
            }
        others = ("method", "seed", "child_seed", "first_depth", "deeper_by", "deeper_every")
        plan = ConvNetSearchSettings(space=space, **{key: told[key] for key in others}, **of_controller)
        assert dumps(plan.identity()) == dumps(told)
        of = settings["task"]
        task = Fake(name=of["name"], version=of["version"], settings=of["settings"], data_hash=of["data"])
        assert search_id(task, plan) == which
        found = replay(record, which)
        propose, history = plan.proposer(), History[ConvNet]()
        for step in range(3):
            again = propose(history, step)
            assert dumps(again.facts["strings"]) == dumps(found.steps[step]["strings"])
            trials = [Trial(choice.candidate, found.losses[choice.candidate.hash]) for choice in again.choices]
            history = history.after(step, again.facts, trials)
