"""What ZL17's search for convolutional networks shows: the numbers of notebook 08, from its searches.

`searches` are by their arm (of `sizes.ARMS`) and seed, as in `experiments.arms`, which compares them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch

from nasrepro.controllers.anchor_agent import AnchorAgent
from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.controllers.reinforce import Advantages
from nasrepro.convnet import ConvNet, Layer, parse
from nasrepro.experiments import arms
from nasrepro.experiments.zl17_convnets.sizes import ARMS, SIZES, SearchSizes
from nasrepro.report import ledger, papers
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.history import Search
from nasrepro.trainers.images import ImageTask

FAILED = 90.0
"""The error, in percent, that a network whose training failed counts with: that of guessing one of ten classes."""

JPEG_COPIES = "Of CIFAR-10's 60,000 images 116 are JPEG copies in the record's data."
"""What stands beside every number of the shipped records: their data was read from a copy that is so."""

_PAPER_IMAGES = 50 * 45_000
"""Images that one network of ZL17's search is trained on, counted as often as they are seen (section 4.1)."""


def searches_as_recorded(run: arms.Run, sizes: SearchSizes) -> dict[tuple[str, int], Search]:
    """All searches on one data set, by arm and seed, but for those of which nothing is recorded."""
    found = {
        (arm, seed): arms.search_as_recorded(run, sizes.plan(arm, seed), sizes.task)
        for seed, arm in product(sizes.seeds, sizes.arms)
    }
    return {key: search for key, search in found.items() if search is not None}


def share_of_paper(task: ImageTask, networks: int) -> float:
    """The share of ZL17's training that so many networks by a task are: images seen, over those of its 12,800 networks.

    Images and networks of the small runs are smaller, so even this flatters them. Of digits, 1,197 are trained on.
    """
    training, paper = task.training, float(papers.load()["zl17.search.cifar"].value or 0)
    whole = 45_000 if task.images == "cifar10" else 1_197
    seen = networks * training.epochs * min(whole, training.train_images or whole)
    return min(1.0, seen / (paper * _PAPER_IMAGES))


def share_of_training(task: ImageTask) -> float:
    """The share of the training of one of ZL17's final networks, taken for DenseNet's 300 epochs: images seen.

    Digits are smaller images than CIFAR-10's, so of them even this flatters.
    """
    whole = SIZES["paper"].task.training.epochs * 45_000
    known = 45_000 if task.images == "cifar10" else 1_197
    return min(1.0, task.training.epochs * min(known, task.training.train_images or known) / whole)


def recipe_told(task: ImageTask) -> str:
    """How the networks of Table 1 are trained, for people, from the settings."""
    chosen = task.training
    mirrored = ", half of them mirrored" if chosen.flipped else ""
    last = "the last epoch's" if chosen.counted_epochs == 1 else f"the best of the last {chosen.counted_epochs} epochs'"
    return (
        f"All of them by one recipe. As ZL17 states it: Nesterov's momentum of {chosen.momentum:g}, a learning rate of "
        f"{chosen.learning_rate:g}, a weight decay of {chosen.weight_decay:g}, random crops of upsampled "
        f"images{mirrored}. As DenseNet, whose settings ZL17 takes: batches of {chosen.batch}, the rate divided by "
        f"{chosen.drop:g} after {chosen.first_drop:.0%} and {chosen.second_drop:.0%} of the epochs. Ours: images are "
        f"upsampled to {chosen.upsampled} pixels a side, and {task.words()} make a training. The weights are {last} by "
        "validation images; then the test images are read, once for each row."
    )


# ---- tokens


def read_tokens(space: ConvSpace, tokens: Sequence[int]) -> pd.DataFrame:
    """A token string place by place. Columns: layer, place, choices (how many), token, choice (what it stands for).

    A learning rate, where it is chosen, stands with the last layer.
    """
    rows: list[list[object]] = []
    layers = space.layers(tokens)
    for number, (own, anchor) in enumerate(layers, 1):
        for place, token in space.of_layer(own):
            rows.append([number, place.name, len(place.words), token, place.words[token]])
        for other, token in enumerate(anchor, 1):
            rows.append([number, f"layer {other} is an input", 2, token, ("no", "yes")[token]])
    if space.learning_rates:
        place, token = space.places[-1], tokens[-1]
        rows.append([len(layers), place.name, len(place.words), token, place.words[token]])
    return pd.DataFrame(rows, columns=["layer", "place", "choices", "token", "choice"])


def writing(agent: AnchorAgent, tokens: Sequence[int]) -> pd.DataFrame:
    """A token string as the controller writes it: `read_tokens`, and at each place how likely it finds each choice.

    Columns besides: words (of all choices) and chances (their probabilities, given all tokens before).
    """
    read = read_tokens(agent.space, tokens)
    sizes = {place.name: place.words for place in agent.space.places}
    read["words"] = pd.Series([sizes.get(place, ("no", "yes")) for place in read["place"]], dtype=object)
    read["chances"] = pd.Series(agent.choices(tokens), dtype=object)
    return read


def skip_probabilities(agent: AnchorAgent, tokens: Sequence[int]) -> pd.DataFrame:
    """How likely the controller finds each connection of a token string, given all tokens before it.

    A row for each layer that reads, a column for each that is read; nan where there is none to choose.
    """
    read = writing(agent, tokens)
    depth = int(read["layer"].max())
    found = pd.DataFrame(np.nan, index=range(1, depth + 1), columns=range(1, depth + 1))
    for _, row in read.iterrows():
        if row["place"].startswith("layer "):
            found.loc[row["layer"], int(row["place"].split()[1])] = row["chances"][1]
    return found.rename_axis(index="layer", columns="input")


