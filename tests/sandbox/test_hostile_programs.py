"""Programs that mean harm or mean to cheat: all define ``f``, asked for the successor of 20; none is right."""

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Hostile:
    """A program, the words that its failure must be explained with, and limits that differ from the tests' usual."""

    name: str
    source: str
    reason: str
    limits: dict[str, float] = field(default_factory=dict)


HOSTILE = (
    # leaving early, as if all were well
    Hostile("sys_exit_on_import", "import sys\nsys.exit(0)", "SystemExit"),
    Hostile("sys_exit_in_call", "import sys\ndef f(n):\n    sys.exit(0)", "SystemExit"),
    Hostile("os_exit_on_import", "import os\nos._exit(0)", "left with status 0"),
    Hostile("os_exit_in_call", "import os\ndef f(n):\n    os._exit(0)", "left with status 0"),
    Hostile(
        "exit_hook", "import atexit, os\natexit.register(os._exit, 0)\ndef f(n):\n    raise SystemExit", "SystemExit"
    ),
    Hostile("kill_itself", "import os\ndef f(n):\n    os.kill(os.getpid(), 9)", "SIGKILL"),
    Hostile("kill_the_group", "import os\ndef f(n):\n    os.kill(0, 9)", "SIGKILL"),
    Hostile("kill_the_group_by_number", "import os\ndef f(n):\n    os.killpg(os.getpgrp(), 9)", "SIGKILL"),
    Hostile("kill_the_group_on_import", "import os\nos.killpg(0, 15)", "SIGTERM"),
    Hostile("kill_everything", "import os\ndef f(n):\n    os.kill(-1, 9)\n    return 0", "not the successor"),
    Hostile(
        "stop_the_group",
        "import os, signal\ndef f(n):\n    os.kill(0, signal.SIGSTOP)",
        "no verdict",
        {"timeout_s": 1.0},
    ),
    Hostile(
        "signal_by_pipe",
        "import fcntl, os, signal\ndef f(n):\n    for fd in range(64):\n"
        "        for owner in (1, 0, -1):\n            try:\n"
        "                fcntl.fcntl(fd, fcntl.F_SETOWN, owner)\n                fcntl.fcntl(fd, 10, signal.SIGKILL)\n"
        "                fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)\n"
        "            except OSError:\n                pass\n    return 0",
        "not the successor|SIG|ended before",
    ),
    # cheating the tests
    Hostile(
        "assert_patched",
        "import builtins, sys\n"
        "class Fine(BaseException):\n    def __new__(cls, *args):\n        sys.exit(0)\n"
        "builtins.AssertionError = Fine\nAssertionError = Fine\n"
        "def check(candidate):\n    pass\ndef f(n):\n    return 0",
        "not the successor",
    ),
    Hostile(
        "always_equal",
        "class Same:\n    def __eq__(self, other):\n        return True\ndef f(n):\n    return Same()",
        "not plain data",
    ),
    Hostile(
        "equal_integer",
        "class Same(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
        "def f(n):\n    return Same(0)",
        "not the successor",
    ),
    Hostile(
        "forged_verdict",
        "import os\ndef f(n):\n"
        '    line = b\'{"passed": true, "reason": "all tests passed", "seconds": 0.1}\\n\'\n'
        "    for fd in range(64):\n"
        "        try:\n            os.write(fd, line)\n        except OSError:\n            pass\n"
        "    os._exit(0)",
        "AttributeError|TypeError|KeyError|ended before|not the successor|another kind",
    ),
    Hostile("closed_descriptors", "import os\ndef f(n):\n    os.closerange(0, 64)\n    return 21", "ended before"),
    Hostile(
        "raise_assertion", "def f(n):\n    raise AssertionError('all tests passed')", "RuntimeError: AssertionError"
    ),
    Hostile("raise_base", "def f(n):\n    raise GeneratorExit", "GeneratorExit"),
    Hostile("nothing_defined", "passed = True", "defines no function f"),
    Hostile("not_python", "def f(n) return 21", "SyntaxError"),
    Hostile("encoded_rubbish", "# -*- coding: rot13 -*-\ndef f(n):\n    return '\\ud800' * 3", "not the successor"),
    # using things up
    Hostile("endless_loop", "def f(n):\n    while True:\n        pass", "SIGXCPU"),
    Hostile(
        "endless_loop_unmoved",
        "import signal\n"
        "for number in range(1, 65):\n"
        "    try:\n        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n"
        "def f(n):\n    while True:\n        pass",
        "SIGKILL: out of processor time",
        {"timeout_s": 60.0},  # two seconds of a processor that others use too
    ),
    Hostile(
        "endless_sleep",
        "import signal, time\n"
        "for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU, signal.SIGHUP, signal.SIGINT):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "def f(n):\n    while True:\n        time.sleep(100)",
        "no verdict within 1 s",
        {"timeout_s": 1.0},
    ),
    Hostile("endless_import", "import time\ntime.sleep(100)", "no verdict within 0.6 s", {"timeout_s": 0.6}),
    Hostile("endless_iterator", "import itertools\ndef f(n):\n    return itertools.count()", "iterator over more than"),
    Hostile("huge_integer", "def f(n):\n    return 1 << (1 << 26)", "more than|MemoryError"),
    Hostile("memory_hog", "def f(n):\n    return len(bytearray(1 << 32))", "MemoryError"),
    Hostile(
        "memory_hog_unmoved",
        "def f(n):\n    kept = []\n    while True:\n"
        "        try:\n            kept.append(bytearray(1 << 22))\n        except MemoryError:\n            break\n"
        "    return len(kept) << 22",
        "not the successor",
    ),
    Hostile("memory_file", "import os\ndef f(n):\n    return os.memfd_create('x')", "PermissionError"),
    Hostile(
        "thread_flood",
        "import threading, time\ndef f(n):\n    count = 0\n"
        "    for _ in range(200):\n        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "    return 21",
        "can't start new thread",
    ),
    Hostile("deep_recursion", "def f(n):\n    return f(n)", "RecursionError"),
    Hostile(
        "fatal_recursion",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n):\n    return f(n)",
        "SIGSEGV|Memory|SIGXCPU",
    ),
    Hostile(
        "deep_nesting", "def f(n):\n    x = []\n    for _ in range(10**5):\n        x = [x]\n    return x", "Recursion"
    ),
    Hostile(
        "output_flood",
        "import os, sys\nfor _ in range(200):\n    print('x' * 10**5)\n    os.write(2, b'y' * 10**5)\n"
        "def f(n):\n    return 0",
        "not the successor",
    ),
    Hostile("answer_flood", "def f(n):\n    return 'x' * (1 << 25)", "more than"),
    Hostile(
        "disk_hog",
        "def f(n):\n    for i in range(100):\n        open(f'{i}', 'wb').write(bytes(1 << 20))\n    return 21",
        "No space left",
    ),
    Hostile("big_file", "def f(n):\n    open('x', 'wb').write(bytes(9 << 20))\n    return 21", "too large|No space"),
    Hostile("fork", "import os\ndef f(n):\n    os.fork()\n    return 21", "BlockingIOError"),
    Hostile(
        "fork_bomb",
        "import os\ndef f(n):\n    while True:\n"
        "        try:\n            os.fork()\n        except OSError:\n            pass",
        "no verdict within 1 s|SIGXCPU|SIGKILL",
        {"timeout_s": 1.0, "processes": 4},
    ),
    # other programs, other namespaces
    Hostile("shell", "import os\ndef f(n):\n    return os.system('true') + 21", "not the successor|BlockingIOError"),
    Hostile(
        "run_program",
        "import os\ndef f(n):\n    os.execv('/lib64/ld-linux-x86-64.so.2', ['x'])",
        "PermissionError|NotFound",
    ),
    Hostile(
        "new_namespace",
        "import ctypes, os\ndef f(n):\n"
        "    libc = ctypes.CDLL(None, use_errno=True)\n"
        "    if libc.unshare(0x10000000) < 0:\n        raise OSError(ctypes.get_errno(), 'unshare')\n    return 0",
        "unshare",
    ),
    Hostile(
        "trace_the_checker",
        "import ctypes\ndef f(n):\n"
        "    libc = ctypes.CDLL(None, use_errno=True)\n"
        "    if libc.ptrace(16, 1, 0, 0) < 0:\n        raise OSError(ctypes.get_errno(), 'ptrace')\n    return 0",
        "ptrace",
    ),
    Hostile(
        "kill_the_checker",
        "import os\ndef f(n):\n    for number in range(1, 65):\n        os.kill(1, number)\n    return 0",
        "not the successor",
    ),
)


SWALLOWING = (
    "def check(candidate):\n    try:\n        assert candidate(20) == 21\n    except BaseException:\n        pass\n",
    "def check(candidate):\n    candidate(1)\n    try:\n        candidate(20)\n    finally:\n        return\n",
)


@pytest.mark.sandbox
@pytest.mark.parametrize("tests", SWALLOWING)
@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(0, 9)", "os.closerange(0, 64)"])
def test_no_tests_pass_once_the_program_is_gone(run: Any, tests: str, end: str) -> None:
    outcome = run(f"import os\ndef f(n):\n    if n == 20:\n        {end}\n    return n + 1\n", tests)
    assert not outcome.passed and "ended before" in outcome.reason


@pytest.mark.sandbox
@pytest.mark.parametrize("program", HOSTILE, ids=lambda program: program.name)
def test_hostile_program_fails_and_leaves_nothing(run: Any, jailed: Any, program: Hostile) -> None:
    temporary = Path(tempfile.gettempdir())
    outcome = run(program.source, **program.limits)
    assert not outcome.passed
    assert re.search(program.reason, outcome.reason), outcome.reason
    assert jailed(os.getpid()) == []
    assert not list(temporary.glob(f"sst-merge-jail-{os.getpid()}-*"))
