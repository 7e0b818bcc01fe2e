"""Sizes of S17's experiments: the largest is the paper's, and the smaller ones keep what makes it an experiment."""

from dataclasses import fields, replace

import pytest

from nasrepro import datasets
from nasrepro.datasets.parallel import parallel_from_text
from nasrepro.dsl import zoo
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.experiment import on_device, resumable
from nasrepro.experiments.s17_language_model.sizes import SIZES as LANGUAGE
from nasrepro.experiments.s17_language_model.sizes import LanguageModelSizes, share_of_paper
from nasrepro.experiments.s17_translation.sizes import LONG, TABLE_3, TranslationSizes, share_of_translation
from nasrepro.experiments.s17_translation.sizes import SIZES as TRANSLATION
from nasrepro.report import papers
from nasrepro.search.agent_search import AgentSearchSettings
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers import translation
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

LANGUAGE_SIZES = pytest.mark.parametrize("sizes", LANGUAGE.values(), ids=LANGUAGE)
TRANSLATION_SIZES = pytest.mark.parametrize("sizes", TRANSLATION.values(), ids=TRANSLATION)


def test_sizes_grow_from_profile_to_profile() -> None:
    sizes = [each.search_task.training.train_tokens or 10**9 for each in LANGUAGE.values()]
    assert sizes == sorted(sizes)
    trained = [share_of_paper(each.search_task, each.search.cells) for each in LANGUAGE.values()]
    assert trained == sorted(trained)
    assert trained[-1] == 1.0


def test_the_paper_profile_changes_nothing_of_the_papers() -> None:
    paper = LANGUAGE["paper"]
    assert paper.task.training == LanguageModelSettings()
    assert paper.search == SearchSettings()
    assert paper.search_task == paper.task
    assert (paper.task.corpus_name, paper.task.level, paper.task.vocab_size) == ("wikitext2", "word", None)


def test_the_paper_profile_translates_by_the_papers_settings() -> None:
    paper = TRANSLATION["paper"]
    # Beside whom a sentence is evaluated changes nothing (test_the_size_of_batches_changes_no_loss).
    assert paper.task == TranslationTask("multi30k", TranslationSettings(eval_batch=100))
    assert paper.search_task == TranslationTask("multi30k", TranslationSettings())
    assert paper.search == AgentSearchSettings()


def test_a_course_replays_table_3_at_its_full_size() -> None:
    course, shipped = TRANSLATION["course"], EXPERIMENTS["s17_translation"].shipped
    assert course.task == TRANSLATION["night"].task == TRANSLATION["paper"].task
    assert set(shipped["paper"]) == set(shipped["night"]) < set(shipped["course"])
    assert course.smaller_task is not None
    assert 0 < share_of_translation(course.smaller_task) < 0.1


def test_a_night_trains_published_cells_by_their_full_recipe_and_searches_at_a_share_of_it() -> None:
    language, translations = LANGUAGE["night"], TRANSLATION["night"]
    assert language.task == LANGUAGE["paper"].task
    assert translations.task == TRANSLATION["paper"].task
    assert 0.01 < share_of_paper(language.search_task, language.search.cells) < 0.1
    assert 0 < share_of_translation(translations.search_task, translations.search.cells, of=3450) < 0.1


def test_the_paper_profiles_data_is_that_of_the_entries_it_is_held_against() -> None:
    """Letter by letter, as the ledger compares them: else no run could ever be called reproduced."""
    known = papers.load()

    def data(*beginnings: str) -> set[str | None]:
        return {entry.data for name, entry in known.items() if name.startswith(beginnings)}

    runs, rows = TRANSLATION["paper"], [f"s17.table3.{name.lower()}." for name in TABLE_3]
    assert runs.larger_task is not None
    assert data("s17.fig3") == {LANGUAGE["paper"].task.data_words}
    assert data("s17.search.mt", "s17.fig4", "s17.fig6") == {runs.search_task.data_words}
    assert data(*(f"{row}multi30k" for row in rows), "s17.mt.beats_lstm") == {runs.task.data_words}
    assert data(*(f"{row}iwslt16" for row in rows), "s17.mt.no_transfer") == {runs.larger_task.data_words}
    assert LanguageModelTask("ptb").data_words in data("s17.table1")
    assert LANGUAGE["course"].task.data_words in data("zl17") - data("s17"), "letters of the same text are other data"


@TRANSLATION_SIZES
def test_the_agents_control_differs_in_its_method_and_seeds_are_paired(sizes: TranslationSizes) -> None:
    found = sizes.controls()
    assert [settings.method for settings in found] == ["agent", "random"] * len(sizes.control_seeds)
    for agent, random in zip(found[::2], found[1::2], strict=True):
        assert replace(random, method="agent") == agent


def test_the_long_searches_differ_in_what_their_names_say_and_train_once_per_tree() -> None:
    course = TRANSLATION["course"]
    found = course.longs()
    assert {task for task, _ in found.values()} == {course.long_task}
    assert len({str(plan.identity()) for _, plan in found.values()}) == len(found)
    for seed in course.long_seeds:
        agent, random, slower, fresh = (found[kind, seed][1] for kind in LONG)
        assert replace(random, method="agent") == replace(slower, reinforce=agent.reinforce) == agent
        assert replace(fresh, cells=agent.cells, priors=agent.priors) == agent
        assert min(agent.cells, random.cells) >= 1500
        assert "c_{t-1}" not in agent.agent.words + agent.priors.words, "no tree is trained for several places of c_t"


