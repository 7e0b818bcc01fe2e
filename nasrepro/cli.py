"""The `nasrepro` command: reproduce, forecast, record, train, lab, show, data, report, ship; `nasrepro -h` explains."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasrepro.datasets import DataError
from nasrepro.deadline import TimeIsUp, set_deadline
from nasrepro.errors import known
from nasrepro.files import fix_environment, make_writable, user_path
from nasrepro.hardware import device_name, resolve
from nasrepro.profiles import load, profiles, project_root

NOT_FINISHED = 75
"""The exit status of a command that has stopped at its deadline: EX_TEMPFAIL of sysexits.h."""

_DRESSES = ("text", "svg", "latex", "mermaid", "pytorch", "json")
"""What a cell is shown as: its text, or by its method `to_...`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. Errors that a user can mend are one message, not a traceback."""
    options = _parser().parse_args(arguments)
    try:
        fix_environment()
        if getattr(options, "minutes", None) is not None:
            set_deadline(options.minutes)
        return int(options.run(options) or 0)
    except KeyboardInterrupt as stop:
        print(f"\nstopped; run the same command{_noted(stop) or ' again'} to go on", file=sys.stderr)
        return 130
    except TimeIsUp as stop:
        print(f"\n{stop}{_noted(stop)}", file=sys.stderr)
        return NOT_FINISHED
    except (ValueError, OSError, RuntimeError, DataError) as error:
        print(f"nasrepro: {error}", file=sys.stderr)
        if how := _noted(error):
            print(f"once that is mended, run the same command{how} to go on", file=sys.stderr)
        return 1


def _noted(end: BaseException) -> str:
    """How a command that has ended early goes on, where that is noted on what has ended it; "" where the same does."""
    return "".join(f" {note}" for note in getattr(end, "__notes__", ()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nasrepro", description="Two papers on neural architecture search, reproduced."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str, *shared: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about, parents=shared)
        sub.set_defaults(run=run)
        return sub

    def option(name: str, **settings: Any) -> argparse.ArgumentParser:
        """An option that several commands share."""
        parent = argparse.ArgumentParser(add_help=False)
        parent.add_argument(name, **settings)
        return parent

    one_of = f"one of {', '.join(profiles)} (default: %(default)s)"
    profile = option("--profile", default="quick", help=one_of)
    about = "where cells are trained: auto (a GPU where torch sees one), cpu, cuda, or cuda:N (default: auto)"
    device = option("--device", default="auto", help=about)
    workers = option("--workers", type=_workers, default=2, help="processes that train (default: 2; 0: this one)")
    yes = option("--yes", action="store_true", help="begin even what is forecast to take longer than a night")
    about = f"stop after so many, at the next checkpoint; exit status {NOT_FINISHED}, and the same command goes on"
    minutes = option("--minutes", type=float, metavar="N", help=about)

    about = "run the notebooks and write the report"
    reproduce = command("reproduce", _reproduce, about, profile, device, yes, minutes)
    reproduce.add_argument("--notebook", help="only this one, by number, such as 04 (the report is always remade)")
    about = "train anew; the old record is kept as record.before.sqlite"
    reproduce.add_argument("--fresh", action="store_true", help=about)
    reproduce.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="for the notebooks that run"
    )

    about = "say how long a profile's trainings would take here, and how much memory"
    command("forecast", _forecast, about, profile, device, workers)

    about = "make the trainings of an experiment without its notebooks, and export them"
    record = command("record", _record, about, profile, device, workers, yes, minutes)
    record.add_argument("experiment", help="its name; an unknown one is answered with the list")
    record.add_argument("--only", default="", metavar="TEXT", help="only the trainings with this text in their words")
    record.add_argument("--fresh", action="store_true", help="make anew what shipped records hold")
    record.add_argument("--export", type=Path, help="where to write what it has recorded, compact (.jsonl.gz)")

    about = "train one candidate as an experiment does, and write it into the record"
    train = command("train", _train, about, profile, device, yes, minutes)
    train.add_argument("candidate", help="its text, such as a cell of the language, or its name, such as BC3")
    train.add_argument("--experiment", help="whose task (default: the first of the project)")
    train.add_argument("--seed", type=int, default=1, help="of weights and masks (default: 1)")

    lab = command("lab", _lab, "open JupyterLab on the notebooks")
    lab.add_argument("arguments", nargs="*", help="behind --, for JupyterLab itself, such as -- --no-browser")

    show = command("show", _show, "print a cell in all its dresses")
    show.add_argument("cell", help="text of the language, or a name from the zoo")
    show.add_argument("--as", dest="dress", default="text", choices=_DRESSES)

    data = command("data", _data, "list data sets, or fetch one")
    data.add_argument("action", choices=["list", "fetch"])
    data.add_argument("name", nargs="?")

    about = "for maintainers: copy a run's findings and times to results/records and the README"
    ship = command("ship", _ship, about, option("--profile", default="course", help=one_of))
    ship.add_argument("--tests-seconds", type=float, help="how long `make test` took here")
    ship.add_argument("--benchmarks", action="store_true", help="only the README's tables from results/benchmarks")

    command("report", _report, "make the report of a profile's results again", profile)
    return parser


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r:.100} is no number of processes, 0 or more")
    return int(text)


def _demand_consent(options: argparse.Namespace, workers: int, records: Sequence[Any], **which: Any) -> None:
    """Forecast what the records lack of a profile, or part of it, and ask before a night is spent on it."""
    from nasrepro.experiments.forecasts import demand_consent, forecast
    from nasrepro.notebook import results_folder

    profile, device, folder = load(options.profile), resolve(options.device), results_folder() / options.profile
    make_writable(folder)
    demand_consent(profile, forecast(profile, device, records, folder, **which), device, workers, options.yes)


def _reproduce(options: argparse.Namespace) -> None:
    from nasrepro.notebook import WORKERS, known_records, results_folder
    from nasrepro.reproduce import goes_on_fresh, run_notebooks

    profile, device = load(options.profile), resolve(options.device)
    notebooks = _notebooks(options.notebook)
    given = _parameters(options.parameter, notebooks)
    folder = results_folder() / profile.name
    parameters = {"PROFILE": profile.name, "DEVICE": device, **given}
    if profile.hours is not None:
        # A fresh run sets the record aside; one that goes on has a record of its own, and nothing that ships.
        records = [] if options.fresh else known_records(profile.name, goes_on_fresh(notebooks, folder, parameters))
        _demand_consent(options, WORKERS, records, notebooks={path.name[:2] for path in notebooks})
    started = time.perf_counter()
    run_notebooks(notebooks, folder, parameters, options.fresh, _execute)
    _report(options)
    print(f"{len(notebooks)} notebooks in {(time.perf_counter() - started) / 60:.1f} minutes")


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


def _forecast(options: argparse.Namespace) -> None:
    from nasrepro.experiments.forecasts import describe, forecast
    from nasrepro.notebook import known_records

    profile, device = load(options.profile), resolve(options.device)
    print(describe(profile, forecast(profile, device, known_records(profile.name)), device, options.workers))


def _record(options: argparse.Namespace) -> None:
    from nasrepro import experiments
    from nasrepro.experiments.experiment import Resources, on_device, resumable
    from nasrepro.notebook import known_records, results_folder

    experiment, profile, device = experiments.load(options.experiment), load(options.profile), resolve(options.device)
    sizes, folder = experiment.at(profile.name), results_folder() / profile.name
    export = user_path(options.export) if options.export else None
    if export:
        make_writable(export.parent)  # now, not after days of training
    trainings = experiment.chosen(resumable(on_device(sizes, device), folder), options.only)
    if profile.hours is not None:
        records = known_records(profile.name, options.fresh)
        _demand_consent(options, options.workers, records, experiment=experiment.name, only=options.only)
    record = _own_record(experiment, profile.name, options.fresh)
    try:
        for each in trainings:
            print(f"{each.words}: {each.count} trainings, {each.task.words()}", flush=True)
            each.make(Resources(record, options.workers, profile.timeout_s))
    finally:  # what is ready is written however the others have ended, as when the minutes are over
        if export:
            record.export(export, {each.task.name for each in trainings})
            print(f"wrote {export}")


def _own_record(experiment: Any, profile: str, fresh: bool = False) -> Any:
    """A profile's record, with what ships of the experiment, unless that is to be made anew."""
    from nasrepro.notebook import records_folder, results_folder
    from nasrepro.search import Record

    record = Record(results_folder() / profile / "record.sqlite")
    for path in () if fresh else experiment.shipped_files(profile, records_folder()):
        record.import_(path)
    return record


