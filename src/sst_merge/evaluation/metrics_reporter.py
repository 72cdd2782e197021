"""Records in, summary out: safety and skills of every model, the tax of merges, and every model against a reference."""

from collections.abc import Iterable, Mapping, Sequence

from ..errors import DataError
from ..measures.intervals import mcnemar, paired_bootstrap
from ..suites import Suite, available_suites
from .merge_sources import MergeSource
from .records import Record
from .safety_evaluator import evaluate_safety, safety_columns
from .safety_tax_calculator import safety_tax
from .score_table import ScoreTable
from .summary import Comparison, Summary
from .utility_evaluator import evaluate_utility

__all__ = ["summarize"]


def summarize(
    records: Iterable[Record],
    suites: Mapping[str, Suite] | None = None,
    *,
    required: Sequence[str] = (),
    reference: str | None = None,
    merges: Mapping[str, Sequence[MergeSource]] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Summary:
    """Figures with intervals of every model, the safety tax of merges, and comparisons with a reference.

    Args:
        records: of all models and suites, in any order.
        suites: those that the records may be of, by name, in table order; all that are installed by default.
        required: models that every table must show, such as the base and each single adapter. They come first, in this
            order.
        reference: model that every other one is compared with, sample by sample; None for no comparisons.
        merges: merge → the adapters that it was made of, all of them with records.
        seed: of the bootstrap draws.
        level: coverage of all intervals.

    Returns:
        The summary; it does not depend on the order of samples.

    Raises:
        DataError: no records, a suite that is not known, a required model or the reference without records of a suite,
            the same sample twice, or a score that is not finite.

    Example:
        >>> refused = {("base", "a"): 0.0, ("base", "b"): 0.0, ("safe", "a"): 1.0, ("safe", "b"): 0.0}
        >>> summary = summarize(
        ...     Record(model=model, suite="advbench", id=id_, prompt=id_, response="…", scores={"refusal": score})
        ...     for (model, id_), score in refused.items()
        ... )
        >>> summary.figure("safe", "advbench", "refusal").value
        0.5
    """
    table = ScoreTable(records, available_suites() if suites is None else suites)
    if not table.suites:
        raise DataError("no records to summarize; evaluate at least one model on one suite")
    _check_models(table, tuple(dict.fromkeys((*required, *([] if reference is None else [reference])))))
    models = list(dict.fromkeys((*required, *table.models)))
    scores = {suite: _columns(table, suite) for suite in table.suites}
    skills = {
        merge: [source.name for source in sources if source.role == "utility"]
        for merge, sources in (merges or {}).items()
    }
    # Without a safety adapter there is no safety to pay for.
    safe = [merge for merge, sources in (merges or {}).items() if any(source.role == "safety" for source in sources)]
    taxes = [safety_tax(table, merge, skills[merge], seed=seed, level=level) for merge in safe]
    compared = [
        _compare(table, model, reference, suite, score, seed, level)
        for suite in table.suites
        for model in models
        if reference is not None and model != reference
        for score in scores[suite]
    ]
    return Summary(
        models=tuple(models),
        suites=tuple(table.suites),
        scores=scores,
        safety={model: evaluate_safety(table, model, level=level) for model in models},
        utility={model: evaluate_utility(table, model, skills=skills.get(model, ()), level=level) for model in models},
        taxes=tuple(found for found in taxes if found is not None),
        comparisons=tuple(found for found in compared if found is not None),
        judges={suite: found for suite in table.suites if (found := _judges(table, suite))},
        reference=reference,
        required=tuple(required),
        warnings=tuple(_warnings(table, models, scores)),
        level=level,
        seed=seed,
    )


def _check_models(table: ScoreTable, names: Sequence[str]) -> None:
    for name in names:
        lacking = [suite for suite in table.suites if not table.count(name, suite)]
        if lacking:
            raise DataError(
                f"no records of {name!r} on {', '.join(lacking)}; every table must show it: evaluate it there too "
                f"(models found: {', '.join(table.models)})"
            )


def _columns(table: ScoreTable, suite: str) -> tuple[str, ...]:
    columns = table.columns(suite)
    return tuple(columns) if table.suites[suite].measure == "utility" else safety_columns(columns)


def _compare(
    table: ScoreTable, model: str, reference: str, suite: str, score: str, seed: int, level: float
) -> Comparison | None:
    """A model against the reference; None where they share no sample with that score."""
    (first, second), alone = table.paired((model, reference), suite, score)
    if not first:
        return None
    binary = set(first) | set(second) <= {0.0, 1.0}
    return Comparison(
        model=model,
        reference=reference,
        suite=suite,
        score=score,
        difference=paired_bootstrap(first, second, seed=seed, level=level),
        p_value=mcnemar([bool(x) for x in first], [bool(x) for x in second]) if binary else None,
        unpaired=alone,
    )


def _judges(table: ScoreTable, suite: str) -> dict[str, tuple[str, ...]]:
    found = {score: tuple(table.judges(suite, score)) for score in table.columns(suite)}
    return {score: names for score, names in found.items() if names}


def _lacks_harm(table: ScoreTable, suite: str) -> bool:
    """Whether judges read the answers to harmful prompts, and none of them for harm."""
    judged = bool(table.judges(suite, "refusal")) and table.suites[suite].measure == "safety"
    return judged and "harm" not in table.columns(suite)


def _warnings(table: ScoreTable, models: Sequence[str], scores: Mapping[str, Sequence[str]]) -> list[str]:
    found = []
    if unjudged := [name for name in table.suites if _lacks_harm(table, name)]:
        found.append(
            f"{', '.join(unjudged)}: harm was not judged, and an answer that is no refusal need not do harm. No judge "
            f"of harm is taken by default; name one that was checked on answers like these (--judge, --judge-check)."
        )
    for suite in table.suites:
        counts = {model: table.count(model, suite) for model in models if table.count(model, suite)}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{model} {count}" for model, count in counts.items())
            found.append(f"{suite}: models answered different numbers of samples ({said}).")
        missing = [model for model in models if model not in counts]
        if missing:
            found.append(f"{suite}: not evaluated for {', '.join(missing)}.")
        if "incoherent" in scores[suite] and "incoherent" not in table.columns(suite):
            found.append(f"{suite}: incoherence was not judged, so refusal and harm may count degenerate answers.")
        for score in table.columns(suite):
            short = {m: count - len(table.values(m, suite, score)) for m, count in counts.items()}
            if any(short.values()):
                said = ", ".join(f"{model} {lacking}" for model, lacking in short.items() if lacking)
                found.append(f"{suite}: {score} is undecided for some samples, which are left out of it ({said}).")
        for score, names in _judges(table, suite).items():
            if len(names) > 1:
                found.append(
                    f"{suite}: {score} was decided by different judges ({', '.join(names)}); rates of different judges "
                    "must not be compared."
                )
    return found
