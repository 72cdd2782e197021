"""Process 1 of the jail: runs the tests against a function that lives in another process, and decides.

The tests call a stand-in that sends its arguments to the candidate and returns plain data that came back. No code of
the program ever runs here, so nothing it does to its own interpreter can reach an ``assert`` of the tests.
"""

import builtins
import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from .wire import WireError, decode, encode, receive, send

__all__ = ["check", "end_of"]


class CandidateGone(BaseException):
    """The candidate cannot answer any more; no Exception, so that few tests catch it, and none passes that does."""


def check(job: dict[str, str], requests: BinaryIO, replies: BinaryIO) -> dict[str, Any]:
    """Run the tests of a job.

    Args:
        job: ``source`` (program), ``entry_point``, ``context`` (trusted code that the tests may use) and ``tests``
            (trusted code that defines ``check(candidate)``).
        requests: to the candidate.
        replies: from the candidate.

    Returns:
        The verdict: ``passed`` and ``reason``, and ``gone`` where the candidate stopped answering.
    """
    calls = 0
    gone: CandidateGone | None = None

    def lost(reason: str) -> CandidateGone:
        nonlocal gone
        gone = gone or CandidateGone(reason)
        return gone

    def ask(message: dict[str, Any]) -> Any:
        if gone is not None:
            raise gone
        try:
            send(requests, message)
            reply = receive(replies)
        except (EOFError, OSError):
            raise lost("the program ended before its tests did") from None
        except (WireError, MemoryError) as error:
            raise lost(f"the program sent {error or 'more than there is memory for'}") from None
        if not isinstance(reply, dict):
            raise lost("the program sent a message of another kind")
        if "error" in reply:
            raise _as_exception(reply["error"]) or lost("the program sent a message of another kind")
        return reply

    def candidate(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        reply = ask({"args": encode(args), "kwargs": encode(kwargs)})
        calls += 1
        try:
            value, after = decode(reply.get("value")), decode(reply.get("args"))
        except (WireError, RecursionError, MemoryError) as error:
            raise lost(f"the program sent {error or 'more than there is memory for'}") from None
        if isinstance(after, list) and len(after) == len(args):
            for argument, changed in zip(args, after, strict=True):
                _follow(argument, changed)
        return value

    try:
        ask({"source": job["source"], "entry_point": job["entry_point"]})
    except (Exception, CandidateGone) as error:
        return _failed("the program does not run", error)
    try:
        _run_tests(job, candidate)
    except AssertionError as error:
        return _failed(f"a test fails{_where(error, job['tests'])}", error)
    except BaseException as error:
        return _failed(f"a test stops{_where(error, job['tests'])}", error)
    if gone is not None:
        return _failed("a test stops", gone)
    if not calls:
        return {"passed": False, "reason": "the tests never called the function; they decide nothing"}
    return {"passed": True, "reason": "all tests passed"}


def end_of(process: int) -> str:
    """Kill the candidate; says how it had ended, if it had."""
    # Its pipe closes a moment before it can be waited for; and a program may close the pipe and live on.
    for _ in range(20):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.005)
    else:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return ""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f" (it left with status {code})"
    remark = {signal.SIGXCPU: ": out of processor time", signal.SIGKILL: ": out of processor time, or killed"}
    return f" (killed by {signal.Signals(-code).name}{remark.get(signal.Signals(-code), '')})"


def _run_tests(job: dict[str, str], candidate: Callable[..., Any]) -> None:
    namespace: dict[str, Any] = {"__name__": "tests"}
    for part in ("context", "tests"):
        exec(compile(job[part], f"<{part}>", "exec", dont_inherit=True), namespace)
        # Tests may also use the function by its name.
        namespace[job["entry_point"]] = candidate
    namespace["check"](candidate)


def _as_exception(error: Any) -> Exception | None:
    """What the program raised, as one of Python's own exceptions; None where the message is none."""
    try:
        name, message = map(str, error)
    except (TypeError, ValueError):
        return None
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, (AssertionError, UnicodeError)):
        return RuntimeError(f"{name}: {message}")
    return kind(message)


def _follow(argument: Any, changed: Any) -> None:
    # A function that changes its arguments changes them for the tests as well, as it would in one process.
    if isinstance(argument, list) and isinstance(changed, list):
        if argument != changed:
            argument[:] = changed
    elif isinstance(argument, (dict, set)) and type(argument) is type(changed) and argument != changed:
        argument.clear()
        argument.update(changed)


def _where(error: BaseException, tests: str) -> str:
    lines = tests.splitlines()
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<tests>"]
    if not numbers or not 0 < (numbers[-1] or 0) <= len(lines):
        return ""
    return f" at {lines[(numbers[-1] or 1) - 1].strip()[:200]!r}"


def _failed(what: str, error: BaseException) -> dict[str, Any]:
    if isinstance(error, CandidateGone):
        return {"passed": False, "reason": f"{what}: {error}", "gone": True}
    try:
        said = str(error)[:300]
    except Exception:  # such as of an integer with more digits than Python writes
        said = "without words"
    return {"passed": False, "reason": f"{what}: {type(error).__name__}: {said}"}