def test_other_profiles_leave_the_long_searches_out() -> None:
    assert [name for name, sizes in TRANSLATION.items() if sizes.longs()] == ["course"]


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_small_profiles_translate_without_files(name: str) -> None:
    runs = TRANSLATION[name]
    assert {runs.task.corpus_name, runs.search_task.corpus_name, runs.control_task.corpus_name} == {"captions"}


@pytest.mark.parametrize(("experiment", "profile"), [(e, p) for e in EXPERIMENTS.values() for p in e.sizes])
def test_sizes_move_to_a_device_whole_and_change_in_nothing_else(experiment, profile: str, tmp_path) -> None:
    def devices(moved: object) -> set[str]:
        return {part.device for part in vars(moved).values() if hasattr(part, "device")}

    sizes = experiment.at(profile)
    assert devices(sizes) == {"auto"}
    assert devices(on_device(sizes, "cuda:1")) == {"cuda:1"}
    assert on_device(on_device(sizes, "cuda:1"), "auto") == sizes
    for part in vars(resumable(sizes, tmp_path)).values():
        if hasattr(part, "device"):
            assert part.checkpoints == (str(tmp_path / "checkpoints") if part.is_long else None)


@pytest.mark.parametrize(("experiment", "profile"), [(e, p) for e in EXPERIMENTS.values() for p in e.sizes])
def test_trainings_answer_entries_of_the_papers_and_are_counted(experiment, profile: str) -> None:
    found = experiment.trainings(experiment.at(profile))
    answered = [entry for each in found for entry in each.answers]
    assert set(answered) <= set(papers.load())
    assert len(answered) == len(set(answered))
    assert all(each.count > 0 for each in found)


def test_table_3_is_the_papers() -> None:
    encoders = {entry.id.split(".")[2] for entry in papers.load().tables()["S17 Table 3"]}
    assert {name.lower() for name in TABLE_3} == encoders
    assert set(TABLE_3) <= set(zoo)


@LANGUAGE_SIZES
def test_the_control_differs_in_its_method_alone(sizes: LanguageModelSizes) -> None:
    assert (sizes.search.method, sizes.random_search.method) == ("ranked", "random")
    differing = {
        field.name
        for field in fields(SearchSettings)
        if getattr(sizes.search, field.name) != getattr(sizes.random_search, field.name)
    }
    assert differing == {"method"}


@pytest.mark.parametrize("name", LANGUAGE)
def test_sizes_can_be_run(name: str) -> None:
    sizes = LANGUAGE[name]
    assert sizes.task.corpus_name in datasets.DATASETS
    assert sizes.search.step <= sizes.search.cells
    assert len(set(sizes.seeds)) == len(sizes.seeds)
    if name != "smoke":
        assert len(sizes.seeds) >= 3, "fewer than three seeds show no spread"


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_small_profiles_need_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASREPRO_DOWNLOAD", "0")
    monkeypatch.delenv("NASREPRO_MIRROR", raising=False)
    assert LANGUAGE[name].task.corpus.name == "pydoc"


def test_the_classics_do_not_fail_at_smoke() -> None:
    """A profile whose own rules fail every cell would leave a search nothing to learn from."""
    assert LANGUAGE["smoke"].task.evaluate(zoo["TanhRNN"], seed=1).status == "ok"


def test_the_share_of_a_translation_is_what_the_schedules_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"a b {number % 7}", f"x y {number % 7}") for number in range(290)]  # a hundredth of Multi30k
    corpus = parallel_from_text("toy", pairs, pairs[:9], pairs[:9])
    seen, falling = [0], iter(range(1000, 0, -1))

    def count(step: translation.TrainingStep, batches: list[translation.Batch], *_: object) -> tuple[float, bool]:
        model = step.model
        weights = sum(weight.numel() for weight in model.decoder_weight[1:])  # those above the first have equal sizes
        layers = model.sizes.layers
        seen[0] += sum(len(batch.lengths) for batch in batches) * weights * layers // (layers - 1)
        return 1.0, True

    monkeypatch.setattr(translation, "_corpus", lambda *_: corpus)
    monkeypatch.setattr(translation, "train_epoch", count)
    monkeypatch.setattr(translation, "evaluate", lambda *_: next(falling) / 1000)
    monkeypatch.setattr(translation, "scores", lambda *_: {})

    def multiplied(task: TranslationTask) -> int:
        seen[0] = 0
        task.train(zoo["MT5"], 1)
        return seen[0]

    paper = 100 * multiplied(TranslationTask("toy"))
    for changes in ({"hidden": 30}, {"epochs": 6, "halve_from": 4}, {"layers": 3}, {"train_pairs": 58}, {"epochs": 40}):
        task = TranslationTask("toy", replace(TranslationSettings(), **changes))
        expected = multiplied(task) / paper
        assert share_of_translation(task) == pytest.approx(expected)
        assert share_of_translation(task, 20, of=345) == pytest.approx(expected * 20 / 345)


def test_the_paper_profiles_share_of_translation_is_all_of_it_without_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "_corpus", lambda *_: pytest.fail("loaded"))
    runs = TRANSLATION["paper"]
    made = papers.load()["s17.search.mt.architectures"].value
    assert share_of_translation(runs.task) == share_of_translation(runs.search_task, runs.search.cells, of=made) == 1.0
    assert share_of_translation(runs.task, 5) == 1.0, "more than all is all"
    assert 0 < share_of_translation(TRANSLATION["course"].search_task) < 0.1
