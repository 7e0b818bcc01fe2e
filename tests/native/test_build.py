"""C text is compiled once, kept by what decides its content, and never loaded from where others write."""

import ctypes
import errno
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import platformdirs
import pytest
import torch

from nasrepro import native
from nasrepro.native import NativeError, build, load

REAL = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
ROOT_USER = os.geteuid() == 0
ANSWER = "int answer(void) { return 42; }\n"
THREADS = """
#ifdef _OPENMP
#include <omp.h>
int threads(void) { return omp_get_max_threads(); }
#else
int threads(void) { return 1; }
#endif
"""

pytestmark = pytest.mark.skipif(REAL is None, reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder, a process that has loaded nothing yet, and the compiler that PATH gives."""
    monkeypatch.setenv("NASREPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    forget(monkeypatch)
    return tmp_path / "cache" / "native"


def forget(monkeypatch):
    """Load from disk again, as a new process would."""
    monkeypatch.setattr(build, "_loaded", {})


def objects(cache):
    return sorted(cache.glob("*.so"))


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Makes CC a shell script; `$REAL "$@"` in it is the real compiler."""

    def install(body):
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\nREAL={shlex.quote(REAL)}\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return install


@pytest.fixture
def runs(script, tmp_path):
    """A compiler that counts: calling it gives how often it has run."""
    log = tmp_path / "log"
    log.touch()
    script(f'echo run >> {shlex.quote(str(log))}\nexec $REAL "$@"')
    return lambda: len(log.read_text().splitlines())


def start(code, **options):
    """A new Python process; it has its own group, so that its compiler can be killed with it."""
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **options)


# --- compiling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_text_becomes_functions(monkeypatch, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    monkeypatch.setenv("CC", compiler)
    library = load("""
        #include <math.h>
        int squares(int n) {
            int sum = 0;
            #pragma omp parallel for reduction(+ : sum)
            for (int i = 0; i < n; i++) sum += (int)lrint(sqrt((double)i) * sqrt((double)i)) * i;
            return sum;
        }
    """)
    assert library.squares(100) == sum(i * i for i in range(100))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are instructions of x86-64")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("isa", "avx2", "avx512"), [("plain", 0, 0), ("avx2", 1, 0), ("avx512", 1, 1)])
def test_isa_names_the_instructions(monkeypatch, compiler, isa, avx2, avx512):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    monkeypatch.setenv("CC", compiler)
    macros = (
        "int avx2 =\n#ifdef __AVX2__\n1;\n#else\n0;\n#endif\nint avx512 =\n#ifdef __AVX512F__\n1;\n#else\n0;\n#endif\n"
    )
    library = load(macros, isa=isa)
    assert [ctypes.c_int.in_dll(library, name).value for name in ("avx2", "avx512")] == [avx2, avx512]


def test_an_unknown_isa_is_named_with_the_known():
    with pytest.raises(ValueError, match=r"unknown isa 'sse'.*native, avx512, avx2, plain"):
        load(ANSWER, isa="sse")


def test_the_threads_are_those_of_torch():
    if "clang" in subprocess.run([REAL, "--version"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("clang brings a library of its own")
    library = load(THREADS)
    try:
        torch.set_num_threads(1)
        assert library.threads() == 1
        torch.set_num_threads(2)
        assert library.threads() == 2
    finally:
        torch.set_num_threads(2)


def test_a_compiler_without_openmp_makes_code_for_one_thread(script):
    script('case " $* " in *" -fopenmp "*) echo "unsupported option" >&2; exit 1;; esac\nexec $REAL "$@"')
    assert load(THREADS).threads() == 1


def test_an_error_under_openmp_is_not_hidden_by_compiling_without(cache):
    with pytest.raises(NativeError, match="only with threads"):
        load("#ifdef _OPENMP\n#error only with threads\n#endif\n" + ANSWER)
    assert not objects(cache)


def test_a_text_that_does_not_compile_shows_the_command_and_why(cache):
    with pytest.raises(NativeError, match=r"(?s)-std=gnu11.* -DA=1 .*undefined_name") as caught:
        load("int f(void) { return undefined_name; }", flags=["-DA=1"])
    assert REAL in str(caught.value)
    assert not list(cache.iterdir())


def test_what_the_compiler_repeats_of_a_long_text_is_cut_short(cache):
    with pytest.raises(NativeError, match="#error word") as caught:
        load("#error " + "word " * 20_000, flags=["-DA=" + "1" * 20_000])
    assert len(str(caught.value)) < 4_000


def test_loading_leaves_the_floating_point_mode_alone():
    def smallest():
        tiny = torch.tensor(torch.finfo(torch.float32).tiny)
        return (tiny / 2).item(), (tiny / 2 * 2).item()  # 0 where small results are flushed, or small inputs are

    before = smallest()
    load("float f(float x) { return x * 2; }")
    assert before == smallest() == (2.0**-127, 2.0**-126)


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-mdaz-ftz"])
def test_what_would_change_the_floating_point_mode_is_refused(monkeypatch, flag):
    with pytest.raises(NativeError, match=f"{flag} would change the floating-point mode"):
        load(ANSWER, flags=[flag])
    monkeypatch.setenv("CC", f"{REAL} {flag}")
    with pytest.raises(NativeError, match=f"{flag} would change the floating-point mode"):
        load(ANSWER)


# --- no compiler -------------------------------------------------------------------------------------------


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeError, match="install gcc or clang"):
        load(ANSWER)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [("no-such-compiler -O1", "CC names 'no-such-compiler'"), ("'unclosed", "CC is no command"), ("' '", "CC names")],
)
def test_a_wrong_cc_is_named(monkeypatch, chosen, message):
    monkeypatch.setenv("CC", chosen)
    with pytest.raises(NativeError, match=message):
        load(ANSWER)


