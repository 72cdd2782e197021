"""Rows of several sources, in the amounts that were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isclose

from ..data_loader import Row, load_rows, normalise_prompt
from ..errors import DataError
from .config import TrainingSource

__all__ = ["Mixture", "read_mixture"]


@dataclass(frozen=True)
class Mixture:
    """What is trained on.

    Attributes:
        rows: of all sources, one source after the other; a training shuffles them.
        counts: source → rows; files are called by as much of their path as tells them apart.
        shared: prompts that more than one source has.
    """

    rows: tuple[Row, ...]
    counts: Mapping[str, int]
    shared: int


def read_mixture(sources: Sequence[TrainingSource], *, seed: int) -> Mixture:
    """Read every source, and draw.

    Args:
        sources: what to read; those with a share give so many rows that the share holds in the end.
        seed: of the draws.

    Returns:
        The rows.

    Raises:
        DataError: a source cannot be read, has too few rows, or the shares leave no room for the others.
    """
    names = [source.name for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{twice}: given twice; name each source once, with the rows that it gives")
    read = [load_rows(source, seed=seed) for source in sources]
    wanted = _amounts(sources, [len(rows) for rows in read])
    for index, (source, count) in enumerate(zip(sources, wanted, strict=True)):
        if source.share is not None:
            if count > len(read[index]):
                raise DataError(
                    f"{source.name}: {len(read[index])} distinct prompts, but a share of {source.share:g} takes "
                    f"{count}; lower the share, add data, or draw fewer rows of the other sources"
                )
            drawn = TrainingSource(**source.model_dump(exclude_unset=True, exclude={"share"}), samples=count)
            read[index] = load_rows(drawn, seed=seed)
    prompts = [normalise_prompt(row.prompt) for rows in read for row in rows]
    return Mixture(
        tuple(row for rows in read for row in rows),
        dict(zip(_labels(sources), map(len, read), strict=True)),
        len(prompts) - len(set(prompts)),
    )


def _labels(sources: Sequence[TrainingSource]) -> list[str]:
    """Short names: where a file lies on one machine does not belong into a report."""
    labels = [source.name if source.path is None else source.path.name for source in sources]
    depth = 1
    while len(set(labels)) < len(labels):
        depth += 1
        labels = [s.name if s.path is None else "/".join(s.path.parts[-depth:]) for s in sources]
    return labels


def _amounts(sources: Sequence[TrainingSource], available: Sequence[int]) -> list[int]:
    """Rows of every source: n for those without a share, s · N with N = Σn / (1 − Σs) for the others.

    Raises:
        DataError: the shares leave nothing for the others, or do not add up to 1 where there are no others.
    """
    shares = sum(source.share or 0.0 for source in sources)
    plain = sum(count for source, count in zip(sources, available, strict=True) if source.share is None)
    if plain == 0:
        if not isclose(shares, 1.0, abs_tol=1e-6):
            raise DataError(
                f"data: the shares add up to {shares:g}; expected 1 where every source has a share, or one source "
                f"without a share that gives all its rows"
            )
        total = min(count / source.share for source, count in zip(sources, available, strict=True) if source.share)
    elif shares >= 1:
        raise DataError(f"data: the shares add up to {shares:g}, which leaves nothing for the source without a share")
    else:
        total = plain / (1 - shares)
    return [
        count if source.share is None else max(1, floor(source.share * total + 1e-9))
        for source, count in zip(sources, available, strict=True)
    ]
