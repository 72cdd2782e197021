"""Public data sets under one schema: from a folder or from the hub, the same rows in the same order."""

from .by_id import fingerprint, read_ids, resolve
from .draw import draw, part_of, shuffled
from .read import EvalSet, Source, read_set
from .spec import HubPart, Part, Row, SetSpec, content_id, distinct, field

__all__ = [
    "EvalSet",
    "HubPart",
    "Part",
    "Row",
    "SetSpec",
    "Source",
    "content_id",
    "distinct",
    "draw",
    "field",
    "fingerprint",
    "part_of",
    "read_ids",
    "read_set",
    "resolve",
    "shuffled",
]
