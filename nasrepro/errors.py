"""What the errors of all rooms share: the class of those that are the machine's, and how they repeat what was given."""

import difflib
import reprlib
from collections.abc import Collection

_SHOWN = 200  # characters of a value that a message repeats
_SAID = 500  # characters of a text, such as another error's message

_short = reprlib.Repr()
_short.maxstring = _short.maxlong = _short.maxother = _SHOWN


class MachineError(Exception):
    """Something that a computation needs is missing or broken here: data, a file, a compiler, a device.

    Not what is computed is at fault: the same call works once that is mended. The message says what to do.
    """


def known(name: str, names: Collection[str], what: str) -> str:
    """The name, where it is one of these. Raises ValueError that lists them and the nearest one."""
    if name in names:
        return name
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown {what} {name!r:.100}: {hint}choose from {', '.join(names)}")


def shown(value: object) -> str:
    """How a message repeats a value: its repr, of which the middle is left out where it is long."""
    try:
        return cut(_short.repr(value), 2 * _SHOWN)
    except Exception:  # its __repr__ fails, or it is a whole number of thousands of digits, which Python writes nowhere
        return f"<{type(value).__name__} without a repr>"


def cut(text: str, length: int = _SAID) -> str:
    """A text of at most `length` characters: the middle of a longer one is left out."""
    if len(text) <= length:
        return text
    half = (length - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def message_of(error: BaseException) -> str:
    """What an error says, in full; a few words for one that cannot say it."""
    try:
        return str(error)
    except Exception:  # its class has a faulty __str__
        return "its message cannot be read"