# ---- the loop


@dataclass(frozen=True)
class Turn:
    """What one network brings the controller in the first turn of ZL17's loop (Figure 1)."""

    tokens: tuple[int, ...]
    log_prob: float
    """Of the string, by the controller that drew it, in nats."""
    error: float
    """Of the network, in percent."""
    reward: float
    baseline: float
    """What its reward is measured against: of the first step, the mean of its own rewards."""


def first_turn(children: pd.DataFrame, agent: AnchorAgent, plan: ConvNetSearchSettings) -> Turn:
    """The best network of a search's first step, from `token_search.samples`; the agent has learned nothing yet."""
    step = children.head(plan.step)
    losses = [None if np.isnan(loss) else float(loss) for loss in step["loss"]]
    rewards = [None if loss is None else plan.reward(loss) for loss in losses]
    _, measured = Advantages(plan.reinforce).of(rewards)
    tokens = arms.best_tokens(step)
    error = min(FAILED if loss is None else loss for loss in losses)
    with torch.inference_mode():
        log_prob = agent.evaluate([tokens])[0].item()
    return Turn(tokens, log_prob, error, plan.reward(error), measured["baseline"])


# ---- what a search draws


def habits(children: pd.DataFrame, plan: ConvNetSearchSettings) -> pd.DataFrame:
    """What the networks of each step of a search are like, from `token_search.samples`: a row a step.

    Columns: samples (drawn by then), layers, skips (the share of possible connections that was chosen), area (mean
    pixels of a filter), filters (mean number), error (mean in percent; a failure counts as `FAILED`).
    """
    rows = []
    for number, (_, part) in enumerate(children.groupby("step", sort=True), 1):
        nets = [plan.space.network(arms.as_tokens(text)) for text in part["tokens"]]
        layers = [layer for net in nets for layer in net.layers]
        possible = sum(len(net.layers) * (len(net.layers) - 1) / 2 for net in nets)
        rows.append(
            {
                "samples": number * plan.step,
                "layers": np.mean([len(net.layers) for net in nets]),
                "skips": sum(len(layer.inputs) for layer in layers) / possible if possible else np.nan,
                "area": np.mean([layer.filter_height * layer.filter_width for layer in layers]),
                "filters": np.mean([layer.filters for layer in layers]),
                "error": part["loss"].fillna(FAILED).mean(),
            }
        )
    return pd.DataFrame(rows)


def best_network(searches: Mapping[tuple[str, int], Search], arm: str) -> tuple[ConvNet, float] | None:
    """The network of the lowest validation error that an arm's searches trained, and that; None where all failed."""
    trained = [
        (loss, evaluation.cell)
        for (name, _), search in searches.items()
        if name == arm
        for _, evaluation in search.trials
        if (loss := search.loss.of(evaluation)) is not None
    ]
    if not trained:
        return None
    loss, text = min(trained)
    return parse(text), loss


def claim_told(ends: arms.Ends, arm: str, seeds: int, data: str) -> str:
    """ZL17's claim that policy gradient beats random search, held against networks on this data, for people.

    The claim is of recurrent cells, so no entry of the ledger is answered; the verdict is that of its rules on a run
    that is scaled down and on other data.
    """
    facts = arms.wins(ends, arm, seeds, ARMS[arm].words, "points of error")
    entry = papers.load()["zl17.random.policy_gradient_wins"]
    judged = ledger.verdict(entry, ledger.Finding(entry.id, data=data, scaled=True, **facts))
    return (
        f"Does policy gradient beat random search on {data}? ZL17 says so of cells (section 4.2), and by the ledger's "
        f"rules networks on {data} say: **{judged.word}** ({judged.why}). Judged is {facts['reason']}: "
        f"{facts['value']:+.2f} points of error, from {seeds} seed{'s' if seeds > 1 else ''} of each."
    )


# ---- the exercise


def check_rules(
    write: Callable[[list[tuple[int, ...]]], tuple[list[tuple[int, ...]], tuple[int, ...]] | None],
) -> str:
    """Whether a reader's `write(chosen)` closes what a network leaves open by ZL17's rules: a word for the reader.

    It is given the inputs that each layer chose, and answers with what each reads and what the classifier reads.
    Raises AssertionError, which says what is amiss, where it does not. None says that it is not written yet.
    """
    if write([()]) is None:
        return "Exercise not yet done: my_rules returns None."
    rng = np.random.default_rng(0)
    cases: list[list[tuple[int, ...]]] = [[()], [(), ()], [(), (1,)], [(), (1,), (1,)]]
    for _ in range(30):
        depth = int(rng.integers(2, 8))
        cases.append([tuple(j for j in range(1, i) if rng.random() < 0.4) for i in range(1, depth + 1)])
    for chosen in cases:
        net = ConvNet(tuple(Layer("conv", inputs, filters=1) for inputs in chosen))
        found = write([*chosen])
        assert found is not None, f"{chosen}: got None"
        reads, by_classifier = [tuple(inputs) for inputs in found[0]], tuple(found[1])
        for number, (own, ours) in enumerate(zip(reads, net.connections, strict=True), 1):
            because = "it chose nothing, so it reads the image, 0" if not chosen[number - 1] else "it has its inputs"
            assert own == ours, f"{chosen}: layer {number} reads {ours} ({because}), not {own}"
        assert by_classifier == net.read_by_classifier, (
            f"{chosen}: the classifier reads {net.read_by_classifier}, the layers that no other reads, "
            f"not {by_classifier}"
        )
    return "Exercise done: every layer is read by something, and reads something."
