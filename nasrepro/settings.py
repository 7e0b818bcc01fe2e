"""Where the defaults of settings come from: which a paper states, and which it leaves open."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Origin:
    """Where the default of a setting comes from."""

    status: Literal["stated", "inferred", "guessed"]
    """The paper states it; it follows from other things that the paper says or builds on; or neither."""
    section: str
    """Of the paper: where it is stated, or would be expected."""
    left_open: str = ""
    """What the paper leaves open of a setting that it speaks of, and how that is read here."""
    paper: str = "S17"


def origin(
    status: Literal["stated", "inferred", "guessed"], section: str, left_open: str = "", paper: str = "S17"
) -> dict[str, Origin]:
    """The `metadata` of a dataclass field whose default comes from a paper."""
    return {"origin": Origin(status, section, left_open, paper)}


def origins(settings: Any) -> dict[str, Origin | None]:
    """Where the default of each field of a dataclass of settings comes from; None for a setting that is ours."""
    return {each.name: each.metadata.get("origin") for each in fields(settings)}


def nested(settings: Any) -> Iterator[Any]:
    """A dataclass of settings, and then those that it holds."""
    yield settings
    for each in fields(settings):
        if is_dataclass(inner := getattr(settings, each.name)):
            yield from nested(inner)


def without_unused(settings: Any, *later: str) -> dict[str, Any]:
    """A dataclass of settings as a dict, without those of `later` that have their default.

    Those are fields that came after the first records were made: keys and searches there do not name them, and must be
    found again all the same. So the default of such a field can never change.
    """
    defaults = {each.name: each.default for each in fields(settings) if each.name in later}
    return {name: value for name, value in asdict(settings).items() if name not in later or value != defaults[name]}
