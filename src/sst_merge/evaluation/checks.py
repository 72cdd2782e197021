"""What an evaluation refuses before any model is loaded, each with the way out."""

from collections.abc import Sequence

from ..errors import ConfigError, DataError
from ..judges import Judge
from ..sandbox import ALLOW_VARIABLE, refuse_unless_allowed
from ..suites import Suite
from ..texts import did_you_mean
from .loading import LoadedSuite

__all__ = ["check_base", "check_reference", "check_request", "check_room"]


def check_request(
    suites: Sequence[Suite],
    judges: Sequence[Judge],
    *,
    allow_code: bool,
    driftcheck: str | None = None,
    attempts: int | None = None,
) -> None:
    """Check that what is asked for can be answered.

    Args:
        suites: what is asked.
        judges: for suites whose answers are judged.
        allow_code: whether suites may run code that the models wrote.
        driftcheck: the original DRIFTCHECK prompts, where they are given.
        attempts: answers to each question of suites that draw several, where the number is given.

    Raises:
        ConfigError: no suite, two of one name, one that runs code without being allowed to, DRIFTCHECK prompts that no
            suite asks, or attempts that no suite makes, or fewer than its pass@k needs.
        DataError: a judged suite, and no judge that decides its score.
    """
    if not suites:
        raise ConfigError("no suite to evaluate; name some with --suite, see --list-suites")
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f"two suites are called {twice!r}, so their records could not be told apart; name a suite once, and give "
            "files of own questions names that differ in letters or digits before the first dot"
        )
    running = [suite.name for suite in suites if suite.runs_code]
    if running and not allow_code:
        raise ConfigError(
            f"suite {', '.join(running)} runs code that the models write, in a sandbox; allow it with "
            f"--allow-code-execution, or leave it out"
        )
    if running:
        refuse_unless_allowed({ALLOW_VARIABLE: "1"})
    if driftcheck is not None and not any(suite.measure == "drift" for suite in suites):
        raise ConfigError(
            f"--driftcheck {driftcheck}: no suite asks these prompts; add --suite drift (found: "
            f"{', '.join(suite.name for suite in suites)}), or leave out --driftcheck"
        )
    if attempts is not None:
        _check_attempts(suites, attempts)
    columns = {judge.column for judge in judges}
    for suite in suites:
        if suite.judged and suite.score not in columns:
            raise DataError(f"suite {suite.name!r} needs a judge of {suite.score}; name one with --judge")


def _check_attempts(suites: Sequence[Suite], attempts: int) -> None:
    needed = {suite.name: suite.pass_k for suite in suites if suite.pass_k is not None}
    if not needed:
        raise ConfigError(
            f"--attempts {attempts}: no suite draws several answers (found: {', '.join(s.name for s in suites)}); add "
            f"--suite humaneval_samples (lab_tasks_samples on a base of the lab), or leave out --attempts"
        )
    for name, k in needed.items():
        if attempts < k:
            raise ConfigError(
                f"--attempts {attempts}: suite {name!r} reports pass@{k}, which needs at least {k} answers to each "
                f"question; give --attempts {k} or more"
            )


def check_room(suites: Sequence[LoadedSuite], room: int) -> None:
    """Check that answers are shorter than what the model has room for.

    Args:
        suites: the suites, loaded.
        room: tokens of prompt and answer together.

    Raises:
        ConfigError: a suite whose answers alone may fill it.
    """
    for item in suites:
        for settings in item.decoding.values():
            wanted = settings.get("max_gen_toks", 0)
            if wanted >= room:
                raise ConfigError(
                    f"suite {item.suite.name!r} asks for answers of up to {wanted} tokens, the model has room for "
                    f"{room} tokens in all; shorten the answers with --max-new-tokens, such as {room // 2}"
                )


def check_base(suites: Sequence[Suite], base: str, world_seed: int) -> None:
    """Check what suites ask of a base, such as that it knows the words of their world.

    Args:
        suites: what is asked.
        base: folder or hub id of the base model.
        world_seed: of the world that suites of a world ask about.
    """
    for check in dict.fromkeys(suite.check for suite in suites if suite.check is not None):
        check(base, world_seed)


def check_reference(reference: str | None, models: Sequence[str]) -> str | None:
    """The model that the others are compared with.

    Args:
        reference: its name; the first of the models by default.
        models: of the evaluation, the base first.

    Returns:
        The name, or None where there is nothing to compare it with.

    Raises:
        ConfigError: no model of that name.
    """
    if reference is not None and reference not in models:
        raise ConfigError(
            f"--reference {reference!r}: no such model{did_you_mean(reference, models)}; this evaluation has "
            f"{', '.join(models)}"
        )
    return (reference or models[0]) if len(models) > 1 else None
