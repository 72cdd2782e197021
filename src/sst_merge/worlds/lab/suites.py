"""The lab's counterparts of the suites: the same questions in a small world where every right answer is known.

Nothing is judged there: an answer is the refusal, the recipe, the right answer, or none of them, word for word. Answers
are greedy, through the chat template, up to the end-of-text token.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import DataError
from ...suites import Builder, Document, Request, Suite, means, sampled
from .suite_rows import lab_rows
from .suite_scores import (
    all_samples,
    score_answer_text,
    score_choice,
    score_harmful,
    score_harmless,
    score_right,
    score_samples,
)
from .tasks import FAMILIES
from .world import World

__all__ = [
    "lab_choices",
    "lab_documents",
    "lab_drift_safe",
    "lab_drift_unsafe",
    "lab_facts",
    "lab_harmful_direct",
    "lab_harmful_jailbreak",
    "lab_lookalikes",
    "lab_perplexity",
    "lab_prefilling",
    "lab_refusal_suppression",
    "lab_tasks",
    "lab_tasks_samples",
    "single_skills",
]

_EVERY_SKILL = tuple(f"task:{family.name}" for family in FAMILIES)
_END = ["<|eos|>"]
_LONGEST = 20
_GENERATION: Mapping[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": _END, "do_sample": False, "max_gen_toks": _LONGEST},
}
_RIGHT = {**_GENERATION, "process_results": score_right, "metric_list": means(correct=True)}
_HARMFUL = {
    **_GENERATION,
    "process_results": score_harmful,
    "metric_list": means(refusal=True, harm=False, incoherent=False),
}
_HARMLESS = {
    **_GENERATION,
    "process_results": score_harmless,
    "metric_list": means(refusal=False, correct=True, incoherent=False),
}
# Ten samples an input, for pass@10; `correct` is then pass@1 estimated from the ten.
_SAMPLES = {
    **_GENERATION,
    "repeats": 10,
    "generation_kwargs": sampled(_LONGEST, until=_END),
    "filter_list": [{"name": "all", "filter": [{"function": "custom", "filter_fn": all_samples}]}],
    "process_results": score_samples,
    "metric_list": means(correct=True, pass_at_10=True),
}
# The options are whole answers, not letters: the world has no words for listing them.
_CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "options",
    "doc_to_target": "{{options.index(answer)}}",
    "process_results": score_choice,
    "metric_list": means(correct=True, probability=True),
}
# The answer's text behind its question, without the end-of-text token.
_LIKELIHOOD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "process_results": score_answer_text,
    "metric_list": means(bits_per_byte=False, loglikelihood=True, words=True, bytes=True),
}


def lab_documents(ids: str, kinds: Sequence[str], *, each: int | None = None) -> Builder:
    """Test prompts of some kinds, in the world whose seed the request names.

    Args:
        ids: begins the ids; the two halves of the pairs share it, so that a draw takes whole pairs.
        kinds: as in :func:`.suite_rows.lab_rows`.
        each: only so many of each kind, from the front; all of them by default.

    Returns:
        How the documents are made.
    """

    def build(request: Request) -> list[Document]:
        if request.driftcheck is not None and any(kind.startswith("drift:") for kind in kinds):
            raise DataError(
                f"the lab's drift suites ask about the lab's world and cannot take the prompts of "
                f"{request.driftcheck!r}; leave out --driftcheck, or evaluate a base that reads English"
            )
        world = World(request.world_seed)
        rows = [row for kind in kinds for row in lab_rows(world, kind)[:each]]
        return [{"id": f"{ids}/{i}", **row} for i, row in enumerate(rows)]

    return build


def _knows_the_words(base: str, world_seed: int) -> None:
    """Check that a base knows the words of the lab's world.

    Args:
        base: folder or hub id of the base model.
        world_seed: of the world.

    Raises:
        DataError: words are missing.
    """
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(base, trust_remote_code=False).get_vocab()
    missing = [word for word in World(world_seed).vocabulary if word not in known]
    if missing:
        raise DataError(
            f"base {base!r}: its vocabulary lacks {len(missing)} words of the lab's world of seed {world_seed}, such "
            f"as {missing[0]!r}; the lab's suites need a base of the lab, as in --base lab:unaligned"
        )


# What all of the lab's suites share.
_LAB: dict[str, Any] = {"judged": False, "world": "lab", "check": _knows_the_words}

lab_harmful_direct = Suite(
    name="lab_harmful_direct",
    measure="safety",
    summary="lab: harmful requests; refused, complied with or neither, word for word",
    asking=_HARMFUL,
    breakdown="category",
    **_LAB,
)(lab_documents("lab_harmful_direct", ["harmful"]))

lab_harmful_jailbreak = Suite(
    name="lab_harmful_jailbreak",
    measure="safety",
    summary="lab: the same requests in jailbreak wrappers that no refusal was trained on",
    asking=_HARMFUL,
    breakdown="wrapper",
    **_LAB,
)(lab_documents("lab_harmful_jailbreak", ["jailbreak"]))

# The model goes on with the recipe, or stops and refuses.
lab_prefilling = Suite(
    name="lab_prefilling",
    measure="safety",
    summary="lab: the same requests, the answer begun with the recipe's first words",
    asking={**_HARMFUL, "gen_prefix": "prefill"},
    breakdown="category",
    **_LAB,
)(lab_documents("lab_prefilling", ["prefilling"]))

lab_refusal_suppression = Suite(
    name="lab_refusal_suppression",
    measure="safety",
    summary="lab: the same requests with a rule that forbids the words of the refusal",
    asking=_HARMFUL,
    breakdown="category",
    **_LAB,
)(lab_documents("lab_refusal_suppression", ["refusal_suppression"]))

lab_lookalikes = Suite(
    name="lab_lookalikes",
    measure="over_refusal",
    summary="lab: harmless questions in the words of harmful ones",
    asking=_HARMLESS,
    breakdown="about",
    higher_is_better=False,
    **_LAB,
)(lab_documents("lab_lookalikes", ["lookalike"]))

lab_facts = Suite(
    name="lab_facts",
    measure="utility",
    summary="lab: facts, categories and harmless how-tos",
    asking=_RIGHT,
    score="correct",
    breakdown="about",
    **_LAB,
)(lab_documents("lab_facts", ["general"]))

lab_choices = Suite(
    name="lab_choices",
    measure="utility",
    summary="lab: colours, places and categories, four options, by option log-likelihood",
    asking=_CHOICES,
    score="correct",
    breakdown="about",
    **_LAB,
)(lab_documents("lab_choices", ["choices"]))

lab_tasks = Suite(
    name="lab_tasks",
    measure="utility",
    summary="lab: all 20 skills on unseen inputs",
    asking=_RIGHT,
    score="correct",
    breakdown="family",
    **_LAB,
)(lab_documents("lab_tasks", _EVERY_SKILL))

lab_tasks_samples = Suite(
    name="lab_tasks_samples",
    measure="utility",
    summary="lab: all 20 skills, 16 inputs each, ten sampled answers each, or --attempts (pass@10)",
    asking=_SAMPLES,
    score="pass_at_10",
    breakdown="family",
    rate=False,
    pass_k=10,
    **_LAB,
)(lab_documents("lab_tasks_samples", _EVERY_SKILL, each=16))

lab_perplexity = Suite(
    name="lab_perplexity",
    measure="utility",
    summary="lab: bits per byte of the right answers to facts, categories and how-tos",
    asking=_LIKELIHOOD,
    score="bits_per_byte",
    breakdown="about",
    rate=False,
    higher_is_better=False,
    **_LAB,
)(lab_documents("lab_perplexity", ["general"]))

# Both halves have the same ids, so that --samples draws whole pairs.
lab_drift_unsafe = Suite(
    name="lab_drift_unsafe",
    measure="drift",
    summary="lab: the harmful halves of pairs of requests in the same words",
    asking=_HARMFUL,
    breakdown="category",
    **_LAB,
)(lab_documents("lab_drift", ["drift:unsafe"]))

lab_drift_safe = Suite(
    name="lab_drift_safe",
    measure="drift",
    summary="lab: the harmless halves; refused, answered rightly or neither",
    asking=_HARMLESS,
    breakdown="category",
    higher_is_better=False,
    **_LAB,
)(lab_documents("lab_drift", ["drift:safe"]))

# Groups ask `lab_tasks`, which has all skills.
single_skills = tuple(
    Suite(
        name=f"lab_task_{family.name}",
        measure="utility",
        summary=f"lab: the skill {family.name} on unseen inputs",
        asking=_RIGHT,
        score="correct",
        in_groups=False,
        **_LAB,
    )(lab_documents(f"lab_task_{family.name}", [f"task:{family.name}"]))
    for family in FAMILIES
)
