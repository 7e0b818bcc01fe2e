"""GNMT's training: the order of its rates, its steps beside torch's own, graphs, and that it can be interrupted."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nasrepro.datasets import DataError, ParallelCorpus
from nasrepro.datasets.parallel import parallel_from_text
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.search import Record
from nasrepro.trainers.gnmt_translation import GnmtSettings, GnmtTask, TrainingStep, make_model, train
from nasrepro.trainers.translation import make_batches
from tests.search.fakes import evaluate_test
from tests.trainers.test_recorded_steps import POSITIONS, as_on_a_gpu, fused_on_processors, no_graphs
from tests.trainers.test_translation import pairs

TINY = GnmtSettings(
    hidden=10, layers=3, batch=8, epochs=4, adam_share=0.5, adam_rate=0.02, init_range=0.4, fail_above=1e9, beam=2
)


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return parallel_from_text("toy", pairs(60, 1), pairs(12, 2), pairs(12, 3))


def test_the_rates_are_zl17s_step_by_step() -> None:
    """Section 4.2, in thousands of steps of 800."""
    settings = GnmtSettings()
    expected = {0: 2e-4, 59: 2e-4, 60: 0.5, 399: 0.5, 400: 0.25, 499: 0.25, 500: 0.125, 599: 0.125, 600: 0.1, 799: 0.1}
    assert {step: settings.rate(step / 800) for step in expected} == pytest.approx(expected)
    assert [step for step in range(800) if settings.is_by_adam(step / 800)] == list(range(60))
    by_adam = replace(settings, adam_share=1.0)
    shares = [by_adam.rate(step / 800) / 2e-4 for step in (0, 399, 400, 500, 600, 799)]
    assert shares == pytest.approx([1, 1, 0.5, 0.25, 0.2, 0.2]), "the same order where Adam makes all steps"


def test_the_papers_epochs_are_its_steps() -> None:
    paper = GnmtSettings()
    assert paper.epochs * 4.5e6 / paper.batch == pytest.approx(800_000, rel=0.02)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("batch", "epochs", "hidden", "halve_every", "beam", "longest", "vocab_size", "clip")),
        *(("layers", 1), ("dropout", 1.0), ("adam_share", -0.1), ("halve_from", 5.0), ("lowest_share", 2.0)),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        replace(TINY, **{name: value})


def epochs_of(cell: Cell, corpus: ParallelCorpus) -> tuple[list[float], list[Tensor]]:
    """The loss of each step of three epochs, and the weights after them."""
    model = make_model(cell, corpus, TINY, seed=1)
    batches = [batch for _, batch in make_batches(corpus.train, corpus.target_vocab, TINY.batch)]
    step = TrainingStep(model, TINY, torch.Generator().manual_seed(2), 3 * len(batches))
    losses = [step(*batch)[0] for _ in range(3) for batch in batches]
    return losses, [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("cell", ["LSTM", "NASCell"])
def test_steps_are_torchs_optimisers_on_a_clipped_gradient(cell: str, corpus: ParallelCorpus) -> None:
    model = make_model(zoo[cell], corpus, TINY, seed=1)
    masks = torch.Generator().manual_seed(2)
    batches = [batch for _, batch in make_batches(corpus.train, corpus.target_vocab, TINY.batch)]
    adam, descent = torch.optim.Adam(model.parameters(), 0.02), torch.optim.SGD(model.parameters(), 0.5)
    losses: list[float] = []
    for place in range(3 * len(batches)):
        batch = batches[place % len(batches)]
        optimiser: torch.optim.Optimizer = adam if place < 3 * len(batches) / 2 else descent
        # Halved where gradient descent begins, again after an eighth, and not below a fifth.
        eighths = place / (3 * len(batches)) * 8
        optimiser.param_groups[0]["lr"] = (
            0.02 if eighths < 4 else 0.25 if eighths < 5 else 0.125 if eighths < 6 else 0.1
        )
        optimiser.zero_grad()
        context, state = model.encode(batch.source, batch.lengths, masks)
        loss = model.loss(model.decode(batch.inputs, context, state, masks)[0], batch.targets, batch.places)
        (loss * batch.words / len(batch.lengths)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), TINY.clip)
        optimiser.step()
        losses.append(loss.item())
    found = epochs_of(zoo[cell], corpus)
    assert found[0] == pytest.approx(losses, rel=1e-4)
    for one, other in zip(found[1], model.parameters(), strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm()


@fused_on_processors
@pytest.mark.parametrize("cell", [zoo["LSTM"], zoo["NASCell"], parse(POSITIONS)], ids=["LSTM", "NASCell", "positions"])
def test_replayed_steps_are_those_launch_by_launch(
    cell: Cell, corpus: ParallelCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fake GPU: what is replayed ends with the gradient, and both optimisers go on from the same graphs."""
    gpu = as_on_a_gpu(monkeypatch)
    with no_graphs():
        expected = epochs_of(cell, corpus)
    found = epochs_of(cell, corpus)
    batches = make_batches(corpus.train, corpus.target_vocab, TINY.batch)
    assert gpu.captured == len({tuple(part.shape for part in batch) for _, batch in batches})
    assert gpu.replayed > 0
    assert found[0] == expected[0]
    assert all(map(torch.equal, found[1], expected[1]))


