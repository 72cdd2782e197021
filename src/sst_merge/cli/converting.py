"""Flags of commands that read single adapters: how one that is no LoRA is turned into one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..merging.config import MergeConfig

if TYPE_CHECKING:
    from ..lora_utils import Conversion

__all__ = ["conversion_from", "with_conversion"]

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def with_conversion(function: AnyFunction) -> AnyFunction:
    """``--convert-rank`` and ``--convert-lost``, with the words of a merge's configuration."""
    fields = MergeConfig.model_fields
    rank, lost = fields["convert_rank"], fields["convert_lost"]
    function = click.option(
        "--convert-lost",
        type=click.FloatRange(0.0, 1.0),
        default=lost.default,
        show_default=True,
        help=lost.description,
    )(function)
    return click.option("--convert-rank", type=click.IntRange(min=1), metavar="RANK", help=rank.description)(function)


def conversion_from(
    base: str | None, rank: int | None, lost: float, *, trust_remote_code: bool = False
) -> "Conversion":
    """The flags as the reader of adapters takes them.

    Args:
        base: folder or hub id of the base, or None.
        rank: of ``--convert-rank``.
        lost: of ``--convert-lost``.
        trust_remote_code: whether Python files of the base may run.
    """
    from ..data_loader import BaseAccess
    from ..lora_utils import Conversion

    return Conversion(base, rank, lost, BaseAccess(trust_remote_code=trust_remote_code))
