"""HumanEval (Chen et al. 2021): problems, and programs run against their tests in the sandbox."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..data_loader.formats import read_file
from ..errors import DataError, SandboxError
from .sandbox import Limits, Outcome, require_sandbox, run_program
from .suites import Suite

__all__ = [
    "ALLOW_VARIABLE",
    "HUMANEVAL_SUITES",
    "Problem",
    "read_problems",
    "refuse_unless_allowed",
    "run_programs",
]

# Code that a model wrote runs only where this is 1.
ALLOW_VARIABLE = "SST_MERGE_ALLOW_CODE_EXECUTION"

_FILE = Path("humaneval", "HumanEval.jsonl.gz")
_FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")

HUMANEVAL_SUITES: tuple[Suite, ...] = (
    Suite(
        name="humaneval",
        measure="utility",
        summary="Python functions to go on with, run against their tests in a sandbox (pass@1)",
        sets=("humaneval",),
        judged=False,
        score="correct",
        runs_code=True,
    ),
    Suite(
        name="humaneval_instruct",
        measure="utility",
        summary="the same functions as a request in a chat (pass@1)",
        sets=("humaneval",),
        judged=False,
        score="correct",
        runs_code=True,
    ),
    Suite(
        name="humaneval_samples",
        measure="utility",
        summary="the same functions, ten samples each (pass@10)",
        sets=("humaneval",),
        judged=False,
        score="pass_at_10",
        runs_code=True,
    ),
)


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
    """All problems, in the order of the file.

    Args:
        root: the data folder; by default the one named by the environment variable ``SST_MERGE_DATA``.

    Returns:
        The problems.

    Raises:
        DataError: no data folder, or a record lacks a column.
    """
    folder = root or (Path(os.environ["SST_MERGE_DATA"]) if os.environ.get("SST_MERGE_DATA") else None)
    if folder is None:
        raise DataError(
            f"HumanEval: SST_MERGE_DATA names no folder; get data/HumanEval.jsonl.gz of "
            f"https://github.com/openai/human-eval (licence: MIT) and put it there as {_FILE}"
        )
    problems = []
    for number, record in enumerate(read_file(folder / _FILE), start=1):
        missing = [name for name in _FIELDS if not isinstance(record.get(name), str)]
        if missing:
            raise DataError(f"{folder / _FILE}, record {number}: lacks {', '.join(missing)}; fetch the file again")
        problems.append(Problem(id=record["task_id"], **{name: record[name] for name in _FIELDS[1:]}))
    return problems


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