@pytest.mark.parametrize("killed_after", [1, 3])  # while Adam steps, and after it
def test_a_training_goes_on_after_a_kill_as_if_nothing_had_happened(
    corpus: ParallelCorpus, tmp_path: Path, killed_after: int
) -> None:
    path = tmp_path / "training.pt"

    def kill(point: dict[str, float]) -> None:
        if point["epoch"] == killed_after + 1:
            raise KeyboardInterrupt

    unbroken, model = train(zoo["NASCell"], corpus, TINY, seed=4, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(zoo["NASCell"], corpus, TINY, seed=4, device="cpu", on_epoch=kill, checkpoint=path)
    continued, other = train(zoo["NASCell"], corpus, TINY, seed=4, device="cpu", checkpoint=path)
    assert (continued.metrics, continued.curve) == (unbroken.metrics, unbroken.curve)
    assert len(unbroken.curve) == TINY.epochs
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_a_toy_language_is_learned(corpus: ParallelCorpus) -> None:
    outcome, _ = train(zoo["LSTM"], corpus, replace(TINY, epochs=20, adam_share=1.0), seed=1, device="cpu")
    assert outcome.status == "ok"
    assert outcome.metrics["valid_ppl"] < 3 < len(corpus.target_vocab) / 4
    assert outcome.metrics["valid_bleu"] > 10, "sentences of four words, in which one wrong word leaves little"


def test_what_explodes_or_stays_high_has_failed(corpus: ParallelCorpus) -> None:
    exploding = parse("Add(MM(x_t), Mult(MM(h_{t-1}), MM(h_{t-1})))")
    outcome, _ = train(exploding, corpus, replace(TINY, init_range=50.0), seed=1, device="cpu")
    assert (outcome.status, outcome.reason) == ("failed", "exploded")
    outcome, _ = train(zoo["LSTM"], corpus, replace(TINY, epochs=1, fail_above=1.5), seed=1, device="cpu")
    assert (outcome.status, outcome.reason) == ("failed", "above 1.5 at the end")


def test_a_row_is_measured_on_the_test_split_once(corpus: ParallelCorpus, tmp_path: Path) -> None:
    task = GnmtTask(training=replace(TINY, epochs=1), device="cpu", own=corpus)
    with Record(tmp_path / "record.sqlite") as record:
        found = evaluate_test(task, zoo["LSTM"], 1, record, "row")
        assert found.task == "translation by GNMT, test split"
        assert {"test_ppl", "test_bleu", "test_multi_bleu", "valid_ppl"} <= found.metrics.keys()
        assert all(map(math.isfinite, found.metrics.values()))
        assert GnmtTask.of_settings(found.settings).settings == task.settings
        assert len(record.test_reads()) == 1


def test_wmt14_is_not_available_and_says_what_to_do(corpus: ParallelCorpus) -> None:
    with pytest.raises(DataError, match=r"WMT'14 English to German .* is not available: .*own=parallel_from_text"):
        _ = GnmtTask("wmt14").corpus
    own = parallel_from_text("wmt14", pairs(20, 1), pairs(5, 2), pairs(5, 3))
    task = GnmtTask(own=own)
    assert task.corpus is own
    assert task.settings == GnmtTask("wmt14").settings
    assert task.words() == (
        "GNMT of 8 + 8 layers, as costly as LSTM layers of 1024 units, 23 epochs over all pairs of wmt14"
    )
