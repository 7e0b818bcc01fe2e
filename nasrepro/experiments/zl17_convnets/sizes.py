"""How large ZL17's convolutional half is (section 4.1): everything that a run scales down is here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.convnet import ConvNet, zoo
from nasrepro.convnet.zoo import scaled
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.plan import ByHand
from nasrepro.search.workers import Job
from nasrepro.trainers.images import ImageSettings, ImageTask

COMPARED = ("Figure 7", "Figure 7, no skips", "Figure 7, all skips")
"""The network that ZL17 found and its two controls, by their names in the zoo."""

SCALED_RATE = 3.5e-3
"""The controller's learning rate for searches of hundreds of networks: ZL17's 6e-4 is made for 12,800 of them."""


RIVALS = (*COMPARED, "ResNet, 20 layers", "plain, 20 layers")
"""And two networks of people's design, as wide as it takes to have about as many weights in filters."""


@dataclass(frozen=True)
class Comparison:
    """Networks of the zoo trained by one recipe, each from the same seeds, and measured on the test split."""

    task: ImageTask
    """What they are trained and judged by."""
    names: tuple[str, ...] = COMPARED
    """Which networks, by their names in the zoo."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each."""
    divisor: int = 1
    """What the number of their filters is divided by: on one processor the paper's would take hours."""
    words: str = "ZL17 section 4.1"
    """What the rows of this comparison are called in a record."""

    def row(self, name: str, seed: int) -> str:
        """What a record calls the row for which it reads the test split."""
        return f"{self.words}: {name}, seed {seed}"

    def network(self, name: str) -> ConvNet:
        """A network by its name in the zoo, with as many filters as it has here."""
        return scaled(zoo[name], 1 / self.divisor)

    def rows(self, seeds: tuple[int, ...] | None = None) -> dict[str, Job]:
        """What is trained, seed by seed: by row, which network from which seed. Of these seeds alone, if given."""
        chosen = self.seeds if seeds is None else seeds
        return {self.row(name, seed): Job(self.network(name), seed) for seed, name in product(chosen, self.names)}


@dataclass(frozen=True)
class Arm:
    """One way to search."""

    words: str
    method: Literal["controller", "random"] = "controller"
    learning_rate: float | None = None
    """The controller's; None for the paper's."""


ARMS: Mapping[str, Arm] = {
    "paper's rate": Arm("policy gradient at the paper's rate"),
    "scaled rate": Arm("policy gradient at a scaled rate", learning_rate=SCALED_RATE),
    "random": Arm("random search", method="random"),
}
"""The searches that are compared, by a short name."""


@dataclass(frozen=True)
class Again:
    """The first networks of random search, which are a sample of the space, trained once more: what is one error worth?

    From other seeds that says how much of it is chance, and for longer what it tells of a longer training. The longer
    one is from a seed of its own too: two trainings from one seed begin alike.
    """

    longer: ImageTask
    """A longer training by which they are judged."""
    seeds: tuple[int, ...] = (1, 2)
    """Seeds besides the search's."""
    networks: int = 20
    """How many are trained from other seeds."""
    longer_networks: int = 30
    """How many are trained for longer, from the first of the seeds."""


@dataclass(frozen=True)
class SearchSizes:
    """Searches on one data set."""

    task: ImageTask
    """What networks are trained and judged by."""
    search: ConvNetSearchSettings
    """The search with the paper's controller; the others differ from it in their arm and seed."""
    arms: tuple[str, ...] = ("scaled rate", "random")
    """Which of `ARMS` are searched by."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of each arm's searches."""
    again: Again | None = None
    """What some networks of random search are trained for once more."""

    def plan(self, arm: str, seed: int) -> ConvNetSearchSettings:
        """The search of an arm from a seed."""
        chosen, steps = ARMS[arm], self.search.reinforce
        rate = steps.learning_rate if chosen.learning_rate is None else chosen.learning_rate
        return replace(self.search, seed=seed, method=chosen.method, reinforce=replace(steps, learning_rate=rate))

    def sample(self, count: int) -> list[ConvNet]:
        """The first networks that random search draws, whatever becomes of them."""
        by_hand = ByHand(self.plan("random", self.seeds[0]).until(count))
        found: list[ConvNet] = []
        while asked := by_hand.ask():
            by_hand.tell([None] * len(asked))
            found += asked
        return found

    def plans(self) -> dict[str, ConvNetSearchSettings]:
        """All searches, by words for data, arm and seed."""
        return {
            f"{ARMS[arm].words} on {self.task.images}, seed {seed}": self.plan(arm, seed)
            for seed in self.seeds
            for arm in self.arms
        }


