"""GNMT against its equations written out by hand: one sentence, one word at a time; and what it multiplies."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasrepro.dsl import CellError, parse, zoo
from nasrepro.trainers.beam import beam_search
from nasrepro.trainers.gnmt import Gnmt, GnmtSizes, at_equal_cost, multiply_adds

SIZES = GnmtSizes(source_words=23, target_words=19, embedding=6, hidden=8, layers=4, dropout=0.0, init_range=0.5)
START, END = 2, 3
CELLS = pytest.mark.parametrize("name", ["LSTM", "NASCell"])

Memory = tuple[Tensor, Tensor]  # h (H,), c (H,)


def lstm_by_hand(sums: list[tuple[Tensor, Tensor]], c: Tensor) -> Memory:
    """Gers et al. 2000, from the pairs W x + b and U h + b'."""
    o, f, i, g = (one + other for one, other in sums)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def nascell_by_hand(sums: list[tuple[Tensor, Tensor]], c: Tensor) -> Memory:
    """ZL17, Figure 8, as TensorFlow computes it."""
    sigmoid, tanh, relu = torch.sigmoid, torch.tanh, torch.relu
    n = [function(a * b if k == 3 else a + b) for k, (function, (a, b)) in enumerate(
        zip((sigmoid, relu, sigmoid, relu, tanh, sigmoid, tanh, sigmoid), sums, strict=True))]  # fmt: skip
    c = tanh(tanh(n[0] * n[1]) + c) * tanh(n[2] + n[3])
    return tanh(c * tanh(tanh(n[4] * n[5]) + sigmoid(n[6] + n[7]))), c


BY_HAND = {"LSTM": lstm_by_hand, "NASCell": nascell_by_hand}


def step_by_hand(name: str, rnn: Any, x: Tensor, memory: Memory) -> Memory:
    layer, (h, c) = rnn.layers[0], memory
    products = [layer.mm(number) for number in range(2 * (4 if name == "LSTM" else 8))]
    on_x, on_h = ([w @ v + b for w, b in products[k::2]] for k, v in ((0, x), (1, h)))
    return BY_HAND[name](list(zip(on_x, on_h, strict=True)), c)


def loss_by_hand(name: str, model: Gnmt, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    """Mean negative log likelihood per target word, END included, by Wu et al. 2016, section 3."""
    H = model.sizes.hidden
    zero = (model.output_weight.new_zeros(H), model.output_weight.new_zeros(H))

    def read(rnn: Any, sequence: list[Tensor]) -> list[Tensor]:
        memory, out = zero, []
        for x in sequence:
            memory = step_by_hand(name, rnn, x, memory)
            out.append(memory[0])
        return out

    total, words = zero[0].sum(), 0
    for source, target in zip(sources, targets, strict=True):
        x = [model.source_embedding[word] for word in source]
        x = [
            torch.cat(both) for both in zip(read(model.forwards, x), read(model.backwards, x[::-1])[::-1], strict=True)
        ]
        x = read(model.encoder[0], x)
        for rnn in list(model.encoder)[1:]:  # the third layer and those above it
            x = [out + below for out, below in zip(read(rnn, x), x, strict=True)]
        memories = [zero] * len(model.decoder)
        for word, following in zip([START, *target], [*target, END], strict=True):
            query = model.attention_query @ memories[0][0]  # of the step before
            scores = [
                model.attention_score @ torch.tanh(model.attention_key @ value + model.attention_bias + query)
                for value in x
            ]
            a = sum((share * value for share, value in zip(torch.stack(scores).softmax(0), x, strict=True)), zero[0])
            y = model.target_embedding[word]
            for number, rnn in enumerate(model.decoder):
                memories[number] = step_by_hand(name, rnn, torch.cat((y, a)), memories[number])
                y = memories[number][0] + (y if number >= 2 else 0)
            total = total - (model.output_weight @ y + model.output_bias).log_softmax(0)[following]
            words += 1
    return total / words


def sentences(count: int, longest: int = 6) -> tuple[list[list[int]], list[list[int]]]:
    generator = torch.Generator().manual_seed(count)

    def draw(words: int) -> list[list[int]]:
        lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
        return [torch.randint(4, words, (length,), generator=generator).tolist() for length in lengths]

    return draw(SIZES.source_words), draw(SIZES.target_words)


def pad(lists: list[list[int]]) -> Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(one) for one in lists])


