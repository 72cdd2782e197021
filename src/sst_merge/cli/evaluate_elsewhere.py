"""An evaluation's models, each answered by whichever process or machine is free; the answers meet in one folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.config import EvaluationConfig
from ..executors import share_out, workers_of
from ..hub_names import is_here

if TYPE_CHECKING:
    from ..evaluation.answering import Answerers

__all__ = ["Piece", "absolute_suite", "answer", "asker"]


@dataclass(frozen=True)
class Piece:
    """One model of an evaluation.

    Attributes:
        evaluation: the whole configuration as JSON, with absolute paths.
        base: folder or hub id of the base.
        world: that the base belongs to, or None.
        world_seed: of that world.
        adapters: name → folder of all that are evaluated.
        prompts: that merges were calibrated on, and that are left out.
        cache: folder of answers.
        model: the one that answers.
    """

    evaluation: str
    base: str
    world: str | None
    world_seed: int
    adapters: tuple[tuple[str, str], ...]
    prompts: tuple[str, ...]
    cache: str
    model: str


def answer(piece: Piece) -> int:
    """Let one model answer.

    Args:
        piece: which model, and what it is asked.

    Returns:
        Answers that are new.
    """
    config = EvaluationConfig.model_validate_json(piece.evaluation)
    given = (piece.evaluation, piece.base, piece.world, piece.world_seed, piece.adapters, piece.prompts)
    answerers = _opened(*given)
    return answerers.answer_as(piece.model, Path(piece.cache), allow_code=config.allow_code)


def asker(
    config: EvaluationConfig,
    base: str,
    world: str | None,
    world_seed: int,
    prompts: tuple[str, ...],
    *,
    count: int,
    scheduler: str | None,
) -> Callable[[Mapping[str, Path], Path], None]:
    """What an evaluation is given to have its models answer elsewhere.

    Args:
        config: of the evaluation.
        base: folder or hub id of the base.
        world: that the base belongs to, or None.
        world_seed: of that world.
        prompts: that are left out.
        count: of processes.
        scheduler: address of a Dask scheduler, or None.

    Returns:
        A function of the adapters and the folder of answers.
    """
    from ..evaluation.adapters import BASE_NAME

    where = str(Path(base).expanduser().absolute()) if is_here(base) else base

    def ask(adapters: Mapping[str, Path], cache: Path) -> None:
        named = tuple((name, str(path.absolute())) for name, path in adapters.items())
        plain: dict[str, Any] = {
            "adapters": (),
            "adapter_folders": (),
            "suites": tuple(map(absolute_suite, config.suites)),
        }
        if config.driftcheck is not None and Path(config.driftcheck).exists():
            plain["driftcheck"] = str(Path(config.driftcheck).absolute())
        written = config.model_copy(update=plain).model_dump_json()
        pieces = [
            Piece(written, where, world, world_seed, named, prompts, str(cache.absolute()), model)
            for model in (BASE_NAME, *adapters)
        ]
        with workers_of(count, scheduler) as executors:
            share_out(answer, pieces, executors, lambda _piece, _new: None)

    return ask


def absolute_suite(name: str) -> str:
    """A file of questions with its measure, from any folder; names of suites stay."""
    path, ending, measure = name.partition(".jsonl")
    return f"{Path(path + ending).absolute()}{measure}" if ending else name


@lru_cache(maxsize=1)
def _opened(
    evaluation: str,
    base: str,
    world: str | None,
    world_seed: int,
    adapters: tuple[tuple[str, str], ...],
    prompts: tuple[str, ...],
) -> "Answerers":
    """The base and the suites, opened once a process."""
    from ..evaluation.answering import Answerers
    from ..evaluation.loading import load_suites
    from ..evaluation.silence_libraries import quiet_libraries
    from ..suites import expand_suites

    config = EvaluationConfig.model_validate_json(evaluation)
    suites, _ = expand_suites(config.suites, world=world, allow_code=config.allow_code)
    with quiet_libraries():
        loaded = load_suites(
            suites,
            samples=config.samples,
            seed=config.seed,
            world_seed=world_seed,
            max_new_tokens=config.max_new_tokens,
            exclude=prompts,
            driftcheck=config.driftcheck,
            attempts=config.attempts,
        )
    return Answerers.opened(base, {name: Path(path) for name, path in adapters}, loaded, config)
