"""Provenance: hashes against published digests, git's absence, and JSON that a reader can trust."""

import doctest
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

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


def test_the_commit_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert origin.commit() == "not a checkout"


def test_the_commit_of_this_checkout_looks_like_one():
    assert re.fullmatch(r"not a checkout|[0-9a-f]{10,}( \(changed\))?", origin.commit())


def test_examples_in_the_docstrings():
    assert doctest.testmod(origin) == doctest.TestResults(failed=0, attempted=1)
