"""A training before it runs: rows as tokens, steps in order, and what it will cost."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..data_loader import EncodedRow, Row, encode_each
from ..errors import DataError
from .order import ordered_steps
from .passes import Pass, cut_into_passes
from .recipe import TrainingRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TrainingPlan", "plan_training"]


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained on, step by step.

    Attributes:
        rows: prompts and answers as tokens.
        steps: indices of the rows of every step.
        parts: forward passes that a step is computed in at least.
        share: common beginnings of a pass are read once.
        sha256: of the rows as text.
    """

    rows: tuple[EncodedRow, ...]
    steps: tuple[tuple[int, ...], ...]
    parts: int
    share: bool
    sha256: str

    def passes(self, step: int, rows: Sequence[int] | None = None) -> tuple[Pass, ...]:
        """The forward passes of one step.

        Args:
            step: 0 … number of steps - 1.
            rows: those of the step that are computed here; all by default.

        Returns:
            Passes that hold these rows once; none where there are no rows.
        """
        rows = self.steps[step] if rows is None else rows
        return cut_into_passes(self.rows, rows, largest=-(-len(rows) // self.parts), share=self.share)

    @property
    def cut(self) -> int:
        """Rows that are longer than allowed and lose their end."""
        return sum(row.cut > 0 for row in self.rows)

    @property
    def tokens(self) -> int:
        """Tokens of all rows of all steps together, padding left out."""
        return sum(len(self.rows[i].ids) for step in self.steps for i in step)

    @property
    def answer_tokens(self) -> int:
        """Tokens that carry the loss, in all steps together."""
        return sum(len(self.rows[i].ids) - self.rows[i].asked for step in self.steps for i in step)

    @cached_property
    def computed_tokens(self) -> int:
        """Tokens that are computed in all steps together: padding included, shared beginnings once."""
        return sum(part.tokens for step in range(len(self.steps)) for part in self.passes(step))


def plan_training(
    rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", recipe: TrainingRecipe, *, seed: int
) -> TrainingPlan:
    """Tokenise rows and put them into steps; no model is needed.

    Args:
        rows: prompts and answers.
        tokenizer: of the base.
        recipe: how long sequences and steps may be.
        seed: of the order.

    Returns:
        The plan; the same for the same rows, tokenizer, recipe and seed.

    Raises:
        DataError: no rows, or a row without a prompt or an answer.
    """
    if not rows:
        raise DataError("no rows to train on; expected prompts with answers")
    encoded = tuple(
        encode_each(
            rows,
            tokenizer,
            template=recipe.template,
            template_name=recipe.template_name,
            max_length=recipe.max_length,
        )
    )
    for row, ids in zip(rows, encoded, strict=True):
        if ids.asked == 0:
            raise DataError(f"row with the answer {row.response[:60]!r}: its prompt has no tokens; remove the row")
    steps = ordered_steps(
        [len(row.ids) for row in encoded], epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed
    )
    text = "\n".join(json.dumps([row.prompt, row.response]) for row in rows)
    return TrainingPlan(
        rows=encoded,
        steps=steps,
        parts=recipe.accumulation,
        share=not recipe.gradient_checkpointing,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
