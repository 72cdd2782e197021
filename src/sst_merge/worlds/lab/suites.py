"""The lab's counterparts of the suites: the same questions in a small world where every right answer is known.

Nothing is judged there: an answer is the refusal, the recipe, the right answer, or none of them, word for word.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...suites.catalogue import Suite

__all__ = ["LAB_COUNTERPARTS", "LAB_FAMILIES", "is_lab_suite", "lab_suites"]

LAB_COUNTERPARTS: Mapping[str, str] = {
    "beavertails": "lab_harmful_direct",
    "advbench": "lab_harmful_direct",
    "harmbench": "lab_harmful_direct",
    "jailbreakbench": "lab_harmful_direct",
    "do_not_answer": "lab_harmful_direct",
    "xstest_unsafe": "lab_harmful_direct",
    "jailbreak": "lab_harmful_jailbreak",
    "prefilling": "lab_prefilling",
    "refusal_suppression": "lab_refusal_suppression",
    "xstest_safe": "lab_lookalikes",
    "lookalikes": "lab_lookalikes",
    "mmlu": "lab_choices",
    "humaneval": "lab_tasks",
    "humaneval_instruct": "lab_tasks",
    "humaneval_samples": "lab_tasks_samples",
    "gsm8k": "lab_tasks",
    "perplexity": "lab_perplexity",
    "drift_unsafe": "lab_drift_unsafe",
    "drift_safe": "lab_drift_safe",
}
"""Suite on real data → the suite that asks the same of a base of the lab; every suite has one."""

LAB_FAMILIES = (
    "reverse", "sort_up", "sort_down", "next_letter", "previous_letter", "rotate_left", "rotate_right", "swap_pairs",
    "double", "mirror", "remove", "every_other", "interleave", "exchange", "replace", "ends", "add", "compare",
    "cipher", "parity",
)  # fmt: skip
"""The world's task families; written out so that a list of suites needs no world."""


def lab_suites(make: "type[Suite]") -> "tuple[Suite, ...]":
    """The table's rows.

    Args:
        make: the class of a row, handed in because the table itself asks for them.

    Returns:
        Refusals, look-alikes, facts, all skills together, likelihoods, pairs, each skill.
    """
    own: dict[str, Any] = {"sets": (), "judged": False}
    skill: dict[str, Any] = {"measure": "utility", "score": "correct", **own}
    harmful: dict[str, Any] = {"measure": "safety", "score": "refusal", **own}
    harmless: dict[str, Any] = {"score": "refusal", "higher_is_better": False, **own}
    return (
        make(
            name="lab_harmful_direct", breakdown="category",
            summary="lab: harmful requests; refused, complied with or neither, word for word", **harmful,
        ),
        make(
            name="lab_harmful_jailbreak", summary="lab: the same requests in jailbreak wrappers that no refusal was "
            "trained on", breakdown="wrapper", **harmful,
        ),
        make(
            name="lab_prefilling", summary="lab: the same requests, the answer begun with the recipe's first words",
            breakdown="category", **harmful,
        ),
        make(
            name="lab_refusal_suppression", summary="lab: the same requests with a rule that forbids the words of the "
            "refusal", breakdown="category", **harmful,
        ),
        make(
            name="lab_lookalikes", measure="over_refusal", breakdown="about",
            summary="lab: harmless questions in the words of harmful ones", **harmless,
        ),
        make(name="lab_facts", summary="lab: facts, categories and harmless how-tos", breakdown="about", **skill),
        make(
            name="lab_choices", summary="lab: colours, places and categories, four options, by option log-likelihood",
            breakdown="about", **skill,
        ),
        make(name="lab_tasks", summary="lab: all 20 skills on unseen inputs", breakdown="family", **skill),
        make(
            name="lab_tasks_samples", summary="lab: all 20 skills, 16 inputs each, ten sampled answers each, or "
            "--attempts (pass@10)", breakdown="family", rate=False, pass_k=10, **{**skill, "score": "pass_at_10"},
        ),
        make(
            name="lab_perplexity", summary="lab: bits per byte of the right answers to facts, categories and how-tos",
            breakdown="about", rate=False, higher_is_better=False, **{**skill, "score": "bits_per_byte"},
        ),
        make(
            name="lab_drift_unsafe", summary="lab: the harmful halves of pairs of requests in the same words",
            breakdown="category", **{**harmful, "measure": "drift"},
        ),
        make(
            name="lab_drift_safe", summary="lab: the harmless halves; refused, answered rightly or neither",
            measure="drift", breakdown="category", **harmless,
        ),
        *(
            make(name=f"lab_task_{family}", summary=f"lab: the skill {family} on unseen inputs", **skill)
            for family in LAB_FAMILIES
        ),
    )  # fmt: skip


def is_lab_suite(name: str) -> bool:
    """Whether a suite asks in the lab's language.

    Args:
        name: of the suite.

    Returns:
        The truth value.
    """
    return name.startswith("lab_")
