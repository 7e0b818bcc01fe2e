r"""The zoo: every cell that the two papers print or claim, as values.

>>> from nasrepro.dsl import zoo
>>> str(zoo["MT5"])
'Gate3(MM(x_t), x_t, Sigmoid(MM(SeLU(h_{t-1}))))'

Each entry holds one sentence, the citation, the equations, and where our cell departs from its source. Equations leave
biases out: every matrix has one. "Printed" cells are in their paper as text of the language; the others were rebuilt
from equations, and tests hold them against those.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape

from nasrepro.dsl.cell import Cell
from nasrepro.dsl.parser import parse

_S17 = "Schrimpf, Merity, Bradbury, Socher 2017"
_ZL17 = "Zoph & Le 2017"
_S = "MM(x_t), MM(h_{t-1})"  # the pair of products that most gates take
_G = f"Sigmoid(Add({_S}))"  # a gate, with fresh weights at each use
_XM = "Add(MM(x_t), MM(x_{t-1}))"  # QRNN's convolution of width two


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell of the zoo, with what a reader wants to know of it."""

    name: str
    text: str
    about: str
    citation: str
    equations: str
    """LaTeX, biases left out."""
    departures: str = ""

    @property
    def cell(self) -> Cell:
        """The entry as a cell."""
        return parse(self.text)


