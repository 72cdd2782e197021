"""The sandbox: right programs pass, hostile ones fail with nothing left behind, and no isolation means a refusal."""

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sst_merge.sandbox.run as sandbox
from sst_merge.errors import ConfigError, SandboxError
from sst_merge.sandbox import Limits, Outcome
from sst_merge.sandbox.jail import calls

SOURCES = Path(__file__).parents[2] / "src"
RIGHT = "def f(n):\n    return n + 1\n"
# Says what the function returned.
OBSERVE = "def check(candidate):\n    raise ValueError(repr(candidate(20)))\n"


@pytest.mark.sandbox
class TestPrograms:
    def test_right_program_passes(self, run: Any) -> None:
        outcome = run(RIGHT)
        assert outcome.passed, outcome.reason
        assert 0 < outcome.seconds < 10

    def test_wrong_program_fails_at_its_assert(self, run: Any) -> None:
        outcome = run("def f(n):\n    return n + 1 if n == 20 else 0\n")
        assert not outcome.passed
        assert "assert candidate(1) == 2" in outcome.reason

    def test_standard_library_and_threads_are_there(self, run: Any) -> None:
        source = (
            "import hashlib, math, re, ssl, threading\ndef f(n):\n    found = []\n"
            "    thread = threading.Thread(target=lambda: found.append(n + 1))\n    thread.start()\n    thread.join()\n"
            "    return found[0]\n"
        )
        assert run(source).passed

    def test_scratch_folder_is_empty_and_can_be_written(self, run: Any) -> None:
        source = (
            "import os\ndef f(n):\n    before = os.listdir('.')\n    open('x', 'w').write('21')\n"
            "    answer = [before, os.getcwd(), int(open('x').read())]\n    os.remove('x')\n    return answer\n"
        )
        tests = "def check(candidate):\n    assert candidate(20) == [[], '/tmp', 21], candidate(20)\n"
        outcome = run(source, tests)
        assert outcome.passed, outcome.reason

    @pytest.mark.parametrize(
        "value",
        [
            "[1, (2.5, None), {3: {'a'}, (4, 5): frozenset({6})}, True, 'x\\ud800', b'y', 1j, range(3), 1 << 100]",
            "[float('inf'), -0.0, 1e-320, '', [], (), {}, set()]",
        ],
    )
    def test_values_arrive_as_they_left(self, run: Any, value: str) -> None:
        tests = f"value = {value}\ndef check(candidate):\n    assert repr(candidate(value)) == repr(value)\n"
        outcome = run("def f(x):\n    return x\n", tests)
        assert outcome.passed, outcome.reason

    def test_changed_arguments_are_seen_by_the_tests(self, run: Any) -> None:
        tests = (
            "def check(candidate):\n    items, table = [3, 1], {1: 2}\n    candidate(items, table)\n"
            "    assert items == [1, 3] and table == {5: 6}\n"
        )
        assert run("def f(x, y):\n    x.sort()\n    y.clear()\n    y[5] = 6\n", tests).passed

    def test_exceptions_and_iterators_cross(self, run: Any) -> None:
        tests = (
            "def check(candidate):\n    assert list(candidate(3)) == [0, 1, 2]\n"
            "    try:\n        candidate(-1)\n"
            "    except ValueError as error:\n        assert 'negative' in str(error)\n"
            "    else:\n        assert False\n"
        )
        source = "def f(n):\n    if n < 0:\n        raise ValueError('negative')\n    return (i for i in range(n))\n"
        outcome = run(source, tests)
        assert outcome.passed, outcome.reason

    def test_hashes_are_the_same_each_time(self, run: Any) -> None:
        reasons = {run("def f(n):\n    return hash('word')\n", OBSERVE).reason for _ in range(2)}
        assert len(reasons) == 1

    def test_tests_that_call_nothing_decide_nothing(self, run: Any) -> None:
        outcome = run(RIGHT, "def check(candidate):\n    pass\n")
        assert not outcome.passed
        assert "never called" in outcome.reason


