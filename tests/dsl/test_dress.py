"""The dresses: generated modules against torch's own and plain recursion; the other dresses read back."""

import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nasrepro.dsl import CellError, parse, zoo
from nasrepro.dsl.dress.svg import COLOURS, growth_frames, sheet, side_by_side
from nasrepro.dsl.operators import OPERATORS, SOURCES
from tests.dsl.evaluator import MEANING, operator_values, run_cell
from tests.strategies import cells

STEPS, BATCH, INPUT, HIDDEN = 5, 2, 3, 4

# ---- PyTorch


def build(cell, input_size, hidden_size, seed=0):
    """The generated module with random weights, float64."""
    space = {}
    exec(cell.to_pytorch(), space)
    module = space["GeneratedCell"](input_size, hidden_size).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(generator=generator)
    return module


def matrices_of(module):
    linears = [getattr(module, f"mm{i}") for i in range(len(list(module.children())))]
    return [(linear.weight.detach().numpy(), linear.bias.detach().numpy()) for linear in linears]


def random_input(size, seed=0):
    return torch.randn(STEPS, BATCH, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_recursion(cell, module, x, hidden_size):
    zeros = np.zeros((BATCH, hidden_size))
    return run_cell(cell, matrices_of(module), x.numpy(), zeros, zeros, np.zeros(x.shape[1:]))


TORCH_TWINS = {  # cell -> torch's module, and for each MM its part of torch's stacked weights, with a sign
    "TanhRNN": (torch.nn.RNN, ["x0", "h0"]),
    "LSTM": (torch.nn.LSTM, ["x3", "h3", "x1", "h1", "x0", "h0", "x2", "h2"]),  # torch stacks i, f, g, o
    "GRU": (
        torch.nn.GRU,
        ["x2", "h2", "h0", "x0", "-h1", "-x1"],
    ),  # torch stacks r, z, n; its z is one minus ours
}


@pytest.mark.parametrize("name", TORCH_TWINS)
def test_module_equals_torch_in_value_and_gradient(name):
    kind, parts = TORCH_TWINS[name]
    torch.manual_seed(0)
    twin = kind(INPUT, HIDDEN).double()
    module = build(zoo[name], INPUT, HIDDEN)
    stacked = {"x": (twin.weight_ih_l0, twin.bias_ih_l0), "h": (twin.weight_hh_l0, twin.bias_hh_l0)}
    places = []
    for i, part in enumerate(parts):
        sign, source, block = -1 if part[0] == "-" else 1, part[-2], int(part[-1])
        rows = slice(block * HIDDEN, (block + 1) * HIDDEN)
        places.append((sign, source, rows))
        linear = getattr(module, f"mm{i}")
        linear.weight.data, linear.bias.data = (sign * theirs.data[rows] for theirs in stacked[source])

    x = random_input(INPUT).requires_grad_()
    out, _ = module(x)
    expected, _ = twin(x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    (gradient,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)
    out.square().sum().backward()
    expected.square().sum().backward()
    for i, (sign, source, rows) in enumerate(places):
        linear = getattr(module, f"mm{i}")
        for ours, theirs in zip((linear.weight, linear.bias), stacked[source], strict=True):
            torch.testing.assert_close(ours.grad, sign * theirs.grad[rows], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", zoo)
def test_module_equals_plain_recursion(name):
    input_size = HIDDEN if name.startswith("MT") else INPUT
    module = build(zoo[name], input_size, HIDDEN)
    x = random_input(input_size)
    with torch.no_grad():
        out, _ = module(x)
    expected, _ = by_recursion(zoo[name], module, x, HIDDEN)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", zoo)
def test_a_sequence_in_pieces_equals_the_whole(name):
    module = build(zoo[name], HIDDEN, HIDDEN)
    x = random_input(HIDDEN)
    with torch.no_grad():
        whole, _ = module(x)
        first, state = module(x[:2])
        rest, _ = module(x[2:], state)
    torch.testing.assert_close(torch.cat((first, rest)), whole, rtol=0, atol=0)


def test_state_holds_what_the_cell_looks_back_at():
    def keys(cell):
        return set(build(cell, HIDDEN, HIDDEN)(random_input(HIDDEN))[1])

    assert keys(zoo["TanhRNN"]) == {"h"}
    assert keys(zoo["QRNN"]) == {"x", "c"}
    assert keys(zoo["MT4"]) == {"h", "t"}
    assert keys(parse("Tanh(MM(x_t))")) == set()


@settings(max_examples=40)
@given(cells(max_height=5), st.integers(0, 2**31))
def test_module_of_any_cell_equals_plain_recursion(cell, seed):
    module = build(cell, HIDDEN, HIDDEN, seed)
    x = random_input(HIDDEN, seed)
    expected, largest = by_recursion(cell, module, x, HIDDEN)
    assume(np.isfinite(largest) and largest < 1e4)  # or rounding errors grow without bounds
    with torch.no_grad():
        out, _ = module(x)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=40)
@given(cells(words=("MM", "Tanh", "Add", "LayerNorm", "x_t", "x_{t-1}", "h_{t-1}"), max_height=4))
def test_other_input_sizes_work_or_are_refused(cell):
    try:
        module = build(cell, INPUT, HIDDEN)
    except ValueError as error:
        assert "input_size must equal hidden_size" in str(error)  # noqa: PT017  (either outcome may be right)
        widths = {arg.op.startswith("x") for node in cell.operators if node.op != "MM" for arg in node.args}
        assert True in widths
        return
    x = random_input(INPUT)
    with torch.no_grad():
        out, _ = module(x)
    expected, _ = by_recursion(cell, module, x, HIDDEN)
    assert out.shape == (STEPS, BATCH, HIDDEN)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("text", ["Add(x_t, h_{t-1})", "Tanh(x_t)", "Tanh(Add(MM(x_t), LayerNorm(x_t)))", "x_{t-1}"])
def test_raw_input_needs_equal_sizes(text):
    with pytest.raises(ValueError, match="input_size must equal hidden_size"):
        build(parse(text), INPUT, HIDDEN)
    assert build(parse(text), HIDDEN, HIDDEN)(random_input(HIDDEN))[0].shape == (STEPS, BATCH, HIDDEN)


@pytest.mark.parametrize("text", ["MM(Tanh(x_t))", "MM(Add(x_t, x_{t-1}))", "Add(MM(x_t), MM(LayerNorm(x_t)))"])
def test_input_under_a_matrix_may_have_any_size(text):
    assert build(parse(text), INPUT, HIDDEN)(random_input(INPUT))[0].shape == (STEPS, BATCH, HIDDEN)


def test_source_reads_as_a_person_would_write_it():
    source = zoo["BC3"].to_pytorch("BC3")
    assert source.startswith("import torch\nfrom torch import Tensor, nn\n\n\nclass BC3(nn.Module):\n")
    step = source.split("for x_t in x:  # (B, input_size)\n")[1].split("        return")[0]
    assert [line.strip() for line in step.splitlines()] == [
        "z = self.mm3(self.mm1(c_last) * self.mm2(x_t)) * self.mm4(x_t)",
        "f = torch.sigmoid(self.mm5(x_t) + self.mm6(h_last))",
        "c_t = torch.tanh(f * self.mm0(x_t) + (1 - f) * z)",
        "o = torch.sigmoid(self.mm7(x_t) + self.mm8(h_last))",
        "h_t = o * c_t + (1 - o) * h_last",
        "outputs.append(h_t)",
        "h_last, c_last = h_t, c_t",
    ]


def test_source_is_formatted(tmp_path):
    for name, cell in zoo.items():
        (tmp_path / f"{name}.py").write_text(cell.to_pytorch(name))
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--check",
        "--isolated",
        "--line-length",
        "110",
        str(tmp_path),
    ]
    check = subprocess.run(command, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


@settings(max_examples=50)
@given(cells(max_height=6))
def test_lines_stay_short(cell):
    assert max(map(len, cell.to_pytorch().splitlines())) <= 110


def test_source_refuses():
    with pytest.raises(CellError, match="says what c_t is"):
        parse("Tanh(MM(c_{t-1}))").to_pytorch()
    for name in ("two words", "class", ""):
        with pytest.raises(CellError, match="cannot name a class"):
            zoo["LSTM"].to_pytorch(name)


# ---- LaTeX


def lines_of(latex):
    assert latex.startswith("\\begin{aligned}\n")
    assert latex.endswith("\n\\end{aligned}")
    return latex.split("\n", 1)[1].rsplit("\n", 1)[0].split(" \\\\\n")


def test_bc3_is_written_as_in_the_paper():  # S17, section 4.1, equations 1-5; z comes before f, without harm
    assert lines_of(zoo["BC3"].to_latex()) == [
        r"z &= V (X c_{t-1} \circ W^{z,1} x_t) \circ W^{z,2} x_t",
        r"f &= \sigma(W^{f} x_t + U^{f} h_{t-1})",
        r"c_t &= \tanh(f \circ W^{c} x_t + (1 - f) \circ z)",
        r"o &= \sigma(W^{o} x_t + U^{o} h_{t-1})",
        r"h_t &= o \circ c_t + (1 - o) \circ h_{t-1}",
    ]


def test_lstm_is_written_as_in_textbooks():
    assert lines_of(zoo["LSTM"].to_latex()) == [
        r"o &= \sigma(W^{o} x_t + U^{o} h_{t-1})",
        r"f &= \sigma(W^{f} x_t + U^{f} h_{t-1})",
        r"i &= \sigma(W^{i} x_t + U^{i} h_{t-1})",
        r"c_t &= f \circ c_{t-1} + i \circ \tanh(W^{c} x_t + U^{c} h_{t-1})",
        r"h_t &= o \circ \tanh(c_t)",
    ]


@pytest.mark.parametrize(
    ("text", "equations"),
    [
        ("Tanh(Add(MM(x), MM(hm1)))", [r"h_t &= \tanh(W x_t + U h_{t-1})"]),
        ("Sub(x_t, Sub(h_{t-1}, x_t))", ["h_t &= x_t - (h_{t-1} - x_t)"]),
        ("Mult(Add(x_t, h_{t-1}), PosEnc)", [r"h_t &= (x_t + h_{t-1}) \circ p_t"]),
        ("Tanh(Div(x_t, h_{t-1}))", [r"h_t &= \tanh\left(\frac{x_t}{h_{t-1}}\right)"]),
        ("MM(Div(x_t, h_{t-1}))", [r"h_t &= V \frac{x_t}{h_{t-1}}"]),
        ("Max(SeLU(x_t), LayerNorm(MM(PosEnc)))", [r"h_t &= \max(\mathrm{selu}(x_t), \mathrm{LN}(P p_t))"]),
        ("Tanh(MM(c_{t-1}))|1", [r"c_t &= \tanh(X c_{t-1})", "h_t &= c_t"]),
        ("Tanh(MM(c_{t-1}))|0", [r"c_t &= X c_{t-1}", r"h_t &= \tanh(c_t)"]),
        ("Gate3(x_t, h_{t-1}, PosEnc)", [r"h_t &= p_t \circ x_t + (1 - p_t) \circ h_{t-1}"]),
    ],
)
def test_equations(text, equations):
    assert lines_of(parse(text).to_latex()) == equations


class Matrix:
    """What every matrix letter stands for below. Python's ** binds as a matrix before its argument does."""

    weight = np.random.default_rng(0).normal(size=(HIDDEN, HIDDEN))

    def __pow__(self, a):
        return a @ self.weight.T


READ = {"Sigmoid": "sigma", "Tanh": "tanh", "ReLU": "relu", "SeLU": "selu", "Sin": "sin", "Cos": "cos"}
READ |= {"LayerNorm": "LN", "Div": "frac", "Max": "max"}


def read_back(latex, sources):
    """All values that the equations define, each line translated to Python and evaluated."""
    space = {name: MEANING[op] for op, name in READ.items()} | dict.fromkeys("WUXVP", Matrix())
    space |= {name.replace("{t-1}", "t1"): value for name, value in sources.items()} | {"p_t": sources["PosEnc"]}
    for line in lines_of(latex):
        line = re.sub(r"([WUXVP])(\^\{\S+\})? ", r"\1 ** ", line)  # a matrix and its superscript
        line = re.sub(r"\\mathrm\{(\w+)\}", r"\1", line).replace(r"\left", "").replace(r"\right", "")
        line = re.sub(r"_\{(\d+)\}", r"_\1", line).replace("{t-1}", "t1").replace(r"\circ", "*")
        line = line.replace("frac{", "frac(").replace("}{", ", ").replace("}", ")").replace("\\", "")
        name, right = line.split(" &= ")
        with np.errstate(all="ignore"):
            space[name] = eval(right, {"__builtins__": {}}, space)
    return space


@given(cells(max_height=6), st.integers(0, 2**31))
def test_equations_say_what_the_cell_computes(cell, seed):
    rng = np.random.default_rng(seed)
    sources = {name: rng.normal(size=HIDDEN) for name in SOURCES}
    matrices = [(Matrix.weight, 0.0) for node in cell.operators if node.op == "MM"]
    with np.errstate(all="ignore"):
        values = operator_values(cell, matrices, sources)
    assume(all(np.isfinite(value).all() and abs(value).max() < 1e4 for value in values))
    found = read_back(cell.to_latex(), sources)
    np.testing.assert_allclose(found["h_t"], values[-1], rtol=1e-6, atol=1e-6)
    if cell.memory is not None:
        np.testing.assert_allclose(found["c_t"], values[cell.memory], rtol=1e-6, atol=1e-6)


@given(cells(max_height=6))
def test_every_matrix_has_a_symbol_of_its_own(cell):
    latex = cell.to_latex()
    matrices = re.findall(r"[WUXVP](?:\^\{\S+\})? ", latex)
    assert len(matrices) == len(set(matrices)) == sum(node.op == "MM" for node in cell.operators)
    for letter, source in {"U": "h_{t-1}", "X": "c_{t-1}", "P": "PosEnc"}.items():
        products = sum(node.text == f"MM({source})" for node in cell.operators)
        assert sum(matrix.startswith(letter) for matrix in matrices) == products


# ---- Mermaid


@settings(max_examples=50)
@given(cells())
def test_mermaid_reads_back(cell):
    head, *lines = cell.to_mermaid().splitlines()
    assert head == "flowchart TD"
    labels, below, memory = {}, {}, None
    for line in map(str.strip, lines):
        if node := re.fullmatch(r'(n\d+)(?:\(\["(.+)"\]\)|\("(.+?)(, c_t)?"\)):::\w+', line):
            labels[node[1]] = node[2] or node[3]
            memory = len([name for name in labels.values() if name in OPERATORS]) - 1 if node[4] else memory
        elif edge := re.fullmatch(r"(n\d+) (---|-- [ab] ---|-\. f \.-) (n\d+)", line):
            below.setdefault(edge[1], []).append(edge[3])
        elif root := re.fullmatch(r'h\["h_t"\] --- (n\d+)', line):
            top = root[1]
        else:
            assert re.match("classDef|style", line)

    def text(name):
        return f"{labels[name]}({', '.join(map(text, below[name]))})" if name in below else labels[name]

    assert text(top) == cell.root.text
    assert memory == cell.memory


# ---- SVG

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(svg, kind):
    """(x, y, width, height) of the drawing's nodes, slots or rings."""

    def kind_of(rectangle):
        if rectangle.get("fill") != "none":
            return "node"
        return "slot" if rectangle.get("stroke-dasharray") else "ring"

    found = [r for r in ET.fromstring(svg).iter(SVG + "rect") if r.get("width") != "100%" and kind_of(r) == kind]
    return [tuple(float(r.get(name)) for name in ("x", "y", "width", "height")) for r in found]


def words_of(svg):
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(SVG + "text")]


@settings(max_examples=50)
@given(cells(max_height=6))
def test_nodes_neither_overlap_nor_leave_the_drawing(cell):
    svg = cell.to_svg()
    boxes = rectangles(svg, "node")
    assert len(boxes) == cell.full_size
    assert len({y for _, y, _, _ in boxes}) == cell.height + 1  # one row for each level
    _, _, width, height = map(float, ET.fromstring(svg).get("viewBox").split())
    for x, y, w, h in boxes:
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    for (x, y, w, _), (right, below, _, _) in zip(sorted(boxes, key=at), sorted(boxes, key=at)[1:], strict=False):
        assert y != below or right >= x + w + 15


def at(box):
    return box[1], box[0]


@settings(max_examples=50)
@given(cells())
def test_drawing_shows_every_word_and_number(cell):
    words = words_of(cell.to_svg())
    assert sorted(int(word) for word in words if word.isdigit()) == list(range(cell.size))
    shown = {re.sub(r"_\{?([t1-]+)\}?", r"\1", node.op).replace("-", "−") for node in cell.root.walk()}
    assert shown <= set(words)
    gates = sum(node.op == "Gate3" for node in cell.operators)
    assert [words.count(name) for name in "abf"] == [gates] * 3
    assert len(rectangles(cell.to_svg(), "ring")) == words.count("ct") == (cell.memory is not None)
    assert ET.fromstring(cell.to_svg()).find(SVG + "title").text == f"Cell {cell}"


def test_drawing_scales_to_the_page():
    assert "max-width: 100%" in ET.fromstring(zoo["NASCell"].to_svg()).get("style")


@settings(max_examples=25)
@given(cells(max_height=4))
def test_growing_fills_the_leftmost_slot(cell):
    frames = growth_frames(cell)
    assert len(frames) == cell.full_size + 1
    empty, before = [cell.root], []
    for placed, frame in enumerate(frames):
        nodes = rectangles(frame, "node")
        assert len(nodes) == placed
        assert nodes[: len(before)] == before  # nothing moves
        assert len(rectangles(frame, "slot")) == len(empty)
        before = nodes
        if empty:
            empty = [*empty[0].args, *empty[1:]]


@pytest.mark.parametrize("kind", COLOURS)
def test_text_can_be_read_on_its_colour(kind):
    def luminance(colour):  # WCAG 2.1
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted(map(luminance, COLOURS[kind]), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_side_by_side():
    page = side_by_side([zoo["MT1"].to_svg(), zoo["MT2"].to_svg()], ["a < b", "second"], columns=2)
    figures = ET.fromstring(page).findall("figure")
    assert [figure.find("figcaption").text for figure in figures] == ["a < b", "second"]
    assert "repeat(2," in page
    with pytest.raises(ValueError, match="zip"):
        side_by_side([zoo["MT1"].to_svg()], [])


def test_sheet_places_drawings_in_rows_without_overlap_and_shrinks_only_wide_ones():
    names = ["TanhRNN", "MT1", "NASCell", "BC3", "MT5"]
    natural = {name: ET.fromstring(zoo[name].to_svg()) for name in names}
    page = ET.fromstring(sheet([zoo[name].to_svg() for name in names], names, width=700))
    inner = page.findall(SVG + "svg")
    assert [element.find(SVG + "title").text for element in inner] == [f"Cell {zoo[name]}" for name in names]
    assert [text.text for text in page.findall(SVG + "text")] == names
    boxes = [[float(element.get(key)) for key in ("x", "y", "width", "height")] for element in inner]
    _, _, wide, high = map(float, page.get("viewBox").split())
    assert all(x >= -1 and x + w <= wide + 1 and y >= 0 and y + h <= high for x, y, w, h in boxes)
    for a, b in itertools.combinations(boxes, 2):
        assert a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
    scales = {n: h / float(natural[n].get("viewBox").split()[3]) for n, (*_, h) in zip(names, boxes, strict=True)}
    assert scales["NASCell"] < 1
    assert all(scale == pytest.approx(1) for name, scale in scales.items() if name != "NASCell")
