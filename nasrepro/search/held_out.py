"""The test split: read once for a row of results, after everything was decided on the validation split."""

from dataclasses import dataclass
from typing import Any

from nasrepro.datasets import batchify
from nasrepro.dsl import Cell
from nasrepro.search.record import Evaluation, Record, evaluation_key
from nasrepro.search.workers import one_thread
from nasrepro.trainers.language_model import LanguageModelTask, evaluate, perplexity, train
from nasrepro.trainers.outcome import Outcome


