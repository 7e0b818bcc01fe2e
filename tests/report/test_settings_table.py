"""The tables of settings say what differs, and how each of the paper's settings is known."""

import ast
import importlib
import inspect
import re
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from itertools import pairwise
from pkgutil import walk_packages

import pandas as pd
import pytest

import nasrepro as nr
from nasrepro.controllers import AgentSettings, GrowthSettings, PriorSettings, ReinforceSettings
from nasrepro.controllers.reinforce import PolicyGradientSettings
from nasrepro.controllers.token_agent import TokenAgentSettings
from nasrepro.ranking import RankerSettings
from nasrepro.report.settings_table import open_questions, settings_table
from nasrepro.search.agent_search import AgentSearchSettings
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.search.token_search import TokenSearchSettings
from nasrepro.trainers.final_settings import CharacterModelSettings, FinalModelSettings, WordModelSettings
from nasrepro.trainers.gnmt_translation import GnmtSettings
from nasrepro.trainers.images import ImageSettings
from nasrepro.trainers.language_model import LanguageModelSettings
from nasrepro.trainers.settings import origin, origins
from nasrepro.trainers.translation import TranslationSettings

KINDS = [
    LanguageModelSettings, TranslationSettings, SearchSettings, GrowthSettings, RankerSettings, AgentSearchSettings,
    AgentSettings, ReinforceSettings, PriorSettings, TokenAgentSettings, PolicyGradientSettings, TokenSearchSettings,
    GnmtSettings, ImageSettings, ConvNetSearchSettings, FinalModelSettings, WordModelSettings, CharacterModelSettings,
]  # fmt: skip


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
    """What the recovered facts call unstated, by trainer and search, and what is stated in words with an open end."""
    not_stated, open_ends = {}, {}
    for kind in KINDS:
        found = {name: one for name, one in origins(kind).items() if one}
        not_stated[kind] = {name for name, one in found.items() if one.status != "stated"}
        open_ends[kind] = {name for name, one in found.items() if one.left_open}
    assert not_stated == {
        LanguageModelSettings: {"batch", "bptt", "embedding", "eval_batch"},
        TranslationSettings: {
            "epochs", "halve_from", "clip", "init_range", "bridge", "beam", "longest", "fail_above", "vocab_size",
        },
        SearchSettings: {"temperature", "child_seed"},
        GrowthSettings: {"count_sources", "weights"},
        RankerSettings: {
            "learning_rate", "updates", "fewest", "held_out", "patience", "average", "epochs", "target", "favour",
            "failure_margin",
        },
        AgentSearchSettings: {"step", "child_seed"},
        AgentSettings: {"width", "policy", "max_height"},
        ReinforceSettings: {each.name for each in fields(ReinforceSettings)},
        PriorSettings: set(),
        TokenAgentSettings: set(),
        PolicyGradientSettings: {"baseline_decay", "scale", "limit", "failed", "entropy", "clip"},
        TokenSearchSettings: {"child_seed"},
        GnmtSettings: {"dropout", "epochs", "clip", "init_range", "beam", "longest", "vocab_size"},
        ImageSettings: {"batch", "first_drop", "second_drop", "drop", "upsampled", "evaluated_on"},
        ConvNetSearchSettings: {"child_seed"},
        FinalModelSettings: {
            "bias", "embedding_range", "weight_range", "hidden_dropout", "weight_decay", "jitter", "patience",
            "eval_batch",
        },
        WordModelSettings: {
            "hidden", "embedding", "bias", "embedding_range", "weight_range", "input_dropout", "layer_dropout",
            "output_dropout", "hidden_dropout", "embedding_dropout", "weight_decay", "batch", "bptt", "epochs",
            "optimiser", "learning_rate", "decay", "decay_after", "clip", "eval_batch",
        },
        CharacterModelSettings: {
            "tied", "bias", "embedding_range", "weight_range", "input_dropout", "layer_dropout", "output_dropout",
            "hidden_dropout", "epochs", "clip", "eval_batch",
        },
    }  # fmt: skip
    assert open_ends == {
        LanguageModelSettings: {"anneal", "clip", "embedding_range", "fail_above"},
        TranslationSettings: {"dropout"},
        SearchSettings: {"cells", "candidates"},
        GrowthSettings: {"max_nodes"},
        RankerSettings: {"dropout", "favour", "failure_margin"},
        AgentSearchSettings: set(),
        AgentSettings: {"epsilon", "max_height"},
        ReinforceSettings: set(),
        PriorSettings: set(),
        TokenAgentSettings: {"layers", "init"},
        PolicyGradientSettings: {"accumulate"},
        TokenSearchSettings: {"method", "cells"},
        GnmtSettings: {"hidden", "dropout", "batch", "sgd_rate", "halve_from", "beam", "vocab_size"},
        ImageSettings: {"batch", "momentum", "first_drop", "second_drop", "drop", "upsampled", "evaluated_on"},
        ConvNetSearchSettings: {"method"},
        FinalModelSettings: not_stated[FinalModelSettings] | {"layer_dropout"},
        WordModelSettings: not_stated[WordModelSettings] - {"eval_batch"} | {"tied"},
        CharacterModelSettings: not_stated[CharacterModelSettings] - {"embedding_range", "weight_range", "eval_batch"},
    }


def test_every_class_of_settings_is_held_to_this() -> None:
    """And each of its settings is ours, or has a section of the paper, which has four and appendices A to C."""
    modules = [importlib.import_module(one.name) for one in walk_packages(nr.__path__, "nasrepro.")
               if re.match(r"nasrepro\.(controllers|ranking|trainers|search)\.", one.name)]  # fmt: skip
    found = {each for module in modules for name, each in vars(module).items() if name.endswith("Settings")}
    assert {each for each in found if is_dataclass(each)} == set(KINDS)
    for kind in KINDS:
        for one in filter(None, origins(kind).values()):
            assert one.status in ("stated", "inferred", "guessed")
            assert re.fullmatch(r"[2-4]\.[1-3]|[A-C]\.[1-4]", one.section)


def test_the_open_questions_are_those_settings_with_those_that_they_hold() -> None:
    table = open_questions(SearchSettings(temperature=2.0), AgentSearchSettings()).set_index(["class", "setting"])
    classes = [SearchSettings, GrowthSettings, RankerSettings, AgentSearchSettings, AgentSettings, ReinforceSettings]
    assert list(table.index.get_level_values("class").unique()) == [each.__name__ for each in classes]
    assert table.loc[("SearchSettings", "temperature")].tolist() == ["S17", "3.2", "guessed", "2", ""]
    assert table.loc[("RankerSettings", "favour"), "left open"] == "how strongly; that low ones are is stated"
    assert ("SearchSettings", "step") not in table.index, "it is stated in full"
    assert ("SearchSettings", "seed") not in table.index, "it is ours"


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_is_told_in_words_and_its_status_in_its_origin_alone(kind) -> None:
    """Below each field stands a sentence for readers; "stated" and the like are said once, in the field."""
    # What a class does not say anew it has from the one that it is made from.
    sources = [inspect.getsource(each) for each in reversed(kind.__mro__) if is_dataclass(each)]
    told = {
        one.target.id: ast.literal_eval(note.value)
        for body in (node for source in sources for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
        for one, note in pairwise(body.body)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant)
    }  # fmt: skip
    assert told.keys() >= origins(kind).keys()
    assert not [name for name, words in told.items() if re.search(r"stated|inferred|guessed|\[", words, re.IGNORECASE)]
