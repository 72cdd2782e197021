"""Sets up the jail around itself, starts checker and candidate in it, keeps the clock, prints the verdict."""

import json
import os
import select
import signal
import sys
import time
from typing import Any

from . import candidate, checker
from .libc import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, JailError, drop_capabilities, prctl
from .mounts import enter_root
from .namespaces import become_nobody, enter_namespaces
from .rlimits import limit_resources
from .seccomp import filter_system_calls

__all__ = ["main"]


def main() -> None:
    """Run one job: settings as JSON in the second argument, the job as JSON on standard input.

    Prints lines of JSON: ``{"refused"}`` where the isolation cannot be had. Otherwise ``{"started"}`` when the program
    is about to run, from where on everything is its doing, and then its verdict ``{"passed", "reason", "seconds"}``,
    of which the first counts.
    """
    settings = json.loads(sys.argv[2])
    try:
        _die_with_parent()
        if os.getppid() != settings["parent"]:
            return
        enter_namespaces()
        _die_with_parent()
    except (JailError, OSError) as error:
        _say({"refused": str(error)})
        return
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _inside(settings, start)
        finally:
            os._exit(1)
    watch = select.poll()
    watch.register(os.pidfd_open(child), select.POLLIN)
    in_time = bool(watch.poll(settings["timeout_s"] * 1000))
    # The end of process 1 is the end of all processes of the jail; waiting for it waits for all of them.
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    reason = f"no verdict within {settings['timeout_s']:g} s" if not in_time else f"no verdict (status {status})"
    _say({"passed": False, "reason": reason, "seconds": time.monotonic() - start})


def _inside(settings: dict[str, Any], start: float) -> None:
    try:
        # Namespaces do not part process groups, so a signal to group 0 would reach the launcher.
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _die_with_parent()
        enter_root(settings["stage"], settings["libraries"], settings["scratch_bytes"])
        become_nobody()
        drop_capabilities()
        # Gone with the change of user.
        _die_with_parent()
        prctl(PR_SET_DUMPABLE, 0, purpose="closing this process to others of its user")
        to_candidate, to_checker = os.pipe(), os.pipe()
        ready_read, ready_write = os.pipe()
        process = os.fork()
        if process == 0:
            _become_candidate(settings, to_candidate[0], to_checker[1], ready_write)
        for descriptor in (to_candidate[0], to_checker[1], ready_write):
            os.close(descriptor)
        trouble = os.read(ready_read, 4000)
        if trouble:
            raise JailError(trouble.decode(errors="replace"))
        limit_resources(**settings["limits"])
        job = json.loads(sys.stdin.buffer.read())
    # The program has not been read yet: whatever goes wrong so far is the machine's fault, and no verdict on it.
    except Exception as error:
        _say({"refused": str(error) or type(error).__name__})
        return
    # Tests may print what the program returned; none of that may get where the verdict goes.
    answer = os.dup(1)
    candidate.quiet(keep=(answer, to_candidate[1], to_checker[0]))
    _say({"started": True}, answer)
    with os.fdopen(to_candidate[1], "wb") as requests, os.fdopen(to_checker[0], "rb") as replies:
        verdict = checker.check(job, requests, replies)
        if verdict.pop("gone", False):
            verdict["reason"] += checker.end_of(process)
        _say({**verdict, "seconds": time.monotonic() - start}, answer)
        os._exit(0)


def _become_candidate(settings: dict[str, Any], requests: int, replies: int, ready: int) -> None:
    try:
        try:
            os.setsid()
            candidate.quiet(keep=(requests, replies, ready))
            limit_resources(**settings["limits"])
            filter_system_calls(processes=settings["limits"]["processes"] > 0)
        except Exception as error:
            os.write(ready, (str(error) or type(error).__name__).encode())
            return
        os.close(ready)
        with os.fdopen(requests, "rb") as incoming, os.fdopen(replies, "wb") as outgoing:
            candidate.serve(incoming, outgoing)
    finally:
        os._exit(1)


def _die_with_parent() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, purpose="tying this process to its parent")


def _say(message: dict[str, Any], descriptor: int = 1) -> None:
    os.write(descriptor, json.dumps(message).encode() + b"\n")
