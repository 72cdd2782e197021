"""Where calibration rows come from: a file or a data set of the Hugging Face hub, as a configuration names it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from ..errors import DataError
from ..yaml_config import FilePath, Section, faults

__all__ = ["DataSource", "Template"]

Template = Literal["auto", "chat", "plain"]


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Turns = Literal["first", "all"]
Answers = Annotated[tuple[str, ...], BeforeValidator(_one_or_several)]


class DataSource(Section):
    """One data set: a section of a configuration, or made in Python.

    Attributes:
        path: file (.jsonl, .json, .csv, each also as .gz or .xz; .parquet); exactly one of `path` and `dataset`.
        dataset: id of a data set on the hub, or a folder that ``datasets`` understands.
        subset: the data set's configuration (``main`` of GSM8K); only with `dataset`.
        split: split of `dataset`, ``train`` by default.
        revision: commit, tag or branch of `dataset`; its newest state by default.
        where: keep only rows whose fields have these values, e.g. ``{is_safe: true}``.
        samples: rows to draw without replacement (after removing repeated prompts); all by default.
        prompt_field: name of the prompt's field where detection does not find it.
        response_field: name of the answer's field where detection does not find it.
        response: a fixed answer, or several of which each row draws one; overrides the data's own answers. For sets
            without refusals.
        turns: what is read of a conversation. ``first``: its first question and answer, with system messages as text
            before the question. ``all``: every answer is a row, and what was said before it, system messages too, are
            messages of the chat template.
        max_unusable: share of the records that may give no prompt and answer; a few (three) may in any case.
        template: ``chat`` (the tokenizer's chat template), ``plain`` (prompt, newline, answer), or ``auto``: chat
            where the tokenizer has a template.
        template_name: which of the tokenizer's chat templates, where it has several.
        max_length: longest sequence in tokens.

    Raises:
        DataError: made in Python with a field that is unknown or out of range, or with fields that exclude each other.
            (A wrong section of a configuration is a fault of the configuration, told with file and field.)

    Example:
        >>> from sst_merge import DataSource
        >>> refusals = DataSource(path="refusals.jsonl", samples=256, response="I cannot help with that.")
        >>> refusals.name, refusals.response
        ('refusals.jsonl', ('I cannot help with that.',))
        >>> DataSource(dataset="openai/gsm8k", subset="main").name
        'openai/gsm8k/main[train]'
        >>> DataSource(path="refusals.jsonl", samples=0)
        Traceback (most recent call last):
            ...
        sst_merge.errors.DataError: data source refusals.jsonl: samples: Input should be greater than ... (found 0)
    """

    path: FilePath | None = Field(
        default=None, description="file: .jsonl, .json or .csv, also with .gz or .xz; .parquet"
    )
    dataset: str | None = Field(
        default=None, description="id of a data set on the hub (user/set[@revision][/folder]), instead of path"
    )
    subset: str | None = Field(default=None, description="the hub data set's configuration")
    split: str | None = Field(default=None, description="split of the hub data set")
    revision: str | None = Field(default=None, description="commit, tag or branch of the hub data set")
    where: Mapping[str, str | int | float | bool] | None = Field(
        default=None, description="keep only rows with these values, as YAML: '{is_safe: true}'"
    )
    samples: int | None = Field(default=None, ge=1, description="rows to draw; all by default")
    prompt_field: str | None = Field(default=None, description="name of the prompt's field")
    response_field: str | None = Field(default=None, description="name of the answer's field")
    response: Answers | None = Field(default=None, description="a fixed answer, or several to draw from")
    turns: Turns = Field(default="first", description="what is read of a conversation")
    max_unusable: float = Field(default=0.1, ge=0, le=1, description="share of the records that may be unusable")
    template: Template = Field(default="auto", description="how prompt and answer become one text")
    template_name: str | None = Field(default=None, description="which of the tokenizer's chat templates")
    max_length: int = Field(default=512, ge=2, le=1_000_000, description="longest sequence in tokens")

    if not TYPE_CHECKING:  # type checkers know the fields from the class

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                named = values.get("path") or values.get("dataset")
                source = "data source" if named is None else f"data source {named}"
                raise DataError("\n".join(faults(type(self), error, source=source))) from error

        # Inside a configuration pydantic fills the fields itself, so that a fault has its place in the file.
        __init__.__pydantic_base_init__ = True

    @field_validator("response")
    @classmethod
    def _no_empty_answer(cls, response: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if response is not None and not response:
            raise ValueError("an empty list; write at least one answer")
        if response is not None and not all(answer.strip() for answer in response):
            raise ValueError("contains an empty answer; write the refusal out")
        return response

    @model_validator(mode="after")
    def _one_place(self) -> "DataSource":
        if (self.path is None) == (self.dataset is None):
            found = "both" if self.path is not None else "neither"
            raise ValueError(f"{found} of `path` and `dataset` given; give exactly one of them")
        if self.path is not None and (self.split, self.subset, self.revision) != (None, None, None):
            raise ValueError(
                "`split`, `subset` and `revision` belong to `dataset`; drop them, or choose rows of the file with "
                "`where`"
            )
        return self

    @property
    def name(self) -> str:
        """How messages call this source: its path, or the id with subset and split."""
        if self.path is not None:
            return str(self.path)
        subset = "" if self.subset is None else f"/{self.subset}"
        return f"{self.dataset}{subset}[{self.split or 'train'}]"
