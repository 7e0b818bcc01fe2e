"""What trained encoders do: their outputs, how long they remember a word, and where a decoder over them looks.

Models are on the processor and in evaluation mode. Sentences are ids, without `<s>` and `</s>`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from nasrepro.datasets import ParallelCorpus, Vocab
from nasrepro.datasets.parallel import BOS, EOS, SPECIALS, Pairs
from nasrepro.experiments.s17_translation.figures import marked
from nasrepro.trainers.beam import beam_search
from nasrepro.trainers.gnmt_translation import GnmtSettings
from nasrepro.trainers.outcome import Outcome
from nasrepro.trainers.seq2seq import Seq2Seq, Translator
from nasrepro.trainers.translation import TranslationSettings, make_batches, translate


@torch.no_grad()
def outputs(model: Seq2Seq, source: Sequence[int]) -> Tensor:
    """What the encoder's last layer puts out at each word of a sentence (S, H)."""
    context, _ = model.encode(*_alone(source))
    return context.values[0]


@torch.no_grad()
def influence(model: Seq2Seq, sources: Sequence[Sequence[int]], steps: int, seed: int = 0) -> Tensor:
    """How long a word is remembered: exchange the first one of sentences for another, drawn from `seed`.

    Answers how far the encoder's output moves at each of the `steps` words from there on, as a share of how far it
    moves at that word itself: (steps + 1,), 1 at its beginning. Raises ValueError for sentences that are shorter.
    """
    if not sources or min(map(len, sources)) <= steps:
        raise ValueError(f"the influence over {steps} words needs sentences, each of more than {steps} words")
    before = torch.tensor([ids[: steps + 1] for ids in sources]).t()  # (steps + 1, sentences)
    after = before.clone()
    chance = torch.Generator().manual_seed(seed)
    after[0] = torch.randint(len(SPECIALS), model.sizes.source_words, (len(sources),), generator=chance)
    lengths = torch.full((len(sources),), steps + 1)
    one, other = (model.encode(ids, lengths)[0].values for ids in (before, after))  # (sentences, steps + 1, H)
    distance = (one - other).norm(dim=2).mean(dim=0)  # (steps + 1,)
    return distance / distance[0]


@torch.no_grad()
def words_looked_at(model: Translator, pairs: Pairs, vocab: Vocab) -> float:
    """How many source words a step of the decoder attends to while it reads references, on average.

    That is e to the entropy of its attention: 1 where it looks at a single word, the sentence's length where it looks
    at all of them alike. `vocab` is the target's.
    """
    looked, steps = 0.0, 0
    for _, batch in make_batches(pairs, vocab, 50):
        _, attention, _ = model.decode(batch.inputs, *model.encode(batch.source, batch.lengths))  # (T, B, S)
        entropy = -(attention * attention.clamp_min(1e-12).log()).sum(dim=2)  # (T, B)
        looked += float(entropy.exp()[batch.real].sum())
        steps += batch.words
    return looked / steps


class Written(NamedTuple):
    """A translation that a model has written."""

    words: list[str]
    """With `</s>`, where it has ended and was not cut (T)."""
    attention: Tensor
    """Where the decoder looked as it wrote each of them: rows are distributions over the source's words (T, S)."""
    log_probability: float
    """Of all of them together, in nats."""


def write(model: Translator, source: Sequence[int], vocab: Vocab, longest: int, width: int = 5) -> Written:
    """Translate a sentence by beam search, at most `longest` words. `vocab` is the target's."""
    bos, eos = vocab.lookup_indices([BOS, EOS])
    (ids,) = beam_search(model, *_alone(source), bos, eos, width, longest)
    if len(ids) < longest:
        ids = [*ids, eos]
    attention, log_probability = read_again(model, source, ids, bos)
    return Written(vocab.lookup_tokens(ids), attention, log_probability)


@torch.no_grad()
def read_again(model: Translator, source: Sequence[int], written: Sequence[int], bos: int) -> tuple[Tensor, float]:
    """Let a model read a translation (T,), its `</s>` included: its attention (T, S), and the log probability."""
    features, attention, _ = model.decode(torch.tensor([bos, *written[:-1]])[:, None], *model.encode(*_alone(source)))
    found = model.log_probabilities(features[:, 0]).gather(1, torch.tensor(written)[:, None])  # (T, 1)
    return attention[:, 0], float(found.sum())


def sample_translations(
    models: Mapping[str, Translator], pairs: Pairs, corpus: ParallelCorpus, settings: TranslationSettings | GnmtSettings
) -> pd.DataFrame:
    """Sentences with their references and every model's translation, in which marks stand where it differs: a row for
    each text, with the sentence's number and who it is by."""
    texts = {"source": [" ".join(words) for words in pairs.source_tokens]}
    texts["reference"] = [" ".join(words) for words in pairs.tokens]
    for name, model in models.items():
        written = translate(model, pairs, corpus, settings)
        texts[name] = [marked(words, reference) for words, reference in zip(written, pairs.tokens, strict=True)]
    rows = [(place, name, texts[name][place]) for place in range(len(pairs)) for name in texts]
    return pd.DataFrame(rows, columns=["sentence", "by", "text"])


def summary(
    trained: Mapping[str, tuple[Outcome, Seq2Seq]], influences: Mapping[str, Tensor], pairs: Pairs, vocab: Vocab
) -> pd.DataFrame:
    """Trained models in numbers, a row for each: what training came to, and what their encoders do.

    `remembered` is what of an exchanged word is left after four words in their `influences`, `looked at` the
    `words_looked_at` in `pairs`, whose target vocabulary is `vocab`.
    """
    rows = [
        {
            "outcome": outcome.reason or "learned",
            "valid perplexity": outcome.metrics.get("valid_ppl", math.nan),
            "valid multi-bleu": outcome.metrics.get("valid_multi_bleu", math.nan),
            "remembered": float(influences[name][4]),
            "looked at": words_looked_at(model, pairs, vocab),
        }
        for name, (outcome, model) in trained.items()
    ]
    return pd.DataFrame(rows, index=pd.Index(trained, name="cell"))


def _alone(source: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A sentence as a batch of its own (S, 1), and its length (1,)."""
    return torch.tensor(source)[:, None], torch.tensor([len(source)])
