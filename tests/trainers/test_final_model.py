"""The published language models: every piece of the recipe against a plain statement of what it is."""

import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro import datasets, deadline, zoo
from nasrepro.deadline import TimeIsUp
from nasrepro.trainers import final_model
from nasrepro.trainers.final_model import (
    FinalModel,
    FinalModelTask,
    FinalProgress,
    FinalStep,
    parameters,
    train,
    window_lengths,
    with_parameters,
)
from nasrepro.trainers.final_settings import CharacterModelSettings, FinalModelSettings, WordModelSettings

TINY = FinalModelSettings(
    layers=2,
    hidden=12,
    embedding=8,
    batch=8,
    bptt=10,
    epochs=3,
    fine_tuning_epochs=2,
    patience=1,
    learning_rate=5.0,
    train_tokens=1_500,
    valid_tokens=500,
)
PLAIN = replace(
    TINY,
    input_dropout=0.0,
    layer_dropout=0.0,
    output_dropout=0.0,
    embedding_dropout=0.0,
    weight_drop=0.0,
    activation_penalty=0.0,
    temporal_penalty=0.0,
    weight_decay=0.0,
    jitter=False,
)
WORDS = 20


def step_of(recipe: FinalModelSettings, cell: str = "LSTM", seed: int = 0) -> FinalStep:
    step = FinalStep(FinalModel(zoo[cell], WORDS, recipe, seed), torch.Generator().manual_seed(seed))
    step.model.train()
    step.begin(0.0)
    return step


def text(steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and targets (T, B)."""
    found = torch.randint(WORDS, (steps + 1, TINY.batch), generator=torch.Generator().manual_seed(seed))
    return found[:-1], found[1:]


# ---- sizes


@pytest.mark.parametrize(
    ("cell", "words", "recipe", "printed"),
    [
        ("BC3", 10_000, FinalModelSettings(), 24e6),
        ("BC3", 33_278, FinalModelSettings(), 33e6),
        ("GRU", 10_000, FinalModelSettings(hidden=1350), 24e6),
        ("GRU", 33_278, FinalModelSettings(hidden=1350), 33e6),
        ("LSTM", 10_000, FinalModelSettings(hidden=1150), 24e6),
        ("NASCell", 10_000, WordModelSettings(tied=False), 32e6),
        ("NASCell", 10_000, WordModelSettings(), 25e6),
        ("NASCell", 50, CharacterModelSettings(), 16.28e6),
    ],
)
def test_models_have_as_many_weights_as_the_papers_print(
    cell: str, words: int, recipe: FinalModelSettings, printed: float
) -> None:
    """In millions, as printed; the paper's 33M of WikiText-2 are 33.5, and its 16.28M are 16.23."""
    assert parameters(zoo[cell], words, recipe) == pytest.approx(printed, rel=0.025)


@pytest.mark.parametrize("cell", ["LSTM", "BC3", "NASCell", "MaxSin"])
@pytest.mark.parametrize(
    "recipe", [TINY, replace(TINY, tied=False), replace(TINY, bias=False), replace(TINY, layers=1)]
)
def test_the_number_of_weights_is_that_of_the_model(cell: str, recipe: FinalModelSettings) -> None:
    model = FinalModel(zoo[cell], WORDS, recipe, seed=0)
    assert parameters(zoo[cell], WORDS, recipe) == sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_solved_for() -> None:
    """Widths that reproduce the papers' numbers of weights (found by hand, before this code was)."""
    solved = {
        "32M, a softmax of its own": with_parameters(zoo["NASCell"], 32_000_000, 10_000, WordModelSettings(tied=False)),
        "54M": with_parameters(zoo["NASCell"], 54_000_000, 10_000, WordModelSettings()),
        "6.57M": with_parameters(zoo["NASCell"], 6_570_000, 50, CharacterModelSettings()),
        "6.57M, LSTM": with_parameters(zoo["LSTM"], 6_570_000, 50, CharacterModelSettings(bias=True)),
    }
    by_hand = {"32M, a softmax of its own": 735, "54M": 1150, "6.57M": 500, "6.57M, LSTM": 716}
    assert {name: recipe.hidden for name, recipe in solved.items()} == pytest.approx(by_hand, abs=4)
    assert solved["54M"].embedding == solved["54M"].hidden  # an embedding as wide as a layer stays so
    assert solved["6.57M"].embedding == 128
    with pytest.raises(ValueError, match="100 weights are too few: with one unit per layer the model has"):
        with_parameters(zoo["LSTM"], 100, 10_000, FinalModelSettings())


# ---- windows


def test_windows_are_drawn_as_awd_lstm_draws_them() -> None:
    recipe = FinalModelSettings()
    lengths = torch.tensor(window_lengths(2_000_000, recipe, seed=3, epoch=1)[:-1]).double()
    halves = (lengths < 52).double().mean()  # 3.5 standard deviations from either mean
    assert halves == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / len(lengths)))
    whole = lengths[lengths >= 52]
    assert whole.mean() == pytest.approx(70 - 0.5, abs=4 * 5 / math.sqrt(len(whole)))  # whole numbers below
    assert whole.std() == pytest.approx(math.sqrt(5**2 + 1 / 12), rel=0.03)
    assert min(window_lengths(100_000, replace(recipe, bptt=10), 0, 1)) == 5


