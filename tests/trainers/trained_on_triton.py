"""Training through the CUDA backend against training on the processor: run by test_devices.py, in a process of its own.

On a GPU, or, with TRITON_INTERPRET=1, on the CPU, where the backend's kernels run in Triton's interpreter and all else
runs as ever. Weights, batches and their order come from the processor on every device. Dropout masks do not, and the
generators of processors and GPUs differ, so dropout is off; what is left to differ is the order of sums.
"""

import os
from collections.abc import Callable

import pytest

import nasrepro as nr
from nasrepro.datasets.parallel import parallel_from_text
from nasrepro.hardware import device_name
from nasrepro.rnn import fused
from nasrepro.rnn.fused import cuda
from nasrepro.trainers import language_model, translation
from nasrepro.trainers.language_model import LanguageModelSettings
from nasrepro.trainers.outcome import Outcome
from nasrepro.trainers.translation import TranslationSettings

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = 1e-5 if INTERPRETED else 1e-3

# numpy, which stands for the GPU in the interpreter, warns where a GPU just gives infinity or NaN.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in .*:RuntimeWarning")


def train_language_model(cell: nr.Cell, device: str) -> Outcome:
    """Two epochs of three steps."""
    settings = LanguageModelSettings(
        layers=1, hidden=6, embedding=6, dropout=0.0, batch=4, bptt=4, epochs=2, train_tokens=52, valid_tokens=27,
        eval_batch=3,
    )  # fmt: skip
    corpus = nr.datasets.load("pydoc", level="char")
    return language_model.train(cell, corpus, settings, seed=1, device=device)[0]


def train_translation(cell: nr.Cell, device: str) -> Outcome:
    """Two epochs of three batches, of sentences of different lengths."""
    settings = TranslationSettings(
        hidden=6,
        layers=1,
        dropout=0.0,
        batch=3,
        epochs=2,
        eval_batch=4,
        beam=2,
        longest=6,
        fail_above=1e9,
        init_range=0.8,
    )
    pairs = [("a b c d"[: 2 * words - 1], "w x y z"[: 2 * words - 1]) for words in (1, 4, 2, 3, 2, 1, 4, 3, 1)]
    corpus = parallel_from_text("letters", pairs, pairs[:4], pairs[:1])
    return translation.train(cell, corpus, settings, seed=1, device=device)[0]


CASES = [(train_language_model, "LSTM"), (train_translation, "MT5")]
if not INTERPRETED:  # where each takes seconds
    CASES += [(train_language_model, "BC3"), (train_translation, "LSTM"), (train_translation, "BC3")]


@pytest.mark.parametrize(("train", "name"), CASES)
def test_losses_are_those_of_the_processor(
    train: Callable[[nr.Cell, str], Outcome], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(nr.zoo[name], "cpu")
    asked = _Asked()
    monkeypatch.setitem(fused._BY_DEVICE, DEVICE, asked)
    found = train(nr.zoo[name], DEVICE)
    assert asked.times > 0, "nothing went through the CUDA backend"
    assert (found.status, found.device) == ("ok", device_name(DEVICE))
    assert len(found.curve) == len(expected.curve) == 2
    for ours, theirs in zip(found.curve, expected.curve, strict=True):
        assert ours == pytest.approx(theirs, rel=TOLERANCE)
    assert found.parameters == expected.parameters


class _Asked:
    """The CUDA backend, and how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def run(self, *arguments):
        self.times += 1
        return cuda.run(*arguments)
