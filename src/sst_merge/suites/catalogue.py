"""Which suites there are: each is one lm-evaluation-harness task, and what its scores stand for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError
from ..worlds.lab.suites import lab_suites

__all__ = ["SUITES", "Measure", "Suite", "get_suites", "tasks_folder"]

Measure = Literal["safety", "over_refusal", "utility", "drift"]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One evaluation suite.

    Attributes:
        name: as written on the command line; also the name of its task file in :func:`tasks_folder`.
        measure: which column of the summary it feeds.
        summary: one line.
        sets: names of the data sets it reads.
        judged: whether its responses go to the judges; otherwise its task scores them itself.
        score: the column of its records that its rate is the mean of: ``refusal`` where judged, ``correct`` elsewhere.
        breakdown: tag that its results are broken down by, or None.
        runs_code: whether it runs what models write, and so must be asked for.
        rate: whether `score` is 0 or 1 for each record, so that its mean is a rate and has a Wilson interval.
        helpfulness: whether judged answers get the column ``helpful`` too (:mod:`.helpfulness`).
        pass_k: the k of its pass@k, where it draws several answers to each question; None elsewhere.
        higher_is_better: which way `score` is read; a refusal is good where the prompt is harmful and bad elsewhere.
        config: the whole task, for suites that have no task file (:func:`~sst_merge.suites.custom.custom_suite`).
    """

    name: str
    measure: Measure
    summary: str
    sets: tuple[str, ...]
    judged: bool = True
    score: str = "refusal"
    breakdown: str | None = None
    runs_code: bool = False
    rate: bool = True
    helpfulness: bool = False
    pass_k: int | None = None
    higher_is_better: bool = True
    config: Mapping[str, Any] | None = None

    @property
    def task(self) -> str:
        """Name of its task in lm-evaluation-harness; the prefix keeps it apart from tasks of the same name there."""
        return f"sst_{self.name}"

    @property
    def spec(self) -> str | dict[str, Any]:
        """What to give to ``TaskManager(include_path=tasks_folder()).load``: the task's name, or the task itself."""
        return self.task if self.config is None else dict(self.config)


# In the order in which tables show them.
_ALL: tuple[Suite, ...] = (
    Suite(
        name="beavertails",
        measure="safety",
        summary="harmful questions in 14 categories, the half kept for testing",
        sets=("beavertails",),
        breakdown="category",
    ),
    Suite(name="advbench", measure="safety", summary="harmful instructions", sets=("advbench",)),
    Suite(
        name="harmbench",
        measure="safety",
        summary="harmful behaviours, standard and contextual (copyright left out: no refusal is asked for there)",
        sets=("harmbench",),
        breakdown="category",
    ),
    Suite(
        name="jailbreakbench",
        measure="safety",
        summary="misuse behaviours in 10 categories",
        sets=("jailbreakbench",),
        breakdown="category",
    ),
    Suite(
        name="do_not_answer",
        measure="safety",
        summary="questions in 5 risk areas that a careful assistant does not answer",
        sets=("do_not_answer",),
        breakdown="category",
    ),
    Suite(
        name="xstest_unsafe",
        measure="safety",
        summary="XSTest's unsafe contrasts",
        sets=("xstest",),
        breakdown="type",
    ),
    Suite(
        name="jailbreak",
        measure="safety",
        summary="behaviours in jailbreak wrappers whose families are held out from calibration",
        sets=("harmbench", "jailbreakbench", "jailbreak_templates"),
        breakdown="family",
    ),
    Suite(
        name="prefilling",
        measure="safety",
        summary="behaviours whose answer begins with 'Sure, here is'",
        sets=("harmbench", "jailbreakbench"),
        breakdown="category",
    ),
    Suite(
        name="refusal_suppression",
        measure="safety",
        summary="behaviours with rules that forbid the words of a refusal",
        sets=("harmbench", "jailbreakbench"),
        breakdown="category",
    ),
    Suite(
        name="xstest_safe",
        measure="over_refusal",
        summary="XSTest's safe prompts that sound unsafe",
        sets=("xstest",),
        breakdown="type",
        higher_is_better=False,
    ),
    Suite(
        name="lookalikes",
        measure="over_refusal",
        summary="XSTest's safe prompts, and harmless Alpaca instructions that contain a word of harm",
        sets=("xstest", "alpaca"),
        breakdown="type",
        higher_is_better=False,
    ),
    Suite(
        name="mmlu",
        measure="utility",
        summary="57 subjects, 5 examples, by option log-likelihood",
        sets=("mmlu",),
        judged=False,
        score="correct",
        breakdown="subject",
    ),
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
        summary="the same functions, ten sampled answers each, or --attempts (pass@10)",
        sets=("humaneval",),
        judged=False,
        score="pass_at_10",
        pass_k=10,
        runs_code=True,
        rate=False,
    ),
    Suite(
        name="gsm8k",
        measure="utility",
        summary="word problems, 5 examples, exact match of the number behind ####",
        sets=("gsm8k",),
        judged=False,
        score="correct",
    ),
    Suite(
        name="perplexity",
        measure="utility",
        summary="bits per byte of the last fifth of the WikiText piece",
        sets=("wikitext",),
        judged=False,
        score="bits_per_byte",
        rate=False,
        higher_is_better=False,
    ),
    Suite(
        name="drift_unsafe",
        measure="drift",
        summary="unsafe halves of the pairs of the DRIFTCHECK-style stand-in",
        sets=("xstest", "jailbreakbench"),
        breakdown="source",
    ),
    Suite(
        name="drift_safe",
        measure="drift",
        summary="safe halves of the pairs of the DRIFTCHECK-style stand-in",
        sets=("xstest", "alpaca"),
        breakdown="source",
        helpfulness=True,
        higher_is_better=False,
    ),
    *lab_suites(Suite),
)

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in _ALL}


def tasks_folder() -> Path:
    """Where the task files lie.

    Returns:
        The folder to give to lm-evaluation-harness as ``include_path``.
    """
    return Path(__file__).parent / "tasks"


def get_suites(names: tuple[str, ...]) -> list[Suite]:
    """Suites by name.

    Args:
        names: as written on the command line.

    Returns:
        The suites, in the order given.

    Raises:
        DataError: an unknown name.
    """
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise DataError(f"unknown suite {', '.join(map(repr, unknown))}; available: {', '.join(SUITES)}")
    return [SUITES[name] for name in names]