def test_windows_cover_a_text_and_depend_on_seed_and_epoch_alone() -> None:
    recipe = FinalModelSettings()
    for columns in (2, 6, 71, 5_000):
        for chosen in (recipe, replace(recipe, jitter=False)):
            lengths = window_lengths(columns, chosen, seed=1, epoch=2)
            assert sum(lengths[:-1]) < columns - 1 <= sum(lengths)
    first = window_lengths(5_000, recipe, 1, 1)
    assert first == window_lengths(5_000, recipe, 1, 1)
    assert first != window_lengths(5_000, recipe, 1, 2) != window_lengths(5_000, recipe, 2, 1) != first


# ---- what is dropped


def test_a_dropped_word_is_dropped_wherever_it_stands_and_others_are_scaled() -> None:
    model = FinalModel(zoo["LSTM"], WORDS, replace(PLAIN, embedding_dropout=0.5), seed=0).train()
    seen: list[Tensor] = []
    model.rnn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    tokens = torch.arange(WORDS).repeat(3, 2)[:, :30]  # (3, 30): every word several times
    model(tokens, None, torch.Generator().manual_seed(0))
    ratio = seen[0] / model.embedding.detach()[tokens]
    by_word = {int(word): ratio[tokens == word].unique().tolist() for word in tokens.unique()}
    assert all(found in ([0.0], pytest.approx([2.0])) for found in by_word.values())
    assert 0 < sum(found == [0.0] for found in by_word.values()) < WORDS


def test_inputs_and_outputs_are_dropped_by_one_mask_for_all_steps() -> None:
    recipe = replace(PLAIN, input_dropout=0.5, output_dropout=0.5)
    model = FinalModel(zoo["LSTM"], WORDS, recipe, seed=0).train()
    seen: list[Tensor] = []
    model.rnn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    tokens, _ = text(6)
    generator = torch.Generator().manual_seed(0)
    raw, _ = model.run(tokens, None, generator)
    dropped = model.drop_outputs(raw, generator)
    for kept in (seen[0] / model.embedding.detach()[tokens], (dropped / raw).detach()):
        assert torch.allclose(kept, kept[:1].expand_as(kept), atol=1e-5)  # alike at every step
        assert set(kept[0].round(decimals=3).flatten().tolist()) == {0.0, 2.0}
    model.eval()
    quiet, _ = model.run(tokens)
    assert torch.equal(model.drop_outputs(quiet), quiet)


