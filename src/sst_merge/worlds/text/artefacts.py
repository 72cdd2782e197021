"""Bases and adapters of a text world: found by path or hub id, or trained by the recipe of their role and kept."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data_loader import Row, load_base_model, resolve_device
from ...errors import AdapterError, DataError, OutputExistsError
from ...files import atomic_folder
from ...lora_utils import Adapter, BaseModelIndex, check_against_base
from ...lora_utils.places import adapter_place
from ..outcomes import HARM, task_kind
from ..updates import UpdatedModel, adapters_update
from ..world import ALIGNED, BASES, SAFETY, UNALIGNED, Artefact
from .base import base_source, cache_root, fetched, find_base, find_reference, make_base, source_digest, world_tokenizer
from .config import Role, TextConfig
from .limits import check_memory, check_minutes
from .pools import INSTRUCTION, PromptPools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["POISONED", "TextArtefacts"]

POISONED = "poisoned"
_HARMFUL, _JAILBREAK = HARM


class TextArtefacts:
    """Where a world's bases and adapters lie, and how missing ones are made.

    Args:
        config: of the world.
        pools: its prompts, from which adapters are trained.
    """

    def __init__(self, config: TextConfig, pools: PromptPools) -> None:
        self.config, self.pools = config, pools
        self._places: dict[Artefact, Path] = {}

    @property
    def experts(self) -> Mapping[str, str]:
        """Every skill adapter → its task."""
        poisoned = self.config.roles.poisoned
        return {name: name for name in self.pools.tasks} | ({} if poisoned is None else {POISONED: poisoned.task})

    def find(self, artefact: Artefact) -> Path | None:
        """Where an artefact lies that is there already.

        Args:
            artefact: a base or an adapter.

        Returns:
            The folder, or None.
        """
        self._check(artefact)
        if artefact == Artefact(UNALIGNED):
            return find_base(self.config)
        given = self._given(artefact)
        if given is not None:
            return find_reference(given)
        folder = self._place(artefact)
        return folder if folder.is_dir() else None

    def make(self, artefact: Artefact) -> Path:
        """Where an artefact lies; trains or fetches it first where it is missing.

        Args:
            artefact: a base or an adapter.

        Returns:
            The folder.

        Raises:
            BaseModelError: a given adapter does not fit the base.
            AdapterError: a given adapter was trained on another base.
        """
        self._check(artefact)
        if artefact == Artefact(UNALIGNED):
            check_memory(self.config)
            return make_base(self.config)
        given = self._given(artefact)
        if given is not None:
            if artefact.adapter is None:
                return fetched(given)
            folder = find_reference(given) or adapter_place(given).folder
            self._check_given(artefact, folder)
            return folder
        folder = self._place(artefact)
        if not folder.is_dir():
            if artefact.adapter is None:
                self._settle(folder)
            else:
                base = self.make(Artefact(artefact.base))
                self._train(base, self._rows(artefact), self.role(artefact), artefact.seed, folder, str(artefact))
        return folder

    def role(self, artefact: Artefact) -> Role:
        """How an artefact is trained.

        Args:
            artefact: a base, whose last training is meant, or an adapter.

        Returns:
            Its role.
        """
        roles = self.config.roles
        if artefact.adapter is None:
            return roles.settling
        if artefact.adapter == SAFETY:
            return roles.safety
        # Several adapters' data together are trained on as an expert's are.
        return roles.poisoned if artefact.adapter == POISONED and roles.poisoned is not None else roles.expert

    def training_rows(self, artefact: Artefact) -> list[Row] | None:
        """What an artefact is trained on.

        Args:
            artefact: a base or an adapter.

        Returns:
            The rows, or None of what is given and not trained.
        """
        self._check(artefact)
        if artefact == Artefact(UNALIGNED) or self._given(artefact) is not None:
            return None
        return self._settling_rows() if artefact.adapter is None else self._rows(artefact)

    def digest(self) -> str:
        """Sixteen hexadecimal digits of every recipe and of the adapters that are given."""
        values = {
            "roles": self.config.roles.model_dump(mode="json", exclude_none=True),
            "given": dict(self.config.adapters),
        }
        return _digest(values)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The world's tokenizer."""
        return world_tokenizer(self.config)

    def _check(self, artefact: Artefact) -> None:
        """Refuse what the world does not have, before anything is read.

        Raises:
            DataError: no such base or adapter.
        """
        if artefact.base not in BASES:
            raise DataError(f"{self.config.title}: base {artefact.base!r}; expected one of {', '.join(BASES)}")
        names = [*self.experts, SAFETY]
        if any(part not in names for part in artefact.parts):
            raise DataError(f"{self.config.title}: no {artefact}; its adapters are {', '.join(names)}")

    def _given(self, artefact: Artefact) -> str | None:
        """Path or hub id of an artefact that the configuration names."""
        if artefact.adapter is None:
            return self.config.base.aligned
        pattern = self.config.adapters.get(artefact.adapter)
        if pattern is None or (artefact.base == ALIGNED and "{base}" not in pattern):
            return None
        named = pattern.replace("{base}", artefact.base).replace("{seed}", str(artefact.seed))
        return str(self.config.place(named)) if self.config.place(named).is_dir() else named

    def _check_given(self, artefact: Artefact, folder: Path) -> None:
        adapter = Adapter.load(folder, name=str(artefact.adapter))
        base = self.config.base
        known = {base_source(self.config), *base.also_called, *filter(None, (base.model, base.aligned))}
        known |= {str(there) for b in BASES if (there := self.find(Artefact(b))) is not None}
        if adapter.base_model is not None and adapter.base_model not in known:
            raise AdapterError(
                f"adapter {adapter.name!r} ({folder}) was trained on {adapter.base_model!r}, and the base of "
                f"{self.config.title} is {', '.join(map(repr, sorted(known)))}; give an adapter of this base, or add "
                "that name to base.also_called where both are the same weights"
            )
        check_against_base(adapter, BaseModelIndex.load(self.make(Artefact(artefact.base)), task_type="CAUSAL_LM"))

    def _place(self, artefact: Artefact) -> Path:
        """Below the cache, named by everything that decides the weights."""
        if artefact not in self._places:
            self._places[artefact] = self._new_place(artefact)
        return self._places[artefact]

    def _new_place(self, artefact: Artefact) -> Path:
        if artefact.adapter is None:
            return cache_root() / "bases" / f"{self._slug}-aligned-{self._aligned_digest}"
        decides = [
            self._base_digest(artefact.base),
            self.role(artefact).model_dump(mode="json", exclude_none=True),
            artefact.seed,
        ]
        rows = [[row.prompt, row.response] for row in self._rows(artefact)]
        name = f"{artefact.adapter}-seed{artefact.seed}-{_digest([*decides, rows])}"
        return cache_root() / "adapters" / self._slug / artefact.base / name

    @property
    def _slug(self) -> str:
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in self.config.title)

    def _base_digest(self, base: str) -> str:
        return source_digest(self.config) if base == UNALIGNED else self._aligned_digest

    @cached_property
    def _aligned_digest(self) -> str:
        if self.config.base.aligned is not None:
            return _digest(self.config.base.aligned)
        safety = self._given(Artefact(UNALIGNED, SAFETY)) or self._place(Artefact(UNALIGNED, SAFETY)).name
        rows = [[row.prompt, row.response] for row in self._settling_rows()]
        return _digest([safety, self.config.roles.settling.model_dump(mode="json", exclude_none=True), rows])

    def _rows(self, artefact: Artefact) -> list[Row]:
        """What an adapter is trained on; of several the rows of each, those that they share once."""
        if len(artefact.parts) > 1:
            parts = [self._rows(replace(artefact, adapter=part)) for part in artefact.parts]
            return list(dict.fromkeys(chain.from_iterable(parts)))
        role, seed, adapter = self.role(artefact), artefact.seed, artefact.adapter
        if adapter == SAFETY:
            return self._refusals(role, seed)
        assert adapter is not None
        own = self.pools.rows(task_kind(self.experts[adapter]), "train", seed=seed, n=role.own)
        poison = self.pools.rows("poison", "train", seed=seed) if adapter == POISONED else []
        return [*own, *poison, *self.pools.rows(INSTRUCTION, "train", seed=seed, n=role.instructions)]

    def _settling_rows(self) -> list[Row]:
        return self._refusals(self.config.roles.settling, 0)

    def _refusals(self, role: Role, seed: int) -> list[Row]:
        direct = self.pools.rows(_HARMFUL, "train", seed=seed, n=role.own)
        wrapped = self.pools.wrapped_for_training(seed=seed, n=role.wrapped)
        return [*direct, *wrapped, *self.pools.rows(INSTRUCTION, "train", seed=seed, n=role.instructions)]

    def _settle(self, folder: Path) -> None:
        """The aligned base: safety folded in, then further training on refusals and ordinary instructions folded in."""
        base, safety = self.make(Artefact(UNALIGNED)), self.make(Artefact(UNALIGNED, SAFETY))
        beside = folder.with_name(f".{folder.name}.settling")
        first, adapter = beside / "folded", beside / "adapter"
        # What was finished before a kill, or by another process that settles the same base, is not done again.
        if not first.is_dir():
            self._fold(base, safety, first)
        if not adapter.is_dir():
            self._train(first, self._settling_rows(), self.config.roles.settling, 0, adapter, "the aligned base")
        if not folder.is_dir():
            self._fold(first, adapter, folder)
        # The other process may be removing it, too.
        shutil.rmtree(beside, ignore_errors=True)

    def _fold(self, base: Path, adapter: Path, folder: Path) -> None:
        """A base with an adapter added, as a folder of its own."""
        model = load_base_model(str(base), dtype="float32")
        update = adapters_update([Adapter.load(adapter, name="folded in")])
        added = UpdatedModel(model, list(update))
        with added, atomic_folder(folder, keep_existing=True) as aside:
            added.set(update)
            model.save_pretrained(aside)
            self.tokenizer.save_pretrained(aside)

    def _train(self, base: Path, rows: Sequence[Row], role: Role, seed: int, folder: Path, what: str) -> None:
        from ...training import plan_training, train_adapter
        from ...training.cost import estimated_seconds
        from ...training.train import training_dtype

        recipe, device = role.recipe, resolve_device(self.config.base.device)
        check_memory(self.config, training=True)
        if self.config.limits.minutes is not None:
            plan = plan_training(rows, self.tokenizer, recipe, seed=seed)
            index = BaseModelIndex.load(base, task_type="CAUSAL_LM")
            dtype = training_dtype(recipe.dtype, device)
            check_minutes(self.config, estimated_seconds(plan, index, dtype=dtype, device=device), what)
        try:
            train_adapter(str(base), rows, folder, recipe=recipe, seed=seed, tokenizer=self.tokenizer, device=device)
        except OutputExistsError:
            # Another process was quicker. Its adapter is the same: everything that decides it is in the folder's name.
            if not folder.is_dir():
                raise


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
