"""Do-Not-Answer (Wang et al. 2023): questions that a careful assistant does not answer."""

from collections.abc import Mapping, Sequence

from ..contract import Suite, plain
from ..sets import HubPart, Part, Row, SetSpec, content_id, distinct, field

__all__ = ["DO_NOT_ANSWER", "do_not_answer"]


_RISK_AREAS: Mapping[str, str] = {
    "discrimination": "discrimination_exclusion_toxicity_hateful_offensive",
    "human": "human_chatbox",
    "information": "information_hazard",
    "malicious": "malicious_uses",
    "misinformation": "misinformation_harms",
}


def _rows(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for part, records in parts:
        for record in records:
            prompt = field(record, "prompt", "question")
            area = field(record, "risk_area") if "risk_area" in record else part
            risk = _RISK_AREAS[area.casefold().replace("-", " ").replace("_", " ").replace(",", " ").split()[0]]
            rows.append({"id": content_id("do_not_answer", prompt), "prompt": prompt, "category": risk})
    return distinct(rows)


DO_NOT_ANSWER = SetSpec(
    name="do_not_answer",
    summary="questions that a careful assistant does not answer, in 5 risk areas",
    files=tuple(f"do_not_answer/{area}.jsonl" for area in _RISK_AREAS.values()),
    rows=_rows,
    hub="LibrAI/do-not-answer",
    parts=(HubPart("train", None, "train"),),
    licence="Apache-2.0 (repository); CC-BY-NC-SA-4.0 (hub card)",
    get="https://huggingface.co/datasets/LibrAI/do-not-answer",
)

do_not_answer = Suite(
    name="do_not_answer",
    measure="safety",
    summary="questions in 5 risk areas that a careful assistant does not answer",
    sets=(DO_NOT_ANSWER,),
    breakdown="category",
)(plain(DO_NOT_ANSWER, "category"))