def test_weight_drop_spares_the_weights_themselves_and_draws_anew() -> None:
    """Dropping in place kills weights for ever (Better_LSTM_PyTorch issue 7)."""
    step = step_of(replace(PLAIN, weight_drop=0.5))
    recurrent = step.model.rnn.layers[0].weight[1]  # after those on the input
    before = recurrent.detach().clone()
    dead = []
    for window in range(2):
        loss, _, _ = step.read(*text(5, window))
        (gradient,) = torch.autograd.grad(loss, recurrent)
        dead.append(gradient == 0)
    assert torch.equal(recurrent, before)
    assert all(each.double().mean() == pytest.approx(0.5, abs=0.1) for each in dead)
    assert not torch.equal(*dead)


# ---- the objective


def test_activations_are_penalised_after_dropout_and_their_change_before() -> None:
    recipe = replace(PLAIN, output_dropout=0.5, activation_penalty=2.0, temporal_penalty=3.0)
    step, (inputs, targets) = step_of(recipe), text(7)
    raw, _ = step.model.run(inputs, None)
    mask = torch.empty(1, *raw.shape[1:]).bernoulli_(0.5, generator=torch.Generator().manual_seed(0)) * 2
    features = raw * mask
    logits = features @ step.model.embedding.T + step.model.bias
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    change = sum(((raw[t] - raw[t - 1]) ** 2).mean() for t in range(1, 7)) / 6
    loss, objective, _ = step.read(inputs, targets)
    assert loss.item() == pytest.approx(cross_entropy.item(), rel=1e-5)
    wanted = cross_entropy + 2 * (features**2).mean() + 3 * change
    assert objective.item() == pytest.approx(wanted.item(), rel=1e-5)
    one, alone, _ = step.read(inputs[:1], targets[:1])
    assert torch.isfinite(alone)
    assert one < alone


# ---- the optimiser


class OnTorch(nn.Module):
    """The same recipe on torch.nn.LSTM, with nothing dropped: layers of 12 and 8 units."""

    def __init__(self, model: FinalModel) -> None:
        super().__init__()
        self.embedding = nn.Parameter(model.embedding.detach().clone())
        self.bias = nn.Parameter(model.bias.detach().clone())
        self.first, self.last = nn.LSTM(8, 12), nn.LSTM(12, 8)
        for theirs, layer in ((self.first, model.rnn.layers[0]), (self.last, model.rnn.layers[1])):
            # The zoo's LSTM says its gates in the order o, f, i, g, and of each MM(x_t) before MM(h_{t-1}).
            of_x = [layer.mm(2 * "ofig".index(gate)) for gate in "ifgo"]
            of_h = [layer.mm(2 * "ofig".index(gate) + 1) for gate in "ifgo"]
            with torch.no_grad():
                for parameter, rows in (
                    (theirs.weight_ih_l0, [weight for weight, _ in of_x]),
                    (theirs.weight_hh_l0, [weight for weight, _ in of_h]),
                    (theirs.bias_ih_l0, [bias for _, bias in of_x]),
                    (theirs.bias_hh_l0, [bias for _, bias in of_h]),
                ):
                    parameter.copy_(torch.cat(rows))

    def forward(self, inputs: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
        """inputs and targets (T, B) -> the loss () and the state after."""
        one, two = state
        x, one = self.first(F.embedding(inputs, self.embedding), one)
        x, two = self.last(x, two)
        logits = x @ self.embedding.T + self.bias
        detached = [tuple(part.detach() for part in each) for each in (one, two)]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), detached


