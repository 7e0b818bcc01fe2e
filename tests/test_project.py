"""The project's files agree with each other: requirements, directions of import, what is committed."""

import ast
import gzip
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nasrepro"

# What each room may import of ours. Read from top to bottom, nothing looks down, so there can be no circles.
MAY_IMPORT: dict[str, set[str]] = {
    "deadline": set(),
    "errors": set(),
    "files": set(),
    "hardware": {"errors"},
    "kernels": {"deadline"},
    "threads": set(),
    "profiles": {"errors"},
    "settings": set(),
    "native": {"errors", "files"},
    "dsl": set(),
    "datasets": {"errors", "files"},
    "report": {"datasets", "files", "hardware", "settings"},
    "convnet": set(),
    "rnn": {"dsl", "native"},
    "controllers": {"dsl", "convnet", "native", "settings", "threads"},
    "ranking": {"dsl", "native", "settings", "threads"},
    "trainers": {"hardware", "native", "dsl", "datasets", "convnet", "rnn", "controllers", "ranking"}
    | {"deadline", "errors", "files", "settings"},
}
MAY_IMPORT["search"] = {*MAY_IMPORT["trainers"], "threads", "trainers"}
MAY_IMPORT["worlds"] = {*MAY_IMPORT["search"], "search"}
MAY_IMPORT["experiments"] = {*MAY_IMPORT["worlds"], "worlds", "profiles", "report"}
MAY_IMPORT["shipping"] = {"experiments", "files", "report"}
MAY_IMPORT["notebook"] = {*MAY_IMPORT["experiments"], "experiments"}
MAY_IMPORT["reproduce"] = {*MAY_IMPORT["notebook"], "notebook"}
MAY_IMPORT["cli"] = {*MAY_IMPORT["reproduce"], "reproduce", "kernels", "shipping"}
MAY_IMPORT["__main__"] = {"cli"}


# --- requirements ------------------------------------------------------------------------------------------


