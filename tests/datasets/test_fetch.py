"""Files are found, verified and fetched; whatever goes wrong is named and leaves nothing half-written."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nasrepro.datasets import DATASETS, DataError, data_root, fetch, load
from nasrepro.datasets.registry import DataFile, DataSet

CONTENT = b"".join(b"line %d of a small text\n" % number for number in range(20_000))  # large enough to be cut
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@contextmanager
def server(serve) -> Iterator[str]:
    """An HTTP server on this machine that answers with `serve(handler)`; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            serve(self)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/text.txt"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def whole(handler) -> None:
    handler.wfile.write(CONTENT)


def cut(handler) -> None:
    handler.wfile.write(CONTENT[: len(CONTENT) // 2])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No mirror, no permission to download, no proxy between a test and its server."""
    for name in ("NASREPRO_MIRROR", "NASREPRO_DATA", "NASREPRO_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def register(monkeypatch):
    """Register a data set "small" of one file that is served at the given addresses."""

    def add(*urls: str) -> None:
        file = DataFile("train", "text.txt", len(CONTENT), SHA256, urls)
        monkeypatch.setitem(DATASETS, "small", DataSet("small", "small", "a test", "none", "none", (file,)))

    return add


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_nothing_is_downloaded_unless_allowed(register, tmp_path):
    asked = []
    with server(lambda handler: (asked.append(1), whole(handler))) as url:
        register(url)
        with pytest.raises(DataError, match=r"text\.txt of small is not on this machine.*nasrepro data fetch small"):
            fetch("small", tmp_path, download=None)
    assert not asked
    assert contents(tmp_path) == []


def test_missing_real_data_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"ptb\.train\.txt.*nasrepro data fetch ptb.*NASREPRO_MIRROR.*5,101,618"):
        load("ptb", root=tmp_path)


def test_download_when_allowed(register, tmp_path, monkeypatch):
    with server(whole) as url:
        register(url)
        monkeypatch.setenv("NASREPRO_DOWNLOAD", "1")
        path = fetch("small", tmp_path, download=None)["train"]
    assert path.read_bytes() == CONTENT
    assert contents(tmp_path) == ["small/text.txt"]
    assert path.stat().st_mode & 0o044 == 0o044  # others may read it too
    assert fetch("small", tmp_path, download=False)["train"] == path  # and it is found again without the server


def test_the_next_address_is_tried(register, tmp_path):
    with server(cut) as bad, server(whole) as good:
        register("http://127.0.0.1:9/closed.txt", bad, good)
        assert fetch("small", tmp_path)["train"].read_bytes() == CONTENT


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"more"])
def test_damaged_file_is_refused_then_replaced(register, tmp_path, damaged):
    path = tmp_path / "small" / "text.txt"
    path.parent.mkdir()
    path.write_bytes(damaged)
    with server(whole) as url:
        register(url)
        with pytest.raises(DataError, match=r"text\.txt is .*expected.*found.*nasrepro data fetch small"):
            fetch("small", tmp_path, download=False)
        assert path.read_bytes() == damaged  # a refusal changes nothing
        assert fetch("small", tmp_path)["train"].read_bytes() == CONTENT


def test_damage_is_described(register, tmp_path):
    register()
    path = tmp_path / "small" / "text.txt"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:1234])
    with pytest.raises(DataError, match=rf"truncated: expected {len(CONTENT):,} bytes, found 1,234"):
        fetch("small", tmp_path, download=False)
    path.write_bytes(CONTENT[::-1])
    found = hashlib.sha256(CONTENT[::-1]).hexdigest()
    with pytest.raises(DataError, match=rf"expected SHA-256 {SHA256}, found {found}"):
        fetch("small", tmp_path, download=False)


def test_interrupted_transfer_leaves_nothing(register, tmp_path):
    with server(cut) as url:
        register(url)
        with pytest.raises(DataError, match=rf"could not be downloaded.*{SHA256}") as caught:
            fetch("small", tmp_path)
    assert url in str(caught.value)
    assert contents(tmp_path) == []


def test_wrong_content_leaves_nothing(register, tmp_path):
    with server(lambda handler: handler.wfile.write(CONTENT[::-1])) as url:
        register(url)
        with pytest.raises(DataError, match=rf"(?s)could not be downloaded.*{SHA256}.*ValueError"):
            fetch("small", tmp_path)
    assert contents(tmp_path) == []