def test_learning_equals_that_of_torch_nn_lstm_with_awd_lstms_loop() -> None:
    """Windows of three lengths, the rate in proportion; clipping; decay; the change to averaging; the penalties off."""
    recipe = replace(PLAIN, weight_decay=1e-3, jitter=True)
    step = step_of(recipe)
    theirs = OnTorch(step.model)
    weights = list(theirs.parameters())
    optimiser: torch.optim.Optimizer = torch.optim.SGD(weights, lr=5.0, weight_decay=1e-3)
    state: Any = (None, None)
    for number, length in enumerate((10, 7, 13, 5, 9, 12)):
        if number == 3:
            step.restart(averaging=True)
            optimiser = torch.optim.ASGD(weights, lr=5.0, t0=0, lambd=0.0, weight_decay=1e-3)
        inputs, targets = text(length, number)
        step.set_rate(5.0 * length / 10)
        nats, norm = step(inputs, targets)
        loss, state = theirs(inputs, targets, state)
        optimiser.zero_grad()
        loss.backward()
        wanted_norm = nn.utils.clip_grad_norm_(weights, recipe.clip)
        optimiser.param_groups[0]["lr"] = 5.0 * length / 10
        optimiser.step()
        assert nats == pytest.approx(loss.item(), rel=1e-5)
        assert norm == pytest.approx(wanted_norm.item(), rel=1e-4)
    assert torch.allclose(step.model.embedding, theirs.embedding, atol=1e-5)
    with step.averages():
        assert torch.allclose(step.model.embedding, optimiser.state[theirs.embedding]["ax"], atol=1e-5)
        assert not torch.allclose(step.model.embedding, theirs.embedding, atol=1e-5)
    assert torch.allclose(step.model.embedding, theirs.embedding, atol=1e-5)


def test_averaging_steps_at_the_rate_of_the_window_before() -> None:
    """ASGD by its definition, for one weight: it moves first and takes in the new rate then (AWD-LSTM as it is run)."""
    step = step_of(replace(PLAIN, clip=1e9))
    step.restart(averaging=True)
    weight, moved, averages = step.model.bias, [], []
    for number, rate in enumerate((1.0, 3.0, 0.5, 2.0)):
        inputs, targets = text(6, number)
        before = weight.detach().clone()
        step.set_rate(rate)
        step(inputs, targets)
        assert weight.grad is not None
        moved.append(((before - weight.detach()) / weight.grad).median().item())
        with step.averages():
            averages.append(weight.detach().clone())
    assert moved == pytest.approx([1.0, 1.0, 3.0, 0.5], rel=1e-3)
    assert not torch.equal(averages[-1], weight)


@pytest.mark.parametrize("losses", [[5, 4, 3, 2, 1, 0], [5, 4, 3, 4, 3.5, 3, 2], [3, 4, 4, 4], [5, 4, 4, 5, 4, 5]])
def test_averaging_begins_by_awd_lstms_rule(losses: list[float]) -> None:
    step, progress = step_of(TINY), FinalProgress(5.0)
    begun = None
    for epoch, loss in enumerate(losses, 1):
        final_model._leave(step, progress, 1, float(loss))  # an epoch before fine-tuning
        if progress.averaging and begun is None:
            begun = epoch
    # Its own words: len(history) > nonmono and val_loss > min(history[:-nonmono]), the history without this one.
    wanted = next((n for n in range(1, len(losses) + 1) if n - 1 > 1 and losses[n - 1] > min(losses[: n - 2])), None)
    assert begun == wanted


# ---- training


@pytest.fixture(scope="module")
def corpus() -> datasets.Corpus:
    return datasets.load("pydoc", level="char")


def test_it_learns_averages_and_is_fine_tuned_from_the_best_averages(corpus: datasets.Corpus) -> None:
    recipe = replace(TINY, epochs=6, learning_rate=20.0)
    outcome, model = train(zoo["GRU"], corpus, recipe, seed=1)
    phases = [point["averaging"] for point in outcome.curve]
    assert outcome.status == "ok"
    assert len(phases) in (7, 8)
    assert phases == sorted(phases)
    assert phases[-1] == 1.0
    best = min(point["valid_ppl"] for point in outcome.curve)
    assert best < len(corpus.vocab) / 2
    assert outcome.metrics["valid_ppl"] == best
    columns = datasets.batchify(corpus.valid[: recipe.valid_tokens], recipe.eval_batch)
    assert math.exp(final_model.evaluate(model, columns)) == pytest.approx(best, rel=1e-6)