@dataclass(frozen=True)
class ConvNetSizes:
    """How large a run is."""

    task: ImageTask
    """What the networks of Table 1 are trained by."""
    searches: tuple[SearchSizes, ...]
    """On each data set that is searched on."""
    small: Comparison | None = None
    """The networks of Table 1 and their rivals at a size that one processor pays."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each network of Table 1."""
    divisor: int = 1
    """What the number of their filters is divided by: on digits the paper's would take minutes."""
    workers: int = 2
    """Processes of a notebook; 0 trains in its own, where to start others takes longer than to train."""

    @property
    def table(self) -> Comparison:
        """The networks of Table 1."""
        return Comparison(self.task, COMPARED, self.seeds, self.divisor)


# A digit has 8 x 8 pixels, and mirrored it is none. A thousand of them are passed over in smaller batches than 45,000
# images are. With a fifth of the paper's filters a network is trained in seconds, and errors lie between 5 and 40 %.
_DIGITS = ImageTask(
    "digits",
    training=ImageSettings(epochs=4, batch=32, upsampled=10, flipped=False, counted_epochs=1),
)
_SMOKE = replace(_DIGITS, training=replace(_DIGITS.training, epochs=1, train_images=64, valid_images=50))
_SMOKE_LONGER = replace(_SMOKE, training=replace(_SMOKE.training, epochs=2))
_SMALL = ConvSpace(filters=(4, 8, 12, 16))
_ON_DIGITS = ConvNetSearchSettings(networks=400, first_depth=4, deeper_by=1, deeper_every=200, space=_SMALL)

# A network of CIFAR-10 for two cores: a quarter of the pixels, a fifteenth of the images, a third of the filters.
_CIFAR_SMALL = ImageTask(
    "cifar10",
    side=16,
    training=ImageSettings(epochs=3, batch=32, upsampled=18, counted_epochs=1, train_images=3000, valid_images=1000),
)
_ON_CIFAR = ConvNetSearchSettings(networks=100, deeper_by=0, space=ConvSpace(filters=(8, 12, 16, 24)))

# Four times as long, as far as its schedule goes: of everything else one training is like the other.
_CIFAR_LONGER = replace(_CIFAR_SMALL, training=replace(_CIFAR_SMALL.training, epochs=12))
# Five networks in a quarter of an hour of one core: a quarter of the filters and pixels, an eleventh of the images.
_CIFAR_TABLE = replace(_CIFAR_SMALL, training=replace(_CIFAR_SMALL.training, epochs=6, train_images=4000))

# DenseNet's 300 epochs with its schedule; the paper says only that the best networks are trained "until convergence".
_PAPER = ImageTask("cifar10", training=ImageSettings(epochs=300))
# About a third of DenseNet's epochs: what an H200 does in half an hour, with the control beside it.
_NIGHT = replace(_PAPER, training=replace(_PAPER.training, epochs=110, precision="bfloat16"))
_PAPER_SEARCH = SearchSizes(ImageTask("cifar10"), ConvNetSearchSettings(), ("paper's rate", "random"))

SIZES: Mapping[str, ConvNetSizes] = {
    "smoke": ConvNetSizes(
        task=_SMOKE,
        searches=(
            SearchSizes(
                _SMOKE,
                replace(_ON_DIGITS, networks=10, first_depth=2, deeper_every=8),
                again=Again(_SMOKE_LONGER, seeds=(1,), networks=4, longer_networks=4),
            ),
        ),
        seeds=(1,),
        divisor=12,
        small=Comparison(_SMOKE_LONGER, seeds=(1,), divisor=12, words="ZL17 section 4.1, small"),
        workers=0,
    ),
    "quick": ConvNetSizes(
        task=replace(_DIGITS, training=replace(_DIGITS.training, epochs=5)),
        searches=(SearchSizes(_DIGITS, replace(_ON_DIGITS, networks=200, deeper_every=160)),),
        seeds=(1,),
        divisor=8,
    ),
    "course": ConvNetSizes(
        task=_NIGHT,
        searches=(
            SearchSizes(
                _DIGITS,
                _ON_DIGITS,
                seeds=(1, 2, 3, 4, 5),
                again=Again(replace(_DIGITS, training=replace(_DIGITS.training, epochs=16))),
            ),
            SearchSizes(_CIFAR_SMALL, _ON_CIFAR, again=Again(_CIFAR_LONGER)),
        ),
        seeds=(1,),
        small=Comparison(_CIFAR_TABLE, RIVALS, divisor=4, words="ZL17 section 4.1, small"),
    ),
    "night": ConvNetSizes(
        task=_NIGHT,
        searches=(
            SearchSizes(
                ImageTask("cifar10", training=ImageSettings(epochs=5, precision="bfloat16")),
                replace(_ON_CIFAR, space=ConvSpace()),
            ),
        ),
        seeds=(1,),
    ),
    "paper": ConvNetSizes(task=_PAPER, searches=(_PAPER_SEARCH,)),
}
