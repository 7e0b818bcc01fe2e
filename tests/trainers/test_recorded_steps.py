"""Training steps as CUDA graphs, on a GPU and a fake one, do what they do launch by launch, and wait for it once."""

import gc
import math
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro.datasets import ParallelCorpus
from nasrepro.datasets.parallel import parallel_from_text
from nasrepro.dsl import zoo
from nasrepro.rnn import fused, layer
from nasrepro.rnn.recording import Recording
from nasrepro.trainers import language_model, seq2seq, translation
from nasrepro.trainers.final_model import FinalModel, FinalStep
from nasrepro.trainers.final_settings import FinalModelSettings
from nasrepro.trainers.language_model import LanguageModel, LanguageModelSettings
from nasrepro.trainers.translation import TranslationSettings, make_batches, make_model
from tests.rnn.fake_gpu import CountOperators, FakeGPU, tensors_look_like_a_gpus

LANGUAGE_MODEL = LanguageModelSettings(hidden=24, embedding=16, batch=6, bptt=9)
FINAL = FinalModelSettings(layers=2, hidden=24, embedding=16, batch=6, bptt=9, fine_tuning_epochs=0)
TRANSLATION = TranslationSettings(hidden=16, batch=5, init_range=0.3)
WORDS = 40


@pytest.fixture
def pairs() -> ParallelCorpus:
    text = [(" ".join("abcdefg"[: 1 + n % 5]), " ".join("uvwxyz"[: 1 + n % 4])) for n in range(40)]
    return parallel_from_text("toy", text, text[:9], text[:9])


def language_model_epochs(
    cell: str, device: str, epochs: int = 2, settings: LanguageModelSettings = LANGUAGE_MODEL
) -> tuple[list[float], list[Tensor]]:
    """Losses of epochs over random words, and the weights after them."""
    model = LanguageModel(zoo.get(cell, cell), WORDS, settings, seed=1).to(device)
    step = language_model.TrainingStep(model, torch.Generator(device).manual_seed(2))
    columns = random_words().to(device)
    losses = [language_model.train_epoch(step, columns, 5.0 / (1 + epoch))[0] for epoch in range(epochs)]
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


def plain_language_model_epochs(cell: str, epochs: int) -> tuple[list[float], list[Tensor]]:
    """The same, written out with torch's own parts."""
    model = LanguageModel(zoo.get(cell, cell), WORDS, LANGUAGE_MODEL, seed=1)
    masks = torch.Generator().manual_seed(2)
    losses = []
    for epoch in range(epochs):
        optimiser = torch.optim.SGD(model.parameters(), lr=5.0 / (1 + epoch))
        state, total, tokens = None, 0.0, 0
        for inputs, targets in language_model.windows(random_words(), LANGUAGE_MODEL.bptt):
            optimiser.zero_grad()
            features, state = model(inputs, None if state is None else state.detach(), masks)
            logits = F.linear(features, model.embedding, model.bias)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), LANGUAGE_MODEL.clip)
            optimiser.step()
            total, tokens = total + loss.item() * targets.numel(), tokens + targets.numel()
        losses.append(total / tokens)
    return losses, [parameter.detach() for parameter in model.parameters()]


def random_words() -> Tensor:
    return torch.randint(WORDS, (50, LANGUAGE_MODEL.batch), generator=torch.Generator().manual_seed(3))


def translation_epochs(
    cell: str, pairs: ParallelCorpus, device: str, epochs: int = 3
) -> tuple[list[float], list[Tensor]]:
    """Losses of epochs over the pairs, and the weights after them."""
    model = make_model(zoo.get(cell, cell), pairs, TRANSLATION, seed=1).to(device)
    step = translation.TrainingStep(model, TRANSLATION.clip, torch.Generator(device).manual_seed(2))
    batches = [batch for _, batch in make_batches(pairs.train, pairs.target_vocab, TRANSLATION.batch, device)]
    losses = [translation.train_epoch(step, batches, 0.5 / (1 + epoch))[0] for epoch in range(epochs)]
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


