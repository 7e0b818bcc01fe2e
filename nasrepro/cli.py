"""The `nasrepro` command: reproduce, lab, search, show, data, report, ship; `nasrepro -h` explains them."""

import argparse
import json
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from nasrepro.datasets import DataError
from nasrepro.deadline import TimeIsUp, set_deadline
from nasrepro.files import fix_environment, make_writable, user_path
from nasrepro.hardware import device_name, resolve
from nasrepro.profiles import TABLE_3, Profile, on_device, profiles, project_root
from nasrepro.trainers.language_model import LanguageModelSettings
from nasrepro.trainers.translation import TranslationSettings

NOT_FINISHED = 75
"""The exit status of a command that has stopped at its deadline: EX_TEMPFAIL of sysexits.h."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. Errors that a user can mend are one message, not a traceback."""
    options = _parser().parse_args(arguments)
    without_fresh = " without --fresh (make: without FRESH=1)" if getattr(options, "fresh", False) else ""
    try:
        fix_environment()
        if getattr(options, "minutes", None) is not None:
            set_deadline(options.minutes)
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print(f"\nstopped; run the same command{without_fresh or ' again'} to go on", file=sys.stderr)
        return 130
    except TimeIsUp as stop:
        print(f"\n{stop}{without_fresh}", file=sys.stderr)
        return NOT_FINISHED
    except (ValueError, OSError, RuntimeError, DataError) as error:
        print(f"nasrepro: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nasrepro", description="Two papers on neural architecture search, reproduced."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        return sub

    def add_device(sub: argparse.ArgumentParser) -> None:
        about = "where cells are trained: auto (a GPU where torch sees one), cpu, cuda, or cuda:N (default: auto)"
        sub.add_argument("--device", default="auto", help=about)

    def add_minutes(sub: argparse.ArgumentParser) -> None:
        about = f"stop after so many, at the next checkpoint; exit status {NOT_FINISHED}, and the same command goes on"
        sub.add_argument("--minutes", type=float, metavar="N", help=about)

    reproduce = command("reproduce", _reproduce, "run the notebooks and write the report")
    reproduce.add_argument("--profile", default="quick", help=f"one of {', '.join(profiles)} (default: quick)")
    reproduce.add_argument("--notebook", help="only this one, by number, such as 04 (the report is always remade)")
    reproduce.add_argument(
        "--fresh", action="store_true", help="train anew; the old record is kept as record.before.sqlite"
    )
    reproduce.add_argument("--yes", action="store_true", help="begin even what is forecast to take days")
    reproduce.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="for the notebooks that run"
    )
    add_device(reproduce)
    add_minutes(reproduce)

    lab = command("lab", _lab, "open JupyterLab on the notebooks")
    lab.add_argument("arguments", nargs="*", help="behind --, for JupyterLab itself, such as -- --no-browser")

    search = command("search", _search, "run a profile's searches, ranked and random, and export their record")
    search.add_argument("--profile", default="quick")
    search.add_argument(
        "--task",
        default="language model",
        choices=["language model", "translation"],
        help="translation: the agent's search, its control, and the encoders of S17's Table 3",
    )
    search.add_argument("--workers", type=int, default=2, help="processes that train cells (default: 2)")
    search.add_argument("--yes", action="store_true", help="begin even where a forecast says days")
    add_device(search)
    add_minutes(search)
    search.add_argument("--export", type=Path, help="where to write the compact record (.jsonl.gz)")

    show = command("show", _show, "print a cell in all its dresses")
    show.add_argument("cell", help="text of the language, or a name from the zoo")
    show.add_argument(
        "--as", dest="dress", default="text", choices=["text", "svg", "latex", "mermaid", "pytorch", "json"]
    )

    data = command("data", _data, "list data sets, or fetch one")
    data.add_argument("action", choices=["list", "fetch"])
    data.add_argument("name", nargs="?")

    ship = command("ship", _ship, "for maintainers: copy a run's findings and times to results/records and the README")
    ship.add_argument("--profile", default="course")
    ship.add_argument("--tests-seconds", type=float, help="how long `make test` took here")
    ship.add_argument("--benchmarks", action="store_true", help="only the README's tables from results/benchmarks")

    report = command("report", _report, "make the report of a profile's results again")
    report.add_argument("--profile", default="quick")
    return parser


def _reproduce(options: argparse.Namespace) -> None:
    from nasrepro.notebook import WORKERS, results_folder
    from nasrepro.profiles import load
    from nasrepro.reproduce import run_notebooks

    profile = on_device(load(options.profile), resolve(options.device))
    notebooks = _notebooks(options.notebook)
    given = _parameters(options.parameter, notebooks)
    _demand_consent(profile, {path.name[:2] for path in notebooks}, WORKERS, options.yes)
    folder = results_folder() / profile.name
    parameters = {"PROFILE": profile.name, "DEVICE": profile.task.device, **given}
    started = time.perf_counter()
    run_notebooks(notebooks, folder, parameters, options.fresh, _execute)
    _report(options)
    print(f"{len(notebooks)} notebooks in {(time.perf_counter() - started) / 60:.1f} minutes")


