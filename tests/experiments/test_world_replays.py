"""What notebook 12 makes of replayed searches, on searches written by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau
from torch.utils.flop_counter import FlopCounterMode

from nasrepro.controllers import FixedSpace, Place, PolicyGradientSettings, TokenAgentSettings
from nasrepro.datasets import corpus_from_text
from nasrepro.datasets.nas_bench_macro import load_nas_bench_macro
from nasrepro.experiments.zl17_world import SIZES, band, figures, readme, replays
from nasrepro.experiments.zl17_world.replays import RANDOM
from nasrepro.experiments.zl17_world.sizes import PAPERS_RATE, SCALED_RATE, TABLE_CONTROLLERS
from nasrepro.report import papers
from nasrepro.search.tabular import simulate_many
from nasrepro.search.token_table import TableRuns, TokenTable, controller_runs, nas_bench_macro_table
from nasrepro.worlds import World, base2, base_2

SPACE = FixedSpace((Place("first", ("a", "b")), Place("second", ("a", "b", "c")), Place("third", ("a", "b"))))
TABLE = TokenTable(SPACE, np.arange(12.0)[:, None], np.arange(12.0))


def by_hand(*scores: list[float]) -> TableRuns:
    values = np.array(scores)
    return TableRuns(tuple(range(len(values))), values, values)


RUNS = {
    replays.RANDOM: by_hand([1, 2, 0, 0], [2, 0, 2, 0], [0, 0, 0, 3]),
    "ahead": by_hand([1, 3, 1, 0], [2, 1, 3, 1], [0, 0, 1, 4]),
}


def test_the_lead_is_the_difference_of_the_best_seed_by_seed() -> None:
    found = replays.leads(RUNS, [1, 4]).set_index(["samples", "of"])
    assert found.loc[(1, "best 1"), "lead"] == 0
    assert found.loc[(4, "best 1"), ["lead", "low", "high"]].tolist() == [1, 1, 1]  # 3-2, 3-2, 4-3
    window = np.array([(5 - 3) / 4, (7 - 4) / 4, (5 - 3) / 4])  # means of four, the method's less random search's
    assert found.loc[(4, "window"), "lead"] == pytest.approx(window.mean())
    assert found.loc[(4, "window"), "high"] == pytest.approx(window.mean() + 1.96 * window.std(ddof=1) / math.sqrt(3))
    assert replays.lead_at_the_end(RUNS, "ahead", best=1) == {"value": 1.0, "interval": (1.0, 1.0), "seeds": 3}


def test_verdicts_say_level_where_the_interval_holds_zero() -> None:
    rows = [("x", 10, "best 5", 0.5, 0.1, 0.9), ("x", 20, "best 5", -0.5, -0.9, -0.1), ("y", 10, "best 5", 0.1, -1, 1)]
    found = pd.DataFrame(rows, columns=["method", "samples", "of", "lead", "low", "high"])
    told = replays.verdicts(found, [10, 20])
    assert told.loc["x"].tolist() == ["ahead (+0.50)", "behind (-0.50)"]
    assert told.loc["y", 10] == "level (+0.10)"


def test_there_is_no_published_table_where_it_was_not_fetched(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NASREPRO_DATA", str(tmp_path))
    monkeypatch.setenv("NASREPRO_MIRROR", str(tmp_path))
    monkeypatch.delenv("NASREPRO_DOWNLOAD", raising=False)
    assert replays.published_table() is None


def test_looks_count_up_to_the_first_that_is_good_enough() -> None:
    assert replays.looks_until(RUNS[replays.RANDOM], 2.0).tolist() == [2, 1, 4]
    assert replays.looks_until(RUNS[replays.RANDOM], 3.0).tolist() == [math.inf, math.inf, 4]


def test_all_kinds_are_replayed_and_sharing_them_out_changes_nothing() -> None:
    learning = PolicyGradientSettings(learning_rate=0.01, batch=4, accumulate=2)
    runs, seconds = replays.replay(TABLE, {"controller": learning}, range(5), 30)
    assert [*runs] == [*seconds] == [replays.RANDOM, replays.EVOLUTION, "controller"]
    assert {of.scores.shape for of in runs.values()} == {(5, 30)}
    alone = controller_runs(TABLE, [3], 30, learning)
    np.testing.assert_array_equal(runs["controller"].scores[3], alone.scores[0, :30])


def test_ranked_searches_shared_out_are_those_one_after_the_other() -> None:
    ranked = replace(SIZES["smoke"].ranked, cells=8)
    pool = base2().pool(60)
    found, seconds = replays.ranked_and_random(pool, ranked, range(3))
    alone = simulate_many(pool, {"ranked": ranked, "random": replace(ranked, method="random")}, range(3))
    keys = ["method", "seed", "budget"]
    pd.testing.assert_frame_equal(found.set_index(keys).sort_index(), alone.set_index(keys).sort_index())
    assert seconds > 0


def test_costs_are_told_by_search() -> None:
    row = replays.cost("some search", searches=50, samples=20_000, seconds=2.0)
    assert row["milliseconds"] == 40
    assert "some search: 50 searches to 20,000 in 2 s, 40 ms each (" in replays.costs_told(pd.DataFrame([row]))


def test_arithmetic_is_what_torch_counts_of_a_network_of_that_size() -> None:
    lstm, out = torch.nn.LSTMCell(35, 35), torch.nn.Linear(35, 7)  # seven words at three places
    with FlopCounterMode(display=False) as of_lstm:
        hidden, _ = lstm(torch.zeros(5, 35))
    with FlopCounterMode(display=False) as of_softmax:
        out(hidden)
    forward = 3 * of_lstm.get_total_flops() + of_softmax.get_total_flops()
    assert replays.arithmetic(SPACE, 5, TokenAgentSettings(layers=1)) == 3 * forward
    many = 10**6
    rate = 200 * replays.arithmetic(SPACE, many) / 4 / 1e9
    told = replays.arithmetic_told(SPACE, many, 200, {"some controller": 4.0})
    assert f"the **some controller** made {rate:,.0f} billion a second" in told


def test_the_readme_tells_what_the_shipped_table_says(tmp_path: Path) -> None:
    assert "has not been shipped yet" in readme.replays_words(tmp_path)
    pd.DataFrame([replays.cost("some search", 50, 20_000, 2.0)]).to_csv(tmp_path / readme.SECONDS, index=False)
    assert "some search: 50 searches to 20,000 in 2 s, 40 ms each (" in readme.replays_words(tmp_path)


# ---- the published table


@pytest.fixture(scope="module")
def published(mirror: Path) -> dict[str, TableRuns]:
    table = nas_bench_macro_table(load_nas_bench_macro())
    return replays.replay(table, TABLE_CONTROLLERS, range(100), 1_600)[0]


def test_in_the_published_table_our_controller_learns_as_another_one_does(published: dict[str, TableRuns]) -> None:
    held = band.held_against_band(published)
    assert held["holds"].all(), held.to_string()


@pytest.mark.parametrize("rate", [6e-5, 3e-4, 1.2e-3, 0.05])
def test_a_controller_that_learns_at_another_rate_is_outside_the_band(
    published: dict[str, TableRuns], rate: float
) -> None:
    table = nas_bench_macro_table(load_nas_bench_macro())
    learning = replace(TABLE_CONTROLLERS[PAPERS_RATE], learning_rate=rate)
    held = band.held_against_band({**published, PAPERS_RATE: controller_runs(table, range(24), 1_600, learning)})
    assert not held["holds"].all(), held.to_string()
    assert held[held["method"] != PAPERS_RATE]["holds"].all()


def test_the_band_refuses_what_lies_outside_it() -> None:
    def steady(**changed: float) -> dict[str, TableRuns]:
        known = {RANDOM: 90.3, PAPERS_RATE: 90.3, SCALED_RATE: 92.7} | changed
        scores = {name: np.full((3, 1_600), value) for name, value in known.items()}
        scores[PAPERS_RATE][:, 700:] += 1.2
        scores[PAPERS_RATE][:, 1_000:] += 1.2
        return {name: TableRuns((0, 1, 2), values, values) for name, values in scores.items()}

    assert band.held_against_band(steady())["holds"].all()
    for name, value in ((RANDOM, 89.8), (PAPERS_RATE, 90.8), (SCALED_RATE, 91.2)):
        assert not band.held_against_band(steady(**{name: value}))["holds"].all()


def test_milestones_end_with_all_samples_and_begin_closer_together() -> None:
    at = replays.milestones(20_000)
    assert (at[0], at[-1]) == (12, 20_000)
    assert np.diff(at, n=2).min() >= 0
    assert replays.milestones(3) == [1, 2, 3]


def test_uniform_samples_have_seen_what_chance_says() -> None:
    drawn = np.random.default_rng(0).integers(12, size=(4_000, 10))
    shares = [len({*row}) / 12 for row in drawn.tolist()]
    assert replays.seen(TABLE, 10) == pytest.approx(np.mean(shares), abs=0.005)


def test_the_papers_curves_are_as_long_as_its_search() -> None:
    curves = replays.of_paper(papers.load()["zl17.fig6"])
    assert {*curves["of"]} == {"best 1", "best 5", "best 15"}
    assert curves[curves["of"] == "best 15"]["lead"].iloc[-1] == papers.load()["zl17.fig6.top15"].value
    assert curves["samples"].max() == 20_800


def test_agreement_is_kendalls_tau_of_cells_that_learned() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=(40, 3)).astype(np.float32) ** 2 + 5
    seeds[3, 0] = np.nan
    long_losses = seeds[:10, 0] + 0.1 * rng.normal(size=10).astype(np.float32)
    world = World(base_2.SPACE, (), np.zeros(0, dtype=np.uint16), seeds[:, 0], seeds, long_losses, {})
    found = replays.agreement(world)
    kept = np.delete(seeds, 3, axis=0)
    assert found["tau"][0] == pytest.approx(kendalltau(kept[:, 0], kept[:, 1]).statistic)
    assert found["cells"].tolist() == [39, 9]
    better = kept[kept[:, 0] <= np.median(kept[:, 0])]
    assert found["tau, better half"][0] == pytest.approx(kendalltau(better[:, 0], better[:, 1]).statistic)
    spread = np.log(kept).std(axis=1, ddof=1)
    assert replays.noise(world) == pytest.approx((np.median(spread), math.sqrt((spread**2).mean())), rel=1e-5)


def test_letters_alone_have_the_perplexity_of_their_entropy(tmp_path) -> None:
    for split, text in {"train": "ab" * 500 + "cd" * 500, "valid": "abcd" * 500, "test": "abcd"}.items():
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    paths = [tmp_path / f"{split}.txt" for split in ("train", "valid", "test")]
    text = corpus_from_text("four letters", *paths, level="char")
    assert replays.frequencies_alone(text) == pytest.approx(4, rel=0.02)  # four letters, equally frequent


def test_figures_show_what_they_are_given() -> None:
    lead = replays.leads(RUNS, [1, 2, 4])
    fig = figures.leads_over_random({"ahead": lead, "again": lead, "third": lead}, "perplexity", "Leads")
    panels = [ax for ax in fig.axes if ax.get_visible()]
    assert len(panels) == 3
    lines = {line.get_label(): line.get_ydata() for line in panels[0].get_lines()}
    assert lines["best 1"].tolist() == lead[lead["of"] == "best 1"]["lead"].tolist()
    least, most = panels[0].get_ylim()
    assert least < lead[["lead", "low"]].to_numpy().min() < lead[["lead", "high"]].to_numpy().max() < most
    hist = figures.losses([5.0, 6.0, np.nan, 60.0], {"a mark": 7.0})
    assert sum(bar.get_height() for bar in hist.axes[0].patches) == 3
    table = pd.DataFrame({"seed": [0, 1], "samples": 4, "best": [2.0, 3.0], "window": [4.0, 5.0]})
    both = figures.progress_of_searches({"x": table}, "perplexity")
    assert [ax.get_lines()[0].get_ydata().tolist() for ax in both.axes] == [[2.5], [4.5]]
    orders = figures.two_orders({"other": ([5.0, 6.0], [7.0, 8.0])})
    assert orders.axes[0].collections[0].get_offsets().tolist() == [[5, 7], [6, 8]]
