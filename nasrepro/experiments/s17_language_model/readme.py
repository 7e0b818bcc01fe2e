"""What the README says of this experiment, made from the shipped record."""

from datetime import datetime
from pathlib import Path

from nasrepro.search import Record, replay
from nasrepro.trainers.language_model import LanguageModelTask


def record_words(records: Path) -> str:
    """One sentence on what the shipped record of searches holds, and what it cost."""
    record = Record.load(records / "ptb-chars-search.jsonl.gz")
    found = [replay(record, name) for name in record.searches()]
    made = {e.key: e for one in found for _, e in one.trials}.values()
    times = [datetime.fromisoformat(e.created) for e in made]
    minutes = (max(times) - min(times)).total_seconds() / 60
    sizes = " and ".join(sorted(f"{len(one.trials)} {one.settings['search']['method']}" for one in found))
    words = LanguageModelTask.of_settings(next(iter(made)).settings).words()
    devices = ", ".join(sorted({e.device for e in made}))
    return f"{len(made)} distinct cells ({sizes} search), {words} each, in {minutes:.0f} minutes on {devices}."
