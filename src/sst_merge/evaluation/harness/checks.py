"""What an evaluation refuses before any model is loaded, each with the way out."""

from collections.abc import Sequence

from ...errors import ConfigError, DataError
from ..judges import Judge
from ..suites import Suite
from .loading import LoadedSuite

__all__ = ["check_lab_vocabulary", "check_request", "check_room"]


def check_request(
    suites: Sequence[Suite], judges: Sequence[Judge], *, allow_code: bool, driftcheck: str | None = None
) -> None:
    """Check that what is asked for can be answered.

    Args:
        suites: what is asked.
        judges: for suites whose answers are judged.
        allow_code: whether suites may run code that the models wrote.
        driftcheck: the original DRIFTCHECK prompts, where they are given.

    Raises:
        ConfigError: no suite, one that runs code without being allowed to, or DRIFTCHECK prompts that no suite asks.
        DataError: a judged suite, and no judge that decides its score.
    """
    if not suites:
        raise ConfigError("no suite to evaluate; name some with --suite, see --list-suites")
    from ..human_eval import ALLOW_VARIABLE, refuse_unless_allowed

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
    columns = {judge.column for judge in judges}
    for suite in suites:
        if suite.judged and suite.score not in columns:
            raise DataError(f"suite {suite.name!r} needs a judge of {suite.score}; name one with --judge")


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


def check_lab_vocabulary(base: str, lab_seed: int) -> None:
    """Check that a base knows the words of the lab's world.

    Args:
        base: folder or hub id of the base model.
        lab_seed: of the world.

    Raises:
        DataError: words are missing.
    """
    from transformers import AutoTokenizer

    from ...lab.world import World

    known = AutoTokenizer.from_pretrained(base).get_vocab()
    missing = [word for word in World(lab_seed).vocabulary if word not in known]
    if missing:
        raise DataError(
            f"base {base!r}: its vocabulary lacks {len(missing)} words of the lab's world of seed {lab_seed}, such as "
            f"{missing[0]!r}; the lab's suites need a base of the lab, as in --base lab:unaligned"
        )