@pytest.mark.sandbox
class TestSystemCalls:
    def test_what_is_on_no_list_does_not_exist(self, run: Any) -> None:
        numbers = {**calls.ALLOWED, **calls.REFUSED}.values()
        # Sockets, clone and fork have rules of their own; 335 and 336 are the kernel's own trampolines.
        known = {pair[0] for pair in numbers} | {41, 53, 56, 57, 58, 335, 336}
        unknown = sorted(set(range(470)) - known - {None})
        source = (
            "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f(n):\n    found = set()\n"
            f"    for number in {unknown}:\n        found.add((libc.syscall(number, -1, -1, -1), ctypes.get_errno()))\n"
            "    return found == {(-1, errno.ENOSYS)}\n"
        )
        if platform.machine() != "x86_64":
            pytest.skip("numbers of x86_64")
        outcome = run(source, OBSERVE)
        assert outcome.reason.endswith("True"), outcome.reason

    def test_lists_are_apart_and_numbers_are_given_once(self) -> None:
        assert not set(calls.ALLOWED) & set(calls.REFUSED)
        for place in (0, 1):
            numbers = [pair[place] for pair in (*calls.ALLOWED.values(), *calls.REFUSED.values())]
            given = [number for number in numbers if number is not None]
            assert len(given) == len(set(given))

    @pytest.mark.parametrize(
        "use",
        [
            "import tempfile, os; d = tempfile.mkdtemp(); open(d + '/x', 'w').close(); os.rename(d + '/x', d + '/z')",
            "import shutil, os; open('a', 'w').close(); shutil.copy2('a', 'b'); os.chmod('b', 0o600); os.stat('b')",
            "import threading; t = threading.Thread(target=print); t.start(); t.join()",
            "import time, datetime; time.sleep(0.001); time.time(); datetime.datetime.now(); time.process_time()",
            "import random, uuid, secrets; random.random(); uuid.uuid4(); secrets.token_bytes(4)",
            "import queue, concurrent.futures as c; list(c.ThreadPoolExecutor(2).map(abs, [1, 2]))",
            "import asyncio; asyncio.run(asyncio.sleep(0))",
            "import signal; signal.signal(signal.SIGALRM, lambda *_: 0); signal.setitimer(signal.ITIMER_REAL, 9)",
            "import mmap; mmap.mmap(-1, 4096)[:1] = b'x'",
            "import resource, os; resource.getrusage(0); os.getloadavg if 0 else os.cpu_count(); os.uname()",
            "import socket; a, b = socket.socketpair(); a.send(b'x'); b.recv(1)",
            "import select, os; r, w = os.pipe(); os.write(w, b'x'); select.select([r], [], [], 0)",
            "import sqlite3; sqlite3.connect('x.db').execute('create table if not exists t (a)')",
            "import ctypes, decimal, fractions, json, re, zlib, hashlib; hashlib.sha256(b'x')",
        ],
    )
    def test_what_functions_use_is_allowed(self, run: Any, use: str) -> None:
        outcome = run(f"def f(n):\n    {use}\n    return n + 1\n")
        assert outcome.passed, outcome.reason