def _train(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from nasrepro import experiments
    from nasrepro.experiments.experiment import Trainings, on_device, resumable
    from nasrepro.experiments.forecasts import demand_consent, one_forecast
    from nasrepro.notebook import results_folder
    from nasrepro.search.record import Evaluation, evaluation_key
    from nasrepro.search.workers import Job

    experiment = experiments.load(options.experiment or next(iter(experiments.EXPERIMENTS)))
    profile, device = load(options.profile), resolve(options.device)
    sizes, folder = on_device(experiment.at(profile.name), device), results_folder() / profile.name
    task, text = resumable(sizes, folder).task, options.candidate
    try:
        candidate = experiment.named.get(text) or task.read(text)
    except ValueError:
        if text.isidentifier() and experiment.named:  # meant as a name
            known(text, experiment.named, "name")
        raise
    record = _own_record(experiment, profile.name)
    key = evaluation_key(task, candidate, options.seed)
    if profile.hours is not None and key not in record:
        one = Trainings.of("", str(candidate), task, jobs=[Job(candidate, options.seed)])
        demand_consent(profile, [one_forecast(experiment, one, [], folder)], device, 1, options.yes)
    print(f"{candidate}: {task.words()}, seed {options.seed}, on {device_name(task.device)}", flush=True)
    found = record.get(key)
    if found is None:
        outcome = task.evaluate(candidate.canonical(), options.seed, lambda point: print(_spoken(point), flush=True))
        outcome = replace(outcome, device=outcome.device or device_name(task.device))
        record.put(Evaluation.of(task, candidate.canonical(), options.seed, outcome))
        found = record[key]
    result = found.reason or _spoken(found.metrics)
    print(f"{result}; {found.parameters:,} parameters, {found.seconds:.1f} s on {found.device}")


def _spoken(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:.6g}" for name, number in numbers.items())


def _show(options: argparse.Namespace) -> None:
    from nasrepro.dsl import parse, zoo

    cell = zoo[options.cell] if options.cell in zoo else parse(options.cell)
    print(str(cell) if options.dress == "text" else getattr(cell, f"to_{options.dress}")())


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
        print(f"{options.name} needs no files: there is nothing to fetch")


def _report(options: argparse.Namespace) -> None:
    from nasrepro.notebook import records_folder, results_folder
    from nasrepro.report.html import build

    print(build(results_folder() / load(options.profile).name, records_folder()))


def _ship(options: argparse.Namespace) -> None:
    from nasrepro.notebook import note_seconds, records_folder, results_folder
    from nasrepro.shipping import ship, update_readme

    name, records = load(options.profile).name, records_folder()
    timings = records / "timings.json"
    if options.tests_seconds is not None:
        note_seconds(timings, "tests", "all", options.tests_seconds, device_name())
    elif not options.benchmarks:
        # Only a profile that replays a shipped record speaks for the project; the others differ by machine.
        found = ship(results_folder() / name, records) if load(name).speaks else []
        measured = json.loads((results_folder() / name / "timings.json").read_text("utf-8"))
        for notebook, row in measured[name].items():
            note_seconds(timings, name, notebook, row["seconds"], row["device"])
        print(f"{len(found)} findings of {name}")
    update_readme(project_root() / "README.md", records)
    print(f"wrote {records} and README.md")
