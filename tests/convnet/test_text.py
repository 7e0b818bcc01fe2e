"""The text of a network: both ways, and errors that point at the line."""

import pytest
from hypothesis import given, settings

from nasrepro.convnet import ConvNet, ConvNetError, Layer, parse, zoo
from tests.convnet.drawn import networks

PAPER = """layer {
  name = layer_1
  type = conv
  connect_to = input
  filter_width = 2
  filter_height = 3
  stride_width = 4
  stride_height = 5
  num_filters = 6
}
"""  # ZL17 section 3.1, as printed; the second half of the example describes the classifier

CLASSIFIER = """layer {
  name = classifier
  connect_to = layer_1
  num_class = 10
}"""


def block(*lines):
    return "\n".join(["layer {", *(f"  {line}" for line in lines), "}"])


def test_the_papers_example_is_read_and_written_as_printed():
    net = parse(PAPER + CLASSIFIER)
    assert net == ConvNet((Layer("conv", (0,), 3, 2, 5, 4, filters=6),), 10, (1,))
    assert str(net) == PAPER + CLASSIFIER


@given(networks())
@settings(max_examples=50)
def test_texts_are_read_back(net):
    assert parse(str(net)) == net
    assert str(parse(str(net))) == str(net)


@pytest.mark.parametrize("name", zoo)
def test_the_zoo_is_read_back(name):
    assert parse(str(zoo[name])) == zoo[name]


def test_what_is_left_out_comments_names_and_space():
    text = """
    # a network of two layers
    layer{
      num_filters=4   # all else is left out
    }
    layer {
        name = größer
        connect_to = layer_1,input
        num_filters = 8
        activation = relu
    }
    layer { # the last
      name = classifier
      connect_to = größer
      learning_rate = 0.05
    }
    """
    expected = ConvNet((Layer("conv", filters=4), Layer("conv", (1, 0), filters=8)), 10, (2,), 0.05)
    assert parse(text) == expected
    assert parse(text.replace("\n", "\r\n")) == expected


def test_an_addition_is_written_in_few_lines():
    net = ConvNet((Layer("conv", (0,), filters=4, activation="identity"), Layer("add", (0, 1))))
    assert block("name = layer_2", "type = add", "connect_to = input, layer_1") in str(net)
    assert str(net).count("activation = identity") == 1
    assert parse(str(net)) == net


ONE = block("num_filters = 4")
END = block("name = classifier")