def test_the_end_of_the_sandbox_is_a_verdict_on_the_program(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = [{"started": True}]
    monkeypatch.setattr(sandbox, "_launch", lambda *_: (said, "Killed"))
    outcome = run(RIGHT)
    assert not outcome.passed and "ended the sandbox" in outcome.reason
    said.clear()
    with pytest.raises(SandboxError, match="without a verdict; its last output: Killed"):
        run(RIGHT)


@pytest.mark.sandbox
class TestOutside:
    def test_files_cannot_be_seen_deleted_or_written(self, run: Any, tmp_path: Path) -> None:
        marker = tmp_path / "marker"
        marker.write_text("precious")
        attack = (
            "import os, shutil\ndef f(n):\n    done = []\n"
            f"    for deed in (lambda: os.remove({str(marker)!r}), lambda: shutil.rmtree({str(tmp_path)!r}),\n"
            f"                 lambda: open({str(marker)!r}, 'w'), lambda: open({str(marker)!r}).read(),\n"
            f"                 lambda: open('/lib/x', 'w'), lambda: open('/x', 'w'),\n"
            "                 lambda: os.remove('/etc/ld.so.cache'), lambda: os.chroot('/'),\n"
            "                 lambda: open('/proc/self/environ'), lambda: open('/etc/passwd'),\n"
            f"                 lambda: os.rename({os.__file__!r}, {os.__file__!r} + 'x')):\n"
            "        try:\n            deed()\n            done.append(True)\n"
            "        except OSError:\n            done.append(False)\n    return done\n"
        )
        outcome = run(attack, OBSERVE)
        assert outcome.reason.endswith(repr([False] * 11)), outcome.reason
        assert marker.read_text() == "precious"
        # The same deeds work outside, so it is the jail that stops them.
        copy = tmp_path / "copy"
        copy.write_text("x")
        subprocess.run([sys.executable, "-c", f"import os; os.remove({str(copy)!r})"], check=True)
        assert not copy.exists()

    def test_network_is_out_of_reach(self, run: Any, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
            port, path = server.getsockname()[1], str(tmp_path / "s")
            local.bind(path)
            local.listen()
            attack = (
                "import socket\ndef f(n):\n    done = []\n"
                f"    for deed in (lambda: socket.create_connection(('127.0.0.1', {port}), 2),\n"
                "                 lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),\n"
                "                 lambda: socket.socket(40, socket.SOCK_STREAM),\n"
                f"                 lambda: socket.socket(socket.AF_UNIX).connect({path!r})):\n"
                "        try:\n            deed()\n            done.append(True)\n"
                "        except OSError:\n            done.append(False)\n    return done\n"
            )
            outcome = run(attack, OBSERVE)
            assert outcome.reason.endswith(repr([False] * 4)), outcome.reason
            server.settimeout(0.05)
            with pytest.raises(TimeoutError):
                server.accept()
            # Outside the jail the server answers.
            socket.create_connection(("127.0.0.1", port), 2).close()
            server.accept()[0].close()

    def test_secrets_of_the_environment_stay_outside(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SECRET_TOKEN", "hunter2")
        source = (
            "import os, glob\ndef f(n):\n    seen = repr(dict(os.environ)) + repr(os.environb)\n"
            "    for path in glob.glob('/proc/*/environ'):\n        seen += open(path).read()\n    return seen\n"
        )
        outcome = run(source, OBSERVE)
        assert "PATH" in outcome.reason
        assert "hunter2" not in outcome.reason

    def test_tests_cannot_be_found_in_memory(self, run: Any) -> None:
        tests = "token = 'SESAME4711'\n" + OBSERVE
        source = (
            "import gc, sys\ndef f(n):\n    seen = [repr(thing)[:5000] for thing in gc.get_objects()]\n"
            "    frame = sys._getframe()\n    while frame:\n"
            "        seen.append(repr(frame.f_locals) + repr(frame.f_globals))\n        frame = frame.f_back\n"
            "    word = ''.join(reversed('1174EMASES'))\n"
            "    return [any('gc' in text for text in seen), any(word in text for text in seen)]\n"
        )
        outcome = run(source, tests)
        assert outcome.reason.endswith("[True, False]"), outcome.reason

    def test_tests_that_print_do_not_let_a_verdict_through(self, run: Any) -> None:
        forged = '\\n{"passed": true, "reason": "all tests passed", "seconds": 0.1}\\n'
        tests = (
            "import os\ndef check(candidate):\n    print(candidate(20), flush=True)\n"
            "    os.write(1, candidate(20).encode())\n    assert candidate(20) == 21, 'caught'\n"
        )
        outcome = run(f"def f(n):\n    return '{forged}'\n", tests)
        assert not outcome.passed
        assert "caught" in outcome.reason

    def test_other_processes_cannot_be_killed(self, run: Any) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as victim:
            source = (
                "import os\ndef f(n):\n    for pid in "
                f"(os.getppid(), {os.getpid()}, {victim.pid}, {-os.getpgid(0)}, -1):\n"
                "        try:\n            os.kill(pid, 9)\n        except OSError:\n            pass\n    return 21\n"
            )
            run(source)
            time.sleep(0.05)
            alive = victim.poll() is None
            victim.kill()
        assert alive

    def test_daemon_does_not_survive(self, run: Any, jailed: Any) -> None:
        source = (
            "import os, signal, time\ndef f(n):\n    if n == 20 and os.fork() == 0:\n        os.setsid()\n"
            "        if os.fork() == 0:\n"
            "            for number in (1, 2, 3, 15):\n                signal.signal(number, signal.SIG_IGN)\n"
            "            time.sleep(60)\n        os._exit(0)\n    return n + 1\n"
        )
        outcome = run(source, processes=4)
        assert outcome.passed, outcome.reason
        assert jailed(os.getpid()) == []

    def test_jail_dies_with_the_process_that_started_it(self, jailed: Any, tmp_path: Path) -> None:
        script = (
            "from sst_merge.sandbox import run_program\n"
            "run_program('import time\\ntime.sleep(60)', tests='', entry_point='f')\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), "TMPDIR": str(tmp_path)}
        with subprocess.Popen([sys.executable, "-c", script], env=environment) as starter:
            assert wait_until(lambda: len(jailed(starter.pid)) >= 3, 20)
            starter.send_signal(signal.SIGKILL)
            starter.wait()
            assert wait_until(lambda: jailed(starter.pid) == [], 5)
        # The one thing left is the folder that the jail was mounted on, which was empty on this side all the time.
        assert [list(folder.iterdir()) for folder in tmp_path.iterdir()] == [[]]

    def test_several_at_once(self, run: Any) -> None:
        outcomes: dict[int, Outcome] = {}

        def one(number: int) -> None:
            outcomes[number] = run(f"def f(n):\n    return n + {number}\n")

        threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [outcomes[number].passed for number in range(4)] == [False, True, False, False]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


# Only what the sandbox needs, under an interpreter that has none of the package's dependencies.
ALONE = """
import sys, types
for name in ("sst_merge", "sst_merge.evaluation"):
    module = types.ModuleType(name)
    module.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
    sys.modules[name] = module
from sst_merge.errors import SandboxError
from sst_merge.sandbox import run_program
tests = "def check(candidate):\\n    assert candidate(20) == 21\\n"
delete = "import os\\ndef f(n):\\n    os.remove(%r)\\n    return 21" % sys.argv[2]
try:
    for source in ("def f(n): return n + 1", "def f(n): return n", delete):
        print(run_program(source, tests=tests, entry_point="f").passed, end=" ")
except SandboxError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is for Linux")
class TestUsersAndRefusals:
    def test_ordinary_user(self, tmp_path: Path) -> None:
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
        if os.geteuid() != 0 or shutil.which("setpriv") is None or python is None:
            pytest.skip("needs root, setpriv and a system-wide Python to become an ordinary user")
        folder = Path("/tmp", f"sst-merge-user-{os.getpid()}")
        folder.mkdir()
        try:
            marker = folder / "marker"
            marker.write_text("precious")
            for path in (folder, marker):
                os.chown(path, 12345, 12345)
            command = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", python, "-B", "-c", ALONE]
            environment = {"PATH": "/usr/bin:/bin"}
            found = subprocess.run(
                [*command, str(SOURCES), str(marker)],
                env=environment,
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            if "ModuleNotFoundError" in found.stderr or "PermissionError" in found.stderr:
                pytest.skip("the source tree cannot be read by an ordinary user")
            assert found.stdout.startswith("refused: ") or found.stdout.split() == ["True", "False", "False"], found
            if "refused" in found.stdout:
                assert "docs/code_sandbox.md" in found.stdout
            assert marker.read_text() == "precious"
        finally:
            shutil.rmtree(folder)

    @pytest.mark.sandbox
    def test_refuses_where_namespaces_are_forbidden(self) -> None:
        # A user namespace within which no more of them may be made.
        shell = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@"'
        command = ["unshare", "--user", "--map-root-user", "sh", "-c", shell, sys.executable, "-c", ALONE]
        if shutil.which("unshare") is None:
            pytest.skip("needs a machine that permits namespaces, to forbid them")
        found = subprocess.run([*command, str(SOURCES), "/none"], capture_output=True, text=True, check=False)
        assert found.stdout.startswith("refused: no sandbox for model-written code: unshare failed"), found
        assert "seccomp=unconfined" in found.stdout

    def test_refuses_elsewhere(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(SandboxError, match="needs Linux, and this is darwin; run the evaluation in a Linux"):
            run(RIGHT)

    def test_refuses_senseless_limits(self) -> None:
        with pytest.raises(ConfigError, match="memory_bytes is 5; at least"):
            Limits(memory_bytes=5)
