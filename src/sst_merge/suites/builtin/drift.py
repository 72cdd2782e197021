"""Alignment drift, DRIFTCHECK-style: pairs of an unsafe and a safe prompt, answered before and after merging.

The original prompts are not public. The stand-in pairs prompts of public sets by a committed list of ids; whoever has
the original names its file or hub id (``driftcheck``), and both suites use that instead.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ...data_loader.formats import read_file, read_hub
from ...errors import DataError
from ..contract import Document, Request, Suite, document
from ..sets import content_id, read_ids, resolve
from .jailbreakbench import JAILBREAKBENCH
from .lookalikes import ALPACA
from .xstest import XSTEST

__all__ = ["DRIFT_IDS", "drift_safe", "drift_unsafe", "read_original"]

Half = Literal["safe", "unsafe"]

DRIFT_IDS = Path(__file__).with_name("drift_ids.json")


@Suite(
    name="drift_unsafe",
    measure="drift",
    summary="unsafe halves of the pairs of the DRIFTCHECK-style stand-in",
    sets=(XSTEST, JAILBREAKBENCH),
    breakdown="source",
)
def drift_unsafe(request: Request) -> list[Document]:
    """The unsafe halves."""
    return _halves(request, "unsafe")


@Suite(
    name="drift_safe",
    measure="drift",
    summary="safe halves of the pairs of the DRIFTCHECK-style stand-in",
    sets=(XSTEST, ALPACA),
    breakdown="source",
    helpfulness=True,
    higher_is_better=False,
)
def drift_safe(request: Request) -> list[Document]:
    """The safe halves."""
    return _halves(request, "safe")


def _halves(request: Request, half: Half) -> list[Document]:
    """One half of the pairs; both halves of a pair have its id, so that a draw takes whole pairs.

    The original names no pairs, so its halves have ids of their own.
    """
    if request.driftcheck is not None:
        given = [row for row in read_original(request.driftcheck) if row["half"] == half]
        return [document(row, tags={"attack": "none", "source": "driftcheck"}) for row in given]
    chosen = read_ids(DRIFT_IDS)
    ids = [row_id for pair in chosen["pairs"] for row_id in (pair["unsafe"], pair["safe"])]
    sets = [request.read(spec) for spec in (ALPACA, JAILBREAKBENCH, XSTEST)]
    rows = resolve(ids, sets, selection=chosen["name"], sha256=chosen["sha256"])
    own, other = (rows[::2], rows[1::2]) if half == "unsafe" else (rows[1::2], rows[::2])
    documents = []
    for row, partner, pair in zip(own, other, chosen["pairs"], strict=True):
        name = f"{pair['unsafe']}+{pair['safe']}"
        tags = {"attack": "none", "source": pair["source"], "pair": name}
        documents.append(document({**row, "id": name}, tags=tags, partner=partner["prompt"]))
    return documents


def read_original(where: str) -> list[dict[str, str]]:
    """The original DRIFTCHECK prompts of someone who has them.

    Args:
        where: a file, or a hub id (its split ``train``). Columns: `prompt`, and `label` (safe or unsafe) or `is_safe`.

    Returns:
        Rows with `id`, `prompt` and `half`, equal prompts once.

    Raises:
        DataError: it cannot be read, or a record has other columns or labels, or one half is empty.
    """
    records = read_file(Path(where)) if Path(where).exists() else read_hub(where, None, "train")
    rows: dict[str, dict[str, str]] = {}
    for number, record in enumerate(records, start=1):
        half = _half(record)
        prompt = record.get("prompt")
        if half is None or not isinstance(prompt, str) or not prompt.strip():
            raise DataError(
                f"{where}, record {number}: columns {', '.join(record)}; expected `prompt` (text) and `label` (safe or "
                "unsafe) or `is_safe` (true or false)"
            )
        row_id = content_id("driftcheck", prompt)
        rows.setdefault(row_id, {"id": row_id, "prompt": prompt, "half": half})
    halves = {row["half"] for row in rows.values()}
    if halves != {"safe", "unsafe"}:
        raise DataError(f"{where}: holds {', '.join(sorted(halves)) or 'no'} prompts; expected safe and unsafe ones")
    return list(rows.values())


def _half(record: Mapping[str, Any]) -> Half | None:
    label = str(record.get("label", "")).strip().casefold()
    marked = str(record.get("is_safe", "")).strip().casefold()
    if label == "safe" or (not label and marked in {"true", "1"}):
        return "safe"
    if label == "unsafe" or (not label and marked in {"false", "0"}):
        return "unsafe"
    return None
