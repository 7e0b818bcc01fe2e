"""The world that ships: that it is what its record says, and that it can be asked."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nasrepro as nr
from nasrepro.controllers import draw_tokens
from nasrepro.experiments.zl17_world import pack
from nasrepro.experiments.zl17_world.sizes import SIZES
from nasrepro.search import Record
from nasrepro.worlds import World, base_2

RECORD = Path(__file__).parents[2] / "results" / "records" / "base2-world.jsonl.gz"
WORLD = nr.worlds.base2()
TASK = replace(SIZES["course"].task, device="cpu")


@pytest.mark.slow
def test_it_is_packed_from_the_record_and_holds_every_cell_of_the_space_once() -> None:
    packed = pack.pack(Record.load(RECORD), SIZES["course"])
    assert base_2.SPACE.size == len(packed.cell_of) == 36_864  # ZL17's worked example, counted token by token
    assert len(set(packed.texts)) == len(packed.texts) == base_2.CELLS
    assert sorted({*packed.cell_of.tolist()}) == [*range(base_2.CELLS)]
    assert packed.texts == WORLD.texts
    for name in ("cell_of", "losses", "seed_losses", "long_losses"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(WORLD, name))
    assert json.loads(json.dumps(packed.facts)) == WORLD.facts
    assert sum(WORLD.facts["devices"].values()) == base_2.CELLS + 3 * 1_000 + 200


def test_strings_are_numbered_as_in_a_table_of_tokens() -> None:
    for number in random.Random(1).sample(range(base_2.SPACE.size), 20):
        tokens = WORLD.space.tokens(base_2.described_by(number))
        assert base_2.described_by(int(WORLD.token_table().numbers(np.array(tokens)))) == base_2.described_by(number)


def test_strings_and_cells_and_texts_find_the_same_loss() -> None:
    rng = random.Random(0)
    for _ in range(50):
        tokens = draw_tokens(WORLD.space, rng)
        cell = WORLD.space.cell(tokens)
        number = WORLD.number(tokens)
        assert WORLD.texts[number] == str(cell.canonical())
        assert number == WORLD.cell_of[WORLD.token_table().numbers(np.array(tokens))]
        found = {WORLD.loss(tokens), WORLD.loss(cell), WORLD.loss(str(cell)), WORLD.loss(cell.canonical())}
        assert len(found) == 1 or all(map(np.isnan, found))


def test_from_seed_0_the_first_cells_have_the_losses_of_all_cells() -> None:
    np.testing.assert_array_equal(WORLD.seed_losses[:, 0], WORLD.losses[: len(WORLD.seed_losses)])
    frame = WORLD.frame()
    assert len(frame) == base_2.CELLS + 3 * 1_000
    assert frame[frame["seed"] == 0]["strings"].sum() == 36_864
    row = frame[(frame["seed"] == 2) & (frame["number"] == 7)].iloc[0]
    assert row["loss"] == pytest.approx(WORLD.loss(WORLD.texts[7], seed=2), nan_ok=True)


def test_its_best_cell_trained_here_does_as_well() -> None:
    best = int(np.nanargmin(WORLD.losses))
    outcome = TASK.evaluate(nr.parse(WORLD.texts[best]), 0)
    assert outcome.metrics["valid_ppl"] == pytest.approx(WORLD.losses[best], rel=0.1)  # rounding, see `World`


def test_a_cell_of_another_space_and_a_seed_that_was_not_trained_are_refused() -> None:
    with pytest.raises(ValueError, match="is not among the 18,688 cells"):
        WORLD.loss(nr.zoo["LSTM"])
    with pytest.raises(ValueError, match="the token string is too short"):
        WORLD.loss((0, 1))
    with pytest.raises(nr.CellError):
        WORLD.loss("Tanh(")
    for number, seed in ((0, 4), (0, -1), (2_000, 1)):
        with pytest.raises(ValueError, match=f"cell {number} was not trained from seed {seed}"):
            WORLD.loss(WORLD.texts[number], seed)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    few = World(
        base_2.SPACE,
        WORLD.texts[:3],
        np.array([0, 1, 2, 2], dtype=np.uint16),
        np.array([7.0, np.nan, 8.5], dtype=np.float32),
        np.array([[7.0, 7.5]], dtype=np.float32),
        np.array([6.0], dtype=np.float32),
        {"uniform": 64, "devices": {"a processor": 4}},
    )
    few.save(tmp_path / "few.npz")
    again = World.load(tmp_path / "few.npz", base_2.SPACE)
    assert (again.texts, again.facts) == (few.texts, few.facts)
    np.testing.assert_array_equal(again.losses, few.losses)
    np.testing.assert_array_equal(again.seed_losses, few.seed_losses)


def test_rewards_and_scores_are_those_of_the_paper() -> None:
    table = WORLD.token_table(c=80)
    assert table.rewards.shape == (36_864, 1)
    failed = np.isnan(WORLD.losses)[WORLD.cell_of]
    assert np.isnan(table.rewards[:, 0]).tolist() == failed.tolist()
    assert (table.scores[failed] == -len(base_2.text().vocab)).all()
    assert table.rewards[~failed, 0] == pytest.approx(80 / table.scores[~failed] ** 2)  # ZL17 section 4.2
    assert table.scores.argmax() == np.flatnonzero(WORLD.cell_of == np.nanargmin(WORLD.losses))[0]
