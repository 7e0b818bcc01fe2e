"""Profiles: the largest is the paper's, the smaller ones say what they change, a wrong name is answered."""

from dataclasses import fields, replace

import pytest

from nasrepro import datasets, profiles
from nasrepro.datasets.parallel import parallel_from_text
from nasrepro.dsl import zoo
from nasrepro.profiles import TABLE_3, Profile, load, on_device, share_of_translation
from nasrepro.report import papers
from nasrepro.search.agent_search import AgentSearchSettings
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers import translation
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

ALL = list(profiles.profiles.values())


def test_the_four_sizes_in_order() -> None:
    assert list(profiles.profiles) == ["smoke", "quick", "course", "paper"]
    assert all(profile.name == name for name, profile in profiles.profiles.items())
    sizes = [profile.task.training.train_tokens or 10**9 for profile in ALL]
    assert sizes == sorted(sizes)
    assert [profile.search.cells for profile in ALL] == sorted(profile.search.cells for profile in ALL)


def test_the_paper_profile_changes_nothing_of_the_papers() -> None:
    paper = load("paper")
    assert paper.task.training == LanguageModelSettings()
    assert paper.search == SearchSettings()
    assert (paper.task.corpus_name, paper.task.level, paper.task.vocab_size) == ("wikitext2", "word", None)


def test_the_paper_profile_translates_by_the_papers_settings() -> None:
    paper = load("paper").translation
    # Beside whom a sentence is evaluated changes nothing (test_the_size_of_batches_changes_no_loss).
    assert paper.task == TranslationTask("multi30k", TranslationSettings(eval_batch=100))
    assert paper.search_task == TranslationTask("multi30k", TranslationSettings())
    assert paper.search == AgentSearchSettings()


def test_a_course_replays_table_3_at_its_full_size() -> None:
    course = load("course")
    assert course.translation.task == load("paper").translation.task
    assert load("paper").shipped[0] in course.shipped
    assert course.translation.smaller_task is not None
    assert 0 < share_of_translation(course.translation.smaller_task) < 0.1


def test_the_paper_profiles_data_is_that_of_the_entries_it_is_held_against() -> None:
    """Letter by letter, as the ledger compares them: else no run could ever be called reproduced."""
    paper, known = load("paper"), papers.load()

    def data(*beginnings: str) -> set[str | None]:
        return {entry.data for name, entry in known.items() if name.startswith(beginnings)}

    runs, rows = paper.translation, [f"s17.table3.{name.lower()}." for name in TABLE_3]
    assert runs.larger_task is not None
    assert data("s17.fig3") == {paper.task.data_words}
    assert data("s17.search.mt", "s17.fig4", "s17.fig6") == {runs.search_task.data_words}
    assert data(*(f"{row}multi30k" for row in rows), "s17.mt.beats_lstm") == {runs.task.data_words}
    assert data(*(f"{row}iwslt16" for row in rows), "s17.mt.no_transfer") == {runs.larger_task.data_words}
    assert LanguageModelTask("ptb").data_words in data("s17.table1")
    assert load("course").task.data_words in data("zl17") - data("s17"), "letters of the same text are other data"


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.name)
def test_the_agents_control_differs_in_its_method_and_seeds_are_paired(profile: Profile) -> None:
    found = profile.translation.controls()
    assert [settings.method for settings in found] == ["agent", "random"] * len(profile.translation.control_seeds)
    for agent, random in zip(found[::2], found[1::2], strict=True):
        assert replace(random, method="agent") == agent


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_small_profiles_translate_without_files(name: str) -> None:
    runs = load(name).translation
    assert {runs.task.corpus_name, runs.search_task.corpus_name, runs.control_task.corpus_name} == {"captions"}


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.name)
def test_a_profile_moves_to_a_device_whole_and_changes_in_nothing_else(profile: Profile) -> None:
    def devices(moved: Profile) -> set[str]:
        parts = {**vars(moved), **vars(moved.translation)}
        return {part.device for part in parts.values() if hasattr(part, "device")}

    assert devices(profile) == {"auto"}
    assert devices(on_device(profile, "cuda:1")) == {"cuda:1"}
    assert on_device(on_device(profile, "cuda:1"), "auto") == profile


def test_table_3_is_the_papers() -> None:
    encoders = {entry.id.split(".")[2] for entry in papers.load().tables()["S17 Table 3"]}
    assert {name.lower() for name in TABLE_3} == encoders
    assert set(TABLE_3) <= set(zoo)


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.name)
def test_the_control_differs_in_its_method_alone(profile: Profile) -> None:
    assert (profile.search.method, profile.random_search.method) == ("ranked", "random")
    differing = {
        field.name
        for field in fields(SearchSettings)
        if getattr(profile.search, field.name) != getattr(profile.random_search, field.name)
    }
    assert differing == {"method"}


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.name)
def test_a_profile_can_be_run(profile: Profile) -> None:
    assert profile.task.corpus_name in datasets.DATASETS
    assert profile.search.step <= profile.search.cells
    assert len(set(profile.seeds)) == len(profile.seeds)
    if profile.name != "smoke":
        assert len(profile.seeds) >= 3, "fewer than three seeds show no spread"


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_small_profiles_need_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASREPRO_DOWNLOAD", "0")
    monkeypatch.delenv("NASREPRO_MIRROR", raising=False)
    assert load(name).task.corpus.name == "pydoc"


def test_the_classics_do_not_fail_at_smoke() -> None:
    """A profile whose own rules fail every cell would leave a search nothing to learn from."""
    assert load("smoke").task.evaluate(zoo["TanhRNN"], seed=1).status == "ok"


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
    runs = load("paper").translation
    made = papers.load()["s17.search.mt.architectures"].value
    assert share_of_translation(runs.task) == share_of_translation(runs.search_task, runs.search.cells, of=made) == 1.0
    assert share_of_translation(runs.task, 5) == 1.0, "more than all is all"
    assert 0 < share_of_translation(load("course").translation.search_task) < 0.1


@pytest.mark.parametrize(("typed", "meant"), [("qiuck", "quick"), ("curse", "course"), ("papers", "paper")])
def test_a_mistyped_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"unknown profile '{typed}': did you mean '{meant}'\\? choose from smoke, quick, course, paper",
    ):
        load(typed)


def test_a_name_like_no_other_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match="unknown profile 'xyz': choose from smoke, quick, course, paper"):
        load("xyz")


def test_a_long_name_is_not_repeated_whole():
    with pytest.raises(ValueError, match="unknown profile") as caught:
        profiles.load("smoke" * 50_000)
    assert len(str(caught.value)) < 500
