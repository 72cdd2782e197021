"""The README.md beside a merged adapter: what went in, how it was merged, how to load it."""

from collections.abc import Mapping
from typing import Any

from ..markup import markdown_code, markdown_text
from .records import INPUT_COLUMNS, base_name, checked_report, hub_id, input_rows, option_rows, output_rank
from .tables import cell_text, markdown_table

__all__ = ["model_card"]

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def model_card(report: Mapping[str, Any]) -> str:
    """A model card in the hub's format, made from the merge report alone.

    Args:
        report: contents of ``merge_report.json``; `paper`, `warnings`, `output` and `base_model` may be absent.
    """
    report = checked_report(report)
    base = report.get("base_model")
    method = str(report["method"])
    parts = [
        _front_matter(hub_id(base)),
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
        _usage(hub_id(base) or "BASE_MODEL", output_rank(report)),
        "## Versions\n",
        markdown_table(option_rows(report["versions"]), ("Package", "Version")),
        "Figures per module and SHA-256 of all files: `merge_report.json`.\n",
    ]
    return "\n".join(parts)


def _front_matter(base: str | None) -> str:
    import yaml

    fields: dict[str, Any] = {"library_name": "peft"}
    if base is not None:
        fields |= {"base_model": base, "base_model_relation": "adapter"}
    fields |= {"pipeline_tag": "text-generation", "tags": ["lora", "merge", "sst-merge"]}
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
    if output.get("files"):
        lines.append(markdown_table(sorted(output["files"].items()), ("File", "SHA-256")))
    return "\n".join(lines)


def _usage(base: str, rank: int) -> str:
    largest = next((allowed for allowed in _VLLM_RANKS if allowed >= rank), None)
    vllm = (
        f"""vLLM:

```bash
vllm serve {base} --enable-lora --max-lora-rank {largest} --lora-modules merged=PATH_TO_THIS_FOLDER
```
"""
        if largest is not None
        else f"vLLM takes ranks up to {_VLLM_RANKS[-1]}; merge again with `rank: {_VLLM_RANKS[-1]}` for it.\n"
    )
    return f"""PEFT:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "PATH_TO_THIS_FOLDER")
```

{vllm}"""
