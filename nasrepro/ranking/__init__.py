"""S17's ranking function: a network that reads a cell's tree and predicts its perplexity; and baselines."""

from nasrepro.ranking.baselines import OperatorRidge as OperatorRidge
from nasrepro.ranking.baselines import ProductCount as ProductCount
from nasrepro.ranking.ranker import Ranker as Ranker
from nasrepro.ranking.settings import RankerSettings as RankerSettings
from nasrepro.ranking.validation import cross_predict as cross_predict
from nasrepro.ranking.validation import tree_of as tree_of
