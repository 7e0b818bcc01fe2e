"""S17's search for a cell of a language model (sections 3.2 and 4.1): random search and the ranking function.

Notebook 03 compares known cells, and notebook 04 searches.
"""

from functools import partial

from nasrepro.dsl import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.s17_language_model.analysis import best
from nasrepro.experiments.s17_language_model.readme import record_words
from nasrepro.experiments.s17_language_model.sizes import COMPARED, SIZES, TEST_ROW, LanguageModelSizes
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import lstm_seconds


def trainings(sizes: LanguageModelSizes) -> list[Trainings]:
    """What notebooks 03 and 04 train."""
    known = [Job(zoo[name], seed) for name in COMPARED for seed in sizes.seeds]
    claims = (f"s17.rank.{claim}" for claim in ("predicts", "beats_matrix_count", "beats_ridge", "beats_random"))
    answers = ["s17.fig3", "s17.search.memory_helps", *claims]
    searches = (sizes.search, sizes.random_search)
    return [
        Trainings.of("03", f"{len(COMPARED)} known cells", sizes.task, jobs=known),
        Trainings("03", "the best LSTM again, for the test text", sizes.task, 1, partial(_test, sizes), is_tested=True),
        Trainings.of("04", "ranked and random search", sizes.search_task, searches, answers=answers),
    ]


def _test(sizes: LanguageModelSizes, resources: Resources) -> None:
    made = resources.train(sizes.task, [Job(zoo["LSTM"], seed) for seed in sizes.seeds])
    chosen = best(made, sizes.task.loss)
    if chosen is not None:
        evaluate_tests(sizes.task, {TEST_ROW: Job(zoo["LSTM"], chosen.seed)}, resources.record, workers=0)


EXPERIMENT = Experiment(
    name="s17_language_model",
    about="S17's language models: known cells compared, and a search with the ranking function and without",
    sizes=SIZES,
    trainings=trainings,
    seconds=lstm_seconds,
    shipped={
        "course": ("ptb-chars-search.jsonl.gz",),
        "night": ("wikitext2-cells.jsonl.gz",),
        "paper": ("wikitext2-cells.jsonl.gz",),
    },
    named=zoo,
    readme={"record": record_words},
    picture="s17-fig3-search-progress.png",
)
