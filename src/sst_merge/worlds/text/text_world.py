"""Any causal language model of the Hugging Face hub as a world of experiments."""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ...data_loader import encode_rows, load_base_model, resolve_device
from ...errors import DataError
from ...yaml_config import Section, load_yaml_config
from ..costs import Costs
from ..outcomes import GENERAL, Outcomes
from ..registry import world_kind
from ..world import Artefact, Split, rows_in_order
from .artefacts import TextArtefacts
from .base import base_source, source_digest
from .config import TextConfig, all_sources
from .costs import text_costs
from .limits import check_memory
from .measures import Encoder, text_answers, text_outcomes, text_refusals
from .pools import INSTRUCTION, PromptPools
from .rows import TextQuestion
from .tasks import check_first_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...data_loader import Batch, Row

__all__ = ["TextOptions", "TextWorld", "open_text"]


class TextOptions(Section):
    """Options of the world ``text``."""

    file: Path = Field(description="YAML file that says what the world is made of; relative to the current folder")


class TextWorld:
    """A language model with its data.

    Args:
        config: of the world.

    Raises:
        DataError: a file is missing or wrong, or parts share a prompt.
        BaseModelError: the package that holds the base, or the one that reads it, is not installed.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        base_source(config)
        self.pools = PromptPools(config)
        self.artefacts = TextArtefacts(config, self.pools)
        check_memory(config)

    @property
    def experts(self) -> Mapping[str, str]:
        """The tasks, and the poisoned expert where there is one."""
        return self.artefacts.experts

    def identity(self) -> Mapping[str, Any]:
        """Digests of model, tokenizer and template, of all data and recipes, and how models are asked."""
        return {
            "base": source_digest(self.config),
            "data": self.pools.digest(),
            "recipes": self.artefacts.digest(),
            "answering": self.config.answering.model_dump(mode="json", exclude={"batch_tokens"}),
            "dtype": self._dtype,
            "scoring": self.config.tasks.scoring,
        }

    def find(self, artefact: Artefact) -> Path | None:
        """As :meth:`.World.find`."""
        return self.artefacts.find(artefact)

    def make(self, artefact: Artefact) -> Path:
        """As :meth:`.World.make`."""
        self._check_options()
        return self.artefacts.make(artefact)

    def model(self, base: str) -> "PreTrainedModel":
        """As :meth:`.World.model`."""
        self._check_options()
        folder = self.artefacts.make(Artefact(base))
        return load_base_model(str(folder), dtype=self._dtype, device=resolve_device(self.config.base.device))

    def calibration(self, asked: Mapping[str, int], *, seed: int) -> "list[Batch]":
        """As :meth:`.World.calibration`; general rows are ordinary instructions, for options teach a model nothing."""

        def pool(kind: str, n: int) -> "list[Row]":
            return self.pools.rows(INSTRUCTION if kind == GENERAL else kind, "calibration", seed=seed, n=n)

        how = self.config.answering
        return encode_rows(
            rows_in_order(asked, pool),
            self._tokenizer,
            max_length=how.calibration_length,
            batch_size=how.calibration_batch,
        )

    def questions(self, kind: str, n: int, *, split: Split, seed: int = 0) -> list[TextQuestion]:
        """As :meth:`.World.questions`; further kinds are ``ordinary`` and ``instruction``.

        Raises:
            DataError: too few prompts.
        """
        found = self.pools.draw(kind, split, seed=seed, n=n)
        if len(found) < n:
            raise DataError(
                f"{self.config.title}: {n} {split} prompts of kind {kind!r} asked for, there are {len(found)}; ask for "
                "fewer, or add a source"
            )
        return found

    def outcomes(
        self, model: "PreTrainedModel", questions: Sequence[TextQuestion], *, right_only: bool = False
    ) -> Outcomes:
        """As :meth:`.World.outcomes`; see :func:`.text_outcomes`."""
        return text_outcomes(model, self._encoder, self.config, questions, right_only=right_only)

    def refuses(self, model: "PreTrainedModel", batches: "Sequence[Batch]") -> list[bool]:
        """As :meth:`.TellsRefusals.refuses`; see :func:`.text_refusals`."""
        return text_refusals(model, self._encoder, self.config, batches)

    def costs(self) -> Costs | None:
        """As :meth:`.TellsCosts.costs`; see :func:`.text_costs`."""
        return text_costs(self.config, self.pools, self.artefacts)

    def answers(self, model: "PreTrainedModel", questions: Sequence[TextQuestion]) -> list[str]:
        """What a model says, for people to read; see :func:`.text_answers`."""
        return text_answers(model, self._encoder, self.config, questions)

    @cached_property
    def _dtype(self) -> str:
        """The type to compute in; bfloat16 where a processor only emulates it takes six times as long."""
        from ...training.train import training_dtype

        return training_dtype(self.config.base.dtype, resolve_device(self.config.base.device))

    @property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        return self.artefacts.tokenizer

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._tokenizer, self.config.answering)

    def _check_options(self) -> None:
        if self.config.tasks.scoring == "first":
            check_first_tokens(list(self.pools.tasks.values()), self._tokenizer)


@world_kind(
    name="text",
    summary="A language model that was not made for this: tasks by options and by words, refusals judged by rules.",
    options=TextOptions,
)
def open_text(options: TextOptions) -> TextWorld:
    """A world from its file; bases and adapters are made when they are first asked for.

    Configurations are checked against the world several times a run, so the last worlds are kept while nothing in
    their data folder has changed.
    """
    config = load_yaml_config(TextConfig, options.file)
    files = [source.path for source in all_sources(config) if source.path is not None]
    places = [config.place(path) for path in files] + sorted(config.place(config.tasks.folder).glob("*.json*"))
    times = [(str(path), path.stat().st_mtime_ns) for path in places if path.is_file()]
    return _opened(options.file, tuple(times), config.model_dump_json())


@lru_cache(maxsize=4)
def _opened(file: Path, _times: tuple[tuple[str, int], ...], _config: str) -> TextWorld:
    return TextWorld(load_yaml_config(TextConfig, file))
