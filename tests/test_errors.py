"""Errors name what was wrong, and do not repeat a long input whole."""

from collections.abc import Callable
from pathlib import Path

import pytest

import nasrepro as nr
from nasrepro import datasets, notebook
from nasrepro.cli import main
from nasrepro.datasets import Vocab
from nasrepro.errors import cut, message_of, shown
from nasrepro.hardware import resolve
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.outcome import number, whole

LONG = "word " * 20_000

GIVEN: dict[str, Callable[[], object]] = {
    "a cell": lambda: nr.parse(LONG),
    "a zoo cell": lambda: nr.zoo[LONG],
    "a profile": lambda: nr.profiles.load(LONG),
    "a data set": lambda: datasets.load(LONG),
    "pairs": lambda: datasets.load_parallel(LONG),
    "an own corpus": lambda: datasets.corpus_from_text(LONG, "a b c", "a", "a"),
    "an empty split": lambda: datasets.corpus_from_text(LONG, "", "a", "a"),
    "a text's path": lambda: datasets.corpus_from_text("mine", Path(LONG), "a", "a"),
    "own pairs": lambda: datasets.parallel_from_text(LONG, [("a", "b")], [], []),
    "a pair": lambda: datasets.parallel_from_text(LONG, [("a",)], [], []),  # type: ignore[list-item]
    "an empty sentence": lambda: datasets.parallel_from_text(LONG, [("a", "b")], [("", "b")], []),
    "a vocabulary": lambda: datasets.parallel_from_text(
        "mine", *[[("a", "b")]] * 3, vocabularies=(Vocab([LONG]), Vocab([LONG]))
    ),
    "a split": lambda: datasets.PennTreebank(split=LONG),
    "a rate": lambda: nr.RNN("Tanh(MM(h_{t-1}))", 3, 4, dropout=LONG),  # type: ignore[arg-type]
    "a size": lambda: nr.RNN("Tanh(MM(h_{t-1}))", LONG, 4),  # type: ignore[arg-type]
    "a product's dtype": lambda: nr.RNN("Tanh(MM(h_{t-1}))", 3, 4, product_dtype=LONG),  # type: ignore[arg-type]
    "a projection": lambda: nr.RNN("Tanh(MM(h_{t-1}))", 3, 4, proj_size=LONG),  # type: ignore[arg-type]
    "a token": lambda: Vocab(["a"])[LONG],
    "a token twice": lambda: Vocab([LONG, LONG]),
    "a device": lambda: resolve(LONG),
    "a parameter": lambda: notebook.check_parameters(["A = 1", f"# Parameters\n{LONG.replace(' ', '')} = 2"]),
    "FRESH": lambda: notebook.start("00", "smoke", fresh=LONG),  # type: ignore[arg-type]
    "a method": lambda: SearchSettings(method=LONG),  # type: ignore[arg-type]
    "a dtype": lambda: LanguageModelSettings(product_dtype=LONG),  # type: ignore[arg-type]
    "a task's data": lambda: LanguageModelTask(LONG).corpus,
    "a number": lambda: number(LONG, "seed"),
    "a whole number": lambda: whole(LONG, "seed"),
    "a key": lambda: nr.Record()[LONG],
}
UNSAYABLE = type("Unsayable", (Exception,), {"__str__": lambda self: 1 / 0, "__repr__": lambda self: 1 / 0})()


@pytest.mark.parametrize("what", GIVEN)
def test_a_long_input_is_not_repeated_whole(what: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of many kinds; their length is what counts here)
        GIVEN[what]()
    message = str(caught.value)
    assert "word" in message, "what was wrong is named"
    assert len(message) < 2_000


@pytest.mark.parametrize(
    "arguments",
    [
        ["reproduce", "--notebook", LONG],
        ["reproduce", "--profile", LONG],
        ["reproduce", "--device", LONG],
        ["reproduce", "-p", LONG],
        ["show", LONG],
        ["data", "fetch", LONG],
    ],
    ids=lambda arguments: " ".join(arguments)[:25],
)
def test_a_command_does_not_repeat_a_long_argument_whole(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "word" in message
    assert len(message) < 2_000


@pytest.mark.parametrize("value", [LONG, [LONG] * 50, {LONG: LONG}, LONG.encode(), 10**3_000, Path(LONG)])
def test_a_long_value_is_shown_by_its_beginning_and_end(value: object) -> None:
    assert len(shown(value)) < 500
    assert shown(value)[:3] == repr(value)[:3]
    assert shown(value)[-1] == repr(value)[-1]


def test_a_short_value_is_shown_whole() -> None:
    assert [shown(value) for value in ("it's", 3, [1, 2], None)] == ['"it\'s"', "3", "[1, 2]", "None"]
    assert cut("short") == "short"
    assert cut("a" * 1_000 + "z", 9) == "aaa...aaz"


def test_what_cannot_say_what_it_is_can_be_shown() -> None:
    assert "Unsayable" in shown(UNSAYABLE)
    assert "int" in shown(10**10_000)
    assert message_of(UNSAYABLE) == "its message cannot be read"
