"""Paths that users name: the same place for every process, `~` the home folder, and a word where there is none."""

import hashlib
import os
import pwd
import subprocess
import sys
import textwrap
from pathlib import Path

import platformdirs
import pytest

from nasrepro.datasets import data_root, fetch, load_parallel
from nasrepro.datasets.parallel import tokenise
from nasrepro.files import FOLDERS, fix_environment, user_cache, user_path
from nasrepro.native import NativeError, cache_folder
from nasrepro.notebook import results_folder
from nasrepro.profiles import project_root
from nasrepro.report.artifacts import Artifacts, read_all
from nasrepro.report.html import build
from nasrepro.report.ledger import Finding, Ledger
from nasrepro.report.provenance import provenance
from nasrepro.search import Record
from nasrepro.trainers.checkpoint import training_checkpoint

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of one's own; the working folder is another one, and no variable names any."""
    for variable in FOLDERS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, as a container's --user may be."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize(
    ("variable", "found", "below"),
    [
        ("NASREPRO_RESULTS", results_folder, ""),
        ("NASREPRO_DATA", data_root, ""),
        ("NASREPRO_CACHE", user_cache, ""),
        ("NASREPRO_CACHE", cache_folder, "native"),
    ],
)
def test_a_variable_names_a_folder_as_a_shell_would(variable, found, below, home, monkeypatch):
    monkeypatch.setenv(variable, "out/a")
    assert found() == home.parent / "work" / "out" / "a" / below
    monkeypatch.setenv(variable, "~/out")
    assert found() == home / "out" / below
    monkeypatch.setenv(variable, "")
    assert home.parent / "work" not in (found(), *found().parents)


def test_an_argument_names_a_place_as_a_shell_would(home):
    assert data_root("~/data") == home / "data"
    assert data_root("data") == home.parent / "work" / "data"
    with training_checkpoint("~/checkpoints", "a") as path:
        assert path.parent == home / "checkpoints"
    with Record("~/record.sqlite") as record:
        record.export("~/exported.jsonl.gz")
    assert sorted(path.name for path in home.iterdir()) == ["exported.jsonl.gz", "record.sqlite"]
    assert Record.load("~/exported.jsonl.gz").evaluations() == []
    Artifacts("~/results").ledger.add(Finding("s17.fig1"))
    assert build("~/results") == home / "results" / "report.html"
    assert (home / "results" / "ledger.json").exists()
    (home / "findings.json").write_bytes((home / "results" / "ledger.json").read_bytes())
    assert Ledger("~/other", "~/findings.json").shipped.keys() == {"s17.fig1"}
    made = provenance({}, None, 0.0, ["~/findings.json"])
    assert made["records"]["findings.json"] == hashlib.sha256((home / "findings.json").read_bytes()).hexdigest()
    Artifacts("~/results").drawing("<svg/>", "drawn", "T", "C", provenance=made)
    assert [artifact.name for artifact in read_all("~/results")] == ["drawn"]
    shipped = build("~/results", "~").read_text("utf-8")
    assert shipped == build("~/results", home).read_text("utf-8") != build("~/results").read_text("utf-8")
    assert not list(Path.cwd().iterdir())


def test_a_mirror_is_found_below_the_home_folder(home, monkeypatch):
    monkeypatch.setenv("NASREPRO_MIRROR", "~/mirror")
    with pytest.raises(Exception, match=f"looked for .* and {home}/mirror/ptb"):
        fetch("ptb", download=False)


def test_what_other_processes_inherit_is_absolute(home, monkeypatch):
    for variable in FOLDERS:
        monkeypatch.setenv(variable, f"some/{variable}")
    monkeypatch.setenv("NASREPRO_DATA", "~/data")
    fix_environment()
    (home.parent / "else").mkdir()
    said = subprocess.run(
        [sys.executable, "-c", "import os; print(*(os.environ[name] for name in os.sys.argv[1:]))", *FOLDERS],
        cwd=home.parent / "else",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name: str(home.parent / "work" / "some" / name) for name in FOLDERS} | {
        "NASREPRO_DATA": str(home / "data")
    }
    assert dict(zip(FOLDERS, said, strict=True)) == expected


