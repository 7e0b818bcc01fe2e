"""The published language models: sizes, what is trained, and the tables beside the papers'."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import Tensor

from nasrepro.dsl import zoo
from nasrepro.experiments import final_models
from nasrepro.experiments.experiment import Resources, on_device, resumable
from nasrepro.experiments.final_models import analysis, figures, parity
from nasrepro.experiments.final_models.on_torch import TorchFinalModel, TorchStack
from nasrepro.experiments.final_models.sizes import ON_TORCH, SIZES, row
from nasrepro.report import papers
from nasrepro.search import Record
from nasrepro.search.record import Evaluation
from nasrepro.trainers import forecast
from nasrepro.trainers.final_model import parameters
from nasrepro.trainers.final_settings import FinalModelSettings
from nasrepro.trainers.forecast import WIKITEXT2

COURSE = SIZES["course"]


def evaluation(cell: str, seed: int, test: float, epochs: int = 3) -> Evaluation:
    """A training that came to its end."""
    curve = [{"epoch": n, "valid_ppl": test + 3 - n, "averaging": float(n > 2)} for n in range(1, epochs + 1)]
    metrics = {"valid_ppl": test + 1, "test_ppl": test}
    return Evaluation(
        key=f"{cell}{seed}",
        cell=cell,
        canonical=cell,
        hash=zoo[cell].hash,
        seed=seed,
        task="final language model, test split",
        settings={},
        data="",
        version=1,
        status="ok",
        reason="",
        metrics=metrics,
        curve=curve,
        parameters=1_000,
        device="cpu",
        seconds=120.0,
        created="2026-01-01",
    )


@pytest.fixture
def found() -> dict[str, Evaluation]:
    """Made up: BC3 at 60, 61, 62; the GRU at 70, 73, 70; the LSTM at 57 alone."""
    losses: Mapping[str, list[float]] = {"BC3": [60, 61, 62], "GRU": [70, 73, 70], "LSTM": [57]}
    by_name = {model.name: model for model in COURSE.tables["s17.table1"]}
    return {
        row("s17.table1", by_name[name], seed): evaluation(name, seed, value)
        for name, values in losses.items()
        for seed, value in zip(COURSE.seeds, values, strict=False)
    }


# ---- sizes


@pytest.mark.parametrize("profile", ["quick", "course"])
def test_compared_cells_are_equally_large_and_trained_alike(profile: str) -> None:
    for table, models in SIZES[profile].tables.items():
        words = {"pydoc": 2_000, "ptb": 10_000, "wikitext2": 33_278}[models[0].task.corpus_name]
        words = words if models[0].task.level == "word" else 60
        counts = [parameters(zoo[model.cell], words, model.task.training) for model in models]  # torch's LSTM as ours
        assert max(counts) / min(counts) < 1.03, table
        others = {str({**vars(model.task.training), "hidden": 0, "embedding": 0}) for model in models}
        assert len(others) == 1, table


def test_the_papers_own_models_have_the_weights_that_are_printed() -> None:
    for paper, count in (("s17", 4), ("zl17", 6)):
        counts = analysis.published_parameters(paper)
        assert len(counts) == count
        for entry, found in counts.items():
            printed = papers.load()[entry]
            # Table 3's large model has 2 x 800 units, by which its 16.28M would be 16.23M.
            tolerance = 60_000 if entry == "zl17.table3.new16.params" else float(printed.tolerance or 0)
            assert abs(found - float(printed.value or 0)) <= tolerance, entry
    assert "| S17's Table 1 | BC3 | 3 x 1,080 | 24,156,240 | 24M |" in analysis.sizes_told("s17")


def test_every_bold_row_is_trained_by_its_full_recipe_at_night() -> None:
    rows = {(table, model.row) for table, models in SIZES["night"].tables.items() for model in models}
    own = {
        tuple(entry.id.rsplit(".", 2)[:2])
        for entry in papers.load().values()
        if entry.id.startswith(tuple(analysis.TABLES)) and entry.own and not entry.id.startswith("s17.table1.nas")
    }
    assert rows >= own
    bc3 = next(model for model in SIZES["night"].tables["s17.table1"] if model.name == "BC3")
    assert bc3.task.training == FinalModelSettings()


# ---- what is trained


def test_models_are_recorded_from_every_seed_on_the_test_split(tmp_path: Path) -> None:
    whole = on_device(SIZES["smoke"], "cpu")
    sizes = replace(whole, tables={"zl17.table3": whole.tables["zl17.table3"]})
    made = final_models.trainings(sizes)
    assert made.pop().words == "PyTorch's example on WikiText-2, one epoch"
    assert [one.words for one in made] == [
        f"{model}, ZL17's Table 3" for model in ("NASCell, 6.57M", "LSTM, 6.57M", "NASCell, 16.28M")
    ]
    assert made[0].answers == ["zl17.table3.new6.test"], "ZL17 prints no validation numbers"
    with Record(tmp_path / "record.sqlite") as record:
        assert [one.left([record]) for one in made] == [2, 2, 2]
        for one in made:
            one.make(Resources(record, workers=0))
        assert [one.left([record]) for one in made] == [0, 0, 0]
        evaluations = record.evaluations()
        reads = {reading["row"].rpartition(" ")[0] for reading in record.test_reads()}
    models = ("NASCell, 6.57M", "LSTM, 6.57M", "NASCell, 16.28M")
    assert reads == {f"zl17.table3 {model}, seed {seed}" for model in models for seed in (1, 2)}
    by_row = analysis.by_row(evaluations, sizes, "zl17.table3")
    assert len(by_row) == 6
    runs = analysis.flat(by_row, sizes, "zl17.table3")
    perplexities = [by_row[name].metrics["test_ppl"] for name in by_row]
    assert sorted(runs["test"]) == pytest.approx(sorted(map(math.log2, perplexities))), "bits per character"


def test_tasks_follow_the_device_and_keep_checkpoints_where_they_are_long(tmp_path: Path) -> None:
    sizes = resumable(on_device(SIZES["night"], "cuda"), tmp_path)
    tasks = [model.task for models in sizes.tables.values() for model in models]
    assert {task.device for task in tasks} == {"cuda"}
    assert all(task.checkpoints for task in tasks)


def test_what_a_night_trains_is_tried_small() -> None:
    """Number by number, as a benchmark on a GPU asks for them."""
    night, smoke = (final_models.trainings(SIZES[profile]) for profile in ("night", "smoke"))
    assert [one.words for one in smoke] == [one.words for one in night]


def test_a_forecast_is_steps_times_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_median_seconds", lambda *_: 2.0)
    small = FinalModelSettings(layers=1, hidden=8, embedding=8, epochs=3, fine_tuning_epochs=1)
    found = forecast.forecast_final_seconds(zoo["LSTM"], small, WIKITEXT2)
    assert found == pytest.approx(2.0 * 4 * (2_088_628 / (20 * 70) + 217_646 / (10 * 70)))


def test_a_forecast_is_measured() -> None:
    assert 0 < final_models.seconds(SIZES["smoke"].task, "cpu") < 60


# ---- the tables


def test_means_and_intervals_are_students(found: dict[str, Evaluation]) -> None:
    runs = analysis.flat(found, COURSE, "s17.table1")
    assert len(runs) == 7
    assert set(runs["averaged"]) == {3.0}
    ours = analysis.means(runs, COURSE, "s17.table1")
    assert ours.index.tolist() == ["LSTM", "GRU", "BC3"]
    assert ours["test"].to_dict() == {"LSTM": 57.0, "GRU": 71.0, "BC3": 61.0}
    low, high = scipy.stats.t.interval(0.95, 2, loc=61, scale=1 / math.sqrt(3))
    assert (ours.loc["BC3", "low"], ours.loc["BC3", "high"]) == pytest.approx((low, high))
    assert np.isnan(ours.loc["LSTM", "low"]), "one seed has no interval"


def test_ours_stand_beside_every_row_of_the_paper(found: dict[str, Evaluation]) -> None:
    ours = analysis.means(analysis.flat(found, COURSE, "s17.table1"), COURSE, "s17.table1")
    table = analysis.beside("s17.table1", ours, COURSE)
    assert len(table) == 9, "S17's Table 1 has nine rows"
    bc3 = table[table["model"] == "3-layer weight drop BC3 + NT-ASGD (tied)"].iloc[0]
    assert (bc3["parameters"], bc3["valid"], bc3["test"], bc3["our test"]) == (24, 64.4, 61.4, 61.0)
    assert bc3["data"] == "ptb"
    share = bc3["share"]
    assert share == pytest.approx(1_369_503 * 5 * 200_000 / (24_156_240 * 213 * 929_589), rel=1e-3)
    assert table["our test"].notna().sum() == 3
    alone = analysis.beside("zl17.table2", ours.loc[["LSTM"]], COURSE)
    assert alone["model"].iloc[-1] == "LSTM, ours alone"


def test_a_claim_is_the_difference_of_two_cells(found: dict[str, Evaluation]) -> None:
    runs = analysis.flat(found, COURSE, "s17.table1")
    facts = analysis.gain_facts(runs, COURSE, "s17.lm.bc3_beats_gru.ptb")
    assert facts is not None
    welch = scipy.stats.ttest_ind([70, 73, 70], [60, 61, 62], equal_var=False).confidence_interval()
    assert facts["value"] == 10.0
    assert facts["interval"] == pytest.approx((welch.low, welch.high))
    assert facts["supports"]
    behind = analysis.gain_facts(runs, COURSE, "s17.lm.bc3_behind_awd.ptb")
    assert behind is not None
    assert (behind["value"], behind["interval"], behind["seeds"]) == (4.0, None, 1)
    assert analysis.gain_facts(runs, COURSE, "s17.lm.bc3_beats_nascell.ptb") is None
    told = analysis.gains_told(runs, COURSE, "s17.table1")
    assert "**BC3 against GRU**: +10.0 perplexity" in told
    assert "**BC3 against NASCell**: not attempted (the paper: 2.6 better)" in told
    assert "Weights came to be averaged in 7 of 7 trainings" in told
    assert "equally large and trained alike" in facts["reason"]
    nothing = runs.assign(averaged=math.nan)
    assert "averaged in 0 of 7 trainings" in analysis.gains_told(nothing, COURSE, "s17.table1")
    told = analysis.gains_told(nothing, COURSE, "zl17.table2")  # whose recipe averages nothing
    assert told == "- No claim in the ledger compares two of these rows."


def test_claims_are_about_models_that_a_night_trains() -> None:
    """All but that of the NAS cell, which S17 quotes."""
    night = SIZES["night"]
    for entry, (table, *like) in analysis.GAINS.items():
        by_row = {model.row: model for model in night.tables[table]}
        assert set(like) <= by_row.keys() or entry == "s17.lm.bc3_beats_nascell.ptb"
    made = {
        row("zl17.table3", model, 1): evaluation(model.cell, 1, value)
        for model, value in zip(night.tables["zl17.table3"], (2.3, 2.4, 2.2), strict=True)
    }
    facts = analysis.gain_facts(analysis.flat(made, night, "zl17.table3"), night, "zl17.char.transfers")
    assert facts is not None
    assert facts["value"] == pytest.approx(math.log2(2.4) - math.log2(2.3))
    assert "each by its own recipe" in facts["reason"]


def test_a_number_supports_the_papers_within_its_tolerance(found: dict[str, Evaluation]) -> None:
    ours = analysis.means(analysis.flat(found, COURSE, "s17.table1"), COURSE, "s17.table1")
    by_name = {model.name: model for model in COURSE.tables["s17.table1"]}
    facts = analysis.number_facts(ours, "s17.table1", by_name["BC3"], "test")
    assert (facts["value"], facts["supports"], facts["seeds"]) == (61.0, True, 3)  # 61.4 in the paper
    assert not analysis.number_facts(ours.assign(test=63.0), "s17.table1", by_name["BC3"], "test")["supports"]
    assert analysis.number_facts(ours, "s17.table1", by_name["BC3"], "valid")["interval"] is None


def test_figures_hold_every_training(found: dict[str, Evaluation]) -> None:
    points = analysis.points(found, COURSE, "s17.table1")
    fig = figures.curves(points, "perplexity", "validation")
    (ax,) = fig.axes
    assert sum(len(line.get_xdata()) == 3 for line in ax.get_lines()) == 7
    runs = {"a": analysis.flat(found, COURSE, "s17.table1")}
    assert len(figures.losses(runs, {"a": "perplexity"}, "all").axes) == 1


# ---- the exercises


def test_variational_dropout_is_checked_by_what_it_does() -> None:
    def right(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        keep = torch.rand(x.shape[1:], generator=generator) >= rate
        return x * keep / (1 - rate)

    def anew(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        return x * (torch.rand(x.shape, generator=generator) >= rate) / (1 - rate)

    def unscaled(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        return x * (torch.rand(x.shape[1:], generator=generator) >= rate)

    def shared(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        return x * (torch.rand(x.shape[2:], generator=generator) >= rate) / (1 - rate)

    assert analysis.check_dropout(right).startswith("Exercise done")
    assert "not yet done" in analysis.check_dropout(lambda *_: None)
    for wrong, told in ((anew, "step to step"), (unscaled, "divided by what is kept"), (shared, "share a mask")):
        with pytest.raises(AssertionError, match=told):
            analysis.check_dropout(wrong)
    with pytest.raises(AssertionError, match="is to be dropped"):
        analysis.check_dropout(lambda x, rate, generator: right(x, 0.75, generator) / 3)


def test_a_width_is_checked_against_the_count_of_a_real_model() -> None:
    def solved(count: int) -> int:
        def weights(units: int) -> int:
            return 2 * 2 * 8 * units**2 + 10_000 * units + 10_000

        return min(range(1, 2_000), key=lambda units: abs(weights(units) - count))

    assert analysis.check_width(solved).startswith("Exercise done")
    assert "not yet done" in analysis.check_width(lambda _: None)
    with pytest.raises(AssertionError, match="741 units come nearest, not 10"):
        analysis.check_width(lambda _: 10)


def test_an_empty_table_stays_empty() -> None:
    runs = analysis.flat({}, COURSE, "s17.table1")
    assert runs.empty
    assert isinstance(analysis.means(runs, COURSE, "s17.table1"), pd.DataFrame)


# ---- the published log


def test_the_example_is_pytorchs(found: dict[str, Evaluation]) -> None:
    """Whose defaults are 2 layers of 200 units, a rate of 20, clipping at 0.25, dropout of 0.2 and windows of 35."""
    chosen = parity.TASK.training
    assert (chosen.layers, chosen.hidden, chosen.embedding, chosen.batch, chosen.bptt) == (2, 200, 200, 20, 35)
    assert (chosen.learning_rate, chosen.clip, chosen.dropout, chosen.tied) == (20.0, 0.25, 0.2, False)
    assert (chosen.embedding_range, chosen.eval_batch, chosen.train_tokens) == (0.1, 10, None)
    assert "Not recorded at this profile. The published log: 252.9" in parity.told([])
    told = parity.told([one for name, one in found.items() if "BC3" in name])  # validation 61, 62, 63
    assert "ours 61.0 (seed 1), 62.0 (seed 2), 63.0 (seed 3); mean **62.0**, -75.5%" in told
    (examples,) = [one for one in final_models.trainings(COURSE) if "PyTorch" in one.words]
    assert (examples.notebook, examples.count, examples.is_tested) == ("05", 3, False)


# ---- without our cells


def test_the_recipe_on_torchs_lstm_is_as_large_and_learns(found: dict[str, Evaluation]) -> None:
    mine = {model.name: model for model in SIZES["quick"].tables["s17.table1"]}
    recipe = mine["LSTM"].task.training
    other = TorchFinalModel(zoo["LSTM"], 30, recipe, seed=1)
    assert sum(parameter.numel() for parameter in other.parameters()) == parameters(zoo["LSTM"], 30, recipe)
    assert not any("weight" in name and "rnn.layers.0.weight." in name for name, _ in other.named_parameters())
    task = replace(mine[ON_TORCH].task, device="cpu", corpus_name="pydoc", level="char", vocab_size=None)
    short = replace(recipe, hidden=16, epochs=3, batch=8, train_tokens=4_000, valid_tokens=1_000)
    outcome, model = replace(task, training=short).train(zoo["LSTM"], seed=2)
    assert outcome.metrics["valid_ppl"] < 34, "half of the alphabet"
    assert isinstance(model, TorchFinalModel)
    again, _ = replace(task, training=short).train(zoo["LSTM"], seed=2)
    assert again.curve == outcome.curve
    with pytest.raises(ValueError, match="LSTM is one cell"):
        TorchFinalModel(zoo["GRU"], 30, recipe, seed=1)
    assert "not trained here" in analysis.torch_told(analysis.flat(found, COURSE, "s17.table1"))


def test_weight_drop_on_torchs_lstm_spares_the_weights_and_their_gradients() -> None:
    recipe = replace(SIZES["quick"].tables["s17.table1"][0].task.training, weight_drop=0.5, layer_dropout=0.0)
    stack = TorchStack(recipe)
    recurrent = stack.layers[0].get_parameter("weight_hh_l0")
    before = recurrent.detach().clone()
    out, state = stack(torch.rand(5, 3, recipe.embedding), None, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(out.sum(), recurrent)
    assert torch.equal(recurrent, before)
    assert (gradient == 0).double().mean() == pytest.approx(0.5, abs=0.15)
    assert torch.equal(state.h[-1], out[-1])
    assert stack.to("meta").initial_state(2).h[0].device.type == "meta", "where the weights are"
    stack = TorchStack(recipe).eval()
    theirs, _ = stack.layers[0](torch.ones(2, 3, recipe.embedding))
    assert torch.allclose(
        stack.layers[1](theirs)[0], stack(torch.ones(2, 3, recipe.embedding), None, generator=None)[0]
    )