class Zoo(Mapping[str, Cell]):
    """Name -> cell. `zoo.about(name)` gives the entry with its citation and equations."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Cell:
        return self.about(name).cell

    def about(self, name: str) -> Entry:
        """The entry of that name. Raises KeyError that lists the names, and says the nearest."""
        if name not in self._entries:
            close = get_close_matches(str(name), self._entries, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise KeyError(f"no cell {name!r:.100} in the zoo; {hint}it holds {', '.join(self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Zoo({', '.join(self._entries)})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{entry.name}</th><td style='text-align:left'>{escape(entry.about)}</td>"
            f"<td>{entry.cell.size}</td><td>{entry.cell.height}</td>"
            f"<td style='text-align:left'><code>{escape(entry.text)}</code></td></tr>"
            for entry in self._entries.values()
        )
        head = "<tr><th>cell</th><th>what</th><th>operators</th><th>height</th><th>text</th></tr>"
        return f"<table>{head}{rows}</table>"


zoo = Zoo(
    (
        Entry(
            "TanhRNN",
            f"Tanh(Add({_S}))",
            "The simple recurrent network.",
            f"Elman 1990; printed in {_S17}, section 2",
            r"h_t = \tanh(W x_t + U h_{t-1})",
        ),
        Entry(
            "LSTM",
            f"Mult({_G}, Tanh(Add(Mult({_G}, c_{{t-1}}), Mult({_G}, Tanh(Add({_S}))))))|18",
            "Long short-term memory: a gated sum keeps c_t over many steps.",
            f"Hochreiter & Schmidhuber 1997, forget gate of Gers et al. 2000; claimed in {_S17}",
            r"c_t = f \circ c_{t-1} + i \circ g, \quad h_t = o \circ \tanh(c_t)",
            "Each gate has two biases, one per matrix, as torch.nn.LSTM has.",
        ),
        Entry(
            "GRU",
            "Gate3(Tanh(Add(MM(x_t), Mult(MM(h_{t-1}), Sigmoid(Add(MM(h_{t-1}), MM(x_t)))))), h_{t-1}, "
            "Sigmoid(Add(MM(h_{t-1}), MM(x_t))))",
            "Gated recurrent unit: one gate mixes the old output with a new proposal.",
            f"Cho et al. 2014; printed in {_S17}, section 2",
            r"h_t = z \circ \tanh(W x_t + r \circ U h_{t-1}) + (1 - z) \circ h_{t-1}",
            "torch.nn.GRU's gate z is one minus this one: negate its weights to move between the two.",
        ),
        Entry(
            "MGU",
            f"Gate3(Tanh(Add(MM(x_t), MM(Mult({_G}, h_{{t-1}})))), h_{{t-1}}, {_G})",
            "Minimal gated unit: a GRU whose two gates are one.",
            f"Zhou et al. 2016; claimed in {_S17}",
            r"h_t = f \circ \tanh(W x_t + U (f' \circ h_{t-1})) + (1 - f) \circ h_{t-1}",
            "The original uses one gate twice; the language cannot share weights, so f and f' are two gates.",
        ),
        Entry(
            "QRNN",
            f"Mult(Sigmoid({_XM}), Gate3(c_{{t-1}}, Tanh({_XM}), Sigmoid({_XM})))|12",
            "Quasi-recurrent network of window two: no product on the recurrent path.",
            f"Bradbury et al. 2017, fo-pooling; claimed in {_S17}",
            r"c_t = f \circ c_{t-1} + (1 - f) \circ z, \quad h_t = o \circ c_t",
        ),
        Entry(
            "NASCell",
            f"Tanh(Mult(Mult(Tanh(Add(Tanh(Mult({_G}, ReLU(Add({_S})))), c_{{t-1}})), "
            f"Tanh(Add({_G}, ReLU(Mult({_S}))))), Tanh(Add(Tanh(Mult(Tanh(Add({_S})), {_G})), "
            f"Sigmoid(Add(Tanh(Add({_S})), {_G}))))))|22",
            "The cell that ZL17's controller found on Penn Treebank.",
            f"{_ZL17}, Figure 8 and its TensorFlow code; claimed in {_S17}",
            r"c_t = \tanh(m_0 + c_{t-1}) \circ m_1, \quad h_t = \tanh(c_t \circ \tanh(m_2 + m_3))",
            "The original has no biases: build the layer with bias=False.",
        ),
        Entry(
            "MaxSin",
            f"Tanh(Mult(Sigmoid(Mult(Sigmoid(Add(Tanh(Add({_S})), Add({_S}))), "
            f"Sigmoid(Add(Tanh(Add({_S})), Tanh(Max({_S})))))), "
            f"Mult(Sigmoid(Add(Tanh(Add({_S})), ReLU(Add({_S})))), "
            f"Add(Max({_S}), Add(Tanh(Max({_S})), c_{{t-1}})))))|40",
            "The cell found when ZL17 add max and sin to the search space; sin goes unused.",
            f"{_ZL17}, Figure 8, bottom",
            r"c_t = q \circ (n_7 + n_8 + c_{t-1}), \quad h_t = \tanh(\sigma(p \circ r) \circ c_t)",
            "Read off the paper's drawing; the paper gives neither text nor perplexity. No biases in the original.",
        ),
        Entry(
            "BC3",
            "Gate3(Tanh(Gate3(MM(x_t), Mult(MM(Mult(MM(c_{t-1}), MM(x_t))), MM(x_t)), "
            f"Sigmoid(Add({_S})))), h_{{t-1}}, Sigmoid(Add({_S})))|12",
            "S17's best cell on WikiText-2, named after its hash.",
            f"{_S17}, section 4.1; printed, appendix A.2",
            r"c_t = \tanh(f \circ W^g x_t + (1 - f) \circ z), \quad h_t = o \circ c_t + (1 - o) \circ h_{t-1}, \quad "
            r"z = V^z (X^z c_{t-1} \circ U^z x_t) \circ W^z x_t",
        ),
        Entry(
            "MT1",
            "Gate3(Add(MM(x_t), x_t), x_t, Sigmoid(MM(h_{t-1})))",
            "A translation encoder: a gated residual of the input.",
            f"{_S17}, Table 3",
            r"h_t = f \circ (W x_t + x_t) + (1 - f) \circ x_t, \quad f = \sigma(U h_{t-1})",
            "The paper's table prints only two of Gate3's arguments; the second is inferred to be x_t.",
        ),
        Entry(
            "MT2",
            "Gate3(MM(x_t), Tanh(x_t), Sigmoid(MM(h_{t-1})))",
            "A translation encoder: a matrix against a tanh of the input.",
            f"{_S17}, Table 3; printed",
            r"h_t = f \circ W x_t + (1 - f) \circ \tanh(x_t), \quad f = \sigma(U h_{t-1})",
        ),
        Entry(
            "MT3",
            "Gate3(Gate3(Gate3(Gate3(Gate3(LayerNorm(MM(Tanh(MM(h_{t-1})))), MM(Tanh(MM(Tanh(Tanh(MM(h_{t-1})))))), "
            "Sigmoid(MM(h_{t-1}))), h_{t-1}, Sigmoid(MM(h_{t-1}))), h_{t-1}, Sigmoid(MM(h_{t-1}))), h_{t-1}, "
            "Sigmoid(MM(h_{t-1}))), x_t, Sigmoid(MM(h_{t-1})))",
            "A translation encoder: five nested gates with layer normalisation.",
            f"{_S17}, Table 3 and appendix C.2; printed",
            r"h_t = f_5 \circ (f_4 \circ (f_3 \circ (f_2 \circ g + \bar f_2 \circ h_{t-1}) + \bar f_3 \circ h_{t-1}) "
            r"+ \bar f_4 \circ h_{t-1}) + \bar f_5 \circ x_t, \quad \bar f = 1 - f",
        ),
        Entry(
            "MT4",
            "Gate3(Gate3(PosEnc, h_{t-1}, Sigmoid(MM(Tanh(MM(Tanh(MM(Tanh(MM(Tanh(h_{t-1})))))))))), x_t, "
            "Sigmoid(MM(Tanh(MM(Tanh(MM(h_{t-1})))))))",
            "A translation encoder: the input as residual, and a positional encoding.",
            f"{_S17}, Table 3 and appendix C.2; printed",
            r"h_t = f \circ (g \circ p_t + (1 - g) \circ h_{t-1}) + (1 - f) \circ x_t",
        ),
        Entry(
            "MT5",
            "Gate3(MM(x_t), x_t, Sigmoid(MM(SeLU(h_{t-1}))))",
            "S17's best translation encoder: a highway layer gated by the past.",
            f"{_S17}, Table 3; printed",
            r"h_t = f \circ W x_t + (1 - f) \circ x_t, \quad f = \sigma(U\,\mathrm{selu}(h_{t-1}))",
        ),
    )
)
