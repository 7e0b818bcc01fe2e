"""The one error that descriptions of convolutional networks raise."""


class ConvNetError(ValueError):
    """A network that cannot be read or built: what is wrong, at which line of its text, and what to do.

    Attributes: `problem`, one sentence; `line`, the number of the line from 1, and `text`, what stands there, where
    there is a text; `hint`, what to do, or None; `layer` and `key`, the number of the layer that does not fit what it
    reads and the key that is to blame, or None.
    """

    def __init__(
        self,
        problem: str,
        line: int | None = None,
        text: str = "",
        hint: str | None = None,
        *,
        layer: int | None = None,
        key: str = "",
    ) -> None:
        self.problem, self.line, self.text, self.hint, self.layer, self.key = problem, line, text, hint, layer, key
        place = "" if line is None else f"\n    line {line}: {text.strip()[:200]}"
        advice = "" if hint is None else f"\nhint: {hint}"
        super().__init__(f"{problem[:600]}{place}{advice}")