def test_a_cc_that_does_not_run_is_named(script):
    path = script("")
    path.write_bytes(b"\0 no program")
    with pytest.raises(NativeError, match=r"compiler .*compiler does not run"):
        load(ANSWER)


def test_cc_may_hold_arguments(monkeypatch):
    monkeypatch.setenv("CC", f"{REAL} -DANSWER=7")
    assert load("int answer(void) { return ANSWER; }").answer() == 7


def test_windows_is_told_so(monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "win32")
    with pytest.raises(NativeError, match="not supported on Windows"):
        load(ANSWER)


# --- what is kept ------------------------------------------------------------------------------------------


def test_a_text_is_compiled_once(monkeypatch, cache, runs):
    first = load(ANSWER)
    assert first.answer() == 42
    assert load(ANSWER) is first
    forget(monkeypatch)
    assert load(ANSWER).answer() == 42
    assert runs() == 1
    assert len(objects(cache)) == 1


def test_other_texts_flags_and_isas_are_other_objects(cache):
    text = "#ifndef A\n#define A 1\n#endif\nint answer(void) { return A; }\n"
    assert load(text).answer() == 1
    assert load(text, flags=["-DA=2"]).answer() == 2
    assert load(text.replace("1", "3")).answer() == 3
    assert load(text, isa="plain").answer() == 1
    assert len(objects(cache)) == 4


def test_a_changed_header_makes_a_new_object(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "INCLUDE", tmp_path / "include")
    build.INCLUDE.mkdir()
    header = build.INCLUDE / "number.h"
    for number in (1, 2):
        header.write_text(f"#define NUMBER {number}\n")
        forget(monkeypatch)
        assert load('#include "number.h"\nint answer(void) { return NUMBER; }\n').answer() == number


def test_a_changed_compiler_makes_a_new_object(monkeypatch, cache, script):
    load(ANSWER)
    os.utime(script('exec $REAL "$@"'), ns=(0, 0))
    forget(monkeypatch)
    load(ANSWER)
    os.utime(script('exec $REAL "$@"'), ns=(1, 1))
    forget(monkeypatch)
    load(ANSWER)
    assert len(objects(cache)) == 3


@pytest.mark.parametrize(("isa", "made"), [("native", 2), ("plain", 1)])
def test_another_processor_makes_a_new_object_where_it_matters(monkeypatch, cache, isa, made):
    for model in ("one", "two"):
        monkeypatch.setattr(build, "_processor", lambda model=model: [model])
        forget(monkeypatch)
        load(ANSWER, isa=isa)
    assert len(objects(cache)) == made


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux tells")
def test_the_processor_is_known_by_its_instructions():
    told = " ".join(build._processor())
    assert "flags" in told or "Features" in told
    assert told.count("flags\t") + told.count("Features\t") == 1  # of the first processor alone


def test_a_hit_in_a_new_process_takes_milliseconds():
    texts = [f"int answer(void) {{ return {number}; }}\n" for number in range(3)]
    for text in texts:
        load(text)
    code = f"""if True:
        import time
        from nasrepro.native import load
        for text in {texts!r}:
            start = time.perf_counter()
            load(text)
            print(time.perf_counter() - start)
    """
    with start(code, stdout=subprocess.PIPE, text=True) as process:
        seconds = [float(line) for line in process.communicate()[0].split()]
    assert len(seconds) == 3
    assert min(seconds) <= 0.005  # the best: others may keep the machine busy


def test_the_folder_is_named_or_the_users(monkeypatch, tmp_path):
    assert native.cache_folder() == tmp_path / "cache" / "native"
    monkeypatch.delenv("NASREPRO_CACHE")
    assert native.cache_folder() == platformdirs.user_cache_path("nasrepro") / "native"


# --- several at once, and killed ---------------------------------------------------------------------------


