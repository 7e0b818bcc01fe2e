"""How the published language models are trained: by S17's recipe, which is AWD-LSTM's, and by ZL17's two.

S17 takes the recipe of Merity et al. 2017 and says what it changes (appendix B.4). ZL17 says of its words that they are
trained as in Zaremba et al. 2014 and Gal & Ghahramani 2016, by rates that a grid search found and that are not printed;
of its characters nearly everything (section 4.2). One trainer serves all three: they differ in these settings alone.
"""

from dataclasses import dataclass, field
from typing import Literal

from nasrepro.rnn.products import PRODUCT_DTYPES
from nasrepro.trainers.language_model import LanguageModelSettings
from nasrepro.trainers.settings import origin, require_counts, use_declared_types

OPTIMISERS = ("nt-asgd", "sgd", "adam")
_AWD = "as AWD-LSTM's"


@dataclass(frozen=True)
class FinalModelSettings:
    """How a language model is trained to its end; the defaults are S17's for BC3 on Penn Treebank (appendix B.4).

    "Variational" dropout draws one mask for all steps of a window (Gal & Ghahramani 2016).
    """

    layers: int = field(default=3, metadata=origin("stated", "B.4"))
    """Recurrent layers."""
    hidden: int = field(default=1080, metadata=origin("stated", "B.4"))
    """Units per layer but the last, which is as wide as the embedding where the softmax is tied to that."""
    embedding: int = field(default=400, metadata=origin("stated", "B.4"))
    """Width of the embedding."""
    tied: bool = field(default=True, metadata=origin("stated", "4.1"))
    """Whether the softmax shares the embedding's weights."""
    bias: bool = field(default=True, metadata=origin("inferred", "B.4", _AWD))
    """Whether every matrix of a cell has a bias."""
    embedding_range: float = field(default=0.1, metadata=origin("inferred", "B.4", _AWD))
    """Embeddings start from U(-range, range), as does a softmax of its own; its biases from 0."""
    weight_range: float | None = field(default=None, metadata=origin("inferred", "B.4", _AWD))
    """The cells' weights start from U(-range, range). None: torch's, 1 / sqrt(units)."""

    input_dropout: float = field(default=0.4, metadata=origin("stated", "B.4"))
    """Variational, on the embeddings."""
    layer_dropout: float = field(
        default=0.25, metadata=origin("stated", "B.4", '"RNN hidden" is read as AWD-LSTM has it: between layers')
    )
    """Variational, on the outputs of every layer but the last."""
    output_dropout: float = field(default=0.4, metadata=origin("stated", "B.4"))
    """Variational, on what the softmax reads."""
    hidden_dropout: float = field(default=0.0, metadata=origin("guessed", "B.3", "a rate is not printed"))
    """Variational, on h_{t-1} where a matrix reads it."""
    embedding_dropout: float = field(default=0.1, metadata=origin("stated", "B.4"))
    """Share of the words whose embedding is zero, wherever they stand in a window."""
    weight_drop: float = field(default=0.5, metadata=origin("stated", "B.4"))
    """Share of the entries of the recurrent matrices that are zero, drawn for each window."""
    activation_penalty: float = field(default=2.0, metadata=origin("stated", "B.4"))
    """AR's alpha: times the mean square of the last layer's outputs, after dropout."""
    temporal_penalty: float = field(default=2.0, metadata=origin("stated", "B.4"))
    """TAR's beta: times the mean square of the change of the last layer's outputs from step to step, before dropout."""
    weight_decay: float = field(default=1.2e-6, metadata=origin("inferred", "B.4", _AWD))
    """The share of each weight that is added to its clipped gradient."""

    batch: int = field(default=20, metadata=origin("stated", "B.4"))
    """Columns that the training text is cut into."""
    bptt: int = field(default=70, metadata=origin("stated", "B.4"))
    """Steps between truncations of backpropagation."""
    jitter: bool = field(default=True, metadata=origin("inferred", "B.4", _AWD))
    """Whether windows are drawn longer and shorter than `bptt`, the learning rate of each in proportion to it."""
    epochs: int = field(default=200, metadata=origin("stated", "B.4"))
    """Passes over the training text."""
    fine_tuning_epochs: int = field(default=13, metadata=origin("stated", "B.4"))
    """More of them, from the best weights, averaged from the first step on; fewer where they cease to improve."""
    optimiser: Literal["nt-asgd", "sgd", "adam"] = field(default="nt-asgd", metadata=origin("stated", "B.4"))
    """"nt-asgd" averages the weights once the validation loss has not improved for a while (Merity et al. 2017)."""
    patience: int = field(default=5, metadata=origin("inferred", "B.4", _AWD))
    """NT-ASGD's "non-monotone interval": averaging begins when the validation loss is above the best of all epochs but
    the last so many."""
    learning_rate: float = field(default=15.0, metadata=origin("stated", "B.4"))
    """In the first epoch, and for NT-ASGD in all."""
    decay: float = 1.0
    """What the learning rate is multiplied by before every epoch after `decay_after`. S17 has none."""
    decay_after: int = 0
    """Epochs at the first rate, where it decays."""
    clip: float = field(default=0.25, metadata=origin("stated", "B.4"))
    """Bound on the gradient's global norm."""
    eval_batch: int = field(default=10, metadata=origin("inferred", "B.4", _AWD))
    """Columns that the validation text is cut into, and the test text, which AWD-LSTM reads in one."""
    train_tokens: int | None = None
    """Use only this many tokens of the training text. None: all of it, as the papers."""
    valid_tokens: int | None = None
    """Use only this many tokens of the validation text. None: all of it, as the papers."""
    product_dtype: Literal["float32", "bfloat16"] = "float32"
    """"bfloat16" rounds what enters the matrix products of cells and softmax. Ours."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        for name, known in (("optimiser", OPTIMISERS), ("product_dtype", tuple(PRODUCT_DTYPES))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r:.100}")
        for name in ("input_dropout", "output_dropout", "embedding_dropout"):  # the others are checked by RNN
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)!r:.100}")
        counts = ("layers", "hidden", "embedding", "batch", "bptt", "epochs", "patience", "eval_batch")
        require_counts(self, *counts, "train_tokens", "valid_tokens")
        if min(self.fine_tuning_epochs, self.decay_after) < 0:
            raise ValueError(
                f"fine_tuning_epochs={self.fine_tuning_epochs} and decay_after={self.decay_after} are not negative"
            )
        if self.fine_tuning_epochs and self.optimiser != "nt-asgd":
            raise ValueError(
                f"fine_tuning_epochs={self.fine_tuning_epochs} go on with averaged weights, which {self.optimiser!r} "
                "has none of: make them 0"
            )

    @property
    def last(self) -> int:
        """Units of the last layer."""
        return self.embedding if self.tied else self.hidden

    @property
    def plain(self) -> LanguageModelSettings:
        """What this recipe shares with that of candidates: sizes, columns, and clipping."""
        shared = (
            "layers",
            "hidden",
            "embedding",
            "tied",
            "embedding_range",
            "batch",
            "bptt",
            "epochs",
            "learning_rate",
        )
        more = ("clip", "eval_batch", "train_tokens", "valid_tokens", "product_dtype")
        return LanguageModelSettings(dropout=0.0, **{name: getattr(self, name) for name in shared + more})

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.learning_rate * self.decay ** max(0, epoch - self.decay_after)


_GAL = "as Gal & Ghahramani's large model"
_GRID = "found by a grid search that is not printed"


@dataclass(frozen=True)
class WordModelSettings(FinalModelSettings):
    """ZL17's models of Table 2: plain gradient descent whose rate decays, variational dropout, no penalties.

    What its grid search found is not printed; the defaults are those of what it builds on (Zaremba et al. 2014's medium
    model, Gal & Ghahramani 2016). Sizes are solved for the numbers of weights that Table 2 prints.
    """

    layers: int = field(default=2, metadata=origin("stated", "4.2", paper="ZL17"))
    hidden: int = field(default=738, metadata=origin("inferred", "4.2", "solved for 25M shared, 32M not", paper="ZL17"))
    embedding: int = field(default=738, metadata=origin("inferred", "4.2", "as wide as a layer", paper="ZL17"))
    tied: bool = field(default=True, metadata=origin("stated", "4.2", "of two of three rows", paper="ZL17"))
    bias: bool = field(default=False, metadata=origin("inferred", "4.2", "Figure 8 shows none", paper="ZL17"))
    embedding_range: float = field(default=0.05, metadata=origin("guessed", "4.2", _GRID, paper="ZL17"))
    weight_range: float | None = field(default=0.05, metadata=origin("guessed", "4.2", _GRID, paper="ZL17"))
    input_dropout: float = field(default=0.5, metadata=origin("guessed", "4.2", _GAL, paper="ZL17"))
    layer_dropout: float = field(default=0.5, metadata=origin("guessed", "4.2", _GAL, paper="ZL17"))
    output_dropout: float = field(default=0.5, metadata=origin("guessed", "4.2", _GAL, paper="ZL17"))
    hidden_dropout: float = field(default=0.3, metadata=origin("guessed", "4.2", _GAL, paper="ZL17"))
    embedding_dropout: float = field(default=0.3, metadata=origin("guessed", "4.2", _GAL, paper="ZL17"))
    weight_drop: float = 0.0
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    weight_decay: float = field(default=1e-7, metadata=origin("guessed", "4.2", _GAL, paper="ZL17"))
    batch: int = field(default=20, metadata=origin("inferred", "4.2", "as Zaremba et al.'s", paper="ZL17"))
    bptt: int = field(default=35, metadata=origin("inferred", "4.2", "as Zaremba et al.'s", paper="ZL17"))
    jitter: bool = False
    epochs: int = field(default=39, metadata=origin("inferred", "4.2", "as Zaremba et al.'s", paper="ZL17"))
    fine_tuning_epochs: int = 0
    optimiser: Literal["nt-asgd", "sgd", "adam"] = field(
        default="sgd", metadata=origin("inferred", "4.2", "as Zaremba et al.'s", paper="ZL17")
    )
    learning_rate: float = field(default=1.0, metadata=origin("guessed", "4.2", _GRID, paper="ZL17"))
    decay: float = field(default=0.8, metadata=origin("guessed", "4.2", "as Zaremba et al.'s", paper="ZL17"))
    decay_after: int = field(default=6, metadata=origin("guessed", "4.2", _GRID, paper="ZL17"))
    clip: float = field(default=5.0, metadata=origin("inferred", "4.2", "as Zaremba et al.'s", paper="ZL17"))
    patience: int = 5
    eval_batch: int = field(default=10, metadata=origin("guessed", "4.2", paper="ZL17"))


@dataclass(frozen=True)
class CharacterModelSettings(FinalModelSettings):
    """ZL17's models of Table 3, on the characters of Penn Treebank; the defaults are those of the large one.

    It counts steps, of 32 columns of 100 characters. The text of 5,017,482 has 1,568 of them in an epoch: 600,000 are
    383 epochs, and the 80,000 of the smaller models 51.
    """

    layers: int = field(default=2, metadata=origin("stated", "4.2", paper="ZL17"))
    hidden: int = field(default=800, metadata=origin("stated", "4.2", paper="ZL17"))
    embedding: int = field(default=128, metadata=origin("stated", "4.2", paper="ZL17"))
    tied: bool = field(default=False, metadata=origin("inferred", "4.2", "widths differ", paper="ZL17"))
    bias: bool = field(default=False, metadata=origin("inferred", "4.2", "Figure 8 shows none", paper="ZL17"))
    input_dropout: float = field(
        default=0.2, metadata=origin("inferred", "4.2", '"0.2 and 0.5": of inputs, and of outputs', paper="ZL17")
    )
    layer_dropout: float = field(default=0.2, metadata=origin("inferred", "4.2", '"0.2 and 0.5"', paper="ZL17"))
    output_dropout: float = field(default=0.5, metadata=origin("inferred", "4.2", '"0.2 and 0.5"', paper="ZL17"))
    hidden_dropout: float = field(default=0.2, metadata=origin("inferred", "4.2", '"0.2 and 0.5"', paper="ZL17"))
    embedding_dropout: float = field(default=0.0, metadata=origin("stated", "4.2", paper="ZL17"))
    weight_drop: float = 0.0
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    weight_decay: float = field(default=1e-4, metadata=origin("stated", "4.2", paper="ZL17"))
    batch: int = field(default=32, metadata=origin("stated", "4.2", paper="ZL17"))
    bptt: int = field(default=100, metadata=origin("stated", "4.2", paper="ZL17"))
    jitter: bool = False
    epochs: int = field(default=383, metadata=origin("inferred", "4.2", "600K steps, in epochs", paper="ZL17"))
    fine_tuning_epochs: int = 0
    optimiser: Literal["nt-asgd", "sgd", "adam"] = field(default="adam", metadata=origin("stated", "4.2", paper="ZL17"))
    learning_rate: float = field(default=1e-3, metadata=origin("stated", "4.2", paper="ZL17"))
    clip: float = field(default=1.0, metadata=origin("inferred", "4.2", "as Ha et al. 2016 have it", paper="ZL17"))
    embedding_range: float = field(default=0.1, metadata=origin("guessed", "4.2", paper="ZL17"))
    weight_range: float | None = field(default=None, metadata=origin("guessed", "4.2", paper="ZL17"))
    patience: int = 5
    eval_batch: int = field(default=10, metadata=origin("guessed", "4.2", paper="ZL17"))