def test_a_file_known_by_gits_digest_alone(monkeypatch, tmp_path):
    # `printf 'what is up, doc?' | git hash-object --stdin`, from the Pro Git book, section 10.2
    blob = "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    file = DataFile("train", "text.txt", None, "", ("http://127.0.0.1:9/text.txt",), git_blob=blob)
    monkeypatch.setitem(DATASETS, "small", DataSet("small", "small", "a test", "none", "none", (file,)))
    with pytest.raises(DataError, match=r"small/text\.txt \(size unknown\)"):
        fetch("small", tmp_path, download=False)
    with pytest.raises(DataError, match=rf"Expected git blob SHA-1 {blob} \(size unknown\)"):
        fetch("small", tmp_path)
    path = tmp_path / "small" / "text.txt"
    path.write_bytes(b"what is up, doc?")
    assert fetch("small", tmp_path, download=False)["train"] == path
    path.write_bytes(b"what is up, doc!")
    with pytest.raises(DataError, match=rf"expected git blob SHA-1 {blob}, found \w{{40}}"):
        fetch("small", tmp_path, download=False)


def test_a_file_known_by_md5_alone(monkeypatch, tmp_path):
    md5 = "900150983cd24fb0d6963f7d28e17f72"  # of "abc", from RFC 1321, A.5
    file = DataFile("all", "text.txt", 3, "", (), md5=md5)
    monkeypatch.setitem(DATASETS, "small", DataSet("small", "small", "a test", "none", "none", (file,)))
    path = tmp_path / "small" / "text.txt"
    path.parent.mkdir()
    path.write_bytes(b"abc")
    assert fetch("small", tmp_path, download=False)["all"] == path
    path.write_bytes(b"abd")
    with pytest.raises(DataError, match=rf"expected MD5 {md5}, found \w{{32}}"):
        fetch("small", tmp_path, download=False)


@pytest.fixture
def either(monkeypatch):
    """Register a data set "small" of two files without an address, or an archive at the given one."""

    def add(url: str) -> None:
        files = tuple(DataFile(split, f"{split}.txt", len(CONTENT), SHA256, ()) for split in ("train", "test"))
        archive = DataFile("all", "text.txt", len(CONTENT), SHA256, (url,))
        monkeypatch.setitem(DATASETS, "small", DataSet("small", "small", "a test", "", "", files, (archive,)))

    return add


def test_files_or_an_archive_whichever_is_here(either, tmp_path):
    folder = tmp_path / "small"
    with server(whole) as url:
        either(url)
        assert fetch("small", tmp_path) == {"all": folder / "text.txt"}  # nothing was here, and one can be downloaded
    (folder / "train.txt").write_bytes(CONTENT)
    assert fetch("small", tmp_path) == {"all": folder / "text.txt"}
    (folder / "test.txt").write_bytes(CONTENT)
    assert fetch("small", tmp_path) == {split: folder / f"{split}.txt" for split in ("train", "test")}
    (folder / "text.txt").unlink()
    assert set(fetch("small", tmp_path, download=False)) == {"train", "test"}


def test_what_is_missing_where_an_archive_would_do(either, tmp_path):
    either("http://127.0.0.1:9/text.txt")
    with pytest.raises(DataError, match=r"text\.txt of small is not on this machine.*nasrepro data fetch small"):
        fetch("small", tmp_path, download=False)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "test.txt").write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"train\.txt of small is not on this machine.*nasrepro data fetch small"):
        fetch("small", tmp_path, download=False)
    with pytest.raises(DataError, match=r"text\.txt of small could not be downloaded"):
        fetch("small", tmp_path)
    (tmp_path / "small" / "train.txt").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"train\.txt is truncated.*delete it and run `nasrepro data fetch small`"):
        fetch("small", tmp_path)
    assert contents(tmp_path) == ["small/test.txt", "small/train.txt"]


