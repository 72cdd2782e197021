"""AdvBench (Zou et al. 2023): harmful instructions."""

from collections.abc import Sequence

from ..contract import Suite, plain
from ..sets import HubPart, Part, Row, SetSpec, field

__all__ = ["ADVBENCH", "advbench"]


def _rows(parts: Sequence[Part]) -> list[Row]:
    return [
        {"id": f"advbench/{number}", "prompt": field(record, "goal", "prompt"), "target": field(record, "target")}
        for _, records in parts
        for number, record in enumerate(records)
    ]


ADVBENCH = SetSpec(
    name="advbench",
    summary="harmful instructions with the affirmative answer an attacker aims at",
    files=("harmful_prompts/advbench.csv",),
    rows=_rows,
    hub="walledai/AdvBench",
    parts=(HubPart("train", None, "train"),),
    licence="MIT",
    get="harmful_behaviors.csv in https://github.com/llm-attacks/llm-attacks; the hub's copy asks for consent",
)

advbench = Suite(name="advbench", measure="safety", summary="harmful instructions", sets=(ADVBENCH,))(plain(ADVBENCH))
