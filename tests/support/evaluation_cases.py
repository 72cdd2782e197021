"""What the tests of the evaluation share: a stand-in for MMLU in the lab's language, models, spoilt adapters."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sst_merge.evaluation import ModelSettings
from sst_merge.evaluation.hf import HuggingFaceModels
from sst_merge.evaluation.serving import ServedModel
from sst_merge.suites import Suite
from sst_merge.worlds.lab import load_lab

__all__ = ["CPU", "copy_adapter", "open_model", "stand_in"]

CPU = ModelSettings(device="cpu", batch_size=16)


def fact_options(*, samples: int | None = None, **_: Any) -> dict[str, Any]:
    """The lab's colour questions with four options: a stand-in for MMLU."""
    from datasets import Dataset

    asked = [s for s in load_lab(0).world.samples("fact", "test") if s.response.startswith("it is ")]
    colors = sorted({s.response.removeprefix("it is ") for s in asked})
    rows = []
    for i, s in enumerate(asked[:samples]):
        right = s.response.removeprefix("it is ")
        options = [right, *[c for c in colors if c != right][:3]]
        options = options[i % 4 :] + options[: i % 4]
        row = {"id": f"facts/{i}", "prompt": s.prompt, "prefill": "", "tags": json.dumps({"colour": right})}
        rows.append({**row, "options": options, "answer": options.index(right)})
    return {"test": Dataset.from_list(rows)}


def stand_in(**changes: Any) -> Suite:
    config = {
        "task": "sst_standin",
        "custom_dataset": fact_options,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **changes,
    }
    return Suite(
        name="standin", measure="utility", summary="", judged=False, score="correct", breakdown="colour",
        asking=config,
    )  # fmt: skip


def open_model(base: str, settings: ModelSettings = CPU) -> tuple[HuggingFaceModels, ServedModel]:
    models = HuggingFaceModels(base, settings)
    return models, ServedModel(models.lm, batch_size=models.batch_size, seed=settings.seed)


def copy_adapter(source: Path, target: Path, change: Any = None, **config: Any) -> Path:
    shutil.copytree(source, target)
    if change is not None:
        tensors = load_file(target / "adapter_model.safetensors")
        save_file(change(tensors), target / "adapter_model.safetensors", metadata={"format": "pt"})
    if config:
        settings = json.loads((target / "adapter_config.json").read_text())
        (target / "adapter_config.json").write_text(json.dumps(settings | config))
    return target
