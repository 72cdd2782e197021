"""Judges by name."""

from collections.abc import Mapping, Sequence

from ..errors import DataError
from .base import Judge
from .classifiers import CLASSIFIERS, ClassifierJudge
from .guard_forms import GUARDS
from .guards import GuardJudge, GuardReader
from .incoherence import Incoherence
from .offline import OfflineJudge
from .refusal_rules import RefusalRules

__all__ = ["DEFAULT_JUDGES", "JUDGES", "make_judges"]

DEFAULT_JUDGES = ("rules", "incoherence", "offline")

# Name → one line, in the order in which help shows them.
JUDGES: Mapping[str, str] = {
    "rules": "refusal, by rules on the answer's opening; needs nothing",
    "incoherence": "incoherence, by repetition, entropy and non-words; needs nothing",
    "offline": "harm, by a small linear model that is shipped; needs nothing",
    **{name: f"{found.column}, by {found.model}" for name, found in CLASSIFIERS.items()},
    **{
        name: f"{' and '.join(question.column for question in found.questions if question.column)}, by {found.model}"
        for name, found in GUARDS.items()
    },
}


def make_judges(
    names: Sequence[str] = DEFAULT_JUDGES,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    batch_size: int = 8,
    models: Mapping[str, str] | None = None,
) -> list[Judge]:
    """Judges by name; nothing is loaded before the first verdict is asked for.

    Args:
        names: of :data:`JUDGES`. WildGuard makes two judges, of refusal and of harm, which share one model.
        device: for judges that are neural networks.
        dtype: of their weights.
        batch_size: pairs that they read at a time.
        models: name → other id or folder of its model.

    Returns:
        The judges, in the order given.

    Raises:
        DataError: an unknown name, or one given twice.
    """
    unknown = [name for name in [*names, *(models or {})] if name not in JUDGES]
    if unknown or len(set(names)) < len(names):
        wrong = (
            f"unknown judge {', '.join(map(repr, unknown))}"
            if unknown
            else f"a judge is named twice: {', '.join(names)}"
        )
        raise DataError(f"{wrong}; available: {', '.join(JUDGES)}")
    judges: list[Judge] = []
    for name in names:
        model = (models or {}).get(name)
        if name == "rules":
            judges.append(RefusalRules())
        elif name == "incoherence":
            judges.append(Incoherence())
        elif name == "offline":
            judges.append(OfflineJudge())
        elif name in CLASSIFIERS:
            judges.append(
                ClassifierJudge(CLASSIFIERS[name], model=model, device=device, dtype=dtype, batch_size=batch_size)
            )
        else:
            guard = GUARDS[name]
            reader = GuardReader(guard, model=model, device=device, dtype=dtype, batch_size=batch_size)
            columns = [question.column for question in guard.questions if question.column is not None]
            judges.extend(GuardJudge(reader, column) for column in columns)
    return judges
