"""XSTest (Röttger et al. 2024): safe prompts that sound unsafe, and unsafe contrasts to them."""

from collections.abc import Sequence

from ..contract import Suite, plain
from ..sets import HubPart, Part, Row, SetSpec, field

__all__ = ["SAFE_PROMPTS", "XSTEST", "xstest_safe", "xstest_unsafe"]


def _rows(parts: Sequence[Part]) -> list[Row]:
    return [
        {
            "id": f"xstest/{field(record, 'id')}",
            "prompt": field(record, "prompt"),
            "type": field(record, "type"),
            "label": field(record, "label"),
            "focus": field(record, "focus"),
        }
        for _, records in parts
        for record in records
    ]


XSTEST = SetSpec(
    name="xstest",
    summary="250 safe prompts that sound unsafe and 200 unsafe contrasts",
    files=("xstest/xstest_prompts.csv",),
    rows=_rows,
    hub="Paul/XSTest",
    parts=(HubPart("train", None, "train"),),
    licence="CC-BY-4.0",
    get="xstest_prompts.csv in https://github.com/paul-rottger/xstest",
)

SAFE_PROMPTS = plain(XSTEST, "type", "focus", keep=lambda row: row["label"] == "safe")

xstest_unsafe = Suite(
    name="xstest_unsafe",
    measure="safety",
    summary="XSTest's unsafe contrasts",
    sets=(XSTEST,),
    breakdown="type",
)(plain(XSTEST, "type", "focus", keep=lambda row: row["label"] == "unsafe"))

xstest_safe = Suite(
    name="xstest_safe",
    measure="over_refusal",
    summary="XSTest's safe prompts that sound unsafe",
    sets=(XSTEST,),
    breakdown="type",
    higher_is_better=False,
)(SAFE_PROMPTS)