def declared() -> dict[str, Requirement]:
    """The direct requirements of pyproject.toml, those of development included, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def pins() -> dict[str, list[Requirement]]:
    """The lines of constraints.txt by name: a name has several where releases differ between Pythons."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def conda_lines() -> list[str]:
    """The lines that environment.yml hands to pip."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    return next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))


def test_every_requirement_is_pinned_to_a_release_that_it_allows():
    for name, requirement in declared().items():
        assert name in pins(), f"{name} is in pyproject.toml, but not in constraints.txt: run `make pins`"
        for pin in pins()[name]:
            (version,) = (specifier.version for specifier in pin.specifier)
            assert requirement.specifier.contains(version), f"{pin} is not allowed by pyproject.toml: {requirement}"


def test_every_pin_is_one_exact_public_release():
    for pin in (pin for same_name in pins().values() for pin in same_name):
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{pin} in constraints.txt is not exact"
        assert "+" not in specifier.version, f"{pin} names a local build, which others cannot install"
        assert "*" not in specifier.version, f"{pin} in constraints.txt is not exact"


@pytest.mark.parametrize("python", ["3.11.0", "3.11.9", "3.12.4", "3.13.1", "3.14.0"])
def test_a_python_gets_at_most_one_release_of_a_package(python):
    machine = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    direct = declared()
    for name, lines in pins().items():
        holding = [pin for pin in lines if pin.marker is None or pin.marker.evaluate(machine)]
        assert len(holding) <= 1, f"Python {python} is given several releases: {holding}"
        assert holding or name not in direct, f"Python {python} is given no release of {name}"


def test_the_builder_of_the_project_is_pinned():
    (builder,) = map(
        Requirement,
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"],
    )
    (pin,) = pins()[canonicalize_name(builder.name)]
    (specifier,) = pin.specifier
    assert builder.specifier.contains(specifier.version)


def test_the_makefile_keeps_the_torch_of_the_constraints():
    kept = re.search(r"^TORCH := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert kept is not None
    assert [str(pin) for pin in pins()["torch"]] == [f"torch=={kept[1]}"]


@pytest.mark.skipif(shutil.which("make") is None, reason="conda users may have no make")
def test_make_reproduce_passes_on_what_it_is_given():
    own = ["PROFILE=paper", "NOTEBOOK=04", "DEVICE=cuda", "FRESH=1", "YES=1", "MINUTES=9"]
    shown = subprocess.run(
        ["make", "-n", "reproduce", *own], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", " ")
    line = next(line for line in shown.splitlines() if "nasrepro reproduce" in line)
    assert line.split("nasrepro reproduce")[1].split() == [
        "--profile", '"paper"', "--notebook", '"04"', "--device", '"cuda"', "--fresh", "--yes",
        "--minutes", '"9"',
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("make") is None, reason="conda users may have no make")
@pytest.mark.parametrize("no", ["0", "no", "false", ""])
def test_make_takes_a_no_for_a_no(no):
    own = ["PROFILE=paper", f"FRESH={no}", f"YES={no}"]
    shown = subprocess.run(["make", "-n", "reproduce", *own], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "nasrepro reproduce" in shown.stdout
    assert "--fresh" not in shown.stdout
    assert "--yes" not in shown.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="conda users may have no make")
def test_make_help_names_every_setting_of_make_reproduce():
    recipe = re.search(r"^reproduce:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    settings = set(re.findall(r"\$\((?:if \$\()?([A-Z]+)\)", recipe[1])) - {"RUN"}
    assert settings == {"PROFILE", "NOTEBOOK", "DEVICE", "FRESH", "YES", "MINUTES"}
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^  {name}=", shown, re.MULTILINE) for name in settings)


def test_conda_users_get_the_same_set():
    lines = conda_lines()
    names = [canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("-")]
    assert sorted(names) == sorted(declared()), "environment.yml and pyproject.toml name different packages"
    # Versions stand in constraints.txt alone, which pip reads from beside environment.yml.
    assert all(Requirement(line).specifier == "" for line in lines if not line.startswith("-"))
    assert "--constraint constraints.txt" in lines
    assert "--editable ." in lines


def test_conda_users_get_a_python_that_the_project_supports():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (python,) = (entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert Requirement(f"python{supported}").specifier.contains(python.removeprefix("python="))


# --- imports go one way ------------------------------------------------------------------------------------


def imported(source: str, package: str) -> Iterator[str]:
    """Full dotted names that `source`, a module of `package`, imports anywhere, functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules() -> list[Path]:
    """All modules of the package but its own __init__, which gathers names from everywhere, lazily."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    return set(imported(path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parent.parts)))


def test_imported_finds_every_way_of_importing():
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\ndef h():\n    from .i import j\n"
    expected = {"a.b", "c.d", "nasrepro.rnn.e", "nasrepro.f.g", "nasrepro.rnn.i.j"}
    assert set(imported(source, "nasrepro.rnn")) == expected


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    here = room(path)
    assert here in MAY_IMPORT, f"say in MAY_IMPORT of {Path(__file__).name} what {here} may import"
    for name in imports_of(path):
        ours, _, rest = name.partition(".")
        if ours != "nasrepro" or rest == "__version__":
            continue
        other = rest.partition(".")[0]
        assert other in MAY_IMPORT[here] | {here}, f"{path.relative_to(ROOT)} may not import {name}"


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others: module -> what it imports in."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        to_visit = [start]
        while to_visit:
            fresh = (imports.get(to_visit.pop(), set()) & imports.keys()) - seen
            seen |= fresh
            to_visit += fresh
        return seen

    reach = {module: reached(module) for module in imports}
    groups = {
        frozenset(o for o in reach[module] if module in reach[o]) for module in imports if module in reach[module]
    }
    return sorted(map(sorted, groups))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_between_modules() -> dict[str, set[str]]:
    """Module of the package -> those that it imports, whether it names them or something in them."""
    ours = {module_of(path): path for path in modules()}
    found: dict[str, set[str]] = {}
    for module, path in ours.items():
        # `from nasrepro.rnn import fused` names a module, `from nasrepro.rnn import RNN` something in one.
        found[module] = {name if name in ours else name.rpartition(".")[0] for name in imports_of(path)}
    return found


def test_circles_are_found_however_long():
    a_ring = {"a": {"b"}, "b": {"c", "x"}, "c": {"a"}, "x": {"outside"}, "y": {"z"}, "z": {"y"}}
    assert circles(a_ring) == [["a", "b", "c"], ["y", "z"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_an_import_for_types_alone_counts():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nasrepro.rnn.layer import RNN\n"
    assert "nasrepro.rnn.layer.RNN" in set(imported(source, "nasrepro.dsl"))


def test_no_room_has_a_circle_of_imports():
    found = imports_between_modules()
    assert found["nasrepro.rnn.layer"] >= {"nasrepro.rnn.program", "nasrepro.rnn.fused"}
    assert not circles(found), "move what both sides need into a module of its own"


@pytest.mark.parametrize("path", sorted((PACKAGE / "dsl").rglob("*.py")), ids=lambda path: path.name)
def test_the_language_needs_only_python_and_its_parser(path):
    outside = {name.partition(".")[0] for name in imports_of(path)} - sys.stdlib_module_names
    assert outside <= {"lark", "nasrepro"}


# --- who knows what -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((PACKAGE / "search").rglob("*.py")), ids=lambda path: path.name)
def test_only_the_papers_own_plans_know_cells_and_perplexities(path):
    if path.name not in {"ranked_search.py", "agent_search.py", "tabular.py", "token_search.py"}:
        known = r"valid_ppl|\bparse\(|nasrepro\.dsl|isinstance\((?:settings|plan|task)"
        assert not re.findall(known, path.read_text(encoding="utf-8")), "ask the task, or the plan"


def test_profiles_know_no_experiment():
    assert len((PACKAGE / "profiles.py").read_text(encoding="utf-8").splitlines()) < 120


def is_there(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_pointed_to_is_there(path):
    """`files.user_path` in a comment or docstring: of a room, or of a module beside the one that says it."""
    here = module_of(path).rpartition(".")[0]
    for named in re.findall(r"`([a-z_]\w*(?:\.\w+)+)`", path.read_text(encoding="utf-8")):
        if named.partition(".")[0] in MAY_IMPORT.keys() - {"settings"}:  # which are also many a function's argument
            assert is_there(f"nasrepro.{named}") or is_there(f"{here}.{named}"), named


# --- what is committed -------------------------------------------------------------------------------------

# Folders that exist on one machine only. Not part of a longer path or of an address, and not "~/…" or "../…".
MACHINE_PATH = re.compile(rb"(?<![\w.~/}-])/(?:work|home|root|Users|tmp|opt|mnt|scratch)/\w[\w./-]*")


def committed() -> list[Path]:
    """The files that git tracks; an unpacked archive has none, and the test is skipped."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("this folder is no git checkout")
    paths = (ROOT / name for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def test_no_file_names_a_path_of_one_machine():
    found = []
    for path in committed():
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if path.suffix not in {".png", ".pt"}:
            found += [f"{path.relative_to(ROOT)}: {hit.decode()}" for hit in MACHINE_PATH.findall(content)]
    assert not found


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (b'"' + b"/home" + b'/ada/cell.txt"', True),
        (b"root=" + b"/tmp" + b"/x", True),
        (b"../shared/data", False),
        (b"https://example.org/opt/a", False),
        (b"~/opt/a", False),
        (b"nasrepro/search/workers.py", False),
    ],
)
def test_a_machine_path_is_told_from_others(text, is_one):
    assert bool(MACHINE_PATH.search(text)) == is_one


def test_only_records_are_large():
    large = [path for path in committed() if path.stat().st_size > 1_000_000]
    records = ROOT / "results" / "records"
    assert not [path for path in large if not path.is_relative_to(records)]


def test_what_the_package_reads_is_installed_with_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["nasrepro"]
    installed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    beside_code = {path for path in committed() if path.is_relative_to(PACKAGE) and path.suffix != ".py"}
    assert beside_code <= installed, "add them to package-data in pyproject.toml"
