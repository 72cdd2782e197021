"""HumanEval (Chen et al. 2021): problems, and programs run against their tests in the sandbox."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, SandboxError
from ..sandbox import Limits, Outcome, require_sandbox, run_program
from .sets import load_set

__all__ = [
    "ALLOW_VARIABLE",
    "Problem",
    "read_problems",
    "refuse_unless_allowed",
    "run_programs",
]

# Code that a model wrote runs only where this is 1.
ALLOW_VARIABLE = "SST_MERGE_ALLOW_CODE_EXECUTION"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One function to write.

    Attributes:
        id: such as ``HumanEval/0``.
        prompt: imports, helpers, signature and docstring.
        test: defines ``check(candidate)``.
        entry_point: name of the function.
        canonical_solution: a body that is right.
    """

    id: str
    prompt: str
    test: str
    entry_point: str
    canonical_solution: str = ""


def read_problems(root: Path | None = None) -> list[Problem]:
    """All problems, in the order of the set.

    Args:
        root: the data folder; by default the one named by the environment variable ``SST_MERGE_DATA``, else the hub.

    Returns:
        The problems.
    """
    return [Problem(**row) for row in load_set("humaneval", root).rows]


def refuse_unless_allowed(environment: Mapping[str, str] | None = None) -> None:
    """Make sure that model-written code was asked for and can be run; worth calling before anything is generated.

    Args:
        environment: environment variables; those of this process by default.

    Raises:
        SandboxError: it was not asked for, or there is no sandbox here.
    """
    found = (os.environ if environment is None else environment).get(ALLOW_VARIABLE)
    if found != "1":
        raise SandboxError(
            f"HumanEval runs code that the model wrote, and that is off: {ALLOW_VARIABLE} is {found!r}, expected '1'. "
            "Ask for it with --allow-code-execution, or set the variable; what the sandbox guards against is in "
            "docs/code_sandbox.md"
        )
    require_sandbox()


def run_programs(
    jobs: Sequence[tuple[Problem, str]], *, limits: Limits | None = None, workers: int | None = None
) -> list[Outcome]:
    """Run programs against the tests of their problems, several at once.

    Each runs in a jail of its own, with the same seed for hashes, so that neither order nor company changes a verdict.

    Args:
        jobs: problem and whole program. Equal jobs run once.
        limits: for each; the defaults where None.
        workers: how many at once; by default one a processor, at most eight.

    Returns:
        One outcome a job, in order.

    Raises:
        DataError: fewer than one worker.
    """
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    if workers < 1:
        raise DataError(f"run_programs: workers = {workers}, expected at least 1")
    distinct = list(dict.fromkeys(jobs))

    def run(job: tuple[Problem, str]) -> Outcome:
        problem, program = job
        return run_program(
            program, tests=problem.test, entry_point=problem.entry_point, context=problem.prompt, limits=limits
        )

    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            outcomes = dict(zip(distinct, pool.map(run, distinct), strict=True))
        except BaseException:
            # An interruption ends with the programs that run now, not with all that wait.
            pool.shutdown(cancel_futures=True)
            raise
    return [outcomes[job] for job in jobs]
