"""The one error that the language raises."""

_WINDOW = 240  # characters of a cell's text that a message shows
_LINE = 600  # characters of any other line of a message


class CellError(ValueError):
    """A cell that cannot be read or used: what is wrong, where (a caret under the place), and what to do.

    Attributes: `problem`, one line; `text`, the cell's text, and `start`, `end`, the offending span in it, where there
    is one; `hint`, what to do, or None. Whatever is given, the message is short: of a long text it shows what lies
    around the place, of other long lines the beginning and the end.
    """

    def __init__(
        self, problem: str, text: str | None = None, start: int = 0, end: int | None = None, hint: str | None = None
    ) -> None:
        self.problem = _shortened(problem)
        self.text = text
        self.start = start
        self.end = start + 1 if end is None else end
        self.hint = None if hint is None else _shortened(hint)
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.problem]
        if self.text is not None:
            lines += self._place(self.text)
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def _place(self, text: str) -> list[str]:
        """The text around the span, and carets under the span."""
        first = max(0, min(self.start - _WINDOW // 2, len(text) - _WINDOW))
        last = first + _WINDOW
        # Line breaks would tear the caret from its place; each becomes one space, so that columns still agree.
        shown = "".join(" " if ch.isspace() else ch for ch in text[first:last])
        before, after = "..." if first else "", "..." if last < len(text) else ""
        carets = max(1, min(self.end, last) - self.start)
        return [f"    {before}{shown}{after}", " " * (4 + len(before) + self.start - first) + "^" * carets]


def _shortened(line: str) -> str:
    """The line, its middle left out where it is long."""
    half = (_LINE - 5) // 2
    return line if len(line) <= _LINE else f"{line[:half]} ... {line[-half:]}"