# text -> line that the error points at, or None, and what it says
BAD = {
    "nothing": ("", None, "no layer of the name classifier"),
    "space": (" \n\t\n", None, "no layer of the name classifier"),
    "no classifier": (ONE, None, "no layer of the name classifier"),
    "only a classifier": (END, 1, "one layer or more"),
    "a cycle of one": (block("name = a", "connect_to = a", "num_filters = 4") + "\n" + END, 3, "cycle"),
    "a cycle of two": (
        block("name = a", "connect_to = b", "num_filters = 4")
        + "\n"
        + block("name = b", "connect_to = a", "num_filters = 4")
        + "\n"
        + END,
        3,
        "'b', which is no earlier layer",
    ),
    "a later layer": (block("connect_to = layer_2", "num_filters = 4") + "\n" + ONE + "\n" + END, 2, "no earlier"),
    "the classifier": (block("connect_to = classifier", "num_filters = 4") + "\n" + END, 2, "no earlier layer"),
    "no filters": (block("name = a", "num_filters = 0") + "\n" + END, 3, "a whole number from 1 on"),
    "no number of filters": (block("name = a", "filter_width = 3") + "\n" + END, 1, "a has no num_filters"),
    "half a filter": (block("num_filters = 0.5") + "\n" + END, 2, "a whole number"),
    "a stride of 0": (block("num_filters = 4", "stride_width = 0") + "\n" + END, 3, "stride_width is a whole number"),
    "a number beyond all": (block("num_filters = 99999999999999999999") + "\n" + END, 2, "a whole number"),
    "digits of another script": (block("num_filters = \u0663") + "\n" + END, 2, "a whole number"),
    "an unknown key": (block("num_filters = 4", "colour = red") + "\n" + END, 3, "'colour' is unknown here"),
    "a key of layers": (ONE + "\n" + block("name = classifier", "num_filters = 4"), 6, "unknown here"),
    "an unknown type": (block("type = lstm", "num_filters = 4") + "\n" + END, 2, "'lstm' is no type of layer"),
    "filters of a pool": (block("type = max_pool", "num_filters = 4") + "\n" + END, 3, "which has no num_filters"),
    "strides of an addition": (block("type = add", "stride_width = 2") + "\n" + END, 3, "which has no stride_width"),
    "an unknown activation": (block("num_filters = 4", "activation = tanh") + "\n" + END, 3, "no activation"),
    "activation of a pool": (block("type = max_pool", "activation = relu") + "\n" + END, 3, "has no activation"),
    "two of a name": (ONE + "\n" + block("name = layer_1", "num_filters = 4") + "\n" + END, 5, "of two layers"),
    "the image's name": (block("name = input", "num_filters = 4") + "\n" + END, 2, "the name of the image"),
    "a comma in a name": (block("name = a,b", "num_filters = 4") + "\n" + END, 2, "a comma"),
    "a key twice": (block("num_filters = 4", "num_filters = 5") + "\n" + END, 3, "given twice"),
    "a line without value": (block("num_filters =") + "\n" + END, 2, "no line of a block"),
    "a line without sign": (block("num_filters 4") + "\n" + END, 2, "no line of a block"),
    "an empty connection": (block("connect_to = input,", "num_filters = 4") + "\n" + END, 2, "no earlier layer"),
    "an open block": (ONE + "\nlayer {\n  name = classifier\n", 4, "the last block is not closed"),
    "a block in a block": ("layer {\nlayer {\n", 2, "within another"),
    "words outside": ("conv\n" + ONE + "\n" + END, 1, "in no block"),
    "a brace too many": (ONE + "\n}\n" + END, 4, "in no block"),
    "layers behind the classifier": (ONE + "\n" + END + "\n" + ONE, 7, "nothing follows"),
    "one class": (ONE + "\n" + block("name = classifier", "num_class = 1"), 6, "a whole number from 2 on"),
    "a rate of nothing": (ONE + "\n" + block("name = classifier", "learning_rate = 0"), 6, "a positive number"),
    "a rate that is none": (ONE + "\n" + block("name = classifier", "learning_rate = nan"), 6, "a positive number"),
    "the image alone": (ONE + "\n" + block("name = classifier", "connect_to = input"), 6, "the image alone"),
    "10,000 layers": ((ONE + "\n") * 10_000 + END, 3001, "1,000 layers at most"),
    "a sum of concatenations": (
        "\n".join([ONE, ONE, block("type = max_pool", "connect_to = layer_1, layer_2"), ONE])
        + "\n"
        + block("type = add", "connect_to = layer_3, layer_4")
        + "\n"
        + END,
        16,
        "adds layer_3",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_errors_point_at_the_line(what):
    text, line, says = BAD[what]
    with pytest.raises(ConvNetError) as caught:
        parse(text)
    error = caught.value
    assert says in error.problem
    assert error.line == line
    if line is not None:
        assert text.splitlines()[line - 1].strip() == error.text.strip()
        assert f"line {line}: " in str(error)
    assert len(str(error)) < 1500


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("filter_width = 9", "filter_width = 9 and reads maps of 4 x 8"),
        ("stride_height = 5", "stride_height = 5"),
    ],
)
def test_with_images_in_mind_errors_point_at_sizes_too(wrong, says):
    second = block("connect_to = layer_1", "num_filters = 4", wrong)
    text = "\n".join([block("num_filters = 4", "stride_height = 2"), second, END])
    assert parse(text, (3, 18, 18)) == parse(text)
    with pytest.raises(ConvNetError, match=says) as caught:
        parse(text, (3, 8, 8))
    assert (caught.value.line, caught.value.text.strip()) == (8, wrong)


@pytest.mark.parametrize("value", [None, 3, b"layer {}"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ConvNetError, match="written as text"):
        parse(value)
