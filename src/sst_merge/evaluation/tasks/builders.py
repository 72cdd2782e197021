"""Suite → how its documents are made."""

from collections.abc import Mapping

from . import behaviours, benign, drift, harmful, questions
from .docs import Builder

__all__ = ["BUILDERS"]

BUILDERS: Mapping[str, Builder] = {
    "beavertails": harmful.beavertails,
    "advbench": harmful.advbench,
    "harmbench": harmful.harmbench,
    "jailbreakbench": harmful.jailbreakbench,
    "do_not_answer": harmful.do_not_answer,
    "xstest_unsafe": lambda request: harmful.xstest(request, "unsafe"),
    "jailbreak": behaviours.jailbreak,
    "prefilling": behaviours.prefilling,
    "refusal_suppression": behaviours.refusal_suppression,
    "xstest_safe": lambda request: harmful.xstest(request, "safe"),
    "lookalikes": benign.lookalikes,
    "mmlu": questions.mmlu,
    "gsm8k": questions.gsm8k,
    "perplexity": questions.perplexity,
    "drift_unsafe": lambda request: drift.drift(request, "unsafe"),
    "drift_safe": lambda request: drift.drift(request, "safe"),
}
