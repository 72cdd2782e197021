"""The README.md beside a merged adapter: what went in, how it was merged, how to load it."""

from collections.abc import Mapping
from typing import Any

from ..conversion import SERVED_RANKS, vllm_room
from ..markup import markdown_code, markdown_text
from .records import INPUT_COLUMNS, base_name, checked_report, hub_id, input_rows, option_rows, output_rank
from .tables import cell_text, markdown_table

__all__ = ["model_card"]

# PEFT's task type → class of transformers that loads such a base, tag of the hub, what its head is called.
_TASKS: Mapping[str, tuple[str, str, str]] = {
    "CAUSAL_LM": ("AutoModelForCausalLM", "text-generation", ""),
    "FEATURE_EXTRACTION": ("AutoModel", "feature-extraction", ""),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "question-answering", "qa_outputs"),
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "text2text-generation", ""),
    "SEQ_CLS": ("AutoModelForSequenceClassification", "text-classification", "classifier or score"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "token-classification", "classifier or score"),
}


def model_card(report: Mapping[str, Any]) -> str:
    """A model card in the hub's format, made from the merge report alone.

    Args:
        report: contents of ``merge_report.json``; `paper`, `warnings`, `output` and `base_model` may be absent.
    """
    report = checked_report(report)
    base = report.get("base_model")
    method = str(report["method"])
    parts = [
        _front_matter(hub_id(base), _tag(report)),
        f"# LoRA adapter merged with {markdown_code(method)}\n",
        f"{_plural(len(report['adapters']), 'LoRA adapter')} of {markdown_text(base_name(base))} merged into one by "
        f"SST-Merge {report['versions'].get('sst_merge', '')}".rstrip()
        + f", method {markdown_code(method)}{_paper(report)}.\n",
        *(f"> **Warning.** {markdown_text(warning)}\n" for warning in report.get("warnings", ())),
        "## Inputs\n",
        markdown_table(input_rows(report), INPUT_COLUMNS),
        "## Method\n",
        markdown_table([("method", method), *option_rows(report["options"]), *_settings(report)], ("Option", "Value")),
        "## Output\n",
        _output(report),
        "## Use\n",
        _usage(hub_id(base) or "BASE_MODEL", report),
        "## Versions\n",
        markdown_table(option_rows(report["versions"]), ("Package", "Version")),
        "Figures per module and SHA-256 of all files: `merge_report.json`.\n",
    ]
    return "\n".join(parts)


def _task(report: Mapping[str, Any]) -> str:
    """The output's task type; where it has none, the adapters' own says which model it belongs to."""
    named = [report.get("output", {}).get("task_type"), *(a.get("task_type") for a in report["adapters"])]
    return next((task for task in named if task in _TASKS), "CAUSAL_LM")


def _lacks_head(report: Mapping[str, Any]) -> bool:
    output = report.get("output", {})
    return "task_type" in output and output["task_type"] is None and bool(_TASKS[_task(report)][2])


def _tag(report: Mapping[str, Any]) -> str | None:
    return None if _lacks_head(report) else _TASKS[_task(report)][1]


def _front_matter(base: str | None, tag: str | None) -> str:
    import yaml

    fields: dict[str, Any] = {"library_name": "peft"}
    if base is not None:
        fields |= {"base_model": base, "base_model_relation": "adapter"}
    if tag is not None:
        fields["pipeline_tag"] = tag
    fields["tags"] = ["lora", "merge", "sst-merge"]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"


def _paper(report: Mapping[str, Any]) -> str:
    paper = report.get("paper")
    return f" ({markdown_text(str(paper))})" if paper else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _settings(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("seed", "rank", "energy", "compute_dtype")
    return [(name, cell_text(report[name])) for name in names if report.get(name) is not None]


def _output(report: Mapping[str, Any]) -> str:
    output = report.get("output", {})
    stored = f", {output['dtype']}" if "dtype" in output else ""
    lines = [
        f"{_plural(len(report['modules']), 'module')}, largest rank {output_rank(report)}{stored}. Every scale is in "
        "B; `lora_alpha` equals `r`.\n"
    ]
    whole = report.get("whole_weights") or {}
    if whole:
        origins = " and ".join(f"`{cell_text(name)}`" for name in dict.fromkeys(w["adapter"] for w in whole.values()))
        lines.append(
            f"{_plural(len(whole), 'whole weight')} beside them ({', '.join(f'`{name}`' for name in whole)}), of "
            f"{origins} as they are: no method merges them.\n"
        )
    if output.get("files"):
        lines.append(markdown_table(sorted(output["files"].items()), ("File", "SHA-256")))
    return "\n".join(lines)


def _usage(base: str, report: Mapping[str, Any]) -> str:
    model_class, tag, head = _TASKS[_task(report)]
    sections = [
        f"""PEFT:

```python
from peft import PeftModel
from transformers import {model_class}

base = {model_class}.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "PATH_TO_THIS_FOLDER")
```
"""
    ]
    if _lacks_head(report):
        sections.append(
            f"The task's head ({head}) is not in this folder, so `task_type` is null and the base brings its own: a "
            f"new one, which has to be trained.\n"
        )
    rows = [
        f"{weight['shape'][0]} rows ({name})"
        for name, weight in (report.get("whole_weights") or {}).items()
        if name.endswith(("embed_tokens.weight", "lm_head.weight"))
    ]
    if rows:
        sections.append(
            f"Whole embeddings are in this folder: {', '.join(rows)}. Where the base has another number, call "
            f"`base.resize_token_embeddings` first.\n"
        )
    if tag == "text-generation":
        sections.append(_vllm(base, output_rank(report), whole=bool(report.get("whole_weights"))))
    return "\n".join(sections)


def _vllm(base: str, rank: int, *, whole: bool) -> str:
    if whole:
        return "vLLM loads no whole weights: merge this adapter into its base for it.\n"
    largest = vllm_room(rank)
    if largest is None:
        return f"vLLM takes ranks up to {SERVED_RANKS[-1]}; merge again with `rank: {SERVED_RANKS[-1]}` for it.\n"
    return f"""vLLM:

```bash
vllm serve {base} --enable-lora --max-lora-rank {largest} --lora-modules merged=PATH_TO_THIS_FOLDER
```
"""
