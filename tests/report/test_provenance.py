"""Provenance: hashes against published digests, git's absence, and JSON that a reader can trust."""

import doctest
import json
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nasrepro.hardware import device_name
from nasrepro.report import provenance as origin

CORPUS = SimpleNamespace(name="pydoc", hash="3fa1c4d2" * 8, note="stand-in")


def test_sha256_of_the_example_in_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert origin.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_provenance_is_json_and_names_everything(tmp_path):
    (tmp_path / "search.jsonl.gz").write_bytes(b"abc")
    made = origin.provenance({"profile": "quick", "seeds": 3}, CORPUS, 12.34, [tmp_path / "search.jsonl.gz"])
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert made["versions"]["numpy"] == np.__version__
    assert made["data"] == {"name": "pydoc", "hash": CORPUS.hash, "note": "stand-in"}
    assert made["records"] == {"search.jsonl.gz": origin.sha256(tmp_path / "search.jsonl.gz")}
    assert made["seconds"] == 12.3
    assert made["time"].endswith("+00:00")
    line = origin.caption(made)
    for part in (
        "quick",
        "pydoc 3fa1c4d2, stand-in",
        made["device"],
        "12.3 s",
        "search.jsonl.gz ba7816bf",
        made["commit"],
    ):
        assert part in line
    assert "\n" not in line


def test_a_missing_record_stops(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        origin.provenance({}, None, 0.0, [tmp_path / "gone.jsonl"])


def git(folder, *arguments):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that holds the file by which a checkout is known."""
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "checkout"
    (folder / "nasrepro" / "report").mkdir(parents=True)
    (folder / "nasrepro" / "report" / "provenance.py").write_text("one\n")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


def test_the_commit_and_whether_files_differ(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert origin.commit(checkout) == head[:10]
    (checkout / "nasrepro" / "report" / "provenance.py").write_text("two\n")
    assert origin.commit(checkout) == f"{head[:10]} (changed)"


def test_the_commit_of_another_users_checkout(checkout, monkeypatch):
    """As a folder that is mounted into a container."""
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("HOME", str(checkout.parent))  # nobody has said there that it is safe
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.abbrev")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "12")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests use it
    with pytest.raises(subprocess.CalledProcessError):
        git(checkout, "rev-parse", "HEAD")
    assert origin.commit(checkout) == head[:10]
    (checkout / "nasrepro" / "report" / "provenance.py").write_text("two\n")
    assert origin.commit(checkout) == f"{head[:10]} (changed)"


def test_another_users_repository_around_an_installed_package_is_not_asked(checkout, monkeypatch):
    monkeypatch.setenv("HOME", str(checkout.parent))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    packages = checkout / "site-packages"
    packages.mkdir()
    assert origin._git(packages, "rev-parse", "HEAD") is None  # its settings could run programs
    assert origin.commit(packages) == "not a checkout"


def test_a_repository_around_an_installed_package_is_not_its_commit(checkout):
    packages = checkout / "site-packages"
    packages.mkdir()
    assert origin.commit(packages) == "not a checkout"


def test_a_hook_of_another_repository_does_not_lend_its_commit(checkout, tmp_path, monkeypatch):
    head = git(checkout, "rev-parse", "HEAD")
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    assert origin.commit(checkout) == head[:10]


def test_reading_the_commit_writes_nothing(checkout):
    """The index would belong to the container's root afterwards."""
    index = checkout / ".git" / "index"
    os.utime(checkout / "nasrepro" / "report" / "provenance.py", (1, 1))  # `git status` would note the new time
    before = index.read_bytes()
    origin.commit(checkout)
    assert index.read_bytes() == before


UNKNOWN = "(git cannot tell what changed)"


@pytest.mark.parametrize("how", ["branch", "packed", "detached", "further tree", "packed, further tree"])
def test_the_commit_without_git_is_read_from_its_files(checkout, tmp_path, monkeypatch, how):
    head = git(checkout, "rev-parse", "HEAD")
    if "packed" in how:
        git(checkout, "branch", "remain")
        git(checkout, "pack-refs", "--all")
    if how == "detached":
        git(checkout, "checkout", "--quiet", "--detach")
    if "further tree" in how:
        git(checkout, "worktree", "add", "--quiet", "-b", "more" if how == "further tree" else "other", "../further")
        checkout = tmp_path / "further"
        if "packed" in how:
            git(checkout, "pack-refs", "--all")
    monkeypatch.setenv("PATH", "")
    assert origin.commit(checkout) == f"{head[:10]} {UNKNOWN}"


def test_without_git_and_its_files_there_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert origin.commit(tmp_path) == "not a checkout"


def test_changes_that_git_cannot_tell_are_not_taken_for_none(checkout, monkeypatch):
    asked = origin._git
    monkeypatch.setattr(origin, "_git", lambda folder, *words: None if words[0] == "status" else asked(folder, *words))
    assert origin.commit(checkout) == f"{git(checkout, 'rev-parse', 'HEAD')[:10]} {UNKNOWN}"


@pytest.mark.parametrize("head", [b"", b"\n", b"\xff\xfe", b"ref: refs/heads/gone", b"ref: \0", b"nonsense"])
def test_a_head_that_is_damaged_is_no_commit_and_no_error(checkout, head):
    (checkout / ".git" / "HEAD").write_bytes(head)
    assert origin.commit(checkout) == "not a checkout"


@pytest.mark.parametrize("count", ["abc", "-1", "1.5", ""])
def test_a_count_of_settings_that_git_would_refuse(checkout, monkeypatch, count):
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_CONFIG_COUNT", count)
    assert origin.commit(checkout) == head[:10]


def test_threads_are_said_of_this_machine_alone():
    here = origin.provenance({}, None, 1.0)
    assert here["threads"] == torch.get_num_threads()
    assert f"{device_name('cpu')}, {torch.get_num_threads()} thread" in origin.caption(here)
    for elsewhere in ("NVIDIA H200", f"{device_name('cpu')}, NVIDIA H200"):
        made = origin.provenance({}, None, 1.0, device=elsewhere)
        assert made["threads"] is None
        assert f"{elsewhere} | " in origin.caption(made)
        assert "thread" not in origin.caption(made)
    assert "2 threads" in origin.caption({**made, "threads": 2}), "as artefacts written before have it"


def test_one_path_is_no_list_of_records():
    with pytest.raises(TypeError, match=r"records is the string 'records/e\.gz', .* pass a list of paths"):
        origin.provenance({}, None, 1.0, records="records/e.gz")


def test_the_commit_of_this_checkout_looks_like_one():
    assert re.fullmatch(r"not a checkout|[0-9a-f]{10,}( \(.*chang.*\))?", origin.commit())


def test_examples_in_the_docstrings():
    assert doctest.testmod(origin) == doctest.TestResults(failed=0, attempted=1)