def test_training_takes_the_rates_the_averages_and_the_best_weights_that_it_says(
    corpus: datasets.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates in proportion to the windows; averages are what is validated; fine-tuning begins from the best of them."""
    recipe = replace(TINY, epochs=5, learning_rate=20.0)
    rates: list[float] = []
    seen: list[tuple[bool, float, list[Tensor], list[Tensor]]] = []
    begun: list[list[Tensor]] = []
    set_rate, evaluate, restart = FinalStep.set_rate, final_model.evaluate, FinalStep.restart
    steps: list[FinalStep] = []

    def noted(step: FinalStep, averaging: bool) -> None:
        begun.append([weight.detach().clone() for weight in step.parameters])
        steps[:] = [step]
        restart(step, averaging)

    def validated(model: FinalModel, columns: Tensor) -> float:
        loss = evaluate(model, columns)
        (step,) = steps
        averages = [step.optimiser.state[weight]["ax"].clone() for weight in step.parameters if step.averaging]
        seen.append((step.averaging, loss, [weight.detach().clone() for weight in step.parameters], averages))
        return loss

    monkeypatch.setattr(FinalStep, "set_rate", lambda step, rate: (rates.append(rate), set_rate(step, rate))[1])
    monkeypatch.setattr(FinalStep, "restart", noted)
    monkeypatch.setattr(final_model, "evaluate", validated)
    outcome, _ = train(zoo["GRU"], corpus, recipe, seed=1)
    columns = recipe.train_tokens // recipe.batch
    epochs = range(1, len(outcome.curve) + 1)
    lengths = [length for epoch in epochs for length in window_lengths(columns, recipe, 1, epoch)]
    assert rates == pytest.approx([20.0 * length / recipe.bptt for length in lengths])
    averaged = [(weights, averages) for averaging, _, weights, averages in seen if averaging]
    assert averaged
    assert all(map(torch.equal, *averaged[0])), "the averages are in place while they are validated"
    best = min(seen[: recipe.epochs], key=lambda each: each[1])
    assert all(map(torch.equal, begun[-1], best[2])), "the weights of the best epoch, averaged or not"


@pytest.mark.parametrize(
    "recipe",
    [
        replace(TINY, optimiser="adam", learning_rate=0.01, fine_tuning_epochs=0),
        replace(TINY, optimiser="sgd", decay=0.5, decay_after=1, fine_tuning_epochs=0),
        replace(TINY, tied=False, hidden_dropout=0.2, weight_range=0.1, bias=False),
    ],
)
def test_other_recipes_learn_too(recipe: FinalModelSettings, corpus: datasets.Corpus) -> None:
    outcome, _ = train(zoo["NASCell"], corpus, recipe)
    assert outcome.metrics["valid_ppl"] < len(corpus.vocab) / 2
    if recipe.optimiser == "sgd":
        assert [point["learning_rate"] for point in outcome.curve] == [5.0, 2.5, 1.25]


def test_a_training_that_explodes_has_failed(corpus: datasets.Corpus) -> None:
    cell = "Add(Add(MM(x_t), MM(h_{t-1})), Add(MM(h_{t-1}), h_{t-1}))"
    recipe = replace(PLAIN, learning_rate=1e30, clip=1e30)
    outcome, _ = train(cell, corpus, recipe)
    assert (outcome.status, outcome.reason) == ("failed", "exploded")


@pytest.mark.parametrize("cell", ["BC3", "MT4"])  # one with a memory, one that counts its steps
@pytest.mark.parametrize("optimiser", ["nt-asgd", "adam"])
def test_stopped_after_any_step_and_gone_on_with_it_ends_with_the_same_numbers(
    cell: str, optimiser: Any, corpus: datasets.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest: dict[str, Any] = {} if optimiser == "nt-asgd" else {"fine_tuning_epochs": 0, "learning_rate": 0.01}
    recipe = replace(TINY, optimiser=optimiser, embedding=12, train_tokens=600, **rest)
    whole, model = train(zoo[cell], corpus, recipe, seed=2)
    asked, stops = 0, 0

    def is_over() -> bool:
        nonlocal asked
        asked += 1
        return asked % 3 == 0  # every third step, so somewhere else in every epoch

    def stop() -> None:
        if asked % 3 == 0:
            raise TimeIsUp

    monkeypatch.setattr(final_model, "is_over", is_over)
    monkeypatch.setattr(final_model, "demand_time", stop)
    while True:
        try:
            parts, again = train(zoo[cell], corpus, recipe, seed=2, checkpoint=tmp_path / "kept.pt")
            break
        except TimeIsUp:
            stops += 1
    assert stops > 5
    assert parts.curve == whole.curve
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_a_step_with_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    """Killed by SIGTERM, as clusters do before they take a machine back, or by Ctrl-C, and gone on with."""
    script = tmp_path / "one.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from dataclasses import replace
        from pathlib import Path
        from nasrepro import datasets, zoo
        from nasrepro.trainers.final_model import train
        from nasrepro.trainers.final_settings import FinalModelSettings

        small = dict(layers=1, hidden=8, embedding=8, batch=4, bptt=10, fine_tuning_epochs=0, valid_tokens=400)
        recipe = FinalModelSettings(epochs=100_000, train_tokens=4_000, **small)
        path = Path(sys.argv[1])
        print("begun", flush=True)
        train(zoo["LSTM"], datasets.load("pydoc", level="char"), recipe, checkpoint=path, device="cpu",
              on_epoch=lambda point: print("epoch", flush=True))
        """)
    )
    path = tmp_path / "kept.pt"
    command = [sys.executable, str(script), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "epoch\n"]
        os.kill(process.pid, number)
        process.wait(timeout=60)
        assert number == signal.SIGTERM or "KeyboardInterrupt" in process.stderr.read()
    assert process.returncode == -number if number == signal.SIGTERM else process.returncode
    kept = torch.load(path, weights_only=True)["run"]
    assert kept["curve"]
    assert kept["windows"] > 0  # within an epoch


