"""Data sets: a registry with hashes and mirrors, readers with torchtext's names, corpora, images."""

from nasrepro.datasets.corpora import Corpus as Corpus
from nasrepro.datasets.corpora import batchify as batchify
from nasrepro.datasets.corpora import corpus_from_text as corpus_from_text
from nasrepro.datasets.corpora import load as load
from nasrepro.datasets.files import data_root as data_root
from nasrepro.datasets.files import fetch as fetch
from nasrepro.datasets.images import ImageSet as ImageSet
from nasrepro.datasets.images import load_images as load_images
from nasrepro.datasets.nas_bench_macro import NasBenchMacro as NasBenchMacro
from nasrepro.datasets.nas_bench_macro import load_nas_bench_macro as load_nas_bench_macro
from nasrepro.datasets.parallel import Pairs as Pairs
from nasrepro.datasets.parallel import ParallelCorpus as ParallelCorpus
from nasrepro.datasets.parallel import load_parallel as load_parallel
from nasrepro.datasets.parallel import parallel_from_text as parallel_from_text
from nasrepro.datasets.readers import IWSLT2016 as IWSLT2016
from nasrepro.datasets.readers import Multi30k as Multi30k
from nasrepro.datasets.readers import PennTreebank as PennTreebank
from nasrepro.datasets.readers import WikiText2 as WikiText2
from nasrepro.datasets.registry import DATASETS as DATASETS
from nasrepro.datasets.registry import DataError as DataError
from nasrepro.datasets.vocabulary import Vocab as Vocab
from nasrepro.datasets.vocabulary import build_vocab_from_iterator as build_vocab_from_iterator
from nasrepro.datasets.vocabulary import vocab as vocab