def test_ctrl_c_leaves_nothing(register, tmp_path):
    over = threading.Event()
    main = threading.main_thread().ident

    def interrupt(handler) -> None:
        cut(handler)
        handler.wfile.flush()
        signal.pthread_kill(main, signal.SIGINT)
        over.wait(10)

    with server(interrupt) as url:
        register(url)
        try:
            with pytest.raises(KeyboardInterrupt):
                fetch("small", tmp_path)
        finally:
            over.set()
    assert contents(tmp_path) == []


def test_no_network(register, tmp_path):
    register("http://127.0.0.1:9/text.txt")  # port 9 is closed
    with pytest.raises(DataError, match=r"(?s)127\.0\.0\.1:9.*Connection.*Check the network.*nasrepro data fetch"):
        fetch("small", tmp_path)
    assert contents(tmp_path) == []


def test_unwritable_folder(register, tmp_path):
    register("http://127.0.0.1:9/text.txt")
    blocked = tmp_path / "a-file"  # a file where a folder should be: refused to root too, unlike a mode of 0o555
    blocked.write_text("")
    with pytest.raises(DataError, match=r"Cannot write text\.txt into the data folder .*a-file.*NASREPRO_DATA"):
        fetch("small", blocked)


def test_two_processes_at_once(register, tmp_path):
    both = threading.Barrier(2)

    def together(handler) -> None:
        cut(handler)
        both.wait(60)  # neither gets its second half before the other has its first
        handler.wfile.write(CONTENT[len(CONTENT) // 2 :])

    script = textwrap.dedent(f"""
        import sys
        from nasrepro.datasets import DATASETS, fetch
        from nasrepro.datasets.registry import DataFile, DataSet
        file = DataFile("train", "text.txt", {len(CONTENT)}, {SHA256!r}, (sys.argv[1],))
        DATASETS["small"] = DataSet("small", "small", "", "", "", (file,))
        fetch("small", sys.argv[2])
    """)
    with server(together) as url:
        command = [sys.executable, "-c", script, url, str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as other:
            register(url)
            assert fetch("small", tmp_path)["train"].read_bytes() == CONTENT
            _, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors.decode()
    assert (tmp_path / "small" / "text.txt").read_bytes() == CONTENT
    assert contents(tmp_path) == ["small/text.txt"]


def test_mirror_is_used_in_place_and_verified(register, tmp_path, monkeypatch):
    register()
    path = tmp_path / "mirror" / "small" / "text.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("NASREPRO_MIRROR", str(tmp_path / "mirror"))
    assert fetch("small", tmp_path / "data", download=False)["train"] == path
    assert not (tmp_path / "data").exists()
    path.write_bytes(CONTENT[1:])
    with pytest.raises(DataError, match=r"mirror.*truncated"):
        fetch("small", tmp_path / "data", download=False)


def test_data_root(tmp_path, monkeypatch):
    assert data_root(tmp_path) == tmp_path
    monkeypatch.setenv("NASREPRO_DATA", str(tmp_path / "named"))
    assert data_root() == tmp_path / "named"


def test_mistyped_name():
    with pytest.raises(DataError, match=r"Unknown data set: 'wikitext-2'\. Did you mean 'wikitext2'\?"):
        load("wikitext-2")
    with pytest.raises(DataError, match=r"Known: .*ptb"):
        fetch("nothing-like-it")


def test_registered_rows_are_complete():
    for dataset in DATASETS.values():
        assert dataset.licence
        assert dataset.citation
        for file in dataset.files + dataset.archives:
            assert sorted(map(len, (file.sha256, file.git_blob, file.md5))) in ([0, 0, 64], [0, 0, 40], [0, 0, 32])
            # No owner twice; a file without an address has an archive that stands for it.
            assert len({url.split("/")[3] for url in file.urls}) == len(file.urls) >= (not dataset.archives)
            assert all(url.startswith("https://") and url.endswith(file.name) for url in file.urls)
        assert all(archive.urls for archive in dataset.archives)


def test_real_files_have_the_registered_hashes(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("NASREPRO_MIRROR", os.fspath(mirror))
    assert set(fetch("ptb", tmp_path, download=False)) == {"train", "valid", "test"}
    assert set(fetch("wikitext2", tmp_path, download=False)) == {"train", "valid", "test"}
    assert len(fetch("multi30k", tmp_path, download=False)) == 6
    assert set(fetch("tatoeba", tmp_path, download=False)) == {"all"}
