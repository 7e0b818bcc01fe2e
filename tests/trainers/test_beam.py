"""Beam search against all translations there are, and against picking the best word each time."""

from itertools import product

import pytest
import torch
from torch import Tensor

from nasrepro.dsl import zoo
from nasrepro.trainers.beam import beam_search
from nasrepro.trainers.seq2seq import Seq2Seq, Sizes

START, END = 2, 3
WORDS = 5


def model_of(seed: int, reach: float = 2.0) -> Seq2Seq:
    sizes = Sizes(
        source_words=9, target_words=WORDS, hidden=6, layers=1, dropout=0.3, bptt=9, init_range=reach, bridge="zeros"
    )
    return Seq2Seq(zoo["MT5"], sizes, seed)


def batch(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (count,), generator=generator)
    return torch.randint(4, 9, (int(lengths.max()), count), generator=generator), lengths


@torch.no_grad()
def log_probability(model: Seq2Seq, source: Tensor, lengths: Tensor, words: list[int]) -> float:
    """Of one translation of one sentence, by reading it as the trainer does."""
    model.eval()
    context, state = model.encode(source, lengths)
    features, _, _ = model.decode(torch.tensor([[START], *[[word] for word in words[:-1]]]), context, state)
    chances = model.log_probabilities(features)[:, 0]
    return sum(chances[t, word].item() for t, word in enumerate(words))


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_as_wide_as_all_there_is_finds_the_best_of_all(seed: int) -> None:
    model, (source, lengths) = model_of(seed), batch(1, seed)
    others = [word for word in range(WORDS) if word != END]
    longest = 4
    every = [[*words, END] for n in range(longest) for words in product(others, repeat=n)]
    every += [list(words) for words in product(others, repeat=longest)]  # cut before they end
    best = max(every, key=lambda words: log_probability(model, source, lengths, words))
    (found,) = beam_search(model, source, lengths, START, END, width=300, longest=longest)
    assert found == [word for word in best if word != END]


@pytest.mark.parametrize("seed", range(4))
def test_a_width_of_one_takes_the_best_word_each_time(seed: int) -> None:
    model, (source, lengths) = model_of(seed), batch(1, seed)
    model.eval()
    words: list[int] = []
    with torch.no_grad():
        context, state = model.encode(source, lengths)
        last = START
        while len(words) < 12 and last != END:
            features, _, state = model.decode(torch.tensor([[last]]), context, state)
            last = int(model.log_probabilities(features[0, 0]).argmax())
            words.append(last)
    (found,) = beam_search(model, source, lengths, START, END, width=1, longest=12)
    assert found == [word for word in words if word != END]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_sentences_side_by_side_are_translated_as_alone(width: int) -> None:
    model, (source, lengths) = model_of(3), batch(7)
    together = beam_search(model, source, lengths, START, END, width, longest=9)
    alone = [
        beam_search(model, source[: lengths[i], i : i + 1], lengths[i : i + 1], START, END, width, longest=9)[0]
        for i in range(7)
    ]
    assert together == alone
    assert len({len(words) for words in alone}) > 1, "they should end at different steps"


def test_a_wider_beam_is_at_least_as_good_here() -> None:
    """No law, but for these models a beam of 4 never loses to greedy search."""
    for seed in range(8):
        model, (source, lengths) = model_of(seed, 1.0), batch(1, seed)
        scores = []
        for width in (1, 4):
            (words,) = beam_search(model, source, lengths, START, END, width, longest=20)
            whole = words if len(words) == 20 else [*words, END]
            scores.append(log_probability(model, source, lengths, whole))
        assert scores[1] >= scores[0] - 1e-5


def test_what_does_not_end_is_cut() -> None:
    model, (source, lengths) = model_of(0), batch(2)
    with torch.no_grad():
        model.output_bias[END] = -50.0
    assert [len(words) for words in beam_search(model, source, lengths, START, END, 3, longest=7)] == [7, 7]


@pytest.mark.parametrize(("width", "longest"), [(0, 5), (2, 0)])
def test_no_width_and_no_length_are_refused(width: int, longest: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        beam_search(model_of(0), *batch(1), START, END, width, longest)
