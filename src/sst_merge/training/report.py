"""What a training says about itself: enough to repeat it, and to see how it went."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._version import __version__
from ..markup import markdown_text

__all__ = ["REPORT_NAME", "TrainingReport", "deciding_versions", "write_report"]

REPORT_NAME = "training_report.json"
_FORMAT = "sst_merge.training_report/1"


@dataclass(frozen=True)
class TrainingReport:
    """``training_report.json``. All but `seconds` repeats on the same machine with the same number of threads.

    Attributes:
        base: name and hashes of the base's files, or the commit of the hub's repository.
        role: ``utility`` or ``safety``, as a merge takes it; None where nobody said.
        sources: where rows came from → how many.
        recipe: every field.
        seed: of the initial A and of the order.
        dtype: type of the base in training.
        device: where it ran, such as ``cpu``.
        threads: of torch; the order of additions depends on it.
        rows: prompts with answers.
        rows_sha256: of them as text.
        cut: rows that lost the end of their answer, or the beginning of their prompt.
        parameters: numbers that were trained.
        steps: of the optimiser.
        tokens: of the rows of all steps, padding left out.
        computed_tokens: padding included, beginnings that rows share once.
        answer_tokens: that carried the loss.
        losses: mean loss per answer token, step by step, before each step.
        seconds: in steps; work that a killed run lost does not count.
        versions: of the packages that decide the numbers.
        files: written file → SHA-256.
    """

    base: Mapping[str, Any]
    role: str | None
    sources: Mapping[str, int]
    recipe: Mapping[str, Any]
    seed: int
    dtype: str
    device: str
    threads: int
    rows: int
    rows_sha256: str
    cut: int
    parameters: int
    steps: int
    tokens: int
    computed_tokens: int
    answer_tokens: int
    losses: tuple[float, ...]
    seconds: float
    versions: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of rows a second, padding left out."""
        return self.tokens / self.seconds


def deciding_versions() -> dict[str, str]:
    """Versions of what computes a training.

    Returns:
        Package → version.
    """
    import torch

    found = {name: version(name) for name in ("transformers", "peft", "accelerate", "tokenizers")}
    # With its build (+cu130), which the metadata of wheels leave out.
    return {"sst_merge": __version__, "torch": str(torch.__version__), **found}


def write_report(report: TrainingReport, folder: Path, base: str) -> None:
    """``training_report.json`` and a short README.md.

    Args:
        report: of a finished training.
        folder: of the adapter.
        base: as the adapter's configuration names it.
    """
    plain = {"format": _FORMAT, **asdict(report)}
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / REPORT_NAME).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_card(report, base), encoding="utf-8")


def _card(report: TrainingReport, base: str) -> str:
    # A folder of one machine is no model of the hub; its name tells enough.
    folder = Path(base).is_dir()
    name = report.base["name"] if folder else base
    # As JSON, which is YAML too, a name cannot be anything else than a name.
    known = "" if folder else f"base_model: {json.dumps(base)}\n"
    role = "" if report.role is None else f"{report.role} "
    sources = "".join(f"- {markdown_text(source)}: {count} rows\n" for source, count in report.sources.items())
    recipe = "".join(
        f"| {markdown_text(field)} | {markdown_text(str(value))} |\n" for field, value in report.recipe.items()
    )
    option = "" if report.role is None else f",role={report.role}"
    return f"""---
library_name: peft
{known}pipeline_tag: text-generation
tags: [lora, sst-merge]
---
# LoRA {role}adapter of {markdown_text(str(name))}

{_summary(report)}
{sources and chr(10) + sources}
| recipe | |
| --- | --- |
{recipe}
Merge it: `sst-merge merge --adapter path=THIS_FOLDER{option} --adapter ... --output merged`.
Hashes, losses and versions: `{REPORT_NAME}`.
"""


def _summary(report: TrainingReport) -> str:
    return (
        f"Trained by SST-Merge {report.versions['sst_merge']} on {report.rows} prompts with answers, "
        f"{report.steps} steps, seed {report.seed};\n"
        f"loss {report.losses[0]:.3f} in the first step, {report.final_loss:.3f} at the end."
    )
