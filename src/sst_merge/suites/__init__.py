"""What models are asked: suites, the data sets they read, and how an answer is scored.

A suite is one declaration in one file (:class:`Suite`). Those of this package lie in :mod:`.builtin`; others come
through entry points of the group ``sst_merge.suites``. docs/extending/suite.md shows how to add one.
"""

from .asking import JUDGED, greedy, likelihood_scores, means, option_answer, sampled
from .contract import Builder, Document, Measure, Request, Suite, document, plain
from .custom import custom_suite
from .registry import (
    ENTRY_POINT_GROUP,
    GROUPS,
    available_sets,
    available_suites,
    expand_suites,
    get_suites,
    load_set,
)
from .selection import LEFT_OUT
from .sets import EvalSet, HubPart, Part, Row, SetSpec, content_id, distinct, field

__all__ = [
    "ENTRY_POINT_GROUP",
    "GROUPS",
    "JUDGED",
    "LEFT_OUT",
    "Builder",
    "Document",
    "EvalSet",
    "HubPart",
    "Measure",
    "Part",
    "Request",
    "Row",
    "SetSpec",
    "Suite",
    "available_sets",
    "available_suites",
    "content_id",
    "custom_suite",
    "distinct",
    "document",
    "expand_suites",
    "field",
    "get_suites",
    "greedy",
    "likelihood_scores",
    "load_set",
    "means",
    "option_answer",
    "plain",
    "sampled",
]
