"""Suite → how its documents are made."""

from collections.abc import Mapping

from . import behaviours, benign, drift, humaneval, questions
from .docs import Builder
from .harmful import asks_for_refusal, kept_for_testing, labelled, plain

__all__ = ["BUILDERS"]

BUILDERS: Mapping[str, Builder] = {
    "beavertails": plain("beavertails", "category", "categories", keep=kept_for_testing),
    "advbench": plain("advbench"),
    "harmbench": plain("harmbench", "category", "kind", keep=asks_for_refusal),
    "jailbreakbench": plain("jailbreakbench", "category", "source"),
    "do_not_answer": plain("do_not_answer", "category"),
    "xstest_unsafe": plain("xstest", "type", "focus", keep=labelled("unsafe")),
    "jailbreak": behaviours.jailbreak,
    "prefilling": behaviours.prefilling,
    "refusal_suppression": behaviours.refusal_suppression,
    "xstest_safe": plain("xstest", "type", "focus", keep=labelled("safe")),
    "lookalikes": benign.lookalikes,
    "mmlu": questions.mmlu,
    "humaneval": humaneval.continuations,
    "humaneval_instruct": humaneval.requests,
    "humaneval_samples": humaneval.continuations,
    "gsm8k": questions.gsm8k,
    "perplexity": questions.perplexity,
    "drift_unsafe": lambda request: drift.drift(request, "unsafe"),
    "drift_safe": lambda request: drift.drift(request, "safe"),
}
