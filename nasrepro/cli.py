"""The `nasrepro` command: `reproduce`, `search`, `show`, `data`, `report`, `ship`; `nasrepro -h` explains them."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasrepro.datasets import DataError
from nasrepro.profiles import profiles, project_root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. Errors that a user can mend are one message, not a traceback."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        return 130
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

    reproduce = command("reproduce", _reproduce, "run the notebooks and write the report")
    reproduce.add_argument("--profile", default="quick", help=f"one of {', '.join(profiles)} (default: quick)")
    reproduce.add_argument("--notebook", help="only this one, by number, such as 04 (the report is always remade)")
    reproduce.add_argument("--fresh", action="store_true", help="forget this profile's results, and train anew")
    reproduce.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")

    search = command("search", _search, "run a profile's searches, ranked and random, and export their record")
    search.add_argument("--profile", default="quick")
    search.add_argument("--workers", type=int, default=2, help="processes that train cells (default: 2)")
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

    report = command("report", _report, "make the report of a profile's results again")
    report.add_argument("--profile", default="quick")
    return parser


def _reproduce(options: argparse.Namespace) -> None:
    from nasrepro.notebook import note_seconds, results_folder
    from nasrepro.profiles import load

    profile = load(options.profile)
    notebooks = _notebooks(options.notebook)
    given = _parameters(options.parameter, notebooks)
    folder = results_folder() / profile.name
    if options.fresh and folder.exists():
        shutil.rmtree(folder)
    started = time.perf_counter()
    for path in notebooks:
        number = path.name[:2]
        print(f"{path.name}  ({profile.name})", flush=True)
        seconds = _execute(path, folder, {"PROFILE": profile.name, "FRESH": options.fresh, **given})
        note_seconds(folder / "timings.json", profile.name, number, seconds)
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
        raise ValueError(f"no notebook {number!r}; there are {', '.join(path.name[:2] for path in every)}")
    return chosen


def _parameters(given: Sequence[str], notebooks: Sequence[Path]) -> dict[str, Any]:
    import ast

    import papermill

    from nasrepro.notebook import unknown_parameter

    values: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"a parameter is given as NAME=VALUE, got {text!r}")
        for path in notebooks:
            known = list(papermill.inspect_notebook(str(path)))
            if name not in known:
                raise ValueError(f"{path.name}: {unknown_parameter(name, known)}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return values


def _execute(path: Path, folder: Path, parameters: dict[str, Any]) -> float:
    """Run one notebook by papermill into the results folder; the seconds it took."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from nasrepro.report.files import make_writable

    out = folder / "notebooks"
    make_writable(out)
    # Kernels start in the notebooks' folder, as they do in JupyterLab, and must find this very package.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    started = time.perf_counter()
    try:
        papermill.execute_notebook(
            str(path),
            str(out / path.name),
            parameters=parameters,
            cwd=str(path.parent),
            kernel_name="python3",
        )
    except PapermillExecutionError as error:
        raise RuntimeError(
            f"{path.name} stopped in cell {error.cell_index}: {error.ename}: {error.evalue}\n"
            f"the notebook as far as it came: {out / path.name}"
        ) from None
    return time.perf_counter() - started


def _search(options: argparse.Namespace) -> None:
    from nasrepro.notebook import results_folder
    from nasrepro.profiles import load
    from nasrepro.search import Record
    from nasrepro.search.loop import search

    profile = load(options.profile)
    record = Record(results_folder() / profile.name / "record.sqlite")
    for settings in (profile.search, profile.random_search):
        print(search(profile.task, settings, record, workers=options.workers, timeout_s=profile.timeout_s))
    if options.export:
        record.export(options.export)
        print(f"wrote {options.export}")


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
    for split, path in fetch(options.name).items():
        print(f"{split:8} {path}")


def _report(options: argparse.Namespace) -> None:
    from nasrepro.notebook import records_folder, results_folder
    from nasrepro.profiles import load
    from nasrepro.report.html import build

    print(build(results_folder() / load(options.profile).name, records_folder()))


def _ship(options: argparse.Namespace) -> None:
    import json

    from nasrepro.notebook import note_seconds, records_folder, results_folder
    from nasrepro.profiles import load
    from nasrepro.report.shipping import ship, update_readme

    name, records = load(options.profile).name, records_folder()
    timings = records / "timings.json"
    if options.tests_seconds is not None:
        note_seconds(timings, "tests", "all", options.tests_seconds)
    else:
        # Only a profile that replays a shipped record speaks for the project; the others differ by machine.
        found = ship(results_folder() / name, records) if load(name).shipped else []
        measured = json.loads((results_folder() / name / "timings.json").read_text("utf-8"))
        for notebook, row in measured[name].items():
            note_seconds(timings, name, notebook, row["seconds"])
        print(f"{len(found)} findings of {name}")
    update_readme(project_root() / "README.md", json.loads(timings.read_text("utf-8")))
    print(f"wrote {records} and README.md")
