"""The tables of settings say what differs, and how each of the paper's settings is known."""

from dataclasses import field, fields, make_dataclass, replace

import pandas as pd
import pytest

from nasrepro.report.settings_table import settings_table
from nasrepro.trainers.language_model import LanguageModelSettings
from nasrepro.trainers.settings import origin, origins
from nasrepro.trainers.translation import TranslationSettings


@pytest.mark.parametrize("kind", [LanguageModelSettings, TranslationSettings])
def test_every_field_has_a_row_and_a_known_status(kind) -> None:
    table = settings_table(kind(), kind())
    assert list(table.index) == [one.name for one in fields(kind)]
    assert set(table["status"]) <= {"stated", "inferred", "guessed", "ours"}
    known = table[table["status"] != "ours"]
    assert set(known["section"]) <= {"B.1", "4.2", "3.1"}
    assert (table.loc[table["status"] == "ours", ["section", "left open"]] == "").all(axis=None)
    assert (table["changed"] == "").all()
    assert (table["S17"] == table["here"]).all()


def test_what_a_run_changes_is_marked() -> None:
    paper = LanguageModelSettings()
    table = settings_table(paper, replace(paper, hidden=64, train_tokens=1_044_314, product_dtype="bfloat16"))
    assert list(table.index[table["changed"] == "yes"]) == ["hidden", "train_tokens", "product_dtype"]
    assert table.loc["train_tokens", ["S17", "here"]].tolist() == ["all", "1,044,314"]
    assert table.loc["product_dtype", ["S17", "here"]].tolist() == ["float32", "bfloat16"]
    assert table.loc["clip"].tolist() == [
        "0.075", "stated", "B.1", "of which norm: inferred, the global one", "0.075", "",
    ]  # fmt: skip
    assert table.loc["batch", "status"] == "inferred"


def test_the_table_needs_no_source_and_takes_settings_that_were_made_from_others() -> None:
    """A class that a notebook or a program writes has no source to read, and one that inherits holds but a part."""
    momentum = field(default=0.9, metadata=origin("stated", "A.1", paper="ZL17"))
    made = make_dataclass("Made", [("momentum", float, momentum), ("seed", int, 0)])
    larger = make_dataclass("Larger", [], bases=(LanguageModelSettings,), frozen=True)
    assert settings_table(made(), made(0.5))[["status", "section", "changed"]].values.tolist() == [
        ["stated", "A.1", "yes"],
        ["ours", "", ""],
    ]
    pd.testing.assert_frame_equal(
        settings_table(larger(), larger()), settings_table(LanguageModelSettings(), LanguageModelSettings())
    )


def test_every_ambiguity_is_told_by_its_setting() -> None:
    """What the recovered facts call unstated (batch, steps, widths), or state in words that leave something open."""
    model, translation = origins(LanguageModelSettings), origins(TranslationSettings)
    unstated = {name for name, one in model.items() if one and one.status != "stated"}
    assert unstated == {"batch", "bptt", "embedding", "eval_batch"}
    assert {name for name, one in model.items() if one and one.left_open} == {
        "anneal", "clip", "embedding_range", "fail_above",
    }  # fmt: skip
    assert {name for name, one in translation.items() if one and one.status == "guessed"} == {
        "epochs", "bridge", "fail_above",
    }  # fmt: skip