def test_an_unset_variable_stays_unset(home):
    fix_environment()
    assert not set(FOLDERS) & set(os.environ)


def test_a_link_stays_the_place_that_was_named(home):
    (home.parent / "real").mkdir()
    Path("link").symlink_to(home.parent / "real")
    assert user_path("link/x") == Path.cwd() / "link" / "x"


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("cache", ["~/c", None])
def test_what_a_cache_would_keep_is_done_without_where_its_home_is_not_known(cache, monkeypatch):
    if cache is not None:
        monkeypatch.setenv("NASREPRO_CACHE", cache)
    with pytest.raises(OSError, match=r"^NASREPRO_CACHE=~/c begins with a home folder|has no home folder"):
        user_cache()
    with pytest.raises(NativeError, match="there is no folder to keep compiled code in"):
        cache_folder()
    sentences = ["ein hund läuft schnell"] * 5_000  # so long that its tokens would be kept
    assert tokenise(sentences, "de") == [["ein", "hund", "läuft", "schnell"]] * 5_000


@pytest.mark.usefixtures("nobody")
def test_without_a_home_a_path_that_needs_one_is_named_with_its_variable(monkeypatch):
    monkeypatch.setenv("NASREPRO_RESULTS", "~/out")
    with pytest.raises(ValueError, match=r"NASREPRO_RESULTS=~/out begins with a home folder that is not known here"):
        results_folder()
    with pytest.raises(ValueError, match=r"^~/record\.sqlite begins with a home folder"):
        Record("~/record.sqlite")


@pytest.mark.usefixtures("nobody")
def test_without_a_home_code_is_not_kept_and_the_slower_path_can_be_taken(monkeypatch, tmp_path):
    with pytest.raises(NativeError, match="this user has no home folder: set NASREPRO_CACHE to a folder of your own"):
        cache_folder()
    monkeypatch.setenv("NASREPRO_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "native"


def test_without_a_home_a_cell_runs_by_the_slower_path(home, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = """
        import pwd
        pwd.getpwuid = dict().__getitem__  # knows nobody
        import torch, nasrepro as nr
        print(tuple(nr.RNN(nr.zoo["GRU"], 3, 4)(torch.randn(2, 1, 3))[0].shape))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 1, 4)\n"
    assert "slower" in done.stderr


@pytest.mark.usefixtures("nobody")
def test_without_a_home_an_old_platformdirs_does_not_make_a_folder_named_tilde(monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: Path("~/.cache", name))
    with pytest.raises(OSError, match="this user has no home folder"):
        user_cache()


@pytest.mark.usefixtures("nobody")
def test_without_a_home_a_long_text_is_tokenised_all_the_same(monkeypatch):
    monkeypatch.setattr("nasrepro.datasets.parallel._tokenise", lambda sentences, _: [s.split() for s in sentences])
    assert tokenise(["a b"] * 40_000, "en") == [["a", "b"]] * 40_000
    assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("nobody")
def test_without_a_home_data_is_found_in_the_mirror(monkeypatch, tmp_path, mirror):
    monkeypatch.setattr("nasrepro.datasets.files.__file__", str(tmp_path / "site-packages/nasrepro/datasets/files.py"))
    monkeypatch.setenv("NASREPRO_MIRROR", str(mirror))
    assert fetch("ptb", download=False)["train"].is_relative_to(mirror)
    assert len(load_parallel("captions").train) > 0


def test_a_package_installed_apart_finds_the_checkout_from_its_notebooks(monkeypatch, tmp_path):
    """Kernels work in the notebooks' folder, the command above it: both must mean the same results."""
    monkeypatch.setattr("nasrepro.profiles.__file__", str(tmp_path / "site-packages" / "nasrepro" / "profiles.py"))
    monkeypatch.delenv("NASREPRO_RESULTS", raising=False)
    for folder in (ROOT, ROOT / "notebooks", ROOT / "results" / "records"):
        monkeypatch.chdir(folder)
        assert project_root() == ROOT
        assert results_folder() == ROOT / "results"
    (tmp_path / "notebooks").mkdir()  # not every folder of notebooks is ours
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert project_root() == tmp_path / "work"
