"""Where calibration rows come from: a file or a data set of the Hugging Face hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import DataError

__all__ = ["DataSource", "Template"]

Template = Literal["auto", "chat", "plain"]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set, as a configuration names it.

    Attributes:
        path: file (.jsonl, .json, .csv, each also as .gz or .xz); exactly one of `path` and `dataset`.
        dataset: id of a data set on the hub, or a folder that ``datasets`` understands.
        subset: the data set's configuration (``main`` of GSM8K); only with `dataset`.
        split: split of `dataset`, ``train`` by default.
        where: keep only rows whose fields have these values, e.g. ``{is_safe: true}``.
        samples: rows to draw without replacement (after removing repeated prompts); all by default.
        prompt_field: name of the prompt's field where detection does not find it.
        response_field: name of the answer's field where detection does not find it.
        response: a fixed answer, or several of which each row draws one; overrides the data's own answers. For sets
            without refusals.
        template: ``chat`` (the tokenizer's chat template), ``plain`` (prompt, newline, answer), or ``auto``: chat
            where the tokenizer has a template.
        max_length: longest sequence in tokens.
    """

    path: str | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str | None = None
    where: Mapping[str, str | int | float | bool] | None = None
    samples: int | None = None
    prompt_field: str | None = None
    response_field: str | None = None
    response: str | tuple[str, ...] | None = None
    template: Template = "auto"
    max_length: int = 512

    def __post_init__(self) -> None:
        if (self.path is None) == (self.dataset is None):
            found = "both" if self.path is not None else "neither"
            raise DataError(f"data source: {found} of `path` and `dataset` given; give exactly one of them")
        if self.path is not None and (self.split is not None or self.subset is not None):
            raise DataError(
                f"data source {self.name}: `split` and `subset` belong to `dataset`; drop them, or choose rows of the "
                "file with `where`"
            )
        if self.samples is not None and self.samples < 1:
            raise DataError(f"data source {self.name}: samples = {self.samples}, expected at least 1")
        if self.max_length < 2:
            raise DataError(f"data source {self.name}: max_length = {self.max_length}, expected at least 2")
        if self.template not in {"auto", "chat", "plain"}:
            raise DataError(f"data source {self.name}: template = {self.template!r}, expected auto, chat or plain")
        if self.response is not None and not all(answer.strip() for answer in self.responses):
            raise DataError(f"data source {self.name}: `response` contains an empty answer; write the refusal out")
        if self.response is not None and not self.responses:
            raise DataError(f"data source {self.name}: `response` is an empty list; write at least one answer")

    @property
    def name(self) -> str:
        """How messages call this source: its path, or the id with subset and split."""
        if self.path is not None:
            return self.path
        subset = "" if self.subset is None else f"/{self.subset}"
        return f"{self.dataset}{subset}[{self.split or 'train'}]"

    @property
    def responses(self) -> tuple[str, ...]:
        """The fixed answers; empty where the data's own answers are used."""
        if self.response is None:
            return ()
        return (self.response,) if isinstance(self.response, str) else tuple(self.response)
