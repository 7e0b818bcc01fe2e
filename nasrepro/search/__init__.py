"""Searches: what they have found. The loop that looks for more (`search.loop`) needs torch; it is not imported here."""

from nasrepro.search.history import Search as Search
from nasrepro.search.history import replay as replay
from nasrepro.search.record import Evaluation as Evaluation
from nasrepro.search.record import Record as Record
from nasrepro.search.record import RecordError as RecordError
from nasrepro.search.record import evaluation_key as evaluation_key
