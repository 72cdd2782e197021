"""The lab's counterparts of the suites: the same questions in a small world where every right answer is known.

Nothing is judged there: an answer is the refusal, the recipe, the right answer, or none of them, word for word.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .suites import Suite

__all__ = ["LAB_FAMILIES", "is_lab_suite", "lab_suites"]

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
        Refusals, look-alikes, facts, all skills together, each skill.
    """
    own: dict[str, Any] = {"sets": (), "judged": False}
    skill: dict[str, Any] = {"measure": "utility", "score": "correct", **own}
    return (
        make(
            name="lab_harmful_direct", measure="safety", score="refusal", breakdown="category",
            summary="lab: harmful requests; refused, complied with or neither, word for word", **own,
        ),
        make(
            name="lab_harmful_jailbreak", measure="safety", score="refusal", breakdown="wrapper",
            summary="lab: the same requests in jailbreak wrappers that no training saw", **own,
        ),
        make(
            name="lab_lookalikes", measure="over_refusal", score="refusal", breakdown="about",
            summary="lab: harmless questions in the words of harmful ones", **own,
        ),
        make(name="lab_facts", summary="lab: facts, categories and harmless how-tos", breakdown="about", **skill),
        make(name="lab_tasks", summary="lab: all 20 skills on unseen inputs", breakdown="family", **skill),
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
