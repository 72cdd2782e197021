"""What a world's merge reads, as the files of an ordinary merge: so its command makes it again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data_loader import Batch, encode_rows, load_tokenizer
from ..data_loader.batch import IGNORED
from ..data_loader.rows import Row
from ..files import write_text
from ..worlds.merge_setup import MergeSetup
from ..worlds.world import ALIGNED, UNALIGNED, Artefact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["world_merge"]


def world_merge(setup: MergeSetup, folder: Path) -> tuple[dict[str, Any], bool]:
    """The merge section of a configuration, with calibration prompts written into a folder.

    Args:
        setup: the merge problem.
        folder: made where it is missing; files that are there are replaced.

    Returns:
        Plain values without method and output; and whether the data are in it, which they are where prompts can be
        written as texts that encode to exactly the same tokens.
    """
    problem = setup.problem
    base = setup.world.make(Artefact(setup.base)).absolute()
    merge: dict[str, Any] = {"base_model": str(base), "seed": problem.seed, "device": "cpu"}
    if setup.base == ALIGNED:
        merge |= {"base_model": str(setup.world.make(Artefact(UNALIGNED)).absolute()), "aligned_base_model": str(base)}
    tokenizer = load_tokenizer(str(base))
    files = {"harm": problem.harm, "benign": problem.benign, **problem.adapter_benign}
    rows = {name: _rows(batches, tokenizer) for name, batches in files.items()}
    whole = setup.base == UNALIGNED and all(found is not None for found in rows.values())
    adapters = []
    for adapter in problem.adapters:
        assert adapter.path is not None
        one: dict[str, Any] = {"name": adapter.name, "path": str(adapter.path.absolute()), "role": adapter.role}
        if whole and adapter.name in rows:
            one["data"] = {"path": _write(folder, adapter.name, rows[adapter.name] or ())}
        adapters.append(one)
    merge["adapters"] = adapters
    if whole:
        merge["data"] = {kind: {"path": _write(folder, kind, rows[kind] or ())} for kind in ("harm", "benign")}
        merge["data"]["batch_size"] = max(len(batch) for batch in problem.harm)
    return merge, whole


def _rows(batches: Sequence[Batch], tokenizer: "PreTrainedTokenizerBase") -> list[Row] | None:
    """Prompts and answers as text, or None where these would encode to other tokens."""
    rows, ids = [], []
    for batch in batches:
        for tokens, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            there, answer = mask.bool(), labels != IGNORED
            prompt = tokenizer.decode(tokens[there & ~answer], skip_special_tokens=True).strip()
            rows.append(Row(prompt, tokenizer.decode(tokens[answer], skip_special_tokens=True).strip()))
            ids.append(tokens[there].tolist())
    if not rows or any(not row.prompt or not row.response for row in rows):
        return None
    again = encode_rows(rows, tokenizer, batch_size=max(len(batch) for batch in batches))
    found = [
        t[m.bool()].tolist() for batch in again for t, m in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    return rows if found == ids and len({row.prompt for row in rows}) == len(rows) else None


def _write(folder: Path, name: str, rows: Sequence[Row]) -> str:
    path = folder.absolute() / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": row.prompt, "response": row.response}, ensure_ascii=False) for row in rows]
    write_text(path, "\n".join(lines) + "\n")
    return str(path)
