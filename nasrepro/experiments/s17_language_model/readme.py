"""What the README says of this experiment, made from the shipped record."""

from datetime import datetime
from pathlib import Path

from nasrepro.search import Record, replay
from nasrepro.trainers.language_model import LanguageModelTask


def record_words(records: Path) -> str:
    """One sentence on what the shipped record of searches holds, and what it cost."""
    return words_of(Record.load(records / "ptb-chars-search.jsonl.gz"))


def words_of(record: Record) -> str:
    """One sentence on what a record of searches holds, and what it cost."""
    trials = [
        (settings["search"]["method"], replay(record, name).trials) for name, settings in record.searches().items()
    ]
    made = {e.key: e for _, rows in trials for _, e in rows}.values()
    chosen = next(iter(made)).settings
    times = [datetime.fromisoformat(e.created) for e in made]
    minutes = (max(times) - min(times)).total_seconds() / 60
    sizes = " and ".join(sorted(f"{len(rows)} {method}" for method, rows in trials))
    device = ", ".join(sorted({e.device for e in made}))
    return (
        f"{len(made)} distinct cells ({sizes} search), {LanguageModelTask.of_settings(chosen).words()} each, in "
        f"{minutes:.0f} minutes on {device}."
    )
