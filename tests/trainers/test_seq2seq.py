"""The translation model against one written out by hand: one sentence, one word at a time, torch's LSTMs throughout."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro.dsl import CellError, zoo
from nasrepro.rnn import RNN
from nasrepro.trainers.seq2seq import Seq2Seq, Sizes
from tests.trainers.test_language_model import TorchLSTM

SIZES = Sizes(
    source_words=23, target_words=19, hidden=8, layers=2, dropout=0.0, bptt=100, init_range=0.5, bridge="zeros"
)
START, END = 2, 3


def sentences(count: int, longest: int = 7) -> tuple[list[list[int]], list[list[int]]]:
    generator = torch.Generator().manual_seed(count)

    def draw(words: int) -> list[list[int]]:
        lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
        return [torch.randint(4, words, (length,), generator=generator).tolist() for length in lengths]

    return draw(SIZES.source_words), draw(SIZES.target_words)


def loss_of(model: Seq2Seq, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    """Our model's loss on sentences side by side, padded with 0."""

    def pad(lists: list[list[int]]) -> Tensor:
        return nn.utils.rnn.pad_sequence([torch.tensor(one) for one in lists])

    context, state = model.encode(pad(sources), torch.tensor([len(one) for one in sources]))
    features, _, _ = model.decode(pad([[START, *one] for one in targets]), context, state)
    after = pad([[*one, END] for one in targets])
    real = torch.arange(len(after))[:, None] < torch.tensor([len(one) + 1 for one in targets])
    return model.loss(features, after, real.flatten().nonzero()[:, 0])


def loss_by_hand(model: Seq2Seq, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    """Mean negative log likelihood per target word, END included: no batch, no padding, no reordering."""
    assert isinstance(model.encoder, RNN)
    H, L = model.sizes.hidden, model.sizes.layers
    encoder = TorchLSTM(model.encoder).lstm
    total, words = torch.zeros(()), 0
    for source, target in zip(sources, targets, strict=True):
        outputs, (h, c) = encoder(F.embedding(torch.tensor(source), model.source_embedding))  # (S, H), (L, H)
        hs, cs, feed = list(h), list(c), torch.zeros(H)
        for word, following in zip([START, *target], [*target, END], strict=True):
            below = torch.cat((model.target_embedding[word], feed))
            for layer in range(L):
                cell = nn.LSTMCell(len(below), H)
                weight = model.decoder_weight[layer]
                parts = {
                    "weight_ih": weight[:, :-H],
                    "weight_hh": weight[:, -H:],
                    "bias_ih": model.decoder_bias[layer],
                    "bias_hh": torch.zeros(4 * H),
                }
                hs[layer], cs[layer] = torch.func.functional_call(cell, parts, (below, (hs[layer], cs[layer])))
                below = hs[layer]
            scores = torch.stack([key @ model.attention_in @ below for key in outputs])  # h_s' W h_t
            mixed = sum(
                (share * value for share, value in zip(scores.softmax(0), outputs, strict=True)), torch.zeros(H)
            )
            feed = torch.tanh(model.attention_out @ torch.cat((mixed, below)))
            logits = model.output_weight @ feed + model.output_bias
            total = total - logits.log_softmax(0)[following]
            words += 1
    return total / words


def test_loss_and_gradients_are_those_of_the_model_by_hand() -> None:
    model = Seq2Seq(zoo["LSTM"], SIZES, seed=1)
    sources, targets = sentences(9)
    ours, theirs = loss_of(model, sources, targets), loss_by_hand(model, sources, targets)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    own = [p for name, p in model.named_parameters() if not name.startswith("encoder")]
    for found, wanted in zip(torch.autograd.grad(ours, own), torch.autograd.grad(theirs, own), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["LSTM", "BC3", "MT1", "MT2", "MT3", "MT4", "MT5"])
def test_padding_changes_nothing(name: str) -> None:
    model = Seq2Seq(zoo[name], SIZES, seed=2)
    sources, targets = sentences(8)
    together = loss_of(model, sources, targets)
    alone = [loss_of(model, [one], [other]) * (len(other) + 1) for one, other in zip(sources, targets, strict=True)]
    average = torch.stack(alone).sum() / sum(len(target) + 1 for target in targets)
    assert together.item() == pytest.approx(average.item(), rel=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    both = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (together, average))
    for found, wanted in zip(*both, strict=True):
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            torch.testing.assert_close(found, wanted, atol=3e-6, rtol=2e-4)


@pytest.mark.parametrize(("bridge", "factor"), [("zeros", 0.0), ("copy", 1.0)])
def test_the_decoder_starts_from_the_encoders_last_state(bridge: str, factor: float) -> None:
    sizes = Sizes(**{**vars(SIZES), "bridge": bridge})
    source, lengths = torch.randint(4, 23, (5, 3)), torch.tensor([5, 2, 4])
    without = Seq2Seq(zoo["MT5"], sizes, seed=0)
    context, state = without.encode(source, lengths)
    assert torch.equal(state.h[-1], context.values[torch.arange(3), lengths - 1])  # the top layer's last output
    assert torch.equal(state.c, factor * state.h)
    assert not state.feed.any()
    with_memory = Seq2Seq(zoo["LSTM"], sizes, seed=0)
    _, state = with_memory.encode(source, lengths)
    x = F.embedding(source[:2, 1:2], with_memory.source_embedding)
    _, (_, memory) = with_memory.encoder(x)  # the second sentence alone has two words
    torch.testing.assert_close(state.c[:, 1], memory[:, 0])


def test_weights_come_from_the_seed_alone_and_lie_in_the_range() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (Seq2Seq(zoo["MT5"], SIZES, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, p), (_, q) in zip(first.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(p, q), name
        assert p.abs().max() <= SIZES.init_range
        assert p.abs().max() > SIZES.init_range / 2
    assert not torch.equal(first.output_weight, other.output_weight)


def test_dropout_follows_its_generator_and_is_off_in_evaluation() -> None:
    model = Seq2Seq(zoo["LSTM"], Sizes(**{**vars(SIZES), "dropout": 0.5}), seed=1)
    source, lengths, words = torch.randint(4, 23, (5, 3)), torch.tensor([5, 2, 4]), torch.randint(4, 19, (6, 3))

    def features(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        context, state = model.encode(source, lengths, generator)
        return model.decode(words, context, state, generator)[0]

    assert torch.equal(features(1), features(1))
    assert not torch.equal(features(1), features(2))
    share = (features(1) == 0).float().mean().item()
    assert 0.3 < share < 0.7
    model.eval()
    assert torch.equal(features(1), features(2))


def test_a_cell_without_a_place_for_its_memory_is_refused() -> None:
    with pytest.raises(CellError):
        Seq2Seq("Tanh(Add(MM(x_t), MM(c_{t-1})))", SIZES, seed=0)
