"""Drawings read back from their SVG, and generated source beside the module."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import torch
from hypothesis import given, settings

from nasrepro.convnet import ConvNet, ConvNetError, Layer, zoo
from nasrepro.convnet.drawing import ARCS, COLOURS
from nasrepro.convnet.module import ImageClassifier
from nasrepro.convnet.zoo import blocks, scaled, without_skips
from tests.convnet.drawn import IMAGE, networks

SVG = "{http://www.w3.org/2000/svg}"

# ---- PyTorch


def generated(net, channels):
    space = {}
    exec(net.to_pytorch("Twin", channels), space)
    return space["Twin"]().double()


def assert_twins(net, shape):
    """The generated module, given a network's weights, computes the same scores and gradients."""
    model = ImageClassifier(net, shape, generator=torch.Generator().manual_seed(0)).double()
    twin = generated(net, shape[0])
    values = list(model.state_dict().values())
    names = list(twin.state_dict())
    twin.load_state_dict(dict(zip(names, values, strict=True)))
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mode in (True, False):
        torch.testing.assert_close(twin.train(mode)(images), model.train(mode)(images), rtol=1e-12, atol=1e-12)
    for each in (model, twin):
        each.train()(images).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-9, atol=1e-12)


@given(networks(most=5))
@settings(max_examples=20)
def test_generated_modules_compute_the_same(net):
    assert_twins(net, IMAGE)


@pytest.mark.parametrize("name", zoo)
def test_generated_modules_of_the_zoo_compute_the_same(name):
    assert_twins(scaled(zoo[name], 1 / 12), (3, 12, 12))


def test_generated_source_needs_torch_alone_and_is_tidy():
    source = zoo["Figure 7, all skips"].to_pytorch("Figure7")
    assert set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)) == {"math", "torch"}
    assert max(map(len, source.splitlines())) <= 120
    wide = ConvNet((*[Layer("conv", (0,), filters=1)] * 40, Layer("conv", tuple(range(41)), filters=1)))
    assert max(map(len, wide.to_pytorch().splitlines())) <= 120
    assert_twins(wide, (1, 2, 2))


def test_generated_source_passes_a_linter(tmp_path):
    for number, net in enumerate([*zoo.values(), blocks(without_skips(zoo["Figure 7"])), ConvNet((Layer("add"),))]):
        (tmp_path / f"net{number}.py").write_text(net.to_pytorch(), encoding="utf-8")
    rules = ["--isolated", "--no-cache", "--select", "E,F,A,W,B,UP", "--line-length", "120"]
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *rules, str(tmp_path)], text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_weights_of_generated_modules_are_drawn_as_the_modules():
    torch.manual_seed(0)
    twin = generated(ConvNet((Layer("conv", (0,), 3, 5, filters=400),)), 30)
    assert twin.conv_1.weight.std().item() == pytest.approx((2 / (15 * 400)) ** 0.5, rel=0.02)
    assert twin.classifier.weight.abs().max().item() == pytest.approx(400**-0.5, rel=0.01)
    assert not twin.classifier.bias.any()


@pytest.mark.parametrize("name", ["", "class", "a b", "1st"])
def test_a_class_needs_a_name(name):
    with pytest.raises(ConvNetError, match="cannot name a class"):
        zoo["Figure 7"].to_pytorch(name)


# ---- drawing


def drawn(net):
    """Boxes (x, y, width, height, text) from the image to the softmax, and the paths of the arcs and lines."""
    root = ET.fromstring(net.to_svg())
    rects = [each for each in root.iter(f"{SVG}rect") if each.get("x")]
    texts = [each.text for each in root.iter(f"{SVG}text") if not each.text.isdigit()]
    boxes = [
        (*(float(r.get(key)) for key in ("x", "y", "width", "height")), t) for r, t in zip(rects, texts, strict=True)
    ]
    paths = [each for each in root.iter(f"{SVG}path") if each.get("stroke")]
    return root, boxes, paths


def ends(path, boxes):
    """The boxes in which a path begins and ends."""
    numbers = list(map(float, re.findall(r"-?\d+\.\d+", path.get("d"))))
    x0, y0 = numbers[:2]
    x1, y1 = (x0, numbers[2]) if "V" in path.get("d") else numbers[-2:]

    def at(x, y):
        near = 0.11  # coordinates are rounded
        (found,) = (
            number
            for number, (left, top, wide, high, _) in enumerate(boxes)
            if left - near <= x <= left + wide + near and top - near <= y <= top + high + near
        )
        return found

    return at(x0, y0), at(x1, y1)


@given(networks(most=8))
@settings(max_examples=20)
def test_every_connection_is_drawn_once_from_box_to_box(net):
    _, boxes, paths = drawn(net)
    last = len(net.layers) + 1
    expected = [*net.edges(), *((number, last) for number in net.read_by_classifier)]
    assert sorted(ends(path, boxes) for path in paths) == sorted(expected)


@pytest.mark.parametrize("name", zoo)
def test_drawings_stay_on_the_page_and_rise_from_the_image(name):
    root, boxes, paths = drawn(zoo[name])
    width, height = map(float, root.get("viewBox").split()[2:])
    assert [text for *_, text in boxes][:: len(boxes) - 1] == ["image", "softmax"]
    assert sorted(boxes, key=lambda box: -box[1]) == boxes
    for path in paths:
        numbers = list(map(float, re.findall(r"-?\d+\.\d+", path.get("d"))))
        if len(numbers) == 8:
            # A cubic curve reaches three quarters of the way to handles that stand equally far out.
            far = numbers[0] + 0.75 * (numbers[2] - numbers[0])
            assert 5 < far < width - 5
    assert all(top > 5 and top + high < height - 5 for _, top, _, high, _ in boxes)


def test_boxes_say_what_figure_7s_say():
    _, boxes, _ = drawn(zoo["Figure 7"])
    assert [text for *_, text in boxes][1:6] == [
        "3 × 3, 36 filters",
        "3 × 3, 48 filters",
        "3 × 3, 36 filters",
        "5 × 5, 36 filters",
        "3 × 7, 48 filters",
    ]
    other = ConvNet((Layer("max_pool", (0,), 2, 3, 2, 1), Layer("add", (0, 1)), Layer("contrast_norm", (2,))))
    assert [text for *_, text in drawn(other)[1]][1:4] == ["max pool 2 × 3, stride 2 × 1", "add", "contrast norm"]


def luminance(colour):
    """Relative luminance of #RRGGBB (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("paper", "ink"), [*COLOURS.values(), *(("#FFFFFF", arc) for arc in ARCS)])
def test_colours_can_be_read(paper, ink):
    light, dark = sorted((luminance(paper), luminance(ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= (4.5 if paper != "#FFFFFF" else 2.7)  # letters; lines 1.3 pixels thick


def test_notebooks_show_the_drawing():
    net = zoo["ResNet, 20 layers"]
    assert net.to_svg() in net._repr_html_()
    assert net._repr_svg_() == net.to_svg()


def test_describing_and_drawing_need_no_torch():
    code = (
        "import sys\nimport nasrepro as nr\nzoo, parse = nr.convnet.zoo, nr.convnet.parse\n"
        "net = parse(str(zoo['Figure 7']))\nnet.to_svg(), net.to_pytorch(), net.to_json(), net.hash\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
