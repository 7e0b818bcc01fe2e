"""The one error that the language raises."""


class CellError(ValueError):
    """A cell that cannot be read or used: what is wrong, where (a caret under the place), and what to do.

    Attributes: `problem`, one line; `text`, the cell's text, and `start`, `end`, the offending span in it, where there
    is one; `hint`, what to do, or None.
    """

    def __init__(
        self,
        problem: str,
        text: str | None = None,
        start: int = 0,
        end: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.text = text
        self.start = start
        self.end = start + 1 if end is None else end
        self.hint = hint
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.problem]
        if self.text is not None:
            # Line breaks would tear the caret from its place; each becomes one space, so that columns still agree.
            lines.append("    " + "".join(" " if ch.isspace() else ch for ch in self.text))
            lines.append("    " + " " * self.start + "^" * max(1, self.end - self.start))
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)
