"""A stand-in for MMLU in the lab's language, models, spoilt adapters, records of answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sst_merge.evaluation import ModelSettings
from sst_merge.evaluation.hf import HuggingFaceModels
from sst_merge.evaluation.serving import ServedModel
from sst_merge.suites import Suite
from sst_merge.worlds.lab import load_lab


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


@pytest.fixture(scope="session")
def stand_in() -> Callable[..., Suite]:
    """A suite of those questions; changes are of its configuration."""

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
            name="standin",
            measure="utility",
            summary="",
            judged=False,
            score="correct",
            breakdown="colour",
            asking=config,
        )

    return stand_in


@pytest.fixture(scope="session")
def open_model(cpu: ModelSettings) -> Callable[..., tuple[HuggingFaceModels, ServedModel]]:
    """A base, as what loads adapters onto it and as what answers."""

    def open_model(base: str, settings: ModelSettings = cpu) -> tuple[HuggingFaceModels, ServedModel]:
        models = HuggingFaceModels(base, settings)
        return models, ServedModel(models.lm, batch_size=models.batch_size, seed=settings.seed)

    return open_model


@pytest.fixture(scope="session")
def copy_adapter() -> Callable[..., Path]:
    """A copy whose tensors were changed, or whose configuration."""

    def copy_adapter(source: Path, target: Path, change: Any = None, **config: Any) -> Path:
        shutil.copytree(source, target)
        if change is not None:
            tensors = load_file(target / "adapter_model.safetensors")
            save_file(change(tensors), target / "adapter_model.safetensors", metadata={"format": "pt"})
        if config:
            settings = json.loads((target / "adapter_config.json").read_text())
            (target / "adapter_config.json").write_text(json.dumps(settings | config))
        return target

    return copy_adapter
