"""Data sets: a registry with hashes and mirrors, readers with torchtext's names, language-model corpora."""

from nasrepro.datasets.corpora import Corpus, batchify, load
from nasrepro.datasets.files import data_root, fetch
from nasrepro.datasets.readers import PennTreebank, WikiText2
from nasrepro.datasets.registry import DATASETS, DataError
from nasrepro.datasets.vocabulary import Vocab, build_vocab_from_iterator, vocab

__all__ = [
    "DATASETS",
    "Corpus",
    "DataError",
    "PennTreebank",
    "Vocab",
    "WikiText2",
    "batchify",
    "build_vocab_from_iterator",
    "data_root",
    "fetch",
    "load",
    "vocab",
]
