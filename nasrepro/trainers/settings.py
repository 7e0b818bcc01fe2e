"""What the settings of trainers and searches are held to, and how they are told."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from nasrepro.settings import origin as origin
from nasrepro.settings import origins as origins
from nasrepro.trainers.outcome import number, whole


def require_counts(settings: object, *names: str) -> None:
    """Raise ValueError where one of these settings is below 1; None, which means all there is, passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def use_declared_types(settings: Any) -> None:
    """Give the numbers in a frozen dataclass of settings, and in those nested there, the types that it declares.

    20 and 20.0 are equal numbers, but not in the text of which a record's keys are made. Call it in `__post_init__`.
    Raises TypeError or ValueError, naming the field, for a value that is no such number: nan is none.
    """
    kinds = get_type_hints(type(settings))
    for each in fields(settings):
        value = getattr(settings, each.name)
        object.__setattr__(settings, each.name, _declared(value, kinds[each.name], each.name))


def _declared(value: Any, kind: Any, name: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        inner = replace(value)
        use_declared_types(inner)
        return inner
    kinds = [each for each in get_args(kind) if each is not NoneType]
    if isinstance(value, Mapping) and len(kinds) == 2:
        return {key: _declared(each, kinds[1], f"{name}[{key!r}]") for key, each in value.items()}
    if kind is float or (value is not None and kinds == [float]):
        found = float(number(value, name)) + 0.0  # which makes -0.0 the 0.0 that it equals
        if math.isnan(found):
            raise ValueError(f"{name} is a number, got nan")
        return found
    if kind is int or (value is not None and kinds == [int]):
        return whole(value, name)
    return bool(value) if kind is bool else value


def counted(number: int | None, what: str) -> str:
    """A number and its noun, which is given in the singular: "1 epoch", "29,000 pairs"; for None "all pairs"."""
    if number is None:
        return f"all {what}s"
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
