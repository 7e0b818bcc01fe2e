"""Networks as values: their connections, shapes and counts, what makes two of them the same, and JSON."""

import gzip
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasrepro.convnet import ConvNet, ConvNetError, Layer, parse, zoo
from nasrepro.convnet.identity import canonical_order
from nasrepro.convnet.module import ImageClassifier
from tests.convnet.drawn import IMAGE, independent_shapes, networks

RECORD = Path(__file__).resolve().parents[2] / "results" / "records" / "cifar10-figure-7.jsonl.gz"


def conv(*inputs, size=(3, 3), stride=(1, 1), filters=4, activation="relu"):
    return Layer("conv", inputs, *size, *stride, filters=filters, activation=activation)


# ---- ZL17's three rules


def test_a_layer_without_inputs_reads_the_image():
    assert ConvNet((conv(), conv())).connections == ((0,), (0,))


def test_what_no_layer_reads_goes_to_the_classifier():
    net = ConvNet((conv(0), conv(1), conv(1), conv(2)))
    assert net.read_by_classifier == (3, 4)
    assert replace(net, output=(2, 0, 2)).read_by_classifier == (0, 2)


def test_maps_of_different_sizes_are_padded_to_the_largest():
    net = ConvNet((conv(0, stride=(2, 1), filters=5), conv(0, stride=(1, 3), filters=6), conv(1, 2, 0, filters=1)))
    shapes = net.shapes(3, 32, 32)
    assert shapes == [(3, 32, 32), (5, 16, 32), (6, 32, 11), (1, 32, 32)]
    assert net.read_shape(3, shapes) == (14, 32, 32)
    assert net.read_shape(4, shapes) == (1, 32, 32)


# ---- shapes and counts


@given(networks())
@settings(max_examples=20)
def test_shapes_follow_from_the_rules_and_are_those_of_the_module(net):
    expected = independent_shapes(net, IMAGE)
    assert net.shapes(*IMAGE) == expected
    model = ImageClassifier(net, IMAGE, generator=torch.Generator().manual_seed(0))
    seen = []
    for module in model.layers:
        module.register_forward_hook(lambda _, __, made: seen.append(tuple(made.shape[1:])))
    scores = model(torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(1)))
    assert seen == expected[1:]
    assert scores.shape == (2, net.classes)


@given(networks())
@settings(max_examples=50)
def test_parameters_are_those_of_the_module(net):
    model = ImageClassifier(net, IMAGE, generator=torch.Generator().manual_seed(0))
    assert net.parameters(IMAGE[0]) == sum(each.numel() for each in model.parameters())
    filters = sum(each.numel() for each in model.parameters() if each.dim() == 4)
    assert net.conv_weights(IMAGE[0]) == filters


def test_multiply_adds_of_a_small_network_by_hand():
    net = ConvNet((conv(0, size=(3, 5), stride=(2, 1), filters=4), conv(0, 1, size=(1, 7), stride=(1, 2), filters=6)))
    # 3 x 5 filters on 3 maps make 4 of 16 x 32 pixels; 1 x 7 filters on 3 + 4 maps of 32 x 32 make 6 of 32 x 16.
    assert net.multiply_adds(3, 32, 32) == 3 * 5 * 3 * 4 * 16 * 32 + 1 * 7 * 7 * 6 * 32 * 16
    pooled = ConvNet((Layer("max_pool", (0,), 2, 2, 2, 2), Layer("add", (0, 1)), conv(2, filters=2)))
    assert pooled.multiply_adds(1, 4, 4) == 9 * 1 * 2 * 16


# ---- identity


def renumbered(net, order):
    """The same network with its layers in another order: `order` lists old numbers, inputs first."""
    new = {0: 0} | {old: number for number, old in enumerate(order, 1)}
    layers = [net.layers[old - 1] for old in order]
    moved = tuple(replace(layer, inputs=tuple(new[i] for i in layer.inputs)) for layer in layers)
    return replace(net, layers=moved, output=tuple(new[i] for i in net.output))


@st.composite
def networks_renumbered(draw):
    net = draw(networks())
    waiting, order = set(range(1, len(net.layers) + 1)), []
    while waiting:
        ready = sorted(n for n in waiting if waiting.isdisjoint(net.layers[n - 1].inputs))
        order.append(draw(st.sampled_from(ready)))
        waiting.remove(order[-1])
    return net, renumbered(net, order)


@given(networks_renumbered())
@settings(max_examples=50)
def test_numbers_of_layers_do_not_matter(pair):
    net, other = pair
    assert net.canonical() == other.canonical()
    assert net.hash == other.hash