def loss_of(model: Gnmt, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    """Our model's loss on sentences side by side, padded with 0."""
    context, state = model.encode(pad(sources), torch.tensor([len(one) for one in sources]))
    features, _, _ = model.decode(pad([[START, *one] for one in targets]), context, state)
    after = pad([[*one, END] for one in targets])
    real = torch.arange(len(after))[:, None] < torch.tensor([len(one) + 1 for one in targets])
    return model.loss(features, after, real.flatten().nonzero()[:, 0])


@CELLS
@pytest.mark.parametrize("layers", [2, 4])
def test_loss_and_gradients_are_those_of_the_equations(name: str, layers: int) -> None:
    """In float64, for which the reference backend computes."""
    model = Gnmt(zoo[name], replace(SIZES, layers=layers), seed=1).double()
    sources, targets = sentences(5)
    ours, theirs = loss_of(model, sources, targets), loss_by_hand(name, model, sources, targets)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    parameters = list(model.parameters())
    for found, wanted in zip(*(torch.autograd.grad(loss, parameters) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-9)


@CELLS
def test_the_fused_cells_agree(name: str) -> None:
    model = Gnmt(zoo[name], SIZES, seed=1)
    sources, targets = sentences(7)
    with torch.no_grad():
        assert loss_of(model, sources, targets).item() == pytest.approx(
            loss_by_hand(name, model, sources, targets).item(), abs=1e-5
        )


@CELLS
def test_read_word_by_word_as_beam_search_does_nothing_changes(name: str) -> None:
    model = Gnmt(zoo[name], SIZES, seed=2).double().eval()
    source, lengths, words = torch.randint(4, 23, (5, 3)), torch.tensor([5, 2, 4]), torch.randint(4, 19, (6, 3))
    context, state = model.encode(source, lengths)
    together, looked, last = model.decode(words, context, state)
    for t in range(len(words)):
        features, attention, state = model.decode(words[t : t + 1], context, state)
        torch.testing.assert_close(features[0], together[t])
        torch.testing.assert_close(attention[0], looked[t])
    torch.testing.assert_close(state, last)
    assert not looked[:, 1, 2:].any(), "behind its end a sentence is not looked at"


@pytest.mark.parametrize("name", ["LSTM", "NASCell", "QRNN"])  # which looks back at its input too
def test_greedy_search_writes_what_is_most_probable(name: str) -> None:
    model = Gnmt(zoo[name], SIZES, seed=3)
    source, lengths = torch.randint(4, 23, (5, 4)), torch.tensor([5, 2, 4, 1])
    found = beam_search(model, source, lengths, START, END, width=1, longest=7)
    for column, ids in enumerate(found):
        alone = source[: lengths[column], column : column + 1]
        context, state = model.encode(alone, lengths[column : column + 1])
        read = torch.tensor([START, *ids])[:, None]
        best = model.log_probabilities(model.decode(read, context, state)[0]).argmax(dim=2)[:, 0].tolist()
        assert best[: len(ids)] == ids
        assert len(ids) == 7 or best[len(ids)] == END
    wide = beam_search(model, source, lengths, START, END, width=3, longest=7)
    assert len(wide) == 4


def test_dropout_follows_its_generator_and_is_off_in_evaluation() -> None:
    model = Gnmt(zoo["LSTM"], replace(SIZES, dropout=0.5), seed=1)
    source, lengths, words = torch.randint(4, 23, (5, 3)), torch.tensor([5, 2, 4]), torch.randint(4, 19, (6, 3))

    def features(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.decode(words, *model.encode(source, lengths, generator), generator)[0]

    assert torch.equal(features(1), features(1))
    assert not torch.equal(features(1), features(2))
    assert 0.3 < (features(1) == 0).float().mean().item() < 0.7
    model.eval()
    assert torch.equal(features(1), features(2))


def test_weights_come_from_the_seed_alone_and_lie_in_the_range() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (Gnmt(zoo["NASCell"], SIZES, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for p, q in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
        assert SIZES.init_range / 4 < p.abs().max() <= SIZES.init_range
    assert not torch.equal(first.output_weight, other.output_weight)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(CellError):
        Gnmt("Tanh(Add(MM(x_t), MM(c_{t-1})))", SIZES, seed=0)
    with pytest.raises(CellError, match="mixes the raw input"):
        Gnmt(zoo["MT5"], SIZES, seed=0)
    with pytest.raises(ValueError, match="layers >= 2, got 1"):
        replace(SIZES, layers=1)
    with pytest.raises(ValueError, match="multiplies nothing"):
        at_equal_cost(parse("Tanh(x_t)"), SIZES, 10)


# ---- what a model multiplies


def lstm_count(E: int, H: int, L: int, V: int, S: int) -> int:
    """Layer by layer: four gates, each a matrix on the input and one on h."""
    encoder = 2 * 4 * H * (E + H) + 4 * H * (2 * H + H) + sum(4 * H * (H + H) for _ in range(L - 2))
    decoder = 4 * H * (E + H + H) + sum(4 * H * (H + H + H) for _ in range(L - 1))
    return encoder + decoder + (H * H) + (H * H + S * H + S * H) + H * V


def test_the_lstms_count_is_that_of_its_layers() -> None:
    for E, H, L, V, S in ((6, 8, 4, 19, 5), (256, 256, 2, 18_000, 13), (1024, 1024, 8, 32_000, 26)):
        assert multiply_adds(zoo["LSTM"], GnmtSizes(99, V, E, H, L, 0.0, 0.1), S) == lstm_count(E, H, L, V, S)


@pytest.mark.parametrize("name", ["LSTM", "NASCell", "BC3"])
def test_what_is_counted_is_what_torch_multiplies(name: str) -> None:
    """One sentence of S words into one of T: so many times an encoder's step and a decoder's."""
    S, T, H = 5, 5, SIZES.hidden
    model = Gnmt(zoo[name], SIZES, seed=1).double().eval()  # torch's own operators, which can be counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        context, state = model.encode(torch.randint(4, 23, (S, 1)), torch.tensor([S]))
        model.log_probabilities(model.decode(torch.randint(4, 19, (T, 1)), context, state)[0])
    # A product with a vector, here the attention's scores, is none that the counter knows.
    assert counter.get_total_flops() / 2 + T * S * H == S * multiply_adds(zoo[name], SIZES, S)


@pytest.mark.parametrize("name", ["NASCell", "MaxSin", "GRU", "TanhRNN"])
@pytest.mark.parametrize(
    "lstm", [GnmtSizes(9_799, 17_998, 256, 256, 4, 0.2, 0.1), GnmtSizes(32_000, 32_000, 1024, 1024, 8, 0.2, 0.04)]
)
def test_at_the_solved_width_a_cell_costs_what_the_lstm_does(name: str, lstm: GnmtSizes) -> None:
    cell, goal = zoo[name], multiply_adds(zoo["LSTM"], lstm, 13)
    found = at_equal_cost(cell, lstm, 13)
    assert replace(found, hidden=lstm.hidden) == lstm
    assert multiply_adds(cell, found, 13) == pytest.approx(goal, rel=0.01)
    gaps = {width: abs(multiply_adds(cell, replace(lstm, hidden=width), 13) - goal) for width in range(1, 3000)}
    assert found.hidden == min(gaps, key=lambda width: gaps[width])


def test_the_lstm_keeps_its_width() -> None:
    for hidden in (1, 2, 31, 500):
        sizes = replace(SIZES, hidden=hidden)
        assert at_equal_cost(zoo["LSTM"], sizes, 7) == sizes
