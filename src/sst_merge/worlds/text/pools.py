"""Every prompt of a text world, by kind and part; no prompt is in two parts, whatever file or kind it comes from."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace

from ...data_loader import Row, normalise_prompt
from ...errors import DataError
from ..outcomes import GENERAL, HARM, LOOKALIKE, task_kind
from .config import SPLITS, Part, Source, TextConfig
from .rows import PLACEHOLDER, Asked, TextQuestion, read_prompts, read_templates
from .tasks import TaskKind, read_task_kinds, read_task_rows

__all__ = ["INSTRUCTION", "ORDINARY", "PromptPools"]

ORDINARY = "ordinary"
"""Ordinary prompts, which nobody should refuse."""

INSTRUCTION = "instruction"
"""The same prompts with good answers, of which the likelihood is measured."""

_HARMFUL, _JAILBREAK = HARM


class PromptPools:
    """All prompts, read once.

    Args:
        config: names the sources.

    Raises:
        DataError: a source cannot be read, or two parts share a prompt.
    """

    def __init__(self, config: TextConfig) -> None:
        self.tasks: dict[str, TaskKind] = read_task_kinds(config)
        self._claimed: dict[str, tuple[Part, str]] = {}
        self._pools: dict[tuple[str, Part], list[TextQuestion]] = {}
        # Later parts first: what they hold may be left out of earlier ones, never the other way round.
        for part in reversed(SPLITS):
            for task in self.tasks.values():
                self._add(task_kind(task.name), part, read_task_rows(task, part), drop=False)
            for kind, splits, asked in (
                (_HARMFUL, config.harmful, "refusal"),
                (LOOKALIKE, config.lookalike, "refusal"),
                (INSTRUCTION, config.instructions, "likelihood"),
                (GENERAL, config.general, "choice"),
            ):
                self._read(config, kind, part, getattr(splits, part), asked)  # type: ignore[arg-type]
        if config.roles.poisoned is not None:
            self._read(config, "poison", "train", config.roles.poisoned.rows, "likelihood")
        self.templates = read_templates(config)

    def kinds(self, part: Part) -> list[str]:
        """Kinds of prompts that can be asked for.

        Args:
            part: of the data.

        Returns:
            Their names.
        """
        own = [kind for kind, of in self._pools if of == part and kind != "poison"]
        wrapped = [_JAILBREAK] if part in self.templates else []
        return [*own, *wrapped, *([ORDINARY] if part in {"dev", "test"} else [])]

    def draw(self, kind: str, part: Part, *, seed: int, n: int | None = None) -> list[TextQuestion]:
        """Prompts in an order that the seed decides; fewer are the beginning of more.

        Args:
            kind: of prompt.
            part: of the data.
            seed: of the order.
            n: at most so many; all by default.

        Returns:
            The prompts.

        Raises:
            DataError: no prompts of that kind in that part.
        """
        if kind != "poison" and kind not in self.kinds(part):
            raise DataError(f"no {part} prompts of kind {kind!r}; there are {', '.join(self.kinds(part))}")
        if kind == _JAILBREAK:
            return self._in_templates(part, part, seed)[:n]
        found = list(self._pools[INSTRUCTION if kind == ORDINARY else kind, part])
        random.Random(f"{kind}/{part}/{seed}").shuffle(found)
        if kind == ORDINARY:
            found = [replace(question, kind=ORDINARY, asked="refusal") for question in found]
        return found[:n]

    def rows(self, kind: str, part: Part, *, seed: int, n: int | None = None) -> list[Row]:
        """Prompts with answers to learn from, as :meth:`draw`.

        Args:
            kind: of prompt.
            part: ``train`` or ``calibration``.
            seed: of the order.
            n: at most so many; all by default.

        Returns:
            Prompts and answers; those of harmful prompts are refusals.

        Raises:
            DataError: a prompt without an answer.
        """
        found = self.draw(kind, part, seed=seed, n=n)
        bare = next((question for question in found if not question.response), None)
        if bare is not None:
            raise DataError(
                f"{bare.origin}: a {part} prompt of kind {kind!r} has no answer to learn; set `response` of the source"
            )
        return [Row(question.prompt, question.response) for question in found]

    def wrapped_for_training(self, *, seed: int, n: int) -> list[Row]:
        """Refusals of training's harmful prompts in calibration's templates; test has other families.

        Args:
            seed: of the pairing.
            n: how many, as far as there are.

        Returns:
            Prompts and refusals.
        """
        return [Row(q.prompt, q.response) for q in self._in_templates("train", "calibration", seed)[:n]]

    def digest(self) -> str:
        """Sixteen hexadecimal digits of every prompt, answer, option, part and template."""
        digest = hashlib.sha256()
        for (kind, part), questions in sorted(self._pools.items()):
            for q in questions:
                digest.update(json.dumps([kind, part, q.prompt, q.response, q.options]).encode())
        wrappers = {part: [t.text for t in found] for part, found in sorted(self.templates.items())}
        digest.update(json.dumps(wrappers).encode())
        return digest.hexdigest()[:16]

    def _in_templates(self, part: Part, wrappers_of: Part, seed: int) -> list[TextQuestion]:
        """Harmful prompts, each in one template; all templates are used about equally often."""
        requests, wrappers = list(self._pools[_HARMFUL, part]), list(self.templates[wrappers_of])
        rng = random.Random(f"{_JAILBREAK}/{part}/{seed}")
        rng.shuffle(requests)
        rng.shuffle(wrappers)
        return [
            replace(q, kind=_JAILBREAK, prompt=wrappers[k % len(wrappers)].text.replace(PLACEHOLDER, q.prompt))
            for k, q in enumerate(requests)
        ]

    def _read(self, config: TextConfig, kind: str, part: Part, sources: Sequence[Source], asked: Asked) -> None:
        for source in sources:
            self._add(kind, part, read_prompts(config, source, kind, asked), drop=source.drop_overlap)

    def _add(self, kind: str, part: Part, questions: Sequence[TextQuestion], *, drop: bool) -> None:
        pool = self._pools.setdefault((kind, part), [])
        own = {normalise_prompt(question.prompt) for question in pool}
        for question in questions:
            key = normalise_prompt(question.prompt)
            claimed = self._claimed.setdefault(key, (part, question.origin))
            if claimed[0] != part:
                if drop:
                    continue
                raise DataError(_overlap(question, part, claimed))
            if key not in own:
                own.add(key)
                pool.append(question)
        if not pool:
            raise DataError(f"{kind}, {part}: every prompt is in a later part too; use other sources or spans")


def _overlap(question: TextQuestion, part: Part, claimed: tuple[Part, str]) -> str:
    return (
        f"{question.origin} ({part}) and {claimed[1]} ({claimed[0]}) share the prompt {question.prompt[:80]!r}; parts "
        "must be disjoint: remove it from one file, give the sources different spans, or set drop_overlap on the one "
        f"for {part}"
    )