@given(networks(), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_repeated_connections_and_their_order_do_not_matter(net, random):
    layers = []
    for layer in net.layers:
        inputs = [*layer.inputs, *layer.inputs[:1]]
        random.shuffle(inputs)
        layers.append(replace(layer, inputs=tuple(inputs)))
    assert replace(net, layers=tuple(layers)).canonical() == net.canonical()


@given(networks(), networks(most=2))
@settings(max_examples=50)
def test_layers_that_do_not_reach_the_classifier_do_not_matter(net, dead):
    shift = len(net.layers)
    moved = tuple(replace(each, inputs=tuple(i + shift for i in each.inputs if i)) for each in dead.layers)
    longer = replace(net, layers=net.layers + moved, output=net.read_by_classifier)
    assert longer.canonical() == net.canonical()
    assert longer.hash == net.hash


@given(networks())
@settings(max_examples=50)
def test_the_canonical_form_is_its_own(net):
    canonical = net.canonical()
    assert canonical.canonical() == canonical
    assert canonical.hash == net.hash
    assert canonical.read_by_classifier == canonical.output


def carried_over(net, model, twin):
    """Load into the twin, which has the canonical form, the weights of a network's module."""
    order = canonical_order(net)
    new = {0: 0} | {old: number for number, old in enumerate(order, 1)}
    old = {number: before for before, number in new.items()}
    depths = [shape[0] for shape in net.shapes(*IMAGE)]

    def joined(inputs, places):
        """Of each map that the twin joins, the place among those that the network joins."""
        starts, start = {}, 0
        for i in sorted(old[n] for n in inputs):
            starts[i] = start
            start += depths[i]
        return [starts[old[n]] + place for n in inputs for place in places[n]]

    places = [list(range(IMAGE[0]))]  # of each map of each of the twin's layers, the place among the network's
    state = model.state_dict()
    into = dict(state)
    for number, layer in enumerate(twin.network.layers, 1):
        read = joined(twin.network.connections[number - 1], places)
        places.append(list(range(depths[old[number]])) if layer.type in ("conv", "add") else read)
        for name, value in state.items():
            prefix = f"layers.{old[number] - 1}."
            if name.startswith(prefix):
                if value.dim() == 4 and layer.type == "conv":
                    value = value[:, read]
                if layer.type == "batch_norm" and value.dim() == 1:
                    value = value[read]
                into[f"layers.{number - 1}.{name.removeprefix(prefix)}"] = value
    into["classifier.weight"] = state["classifier.weight"][:, joined(twin.network.read_by_classifier, places)]
    twin.load_state_dict({name: into[name] for name in twin.state_dict()})


@given(networks())
@settings(max_examples=15)
def test_the_canonical_form_computes_the_same(net):
    model = ImageClassifier(net, IMAGE, generator=torch.Generator().manual_seed(0)).double()
    twin = ImageClassifier(net.canonical(), IMAGE, generator=torch.Generator().manual_seed(1)).double()
    carried_over(net, model, twin)
    images = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(twin(images), model(images), rtol=1e-9, atol=1e-9)


@given(networks())
@settings(max_examples=50)
def test_what_differs_has_another_hash(net):
    others = [replace(net, classes=net.classes + 1), replace(net, learning_rate=2.5)]
    *before, last = net.canonical().layers
    if last.type == "conv":
        others += [
            replace(net.canonical(), layers=(*before, replace(last, filters=last.filters + 1))),
            replace(net.canonical(), layers=(*before, replace(last, filter_height=last.filter_height + 1))),
            replace(net.canonical(), layers=(*before, replace(last, stride_width=last.stride_width + 1))),
        ]
    if last.type in ("conv", "add"):
        other = "identity" if last.activation == "relu" else "relu"
        others.append(replace(net.canonical(), layers=(*before, replace(last, activation=other))))
    hashes = [net.hash, *(each.hash for each in others)]
    assert len(set(hashes)) == len(hashes)


def test_networks_of_shipped_records_keep_their_hashes_and_texts():
    rows = [json.loads(line) for line in gzip.decompress(RECORD.read_bytes()).decode().splitlines()]
    trained = [row for row in rows if "canonical" in row]
    assert zoo["Figure 7"].hash == "1a7e036a73440c08"
    assert {row["hash"] for row in trained} == {"1a7e036a73440c08", "36598ab6efe6a755"}
    for row in trained:
        assert parse(row["canonical"]).hash == row["hash"]
        assert str(parse(row["canonical"]).canonical()) == row["canonical"]


# ---- JSON


@given(networks())
@settings(max_examples=50)
def test_json_is_read_back(net):
    assert ConvNet.from_json(net.to_json()) == net


def test_json_says_nothing_of_what_a_network_does_not_use():
    data = json.loads(zoo["Figure 7"].to_json())
    assert list(data) == ["format", "hash", "layers", "classes", "output", "learning_rate"]
    fields = ["type", "inputs", "filter_height", "filter_width", "stride_height", "stride_width", "filters"]
    assert {tuple(layer) for layer in data["layers"]} == {tuple(fields)}


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 3},
        {"layers": [3]},
        {"layers": [{"type": "conv"}]},
        {"layers": []},
        {"classes": 2.5},
        {"classes": "ten"},
        {"output": [1.0]},
        {"output": [9]},
        {"learning_rate": -1},
        {"hash": "0123456789abcdef"},
    ],
)
def test_other_json_is_refused(change):
    data = json.loads(ConvNet((conv(0),)).to_json())
    with pytest.raises(ConvNetError):
        ConvNet.from_json(json.dumps({**data, **change}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"layers": [{"type": "conv", "colour": 1}]}'])
def test_what_is_no_json_of_a_network_is_refused(text):
    with pytest.raises(ConvNetError):
        ConvNet.from_json(text)


# ---- what is no network


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ((), "1 to 1,000 layers"),
        ((conv(0),) * 10_000, "10,000"),
        ((conv(1),), "reads itself: a cycle"),
        ((conv(2), conv(1)), "layer_1 reads layer_2, which is no earlier layer"),
        ((conv(-1),), "no earlier layer"),
        ((conv(0.0),), "no earlier layer"),
        ((conv(0, filters=0),), "num_filters = 0"),
        ((conv(0, filters=True),), "num_filters = True"),
        ((conv(0, size=(0, 1)),), "filter_height = 0"),
        ((conv(0, stride=(1, -1)),), "stride_width = -1"),
        ((Layer("lstm"),), "the type 'lstm'"),
        ((Layer("max_pool", filters=3),), "no num_filters"),
        ((Layer("batch_norm", stride_height=2),), "no stride_height"),
        ((Layer("add", filter_width=3),), "no filter_width"),
        ((Layer("max_pool", activation="identity"),), "no activation"),
        ((conv(0, activation="tanh"),), "the activation 'tanh'"),
        ((conv(0), conv(0), Layer("max_pool", (1, 2)), Layer("add", (1, 3))), "adds layer_3"),
    ],
)
def test_what_is_no_network_is_refused(layers, says):
    with pytest.raises(ConvNetError, match=says):
        ConvNet(tuple(layers))


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": 1},
        {"classes": 2.5},
        {"output": (2,)},
        {"output": (-1,)},
        {"output": (0,)},
        {"learning_rate": float("nan")},
    ],
)
def test_what_is_no_classifier_is_refused(fields):
    with pytest.raises(ConvNetError):
        ConvNet((conv(0),), **fields)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (conv(1, size=(5, 3)), "layer_2 has filter_height = 5 and reads maps of 4 x 4 pixels"),
        (conv(1, size=(3, 5)), "layer_2 has filter_width = 5"),
        (conv(1, stride=(5, 1)), "layer_2 has stride_height = 5"),
        (Layer("max_pool", (1,), 1, 1, 1, 5), "layer_2 has stride_width = 5"),
    ],
)
def test_what_is_larger_than_its_maps_is_refused(layer, says):
    net = ConvNet((conv(0, stride=(2, 2)), layer))
    with pytest.raises(ConvNetError, match=says):
        net.shapes(3, 8, 8)
    with pytest.raises(ConvNetError, match=says):
        ImageClassifier(net, (3, 8, 8), generator=torch.Generator())


