"""Data sets: a registry with hashes and mirrors, readers with torchtext's names, corpora in one and two languages."""

from nasrepro.datasets.corpora import Corpus, batchify, corpus_from_text, load
from nasrepro.datasets.files import data_root, fetch
from nasrepro.datasets.parallel import Pairs, ParallelCorpus, load_parallel, parallel_from_text
from nasrepro.datasets.readers import IWSLT2016, Multi30k, PennTreebank, WikiText2
from nasrepro.datasets.registry import DATASETS, DataError
from nasrepro.datasets.vocabulary import Vocab, build_vocab_from_iterator, vocab

__all__ = [
    "DATASETS",
    "IWSLT2016",
    "Corpus",
    "DataError",
    "Multi30k",
    "Pairs",
    "ParallelCorpus",
    "PennTreebank",
    "Vocab",
    "WikiText2",
    "batchify",
    "build_vocab_from_iterator",
    "corpus_from_text",
    "data_root",
    "fetch",
    "load",
    "load_parallel",
    "parallel_from_text",
    "vocab",
]