def final_model_steps(cell: str, device: str, optimiser: str) -> tuple[list[float], list[Tensor]]:
    """Losses of steps on windows of three lengths, again and again, and the weights after them."""
    recipe = replace(FINAL, optimiser=optimiser, learning_rate=0.01 if optimiser == "adam" else 5.0)
    model = FinalModel(zoo.get(cell, cell), WORDS, recipe, seed=1).to(device)
    step = FinalStep(model, torch.Generator(device).manual_seed(2))
    step.restart(averaging=optimiser == "nt-asgd")
    model.train()
    step.begin(0.0)
    words, losses = random_words().to(device), []
    for length in 3 * [9, 12, 7]:
        step.set_rate(recipe.learning_rate * length / 9)
        losses.append(step(words[:length], words[1 : length + 1])[0])
    with step.averages():
        return losses, [parameter.detach().cpu().clone() for parameter in model.parameters()]


@contextmanager
def no_graphs() -> Iterator[None]:
    before, Recording.possible = Recording.possible, False
    try:
        yield
    finally:
        Recording.possible = before


def agree(found: tuple[list[float], list[Tensor]], expected: tuple[list[float], list[Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm()


# --- on a fake GPU -------------------------------------------------------------------------------------------

POSITIONS = "Tanh(Add(MM(x_t), Add(MM(h_{t-1}), MM(PosEnc))))"
fused_on_processors = pytest.mark.skipif(torch.__version__ < (2, 4), reason="torch's fused SGD is for GPUs alone here")


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    """Let training take the ways that it takes on a GPU, by torch's operators alone, which a fake graph captures."""

    def cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, **_: object) -> Tensor:
        return F.cross_entropy(F.linear(features, weight, bias), targets)

    tensors_look_like_a_gpus(monkeypatch)
    monkeypatch.setattr(fused, "supports", lambda program, x: False)
    # Targets and lengths are looked at where they lie in the processor's memory.
    monkeypatch.setattr(layer, "_checked_lengths", lambda lengths, x: lengths)
    for module in (language_model, seq2seq):
        monkeypatch.setattr(module, "linear_cross_entropy", cross_entropy)
    return FakeGPU(monkeypatch)


@fused_on_processors
@pytest.mark.parametrize(
    ("cell", "recorded"),
    [("LSTM", True), ("BC3", True), ("QRNN", True), ("Tanh(MM(x_{t-1}))", True), (POSITIONS, False)],
)
def test_replayed_steps_of_the_language_model_are_plain_gradient_descent(
    cell: str, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_language_model_epochs(cell, epochs=3)
    gpu = as_on_a_gpu(monkeypatch)
    with no_graphs():
        expected = language_model_epochs(cell, "cpu", epochs=3)
    assert (gpu.captured, gpu.replayed) == (0, 0)
    found = language_model_epochs(cell, "cpu", epochs=3)
    # An epoch is five windows of nine steps and a last one of four. Of either kind the first call runs launch by
    # launch, the second is recorded.
    assert (gpu.captured, gpu.replayed) == ((2, 13 + 1) if recorded else (0, 0))
    assert found[0] == expected[0]
    assert all(map(torch.equal, found[1], expected[1]))
    agree(found, plain)


@fused_on_processors
@pytest.mark.parametrize("cell", ["LSTM", "MT5", POSITIONS])
def test_replayed_steps_of_translation_are_those_of_the_processor(
    cell: str, pairs: ParallelCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_the_processor = translation_epochs(cell, pairs, "cpu")
    gpu = as_on_a_gpu(monkeypatch)
    with no_graphs():
        expected = translation_epochs(cell, pairs, "cpu")
    found = translation_epochs(cell, pairs, "cpu")
    kinds = {tuple(part.shape for part in batch) for _, batch in make_batches(pairs.train, pairs.target_vocab, 5)}
    assert gpu.captured == len(kinds)
    assert gpu.replayed > 0
    assert found[0] == expected[0]
    assert all(map(torch.equal, found[1], expected[1]))
    agree(found, by_the_processor)


@fused_on_processors
@pytest.mark.parametrize("optimiser", ["nt-asgd", "sgd", "adam"])
@pytest.mark.parametrize("cell", ["BC3", POSITIONS])
def test_replayed_gradients_of_final_models_are_those_launch_by_launch(
    cell: str, optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_the_processor = final_model_steps(cell, "cpu", optimiser)
    gpu = as_on_a_gpu(monkeypatch)
    # ASGD that waits for no number is for GPUs alone.
    plain = partial(torch.optim.ASGD)
    monkeypatch.setattr(torch.optim, "ASGD", lambda *weights, capturable, **given: plain(*weights, **given))
    with no_graphs():
        expected = final_model_steps(cell, "cpu", optimiser)
    found = final_model_steps(cell, "cpu", optimiser)
    assert (gpu.captured, gpu.replayed) == ((3, 3) if cell == "BC3" else (0, 0))
    assert found[0] == expected[0]
    assert all(map(torch.equal, found[1], expected[1]))
    agree(found, by_the_processor)


@fused_on_processors
def test_a_gradient_that_is_not_finite_ends_an_epoch_of_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    model = LanguageModel(zoo["LSTM"], WORDS, LANGUAGE_MODEL, seed=1)
    step = language_model.TrainingStep(model, torch.Generator())
    columns = random_words()
    assert language_model.train_epoch(step, columns, 1.0)[1]
    with torch.no_grad():
        model.bias[0] = torch.inf
    before = [parameter.clone() for parameter in model.parameters()]
    assert not language_model.train_epoch(step, columns, 1.0)[1]
    assert all(map(torch.equal, before, model.parameters()))


class OnAGPU(Tensor):
    """A tensor of which Python believes that it lies there, and which nobody may read."""

    is_cuda = True
    device = torch.device("cuda")

    def __int__(self) -> int:
        raise AssertionError("Python waits for a number")


def test_lengths_on_a_gpu_are_not_looked_at() -> None:
    lengths = torch.tensor([3, 1])
    found = layer._checked_lengths(lengths.as_subclass(OnAGPU), torch.zeros(3, 2, 5))
    assert found.as_subclass(Tensor).tolist() == [3, 1]


@fused_on_processors
def test_python_reads_one_result_of_a_step(pairs: ParallelCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before steps were recorded, the language model waited 5 times (the norm twice, then loss, norm, loss), translation
    # 11 times: so too, for the count of words, for the least and greatest length, and for three masks' places.
    as_on_a_gpu(monkeypatch)
    model = LanguageModel(zoo["LSTM"], WORDS, LANGUAGE_MODEL, seed=1)
    translator = make_model(zoo["LSTM"], pairs, TRANSLATION, 1)
    text = random_words()[:10]
    calls = [
        partial(language_model.TrainingStep(model, torch.Generator()), text[:-1], text[1:]),
        partial(
            translation.TrainingStep(translator, TRANSLATION.clip, torch.Generator()),
            *make_batches(pairs.train, pairs.target_vocab, 5)[3][1],
        ),
    ]
    read = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: read.append(tensor.shape) or tolist(tensor))
    for call in calls:
        for _ in range(4):  # launch by launch, recorded, replayed
            with CountOperators() as counted:
                call()
            assert counted.waits == 0
            assert read == [(2,)]
            read.clear()


# --- on a GPU ------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("cell", ["LSTM", "BC3", "QRNN", "MT2"])
def test_the_language_model_learns_alike_with_and_without_graphs(cell: str) -> None:
    settings = replace(LANGUAGE_MODEL, embedding=LANGUAGE_MODEL.hidden)  # MT2 takes no input of another width
    with no_graphs():
        expected = language_model_epochs(cell, "cuda", settings=settings)
    agree(language_model_epochs(cell, "cuda", settings=settings), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("optimiser", ["nt-asgd", "sgd", "adam"])
@pytest.mark.parametrize("cell", ["LSTM", "BC3"])
def test_final_models_learn_alike_with_and_without_graphs(cell: str, optimiser: str) -> None:
    with no_graphs():
        expected = final_model_steps(cell, "cuda", optimiser)
    agree(final_model_steps(cell, "cuda", optimiser), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", ["LSTM", "MT5", "BC3"])
def test_translation_learns_alike_with_and_without_graphs(cell: str, pairs: ParallelCorpus) -> None:
    with no_graphs():
        expected = translation_epochs(cell, pairs, "cuda")
    agree(translation_epochs(cell, pairs, "cuda"), expected)


@pytest.mark.gpu
def test_a_step_waits_for_the_gpu_once(pairs: ParallelCorpus) -> None:
    model = LanguageModel(zoo["LSTM"], WORDS, LANGUAGE_MODEL, seed=1).cuda()
    translator = make_model("Tanh(MM(x_t))", pairs, TRANSLATION, 1).cuda()
    text = torch.randint(WORDS, (10, LANGUAGE_MODEL.batch)).cuda()
    steps = [
        (language_model.TrainingStep(model, torch.Generator("cuda")), (text[:-1], text[1:])),
        (
            translation.TrainingStep(translator, TRANSLATION.clip, torch.Generator("cuda")),
            make_batches(pairs.train, pairs.target_vocab, 5, "cuda")[0][1],
        ),
    ]
    for step, batch in steps:
        for _ in range(4):  # launch by launch, recorded, replayed
            _without_waiting(lambda step=step, batch=batch: step._step(*batch))


def _without_waiting(work) -> None:
    try:
        with warnings.catch_warnings():  # torch says once that this mode is a prototype
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_gradients_that_a_failed_recording_leaves_are_not_added_to() -> None:
    """They lie in memory that no kernel ever wrote."""
    model = LanguageModel(zoo["LSTM"], WORDS, LANGUAGE_MODEL, seed=1)
    text = torch.randint(WORDS, (10, LANGUAGE_MODEL.batch), generator=torch.Generator().manual_seed(3))
    norms = []
    for left in (None, math.nan):
        step = language_model.TrainingStep(model, torch.Generator().manual_seed(2))
        step.begin(0.0)
        for parameter in model.parameters():
            parameter.grad = None if left is None else torch.full_like(parameter, left)
        norms.append(step(text[:-1], text[1:])[1])
    assert norms[0] == norms[1]


@fused_on_processors
@pytest.mark.parametrize("what", ["language model", "translation"])
def test_a_training_that_has_ended_leaves_no_memory_to_the_garbage_collector(
    what: str, pairs: ParallelCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = as_on_a_gpu(monkeypatch)
    made: list[weakref.ref[nn.Module]] = []

    def train() -> None:
        if what == "translation":
            model: nn.Module = make_model(zoo["LSTM"], pairs, TRANSLATION, seed=1)
            step = translation.TrainingStep(model, 5.0, torch.Generator())
            batches = [batch for _, batch in make_batches(pairs.train, pairs.target_vocab, TRANSLATION.batch)]
            translation.train_epoch(step, batches[:1] * 3, 0.1)
        else:
            model = LanguageModel(zoo["LSTM"], WORDS, LANGUAGE_MODEL, seed=1)
            columns = torch.randint(WORDS, (30, LANGUAGE_MODEL.batch))
            language_model.train_epoch(language_model.TrainingStep(model, torch.Generator()), columns, 0.1)
        made.append(weakref.ref(model))

    gc.disable()
    try:
        train()
        assert gpu.captured > 0
        assert made[0]() is None
    finally:
        gc.enable()
