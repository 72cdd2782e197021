"""How long a text world's work takes: matrix products, counted from lengths of texts, at this machine's speed."""

from collections.abc import Sequence

from ...data_loader import Row, resolve_device
from ...machine import operations_per_second
from ...threads import one_thread
from ..costs import Costs
from ..world import Artefact
from .artefacts import TextArtefacts
from .config import TextConfig
from .limits import parameters
from .pools import INSTRUCTION, PromptPools

__all__ = ["text_costs"]

# Tokens are counted without a tokenizer, which may lie on a hub.
_LETTERS, _TEMPLATE = 4.0, 30  # characters a token; tokens of a chat template and its system prompt
_SAMPLE = 64
# Of the speed of large matrix products, what a whole pass reaches. Where prompts share a beginning, and only answers
# go through the vocabulary's layer, less is computed than is counted here.
_TRAINING_SHARE, _SHARE = 0.6, 0.9
_WRITTEN = 3.0  # an answer is written token by token, with a few prompts a pass
_READ = 20.0  # operations a weight that reading and copying a base come to
_FORWARD, _BACK = 2.0, 2.0  # operations a weight and token; no gradient of a frozen weight is taken


def text_costs(config: TextConfig, pools: PromptPools, artefacts: TextArtefacts) -> Costs | None:
    """What a world's work takes here.

    Args:
        config: of the world.
        pools: its prompts.
        artefacts: its bases and adapters.

    Returns:
        The seconds, or None where the base is not on this machine yet.
    """
    from ...training.train import training_dtype

    weights = parameters(config)
    if weights is None:
        return None
    device = resolve_device(config.base.device)
    with one_thread():
        speed = operations_per_second(training_dtype(config.base.dtype, device), device)
    how, second, second_of_training = config.answering, weights / (_SHARE * speed), weights / (_TRAINING_SHARE * speed)
    prompts = [q.prompt for kind in pools.kinds("test") for q in pools.draw(kind, "test", seed=0, n=_SAMPLE)]
    asked = _tokens(prompts, how.longest) + _WRITTEN * how.new_tokens
    rows = pools.rows(INSTRUCTION, "calibration", seed=0, n=_SAMPLE)

    def training(artefact: Artefact) -> float:
        found = artefacts.training_rows(artefact)
        if found is None:
            return _READ * second
        role = artefacts.role(artefact)
        tokens = role.recipe.epochs * len(found) * _tokens(_texts(found), role.recipe.max_length)
        return (_FORWARD + _BACK) * second_of_training * tokens

    return Costs(
        cell=_READ * second,
        prompt=_FORWARD * second * asked,
        learning=(_FORWARD + _BACK) * second * _tokens(_texts(rows), how.calibration_length),
        batch=how.calibration_batch,
        training=training,
    )


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row.prompt + row.response for row in rows]


def _tokens(texts: Sequence[str], longest: int) -> float:
    """Mean tokens of a text, cut to the longest."""
    return sum(min(longest, _TEMPLATE + len(text) / _LETTERS) for text in texts) / max(1, len(texts))
