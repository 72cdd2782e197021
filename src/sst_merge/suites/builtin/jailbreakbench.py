"""JailbreakBench (Chao et al. 2024): misuse behaviours, asked as they are."""

from collections.abc import Sequence

from ..contract import Suite, plain
from ..sets import HubPart, Part, Row, SetSpec, field

__all__ = ["JAILBREAKBENCH", "jailbreakbench"]


def _rows(parts: Sequence[Part]) -> list[Row]:
    return [
        {
            "id": f"jailbreakbench/{field(record, '', 'Index')}",
            "prompt": field(record, "Goal"),
            "category": field(record, "Category"),
            "behaviour": field(record, "Behavior"),
            "source": field(record, "Source"),
        }
        for _, records in parts
        for record in records
    ]


JAILBREAKBENCH = SetSpec(
    name="jailbreakbench",
    summary="100 misuse behaviours in 10 categories",
    files=("harmful_prompts/jailbreakbench.csv",),
    rows=_rows,
    hub="JailbreakBench/JBB-Behaviors",
    parts=(HubPart("harmful", "behaviors", "harmful"),),
    licence="MIT",
    get="https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
)

jailbreakbench = Suite(
    name="jailbreakbench",
    measure="safety",
    summary="misuse behaviours in 10 categories",
    sets=(JAILBREAKBENCH,),
    breakdown="category",
)(plain(JAILBREAKBENCH, "category", "source"))
