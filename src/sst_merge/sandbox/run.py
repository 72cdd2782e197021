"""Programs and their tests, each in a jail of its own, or a refusal that says what the machine lacks."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import ConfigError, SandboxError
from .outcome import Limits, Outcome, Program

__all__ = ["require_sandbox", "run_program", "run_programs"]

# On top of the program's own time: for starting and for tearing down.
_GRACE_S = 30.0
_LONGEST_ANSWER = 1 << 16
_START = "import sys; sys.path[0] = sys.argv[1]; from jail.launch import main; main()"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
_ADVICE = (
    "Nothing was run. Code that a model wrote runs only where Linux gives it user, mount, process and network "
    "namespaces and a filter on system calls. On a machine of your own: sysctl kernel.unprivileged_userns_clone=1, "
    "user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0. In a container: start it with "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined (docker, podman). "
    "Details: docs/code_sandbox.md"
)


def run_program(
    source: str, *, tests: str, entry_point: str, context: str = "", limits: Limits | None = None
) -> Outcome:
    """Run a program that is not trusted against tests.

    The program runs in one process, the tests in another; see ``docs/code_sandbox.md``. When this returns, no process
    and no file of the program is left.

    Args:
        source: the program, Python.
        tests: trusted Python that defines ``check(candidate)``, which raises when the function is wrong.
        entry_point: name of the function in the program that the tests are about.
        context: trusted Python whose names the tests may use.
        limits: what the program may use up; the defaults where None.

    Returns:
        The outcome.

    Raises:
        SandboxError: the isolation cannot be had here; the program has not run.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxError(
            f"the sandbox for model-written code needs Linux, and this is {sys.platform}; run the evaluation in a "
            "Linux container or virtual machine (docs/code_sandbox.md)"
        )
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix=f"sst-merge-jail-{os.getpid()}-") as stage:
        settings = {
            "parent": os.getpid(),
            "stage": os.path.realpath(stage),
            "libraries": _libraries(),
            "scratch_bytes": limits.scratch_bytes,
            "timeout_s": limits.timeout_s,
            "limits": {
                "memory_bytes": limits.memory_bytes,
                "cpu_s": limits.cpu_s,
                "scratch_bytes": limits.scratch_bytes,
                "processes": limits.processes,
            },
        }
        job = {"source": source, "tests": tests, "entry_point": entry_point, "context": context}
        begun = time.monotonic()
        answers, trouble = _launch(settings, json.dumps(job).encode(), limits.timeout_s + _GRACE_S)
    if not answers:
        raise SandboxError(f"the sandbox ended without a verdict; its last output: {trouble or 'none'}. {_ADVICE}")
    if "refused" in answers[0]:
        raise SandboxError(f"no sandbox for model-written code: {answers[0]['refused']}. {_ADVICE}")
    # From its start on, whatever becomes of the sandbox is the program's doing.
    verdicts = [answer for answer in answers if "passed" in answer]
    if not verdicts:
        return Outcome(False, "the program ended the sandbox before its verdict", time.monotonic() - begun)
    return Outcome(bool(verdicts[0]["passed"]), str(verdicts[0]["reason"]), float(verdicts[0]["seconds"]))


def run_programs(
    programs: Sequence[Program], *, limits: Limits | None = None, workers: int | None = None
) -> list[Outcome]:
    """Run programs against their tests, several at once.

    Each runs in a jail of its own, with the same seed for hashes, so that neither order nor company changes a verdict.

    Raises:
        ConfigError: fewer than one worker.
    """
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    if workers < 1:
        raise ConfigError(f"run_programs: workers = {workers}, expected at least 1")
    distinct = list(dict.fromkeys(programs))

    def run(one: Program) -> Outcome:
        return run_program(one.source, tests=one.tests, entry_point=one.entry_point, context=one.context, limits=limits)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            outcomes = dict(zip(distinct, pool.map(run, distinct), strict=True))
        except BaseException:
            # An interruption ends with the programs that run now, not with all that wait.
            pool.shutdown(cancel_futures=True)
            raise
    return [outcomes[one] for one in programs]


def require_sandbox() -> None:
    """Find out whether programs can be run here, by running one.

    Raises:
        SandboxError: they cannot; says what is missing and what to do.
    """
    # Extension modules among them: an interpreter whose libraries lie elsewhere must not cost a model its score.
    source = "import collections, datetime, hashlib, heapq, math, random, re\ndef successor(n):\n    return n + 1\n"
    tests = "def check(candidate):\n    assert candidate(20) == 21\n"
    outcome = run_program(source, tests=tests, entry_point="successor")
    if not outcome.passed:
        raise SandboxError(f"the sandbox starts, but a correct program does not pass: {outcome.reason}. {_ADVICE}")


def _libraries() -> list[str]:
    standard = Path(os.__file__).parent
    return [str(standard), *(str(path) for path in (Path(sys.base_prefix, "lib"), Path(sys.base_prefix, "lib64")))]


def _launch(settings: dict[str, Any], job: bytes, patience_s: float) -> tuple[list[dict[str, Any]], str]:
    """What the sandbox said, line by line, and the end of what it complained of."""
    command = [sys.executable, "-S", "-s", "-X", "utf8", "-c", _START, str(Path(__file__).parent)]
    process = subprocess.Popen(
        [*command, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    try:
        output, trouble = process.communicate(job, timeout=patience_s)
    except BaseException as error:
        # Until it is waited for, its id cannot belong to anyone else.
        os.killpg(process.pid, signal.SIGKILL)
        output, trouble = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    return list(_messages(output[:_LONGEST_ANSWER])), trouble.decode(errors="replace").strip()[-600:]


def _messages(output: bytes) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        yield message