def test_signals_come_through_in_the_end() -> None:
    reached = []

    def interrupted(times: int) -> None:
        with deadline.stop_signals() as signals:
            for number in range(times):
                signal.raise_signal(signal.SIGINT)
                reached.append((number, signals.number))

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted(1)
    assert reached == [(0, signal.SIGINT)]  # kept back until the end
    with pytest.raises(KeyboardInterrupt):
        interrupted(2)
    assert reached[1:] == [(0, signal.SIGINT)]  # who asks twice does not wait
    interrupted(0)
    assert signal.getsignal(signal.SIGINT) is before


# ---- settings and task


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="optimiser must be one of nt-asgd, sgd, adam, got 'adagrad'"):
        FinalModelSettings(optimiser="adagrad")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embedding_dropout must lie in"):
        FinalModelSettings(embedding_dropout=1.0)
    with pytest.raises(ValueError, match="fine_tuning_epochs=13 go on with averaged weights, which 'adam' has none of"):
        FinalModelSettings(optimiser="adam")
    with pytest.raises(ValueError, match="fine_tuning_epochs=-1 and decay_after=0 are not negative"):
        FinalModelSettings(fine_tuning_epochs=-1)
    with pytest.raises(ValueError, match="bptt must be 1 or more, got 0"):
        FinalModelSettings(bptt=0)


def test_the_task_is_known_by_its_settings() -> None:
    task = FinalModelTask("ptb", training=FinalModelSettings())
    assert FinalModelTask.of_settings(task.settings) == task
    assert task.words() == "3 x 1,080 units, 200 + 13 epochs over all words of ptb"
    characters = FinalModelTask("ptb", "char", training=CharacterModelSettings())
    assert characters.words() == "2 x 800 units, 383 epochs over all characters of ptb"
    assert characters.is_long
    assert FinalModelTask.of_settings(characters.settings).settings == characters.settings