def test_processes_may_compile_the_same_text_at_once(cache, script, tmp_path):
    # Each compiler waits for the other, so that neither process can find the other's object.
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    script(
        f"touch {shlex.quote(str(meeting))}/$$\n"
        f'while [ "$(ls {shlex.quote(str(meeting))} | wc -l)" -lt 2 ]; do sleep 0.02; done\n'
        'exec $REAL "$@"'
    )
    code = f"from nasrepro.native import load; assert load({ANSWER!r}).answer() == 42"
    processes = [start(code), start(code)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert len(list(cache.iterdir())) == 1


def test_threads_share_one_compilation(runs):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(load(ANSWER))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(map(id, answers))) == 1
    assert runs() == 1


def test_a_killed_compiler_leaves_nothing_to_load(monkeypatch, cache, script):
    script('while [ "$1" != -o ]; do shift; done\nprintf half > "$2"\nsleep 60')
    process = start(f"from nasrepro.native import load; load({ANSWER!r})")
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in cache.glob(".*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (part,) = cache.iterdir()
    assert part.name.endswith(".part")

    script('exec $REAL "$@"')
    assert load(ANSWER).answer() == 42
    assert part.exists()  # it might be a compiler at work
    os.utime(part, (0, 0))
    load(ANSWER, isa="plain")
    assert not part.exists()


def test_a_damaged_object_is_named(monkeypatch, cache):
    # Built, but not loaded: a process that has an object of this name does not look at the file again.
    with monkeypatch.context() as building:
        building.setattr(build, "_open", lambda path: path)
        path = load(ANSWER)
    forget(monkeypatch)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(NativeError, match=rf"cannot load {path}: .*Delete it"):
        load(ANSWER)
    path.unlink()
    assert load(ANSWER).answer() == 42


# --- who may write -----------------------------------------------------------------------------------------


def places(cache):
    """The object, its folder, and folders above."""
    (path,) = objects(cache)
    return {"object": path, "folder": cache, "above": cache.parent, "far above": cache.parents[1]}


PLACES = ["object", "folder", "above", "far above"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bit", [0o020, 0o002])
def test_what_others_can_write_is_not_loaded(monkeypatch, cache, place, bit):
    load(ANSWER)
    unsafe = places(cache)[place]
    mode = unsafe.stat().st_mode
    unsafe.chmod(mode | bit)
    forget(monkeypatch)
    with pytest.raises(NativeError, match=rf"others may write to {unsafe} .*chmod go-w {unsafe}`.*NASREPRO_CACHE"):
        load(ANSWER)
    unsafe.chmod(mode)
    assert load(ANSWER).answer() == 42


@pytest.mark.skipif(not ROOT_USER, reason="only root can give files away")
@pytest.mark.parametrize("place", PLACES)
def test_what_belongs_to_others_is_not_loaded(monkeypatch, cache, place):
    load(ANSWER)
    unsafe = places(cache)[place]
    os.chown(unsafe, 54321, -1)
    forget(monkeypatch)
    with pytest.raises(NativeError, match=rf"{unsafe} belongs to user 54321.*NASREPRO_CACHE"):
        load(ANSWER)
    os.chown(unsafe, 0, -1)


def test_nothing_is_compiled_into_a_folder_that_others_can_write(cache, runs):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(NativeError, match=f"others may write to {cache} "):
        load(ANSWER)
    assert runs() == 0


def test_above_a_sticky_folder_is_safe(cache):
    cache.parent.mkdir()
    cache.parent.chmod(0o1777)
    assert load(ANSWER).answer() == 42


def test_a_link_is_judged_by_what_it_points_to(monkeypatch, cache, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    cache.parent.symlink_to(target)
    assert load(ANSWER).answer() == 42
    target.chmod(0o777)
    forget(monkeypatch)
    with pytest.raises(NativeError, match=f"others may write to {target} "):
        load(ANSWER)


def test_the_folders_made_are_the_users_alone(monkeypatch, cache):
    before = os.umask(0)
    try:
        load(ANSWER)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (cache.parent, cache)] == [0o700, 0o700]


# --- a folder that cannot be written -----------------------------------------------------------------------


def test_a_read_only_folder_is_named(monkeypatch, cache):
    cache.mkdir(parents=True, mode=0o700)
    if ROOT_USER:  # whom permissions do not stop; a read-only disk would

        def refuse(path, write):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(build, "write_atomically", refuse)
    else:
        cache.chmod(0o500)
    with pytest.raises(NativeError, match=rf"cannot keep compiled code in {cache}: .*NASREPRO_CACHE"):
        load(ANSWER)


def test_a_folder_that_cannot_be_made_is_named(cache):
    cache.parent.write_text("a file, no folder")
    with pytest.raises(NativeError, match=rf"cannot keep compiled code in {cache}: .*NASREPRO_CACHE"):
        load(ANSWER)


def test_objects_in_a_read_only_folder_are_used(monkeypatch, cache):
    load(ANSWER)
    cache.chmod(0o500)
    forget(monkeypatch)
    assert load(ANSWER).answer() == 42
