"""The language model trains and judges as S17 says, and as torch's own modules do."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nasrepro import datasets
from nasrepro.datasets import Corpus, Vocab, batchify
from nasrepro.dsl import parse, zoo
from nasrepro.rnn import RNN, State
from nasrepro.search import Record
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers import language_model
from nasrepro.trainers.language_model import (
    LanguageModel,
    LanguageModelSettings,
    LanguageModelTask,
    TrainingStep,
    _written,
    evaluate,
    perplexity,
    train,
    train_epoch,
    windows,
)

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"
TINY = LanguageModelSettings(
    hidden=10,
    embedding=10,
    batch=4,
    bptt=7,
    epochs=2,
    eval_batch=3,
    train_tokens=400,
    valid_tokens=150,
)
EXPLODING = parse("Add(MM(x_t), Mult(MM(h_{t-1}), MM(h_{t-1})))")  # h grows with the square of itself


@pytest.fixture(scope="module")
def characters() -> Corpus:
    return datasets.load("pydoc", level="char")


def corpus_of(ids: list[int], words: int) -> Corpus:
    text = torch.tensor(ids)
    return Corpus("made up", "word", Vocab([str(i) for i in range(words)]), text, text, "0" * 64, "", "", "", text)


# ---- against torch


class TorchLSTM(nn.Module):
    """torch.nn.LSTM where a LanguageModel has its own network, with the weights of that one."""

    # Pairs of products on x and h in post-order are f, o, c, i of torch's stack of gates (i, f, g, o).
    def __init__(self, ours: RNN) -> None:
        super().__init__()
        layers = len(ours.layers)
        hidden = ours.hidden_size
        self.cell, self.initial_state = ours.cell, ours.initial_state
        self.lstm = nn.LSTM(ours.input_size, hidden, layers)
        products = [node for node in ours.cell.operators if node.op == "MM"]
        for number, layer in enumerate(ours.layers):
            for mm, node in enumerate(products):
                gate = [3, 1, 0, 2][mm // 2]
                kind = "ih" if node.args[0].op == "x_t" else "hh"
                weight, bias = layer.mm(mm)
                rows = slice(gate * hidden, (gate + 1) * hidden)
                with torch.no_grad():
                    getattr(self.lstm, f"weight_{kind}_l{number}")[rows] = weight
                    getattr(self.lstm, f"bias_{kind}_l{number}")[rows] = bias

    def forward(
        self, x: Tensor, state: State | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        out, (h, c) = self.lstm(x, None if state is None else (state.h, state.c))
        return out, State(h, c)


@pytest.mark.parametrize("level", ["word", "char"])
def test_perplexity_of_the_lstm_equals_torchs(level: str) -> None:
    """The two share weights but no code for the cell; untrained, and after an epoch of training."""
    corpus = datasets.load("pydoc", level=level)
    settings = replace(TINY, hidden=24, embedding=24, batch=10, bptt=20, dropout=0.0)
    ours, theirs = (LanguageModel(zoo["LSTM"], len(corpus.vocab), settings, seed=3) for _ in range(2))
    assert isinstance(theirs.rnn, RNN)
    theirs.rnn = TorchLSTM(theirs.rnn)
    train_columns = batchify(corpus.train[:2_000], 10)
    valid_columns = batchify(corpus.valid[:2_000], 10)
    before = perplexity(evaluate(ours, valid_columns))
    assert before == pytest.approx(perplexity(evaluate(theirs, valid_columns)), rel=1e-4)
    for model in (ours, theirs):
        train_epoch(TrainingStep(model, torch.Generator()), train_columns, 20.0)
    after = perplexity(evaluate(ours, valid_columns))
    assert after < 0.9 * before
    assert after == pytest.approx(perplexity(evaluate(theirs, valid_columns)), rel=1e-4)


def test_evaluate_equals_the_equations_one_token_at_a_time(characters: Corpus) -> None:
    """Two layers of h = tanh(W x + b + U h + d) and the tied softmax, written out in numpy."""
    words, (steps, columns) = len(characters.vocab), (30, 3)
    model = LanguageModel(zoo["TanhRNN"], words, TINY, seed=1)
    with torch.no_grad():
        model.embedding.mul_(30)  # far from its start, where all words are about as likely
        model.bias.normal_(generator=torch.Generator().manual_seed(2))
    text = batchify(characters.valid[: steps * columns], columns)

    embedding, bias = (p.detach().numpy().astype(float) for p in (model.embedding, model.bias))
    assert isinstance(model.rnn, RNN)
    layers = []
    for layer in model.rnn.layers:
        (w, b), (u, d) = ([part.detach().numpy().astype(float) for part in layer.mm(k)] for k in (0, 1))
        layers.append((w, b, u, d))
    losses = []
    for column in text.T.tolist():
        h = [np.zeros(10), np.zeros(10)]
        for token, following in pairwise(column):
            x = embedding[token]
            for number, (w, b, u, d) in enumerate(layers):
                h[number] = x = np.tanh(w @ x + b + u @ h[number] + d)
            logits = embedding @ x + bias
            losses.append(np.log(np.exp(logits).sum()) - logits[following])
    assert evaluate(model, text) == pytest.approx(np.mean(losses), rel=1e-5)


def test_untrained_all_words_are_about_as_likely(characters: Corpus) -> None:
    words = len(characters.vocab)
    model = LanguageModel(zoo["GRU"], words, LanguageModelSettings(), seed=0)
    assert evaluate(model, batchify(characters.valid[:300], 3)) == pytest.approx(math.log(words), rel=0.01)


# ---- the text in windows


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 20))
def test_windows_cover_every_token_once_in_order(steps: int, columns: int, bptt: int) -> None:
    text = torch.arange(steps * columns).view(columns, steps).T  # (steps, columns)
    pairs = list(windows(text, bptt))
    assert all(0 < len(inputs) <= bptt and inputs.shape == targets.shape for inputs, targets in pairs)
    assert all((targets == inputs + 1).all() for inputs, targets in pairs)
    read = torch.cat([inputs for inputs, _ in pairs]) if pairs else text[:0]
    assert torch.equal(read, text[:-1])


def test_only_the_last_window_is_short() -> None:
    assert [len(inputs) for inputs, _ in windows(torch.zeros(101, 2), 35)] == [35, 35, 30]


# ---- learning


def test_it_learns_what_can_be_known_and_no_more() -> None:
    """0 1 0 1 ... can be known for certain; after a fair coin only the coin is unknown."""
    certain = corpus_of([0, 1] * 400, 2)
    settings = replace(TINY, dropout=0.0, epochs=6, learning_rate=5.0, train_tokens=None, valid_tokens=None)
    outcome, _ = train(zoo["TanhRNN"], certain, settings)
    assert 1 < outcome.metrics["valid_ppl"] < 1.05

    coin = torch.randint(2, (400,), generator=torch.Generator().manual_seed(1))
    half = corpus_of(torch.stack((coin, torch.full_like(coin, 2)), dim=1).flatten().tolist(), 3)
    outcome, _ = train(zoo["TanhRNN"], half, settings)
    assert math.sqrt(2) * 0.98 < outcome.metrics["valid_ppl"] < math.sqrt(2) * 1.05


def test_the_outcome_is_that_of_the_best_epoch(characters: Corpus) -> None:
    seen: list[dict[str, float]] = []
    outcome, model = train(zoo["GRU"], characters, replace(TINY, epochs=4), seed=5, on_epoch=seen.append)
    assert seen == outcome.curve
    assert [point["epoch"] for point in seen] == [1, 2, 3, 4]
    best = min(point["valid_ppl"] for point in seen)
    assert outcome.metrics == {"valid_ppl": best, "valid_bits": pytest.approx(math.log2(best))}
    valid_columns = batchify(characters.valid[: TINY.valid_tokens], TINY.eval_batch)
    assert perplexity(evaluate(model, valid_columns)) == best
    assert outcome.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_parameters_are_those_of_the_formula(layers: int) -> None:
    """LSTM: 4 gates with a matrix and a bias on x and on h; the softmax adds one bias per word, being tied."""
    words, width = 50, 6
    settings = replace(TINY, layers=layers, hidden=width, embedding=width)
    model = LanguageModel(zoo["LSTM"], words, settings, seed=0)
    expected = words * width + words + layers * 4 * 2 * (width * width + width)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_the_last_layer_is_as_wide_as_the_embedding() -> None:
    settings = replace(TINY, layers=3, hidden=10, embedding=6)
    model = LanguageModel(zoo["TanhRNN"], 20, settings, seed=0)
    features, _ = model(torch.zeros(4, 2, dtype=torch.long))
    assert features.shape == (4, 2, 6)


def test_dropout_is_drawn_in_training_alone(characters: Corpus) -> None:
    model = LanguageModel(zoo["TanhRNN"], len(characters.vocab), replace(TINY, dropout=0.5), seed=0)
    tokens = characters.train[:12].view(6, 2)
    generator = torch.Generator().manual_seed(0)
    model.train()
    dropped, _ = model(tokens, generator=generator)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.2)
    assert not torch.equal(dropped, model(tokens, generator=generator)[0])
    model.eval()
    assert (model(tokens)[0] != 0).all()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


# ---- failures, annealing


def test_a_cell_that_explodes_has_failed_with_a_finite_curve(characters: Corpus) -> None:
    settings = replace(TINY, epochs=20, clip=math.inf, dropout=0.0)
    outcome, model = train(EXPLODING, characters, settings)
    assert (outcome.status, outcome.reason) == ("failed", "exploded")
    assert len(outcome.curve) < 20
    assert all(math.isfinite(value) for point in outcome.curve for value in point.values())
    assert all(math.isfinite(value) for value in outcome.metrics.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("fail_above", "epochs"), [(2.0, 3), (1e9, 5)])
def test_a_cell_above_the_bound_after_some_epochs_has_failed(
    characters: Corpus, fail_above: float, epochs: int
) -> None:
    settings = replace(TINY, epochs=5, fail_after=3, fail_above=fail_above, train_tokens=120)
    outcome, _ = train(zoo["TanhRNN"], characters, settings)
    assert len(outcome.curve) == epochs
    assert outcome.reason == ("above 2 after 3 epochs" if epochs == 3 else "")


def test_the_learning_rate_falls_when_an_epoch_does_not_improve(
    characters: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [3.0, 2.0, 2.5, 2.0, 1.9, 1.95, 1.8]
    given = iter(losses)
    monkeypatch.setattr(language_model, "train_epoch", lambda *_: (3.0, True))
    monkeypatch.setattr(language_model, "evaluate", lambda *_: next(given))
    outcome, _ = train(zoo["TanhRNN"], characters, replace(TINY, epochs=len(losses)))
    rates = [point["learning_rate"] for point in outcome.curve]
    assert rates == [20, 20, 20, 5, 1.25, 1.25, 1.25 / 4]  # worse, equal to the best, better, worse
    assert outcome.metrics["valid_ppl"] == pytest.approx(math.exp(1.8))


# ---- repeatable, interruptible


def test_a_seed_gives_the_same_bits_and_another_seed_others(characters: Corpus) -> None:
    curves = [train(zoo["GRU"], characters, TINY, seed)[0].curve for seed in (1, 1, 2)]
    assert curves[0] == curves[1]
    assert curves[0][0]["valid_ppl"] != curves[2][0]["valid_ppl"]
    torch.manual_seed(99)  # global randomness has no part in it
    assert train(zoo["GRU"], characters, TINY, 1)[0].curve == curves[0]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(characters: Corpus, tmp_path: Path, epoch: int) -> None:
    settings = replace(TINY, epochs=4)
    unbroken, model = train(zoo["LSTM"], characters, settings, seed=2)

    def interrupt(point: dict[str, float]) -> None:
        if point["epoch"] == epoch + 1:
            raise KeyboardInterrupt

    path = tmp_path / "deep" / "lstm.pt"
    with pytest.raises(KeyboardInterrupt):
        train(zoo["LSTM"], characters, settings, seed=2, on_epoch=interrupt, checkpoint=path)
    seen: list[dict[str, float]] = []
    resumed, again = train(zoo["LSTM"], characters, settings, seed=2, on_epoch=seen.append, checkpoint=path)
    assert [point["epoch"] for point in seen] == list(range(epoch + 1, 5))
    assert (resumed.metrics, resumed.curve) == (unbroken.metrics, unbroken.curve)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert [file.name for file in path.parent.iterdir()] == ["lstm.pt"]


def test_a_finished_run_answers_from_its_checkpoint(characters: Corpus, tmp_path: Path) -> None:
    first, _ = train(zoo["GRU"], characters, TINY, checkpoint=tmp_path / "gru.pt")
    second, _ = train(
        zoo["GRU"],
        characters,
        TINY,
        checkpoint=tmp_path / "gru.pt",
        on_epoch=lambda _: pytest.fail("trained"),
    )
    assert second.metrics == first.metrics


def test_a_checkpoint_of_another_model_is_refused(characters: Corpus, tmp_path: Path) -> None:
    train(zoo["GRU"], characters, replace(TINY, epochs=1), checkpoint=tmp_path / "gru.pt")
    for cell, settings, seed in [
        (zoo["LSTM"], TINY, 0),
        (zoo["GRU"], TINY, 1),  # the weights would fit, and silently give another run's numbers
        (zoo["GRU"], replace(TINY, learning_rate=1.0), 0),
    ]:
        with pytest.raises(ValueError, match=r"gru\.pt is a checkpoint of another model or run .*; delete it"):
            train(cell, characters, settings, seed, checkpoint=tmp_path / "gru.pt")


def test_a_damaged_checkpoint_says_so(characters: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "gru.pt"
    train(zoo["GRU"], characters, replace(TINY, epochs=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"gru\.pt is not a checkpoint of ours, or damaged; delete it"):
        train(zoo["GRU"], characters, replace(TINY, epochs=1), checkpoint=path)


def test_a_long_task_goes_on_from_its_checkpoint_and_leaves_none_behind(tmp_path: Path) -> None:
    task = LanguageModelTask(level="char", training=TINY, checkpoints=str(tmp_path))
    plain = replace(task, checkpoints=None).evaluate(zoo["GRU"], 0)
    seen: list[dict[str, float]] = []

    def stop(point: dict[str, float]) -> None:
        if point["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task.evaluate(zoo["GRU"], 0, on_epoch=stop)
    assert len(list(tmp_path.iterdir())) == 1
    assert task.evaluate(zoo["GRU"], 0, on_epoch=seen.append).metrics == plain.metrics
    assert seen[0]["epoch"] == 2  # the epoch in which it was stopped had not reached the disk
    assert not list(tmp_path.iterdir())


# ---- texts that are too short


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid_tokens": 5}, "validation text of pydoc is too short: it has 5 tokens, and eval_batch=3 columns"),
        ({"valid_tokens": 5}, "take 6, 1 more; lower eval_batch or raise valid_tokens"),
        ({"train_tokens": 7}, "training text of pydoc.* 7 tokens, .*batch=4 .* 8, 1 more; lower batch or raise train_"),
        ({"batch": 10**6, "train_tokens": None}, "lower batch or take a longer text"),
        ({"eval_batch": 10**6, "valid_tokens": 10**7}, "lower eval_batch or take a longer text"),
    ],
)
def test_a_text_shorter_than_its_columns_is_named_before_training(
    characters: Corpus, changes: dict[str, Any], message: str
) -> None:
    settings = replace(TINY, **changes)
    with pytest.raises(ValueError, match=message):
        train(zoo["GRU"], characters, settings, on_epoch=lambda _: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):  # a search asks for it before it has workers
        len(LanguageModelTask(level="char", training=settings).data_hash)


def test_the_shortest_texts_that_can_be_used(characters: Corpus) -> None:
    outcome, model = train(zoo["GRU"], characters, replace(TINY, train_tokens=8, valid_tokens=6))
    assert outcome.status == "ok"
    task = LanguageModelTask(level="char", training=TINY)
    assert task.test(model, characters.valid[:6])["test_ppl"] > 1
    with pytest.raises(ValueError, match="the test text is too short: it has 5 tokens"):
        task.test(model, characters.valid[:5])


@pytest.mark.parametrize("name", ["batch", "bptt", "eval_batch", "train_tokens", "valid_tokens"])
@pytest.mark.parametrize("value", [0, -5])
def test_settings_that_count_are_one_or_more(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, got {value}"):
        replace(TINY, **{name: value})  # type: ignore[arg-type]


# ---- one's own text


LINES = "the dog sleeps and the cat runs\nthe cat sleeps and the dog runs\n" * 20


def test_a_task_takes_ones_own_text_to_its_workers() -> None:
    corpus = datasets.corpus_from_text("mine", LINES, LINES, LINES)
    task = LanguageModelTask(own=corpus, training=replace(TINY, valid_tokens=None))
    assert (task.corpus_name, task.level, task.data_hash) == ("mine", "word", corpus.hash)
    assert task.settings["corpus"] == "mine"
    expected = train(zoo["GRU"], corpus, task.training, 4)[0].metrics
    with Workers(task, count=1) as workers:
        ((_, outcome),) = workers.map([Job(zoo["GRU"], 4)])
    assert outcome.metrics == pytest.approx(expected, rel=1e-6)


def test_own_text_letter_by_letter() -> None:
    corpus = datasets.corpus_from_text("mine", LINES, LINES, LINES, level="char")
    task = LanguageModelTask(own=corpus)
    assert (task.level, task.data_words) == ("char", "mine-characters")
    with pytest.raises(ValueError, match="vocab_size=500 cannot cut the corpus given as own"):
        replace(task, vocab_size=500)


# ---- settings, task


def test_the_defaults_are_the_papers() -> None:
    """S17 appendix B.1; batch, steps and embedding, which it does not state, from the PyTorch example of 2017."""
    stated: dict[str, Any] = {
        "layers": 2,
        "hidden": 200,
        "learning_rate": 20.0,
        "anneal": 4.0,
        "epochs": 40,
        "dropout": 0.2,
        "clip": 0.075,
        "embedding_range": 0.04,
        "tied": True,
        "fail_above": 500.0,
        "fail_after": 5,
    }
    inferred = {"batch": 20, "bptt": 35, "embedding": 200, "eval_batch": 10}
    unscaled = {"train_tokens": None, "valid_tokens": None}
    ours = {"product_dtype": "float32"}
    assert vars(LanguageModelSettings()) == {**stated, **inferred, **unscaled, **ours}


def test_weights_start_from_the_papers_distributions() -> None:
    """U(-0.04, 0.04) for embeddings, torch's U(-1/sqrt(H), 1/sqrt(H)) for the cell, 0 for the softmax's bias."""
    model = LanguageModel(zoo["LSTM"], 500, LanguageModelSettings(), seed=0)
    for parameter, reach in [(model.embedding, 0.04), *((p, 200**-0.5) for p in model.rnn.parameters())]:
        assert 0.97 * reach < parameter.abs().max().item() <= reach
        assert parameter.std().item() == pytest.approx(reach / math.sqrt(3), rel=0.1)
        assert abs(parameter.mean().item()) < 0.1 * reach
    assert (model.bias == 0).all()


def test_the_task_trains_what_its_settings_say(characters: Corpus) -> None:
    task = LanguageModelTask(level="char", training=TINY)
    outcome = task.evaluate(zoo["GRU"], 4)
    assert outcome.metrics == train(zoo["GRU"], characters, TINY, 4)[0].metrics
    assert task.data_hash == characters.hash
    assert task.settings["corpus"] == "pydoc"
    assert task.settings["hidden"] == 10


def test_a_task_says_in_words_how_it_trains() -> None:
    assert LanguageModelTask("wikitext2").words() == "2 x 200 units, 40 epochs over all words of wikitext2"
    small = LanguageModelTask("ptb", "char", training=replace(TINY, layers=1, epochs=1, train_tokens=200_000))
    assert small.words() == "1 x 10 units, 1 epoch over 200,000 characters of ptb"
    assert LanguageModelTask(training=replace(TINY, train_tokens=1)).words().endswith("2 epochs over 1 word of pydoc")


def test_a_task_is_made_again_from_the_settings_of_the_rows_that_ship() -> None:
    rows = Record.load(RECORDS / "ptb-chars-search.jsonl.gz").evaluations()
    assert all(LanguageModelTask.of_settings(row.settings).settings == row.settings for row in rows)
    rounded = LanguageModelTask("ptb", training=replace(TINY, product_dtype="bfloat16"))
    assert LanguageModelTask.of_settings(rounded.settings) == rounded


def test_a_softmax_of_its_own_is_trained_beside_the_embedding() -> None:
    """PyTorch's example, 2 x 200 units on WikiText-2, has 13,987,678 weights where the two are not tied."""
    untied = replace(TINY, layers=2, hidden=200, embedding=200, tied=False)
    count = sum(parameter.numel() for parameter in LanguageModel(zoo["LSTM"], 33_278, untied, seed=0).parameters())
    assert count == 2 * 33_278 * 200 + 33_278 + 2 * (8 * 200 * 200 + 8 * 200)
    assert "tied" not in LanguageModelTask(training=TINY).settings  # a record made before there was a choice
    task = LanguageModelTask(training=replace(TINY, tied=False))
    assert LanguageModelTask.of_settings(task.settings) == task
    corpus = datasets.load("pydoc", level="char")
    outcome, model = train(zoo["LSTM"], corpus, replace(TINY, tied=False, train_tokens=4_000, valid_tokens=1_000))
    begun = LanguageModel(zoo["LSTM"], len(corpus.vocab), replace(TINY, tied=False), seed=0)
    assert outcome.status == "ok"
    assert not torch.equal(model.softmax, model.embedding)
    assert not torch.equal(model.softmax, begun.softmax)
    assert not torch.equal(model.embedding, begun.embedding)


def test_bfloat16_products_learn_as_well_and_are_another_task() -> None:
    """A record made before there was a choice stays a record of float32."""
    exact, rounded = (replace(TINY, product_dtype=name) for name in ("float32", "bfloat16"))
    assert "product_dtype" not in LanguageModelTask(training=exact).settings
    assert LanguageModelTask(training=rounded).settings["product_dtype"] == "bfloat16"
    corpus = datasets.load("pydoc", level="char")
    found = []
    for settings in (exact, rounded):
        outcome, model = train(zoo["LSTM"], corpus, replace(settings, train_tokens=4_000, valid_tokens=1_000))
        found.append(outcome.metrics["valid_ppl"])
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert found[0] != found[1]
    assert _written(rounded) == repr(rounded).replace(", tied=True", "")
    assert _written(exact) == _written(rounded).replace(", product_dtype='bfloat16'", "")  # checkpoints go on as well
    assert found[0] == pytest.approx(found[1], rel=0.02)
    with pytest.raises(ValueError, match="product_dtype must be one of float32, bfloat16, got 'float16'"):
        replace(TINY, product_dtype="float16")