def _demand_consent(profile: Profile, notebooks: Collection[str], workers: int, given: bool) -> None:
    """Forecast what these notebooks train of a profile on WikiText-2, by so many `workers`.

    Raises ValueError where it takes more than 3 hours and nobody said `--yes`.
    """
    if profile.task.corpus_name != "wikitext2":  # the others take minutes, or replay what ships
        return
    planned = [part for notebook, part in _planned(profile) if notebook in notebooks]
    if not planned:
        return
    workers = max(1, workers)  # with none, this process trains
    device = profile.task.device
    seconds = {settings: _forecast(settings, device) for settings in {settings for _, settings, _ in planned}}
    print(f"forecast for {profile.name} on {device_name(device)}, {workers} workers, every cell taken for an LSTM:")
    hours = 0.0
    for words, settings, count in planned:
        part = count * seconds[settings] / 3600 / workers
        hours += part
        print(f"  {words}: {count} trainings of {seconds[settings] / 3600:.1f} hours, {part / 24:.1f} days")
    print(
        f"  together {hours / 24:.1f} days. Not in it: the small models that notebooks train to show something, the "
        "larger translation set, what a search does between trainings (drawing and ranking cells, the agent's "
        "learning), and that a cell may take longer than an LSTM, or fail early"
        + ("" if device == "cpu" else "; workers that share a GPU are slower than each would be alone"),
        flush=True,
    )
    if hours > 3 and not given:
        raise ValueError("nothing was begun; say --yes (make: YES=1) to begin, or choose a smaller profile")


def _planned(profile: Profile) -> list[tuple[str, tuple[str, LanguageModelSettings | TranslationSettings, int]]]:
    """What each notebook trains of a profile above all: in words, by which settings, and how many times."""
    runs = profile.translation
    cells, controls = runs.search.cells + len(runs.search_seeds), sum(one.cells for one in runs.controls())
    return [
        ("03", ("language models, four cells compared", profile.task.training, 4 * len(profile.seeds))),
        ("04", ("language models, ranked and random search", profile.task.training, 2 * profile.search.cells)),
        ("06", ("encoders, search by the agent, and the LSTM beside it", runs.search_task.training, cells)),
        ("06", ("encoders, agent against chance", runs.control_task.training, controls)),
        ("07", ("encoders, Table 3", runs.task.training, len(TABLE_3) * len(runs.seeds))),
    ]


def _forecast(settings: LanguageModelSettings | TranslationSettings, device: str) -> float:
    """Seconds of one training of an LSTM on S17's text, WikiText-2 or Multi30k, on the device that would train it."""
    from nasrepro.dsl import zoo
    from nasrepro.threads import torch_threads
    from nasrepro.trainers.forecast import MULTI30K, WIKITEXT2, forecast_seconds, forecast_translation_seconds

    with torch_threads(1):  # as in a worker
        if isinstance(settings, LanguageModelSettings):
            return forecast_seconds(zoo["LSTM"], settings, WIKITEXT2, steps=1, device=device)
        return forecast_translation_seconds(zoo["LSTM"], settings, MULTI30K, steps=1, device=device)


def _notebooks(number: str | None) -> list[Path]:
    every = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise ValueError(f"no notebooks in {project_root() / 'notebooks'}: run this from a checkout of the project")
    if number is None:
        return every
    chosen = [path for path in every if path.name.startswith(f"{number:0>2}_")]
    if not chosen:
        raise ValueError(f"no notebook {number!r:.100}; there are {', '.join(path.name[:2] for path in every)}")
    return chosen


def _parameters(given: Sequence[str], notebooks: Sequence[Path]) -> dict[str, Any]:
    import ast

    from nasrepro.kernels import parameters_of
    from nasrepro.notebook import unknown_parameter

    values: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"a parameter is given as NAME=VALUE, got {text!r:.100}")
        if name in ("PROFILE", "FRESH", "DEVICE"):
            raise ValueError(f"{name} is no parameter for -p: use --profile / --fresh / --device")
        for path in notebooks:
            known = parameters_of(path)
            if name not in known:
                raise ValueError(f"{path.name}: {unknown_parameter(name, known)}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return values


def _execute(path: Path, folder: Path, parameters: dict[str, Any]) -> float:
    """Run one notebook into the results folder; the seconds it took."""
    from nasrepro.kernels import run_notebook

    out = folder / "notebooks"
    make_writable(out)
    # Kernels start in the notebooks' folder, as they do in JupyterLab, and must find this very package.
    given = [str(Path(folder).absolute()) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([root, *given]))
    started = time.perf_counter()
    run_notebook(path, out / path.name, parameters)
    return time.perf_counter() - started


def _lab(options: argparse.Namespace) -> None:
    from jupyterlab.labapp import LabApp

    # Defaults beneath a user's own settings: no question about news, no look for updates on the network.
    defaults = Path(__file__).resolve().parent / "jupyter"
    given = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, [given, str(defaults)]))
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's Python before one that a user installed
    LabApp.launch_instance([str(project_root() / "notebooks"), *options.arguments])


