"""A program and its tests, what it is allowed, and what became of it."""

from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["Limits", "Outcome", "Program"]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that nobody trusts, and what it is tested with.

    Attributes:
        source: the program, Python.
        tests: trusted Python that defines ``check(candidate)``, which raises when the function is wrong.
        entry_point: name of the function in the program that the tests are about.
        context: trusted Python whose names the tests may use.
    """

    source: str
    tests: str
    entry_point: str
    context: str = ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use up.

    Attributes:
        timeout_s: seconds on the clock for program and tests together.
        cpu_s: whole seconds of processor time. Smaller than ``timeout_s``, so that a busy machine changes no verdict.
        memory_bytes: address space of the program, and again of the checker beside it.
        scratch_bytes: the one folder it can write to, in memory, gone afterwards.
        processes: how many processes it may start; 0 allows threads only, and then ``memory_bytes`` is all it can use.
    """

    timeout_s: float = 20.0
    cpu_s: int = 5
    memory_bytes: int = 1 << 30
    scratch_bytes: int = 16 << 20
    processes: int = 0

    def __post_init__(self) -> None:
        lowest = {"timeout_s": 0.1, "cpu_s": 1, "memory_bytes": 64 << 20, "scratch_bytes": 1 << 12, "processes": 0}
        for name, least in lowest.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"limits of the sandbox: {name} is {getattr(self, name)}; at least {least} is needed")


@dataclass(frozen=True)
class Outcome:
    """What became of one program.

    Attributes:
        passed: whether the tests ran to their end and none failed.
        reason: in words.
        seconds: on the clock, from the start of the jail to the verdict.
    """

    passed: bool
    reason: str
    seconds: float
