"""The process that runs the program: executes it, then calls its function as often as the checker asks."""

import os
from typing import Any, BinaryIO

from .wire import WireError, decode, encode, receive, send

__all__ = ["quiet", "serve"]


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Run the program that the first request holds and answer calls until the requests end.

    Args:
        requests: first ``{"source", "entry_point"}``, then ``{"args", "kwargs"}`` a call.
        replies: one message a request: ``{"value", "args"}`` or ``{"error": [class, message]}``.
    """
    job = receive(requests)
    namespace: dict[str, Any] = {"__name__": "program", "__builtins__": __builtins__}
    try:
        exec(compile(job["source"], "<program>", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        send(replies, _error(error))
        return
    function = namespace.get(job["entry_point"])
    if not callable(function):
        send(replies, {"error": ["NameError", f"the program defines no function {job['entry_point']}"]})
        return
    send(replies, {"value": None})
    while True:
        try:
            call = receive(requests)
        except EOFError:
            return
        args, kwargs = decode(call["args"]), decode(call["kwargs"])
        try:
            reply = {"value": encode(function(*args, **kwargs)), "args": _after(args)}
        except BaseException as error:
            reply = _error(error)
        send(replies, reply)


def quiet(keep: tuple[int, ...]) -> None:
    """Close every descriptor but some, and let what the program prints vanish."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    for descriptor in range(3, os.sysconf("SC_OPEN_MAX")):
        if descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                continue


def _after(args: Any) -> Any:
    try:
        return encode(list(args))
    except (WireError, RecursionError):
        return None


def _error(error: BaseException) -> dict[str, list[str]]:
    try:
        message = str(error)[:300]
    except BaseException:
        message = ""
    return {"error": [type(error).__name__, message]}
