"""The tables of settings say what differs, and how each of the paper's settings is known."""

from dataclasses import fields, replace

import pytest

from nasrepro.report.settings_table import settings_table
from nasrepro.trainers.language_model import LanguageModelSettings
from nasrepro.trainers.translation import TranslationSettings


@pytest.mark.parametrize("kind", [LanguageModelSettings, TranslationSettings])
def test_every_field_has_a_row_and_a_known_status(kind) -> None:
    table = settings_table(kind(), kind())
    assert list(table.index) == [field.name for field in fields(kind)]
    assert set(table["status"]) <= {"stated", "inferred", "guessed", "ours"}
    assert (table["changed"] == "").all()
    assert (table["S17"] == table["here"]).all()


def test_what_a_run_changes_is_marked() -> None:
    paper = LanguageModelSettings()
    table = settings_table(paper, replace(paper, hidden=64, train_tokens=1_044_314, product_dtype="bfloat16"))
    assert list(table.index[table["changed"] == "yes"]) == ["hidden", "train_tokens", "product_dtype"]
    assert table.loc["train_tokens", ["S17", "here"]].tolist() == ["all", "1,044,314"]
    assert table.loc["product_dtype", ["S17", "here"]].tolist() == ["float32", "bfloat16"]
    assert table.loc["clip"].tolist() == ["0.075", "stated", "0.075", ""]  # S17 appendix B.1
    assert table.loc["batch", "status"] == "inferred"