def test_a_thousand_layers_are_a_network():
    deepest = ConvNet(tuple(conv(number, filters=1) for number in range(1000)))
    assert deepest.canonical() == replace(deepest, output=(1000,))


def test_layers_that_are_alike_can_be_paired_in_any_way():
    # Six equal layers, of which three others read two each: every way of pairing them is the same network.
    pairings = []
    for first in itertools.combinations(range(1, 7), 2):
        rest = [n for n in range(1, 7) if n not in first]
        inputs = [first, (rest[0], rest[1]), (rest[2], rest[3])]
        pairings.append(ConvNet((*[conv(0)] * 6, *[conv(*each) for each in inputs])))
    assert len({net.hash for net in pairings}) == 1


@pytest.mark.parametrize("rate", ["0.1", True, float("nan"), float("inf"), 0, -0.1, [0.1]])
def test_what_is_no_learning_rate_is_refused(rate):
    with pytest.raises(ConvNetError, match="a learning rate is a positive number, got"):
        ConvNet((Layer("conv", (), 3, 3, filters=1),), learning_rate=rate)


def test_equal_learning_rates_have_one_text_whoever_made_the_numbers():
    nets = [ConvNet((Layer("conv", (), 3, 3, filters=1),), learning_rate=rate) for rate in (1, 1.0, np.float64(1))]
    assert len({str(net) for net in nets}) == len({net.hash for net in nets}) == len({*nets}) == 1
    assert nets[0].learning_rate == 1.0


@pytest.mark.parametrize("count", [0, 10_000])
def test_no_layers_and_ten_thousand_are_refused_in_every_form(count):
    layers = tuple(Layer("conv", (number,), 3, 3, filters=3) for number in range(count))
    with pytest.raises(ConvNetError, match=f"1 to 1,000 layers, this one has {count:,}"):
        ConvNet(layers)
    text = json.dumps({"layers": [asdict(each) for each in layers], "classes": 10, "output": [], "learning_rate": None})
    with pytest.raises(ConvNetError, match=f"1 to 1,000 layers, this one has {count:,}"):
        ConvNet.from_json(text)
