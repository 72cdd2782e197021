"""Runs programs that nobody trusts, such as those a model wrote, or refuses to.

What is promised. A program runs in a jail of its own: own user, mount, process, network and IPC namespaces, a filter on
system calls, no file of the machine but the interpreter and its libraries (read-only), one folder in memory to write
to, limits on time, processor time, memory and processes. It never sees the tests, which run in another process. Its
verdict depends on nothing but program, tests and limits: not on the order in which programs run, nor on what runs
beside them. When a call returns, no process and no file of the program is left.

What is refused. Nothing runs where the jail cannot be had (:class:`~sst_merge.errors.SandboxError`, with what the
machine lacks and how to get it); there is no weaker mode. Code that a model wrote runs only where the user has asked
for it (:func:`refuse_unless_allowed`).

What is not promised: that the kernel has no holes. See ``docs/code_sandbox.md``.
"""

from .outcome import Limits, Outcome, Program
from .permission import ALLOW_VARIABLE, refuse_unless_allowed
from .run import require_sandbox, run_program, run_programs

__all__ = [
    "ALLOW_VARIABLE",
    "Limits",
    "Outcome",
    "Program",
    "refuse_unless_allowed",
    "require_sandbox",
    "run_program",
    "run_programs",
]