def _search(options: argparse.Namespace) -> None:
    from nasrepro.notebook import results_folder
    from nasrepro.profiles import load
    from nasrepro.search import Record
    from nasrepro.search.loop import search

    profile = on_device(load(options.profile), resolve(options.device))
    export = user_path(options.export) if options.export else None
    if export:
        make_writable(export.parent)  # now, not after days of training
    replayed_by = {"04"} if options.task == "language model" else {"06", "07"}
    _demand_consent(profile, replayed_by, options.workers, options.yes)
    folder = results_folder() / profile.name
    limits = {"workers": options.workers, "timeout_s": profile.timeout_s}
    record = Record(folder / "record.sqlite")
    if options.task == "language model":
        for settings in (profile.search, profile.random_search):
            print(search(profile.task, settings, record, **limits))
    else:
        _translation_record(profile, folder, record, limits)
    if export:
        record.export(export)
        print(f"wrote {export}")


def _translation_record(profile: Profile, folder: Path, record: Any, limits: Mapping[str, Any]) -> None:
    """Everything that notebooks 06 and 07 replay."""
    from nasrepro.dsl import zoo
    from nasrepro.profiles import resumable, table_3_row
    from nasrepro.search.held_out import evaluate_tests
    from nasrepro.search.loop import evaluate, search
    from nasrepro.search.workers import Job, Workers

    runs = profile.translation
    print(search(runs.search_task, runs.search, record, **limits))
    with Workers(runs.search_task, limits["workers"], limits["timeout_s"]) as workers:
        # What the cells of the search are held against.
        evaluate([Job(zoo["LSTM"], seed) for seed in runs.search_seeds], record, workers)
    for settings in runs.controls():
        print(search(runs.control_task, settings, record, **limits))
    for also, task, names in runs.tables():
        rows = {table_3_row(name, seed, also): Job(zoo[name], seed) for seed, name in product(runs.seeds, names)}
        for row, found in evaluate_tests(resumable(task, folder), rows, record, limits["workers"]).items():
            print(f"{row}: {found.reason or found.metrics}")


def _show(options: argparse.Namespace) -> None:
    from nasrepro.dsl import parse, zoo

    cell = zoo[options.cell] if options.cell in zoo else parse(options.cell)
    dress = {
        "text": lambda: str(cell),
        "svg": cell.to_svg,
        "latex": cell.to_latex,
        "mermaid": cell.to_mermaid,
        "pytorch": cell.to_pytorch,
        "json": cell.to_json,
    }
    print(dress[options.dress]())


def _data(options: argparse.Namespace) -> None:
    from nasrepro.datasets import DATASETS, fetch

    if options.action == "list":
        for name, dataset in DATASETS.items():
            print(f"{name:12} {dataset.source} [{dataset.licence}]")
        return
    if not options.name:
        raise ValueError(f"name a data set to fetch: {', '.join(DATASETS)}")
    found = fetch(options.name)
    for split, path in found.items():
        print(f"{split:8} {path}")
    if not found:
        print(f"{options.name} comes with Python or nasrepro: there is nothing to fetch")


def _report(options: argparse.Namespace) -> None:
    from nasrepro.notebook import records_folder, results_folder
    from nasrepro.profiles import load
    from nasrepro.report.html import build

    print(build(results_folder() / load(options.profile).name, records_folder()))


def _ship(options: argparse.Namespace) -> None:
    from nasrepro.notebook import note_seconds, records_folder, results_folder
    from nasrepro.profiles import load
    from nasrepro.report.shipping import ship, update_readme

    name, records = load(options.profile).name, records_folder()
    timings = records / "timings.json"
    if options.tests_seconds is not None:
        note_seconds(timings, "tests", "all", options.tests_seconds, device_name())
    elif not options.benchmarks:
        # Only a profile that replays a shipped record speaks for the project; the others differ by machine.
        found = ship(results_folder() / name, records) if load(name).shipped else []
        measured = json.loads((results_folder() / name / "timings.json").read_text("utf-8"))
        for notebook, row in measured[name].items():
            note_seconds(timings, name, notebook, row["seconds"], row["device"])
        print(f"{len(found)} findings of {name}")
    update_readme(project_root() / "README.md", records)
    print(f"wrote {records} and README.md")
