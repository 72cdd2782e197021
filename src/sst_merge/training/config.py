"""The one configuration of a training: a YAML file, flags, or both, checked field by field before anything is read."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from ..data_loader import BaseAccessFields, DataSource
from ..yaml_config import ModelReference, OutputPath, Seed
from .recipe import TrainingRecipe

__all__ = ["TrainConfig", "TrainingSource"]

_AMOUNT = re.compile(r"(?P<place>.+):(?P<amount>\d+(\.\d+)?|\.\d+)")
_OF_THE_RECIPE = ("template", "template_name", "max_length")


class TrainingSource(DataSource):
    """A part of the rows; ``FILE``, ``FILE:350`` (samples) and ``FILE:0.33`` (share) are read as well.

    Attributes:
        share: part that this source is of all rows in the end; it gives as many rows as that takes.
    """

    share: float | None = Field(default=None, gt=0, le=1, description="part that this source is of all rows")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        found = _AMOUNT.fullmatch(value)
        # A file whose own name ends like an amount is taken as it is.
        if found is None or (Path((info.context or {}).get("folder", Path())) / Path(value).expanduser()).exists():
            return {"path": value}
        amount = found["amount"]
        return {"path": found["place"], **({"share": amount} if "." in amount else {"samples": amount})}

    @model_validator(mode="after")
    def _one_amount(self) -> "TrainingSource":
        if self.share is not None and self.samples is not None:
            raise ValueError("both `share` and `samples` given; give one of them")
        for field in _OF_THE_RECIPE:
            if field in self.model_fields_set:
                raise ValueError(f"`{field}` is one for all rows of a training; set it as `recipe.{field}`")
        return self


class TrainConfig(BaseAccessFields):
    """A whole training."""

    base: ModelReference = Field(description="base model: folder or hub id", json_schema_extra={"metavar": "FOLDER|ID"})
    data: tuple[TrainingSource, ...] = Field(
        min_length=1,
        description="prompts and answers: a file, with the number of rows to draw or the share of all rows behind a "
        "colon; repeatable",
        json_schema_extra={"flag": "--data", "metavar": "FILE[:ROWS|:SHARE]"},
    )
    role: Literal["utility", "safety"] = Field(default="utility", description="what the adapter brings to a merge")
    output: OutputPath = Field(description="folder to make", json_schema_extra={"also": ["-o"]})
    recipe: TrainingRecipe = TrainingRecipe()
    seed: Seed = Field(default=0, description="of the initial weights, of draws and of the order of rows")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    checkpoint_minutes: float = Field(
        default=5.0, ge=0, description="time between two checkpoints, from which a killed run goes on"
    )
    force: bool = Field(default=False, description="replace an existing output")

    @model_validator(mode="after")
    def _output_apart(self) -> "TrainConfig":
        base, target = Path(self.base), self.output.resolve()
        if base.is_dir() and (target.is_relative_to(base.resolve()) or base.resolve().is_relative_to(target)):
            raise ValueError(f"output: {target} and the base {base} share a folder; choose another output")
        return self
