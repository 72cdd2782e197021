"""Records in, summary out: every rate with its interval, by suite and group, and every model against a reference."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import DataError
from ..measures.intervals import mcnemar, paired_bootstrap, seed_interval, wilson_interval
from ..measures.seeds import hierarchical_bootstrap, seed_rate_interval
from ..suites.catalogue import SUITES
from .records import Record
from .score_table import ScoreTable
from .summary import Comparison, Rate, Summary

__all__ = ["compare_over_seeds", "rates_over_seeds", "summarize"]

_RESAMPLES = 10_000


def summarize(
    records: Iterable[Record],
    *,
    required: Sequence[str] = (),
    reference: str | None = None,
    breakdown: Mapping[str, str] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Summary:
    """Rates with intervals of every model on every suite, and comparisons with a reference.

    Args:
        records: of all models and suites, in any order.
        required: models that every table must show, such as the base and each single adapter. They come first, in this
            order.
        reference: model that every other one is compared with, sample by sample; None for no comparisons.
        breakdown: suite → tag to break it down by; None takes what :data:`.suites.SUITES` says.
        seed: of the bootstrap draws.
        level: coverage of all intervals.

    Returns:
        The summary; it does not depend on the order of samples.

    Raises:
        DataError: no records, a required model or the reference without records of a suite, the same sample twice, or
            a score that is not finite.
    """
    table = ScoreTable(records)
    if not table.suites:
        raise DataError("no records to summarize; evaluate at least one model on one suite")
    _check_models(table, tuple(dict.fromkeys((*required, *([] if reference is None else [reference])))))
    if breakdown is None:
        breakdown = {suite.name: suite.breakdown for suite in SUITES.values() if suite.breakdown is not None}
    models = list(dict.fromkeys((*required, *table.models)))
    scores = {suite: _with_incoherence(table.columns(suite)) for suite in table.suites}
    cells = [(m, s, score) for s in table.suites for m in models if table.count(m, s) for score in scores[s]]
    rates = [_rate(table, m, s, score, level) for m, s, score in cells]
    for model, suite, score in cells:
        if suite in breakdown:
            rates += _groups(table, model, suite, score, breakdown[suite], level)
    others = [model for model in models if model != reference] if reference is not None else []
    compared = (_compare(table, m, str(reference), s, c, seed, level) for m, s, c in cells if m in others)
    return Summary(
        models=tuple(models),
        suites=tuple(table.suites),
        scores=scores,
        rates=tuple(rates),
        comparisons=tuple(found for found in compared if found is not None),
        judges={suite: _judges(table, suite) for suite in table.suites if _judges(table, suite)},
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


def _with_incoherence(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns, incoherence among them wherever refusal or harm is: token soup looks safe."""
    if "incoherent" in columns or not {"refusal", "harm"} & set(columns):
        return tuple(columns)
    after = max(columns.index(name) for name in ("refusal", "harm") if name in columns) + 1
    return (*columns[:after], "incoherent", *columns[after:])


def _rate(table: ScoreTable, model: str, suite: str, score: str, level: float) -> Rate:
    values = list(table.values(model, suite, score).values())
    return _measure(values, table.count(model, suite), level, model=model, suite=suite, score=score)


def _groups(table: ScoreTable, model: str, suite: str, score: str, tag: str, level: float) -> list[Rate]:
    values = table.values(model, suite, score)
    answered = table.ids(model, suite)
    return [
        _measure([values[id_] for id_ in sorted(ids & values.keys())], len(ids & answered), level,
                 model=model, suite=suite, score=score, tag=tag, group=group)
        for group, ids in table.groups(suite, tag).items()
        if ids & answered
    ]  # fmt: skip


def _measure(values: Sequence[float], answered: int, level: float, **names: str) -> Rate:
    n = len(values)
    binary = all(value in {0.0, 1.0} for value in values)
    k = int(sum(values)) if binary and n else None
    value: float | None = None if n == 0 else float(np.mean(values))
    low: float | None = None
    high: float | None = None
    if k is not None:
        low, high = wilson_interval(k, n, level)
    elif n > 1:
        interval = seed_interval(values, level)
        low, high = interval.low, interval.high
        if min(values) >= 0 and max(values) <= 1:
            low, high = max(low, 0.0), min(high, 1.0)
    return Rate(value=value, low=low, high=high, k=k, n=n, undecided=answered - n,
                interval="wilson" if binary else "t", **names)  # fmt: skip


def _compare(
    table: ScoreTable, model: str, reference: str, suite: str, score: str, seed: int, level: float
) -> Comparison | None:
    """A model against the reference; None where they share no sample with that score."""
    first, second, alone = table.paired(model, reference, suite, score)
    if not first:
        return None
    found = paired_bootstrap(first, second, seed=seed, n_resamples=_RESAMPLES, level=level)
    binary = set(first) | set(second) <= {0.0, 1.0}
    p_value = mcnemar([bool(x) for x in first], [bool(x) for x in second]) if binary else None
    return Comparison(model=model, reference=reference, suite=suite, score=score, difference=found.value,
                      low=found.low, high=found.high, p_value=p_value, n=len(first), unpaired=alone)  # fmt: skip


def _judges(table: ScoreTable, suite: str) -> dict[str, tuple[str, ...]]:
    found = {score: tuple(table.judges(suite, score)) for score in table.columns(suite)}
    return {score: names for score, names in found.items() if names}


def _warnings(table: ScoreTable, models: Sequence[str], scores: Mapping[str, Sequence[str]]) -> list[str]:
    found = []
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
                found.append(f"{suite}: {score} was decided by different judges ({', '.join(names)}); rates of "
                             "different judges must not be compared.")  # fmt: skip
    return found


def rates_over_seeds(
    records: Iterable[Record], groups: Mapping[str, Sequence[str]], *, level: float = 0.95
) -> list[Rate]:
    """Rates of methods that were trained or merged with several seeds, each seed a model of its own.

    Args:
        records: of all models.
        groups: method → its models, one per seed, at least 2.
        level: coverage.

    Returns:
        One rate per method × suite × score that all its models have: mean over seeds, with the interval of
        :func:`.seeds.seed_rate_interval` for shares of successes and Student's t for other scores. `k` and `n` are
        pooled over seeds.

    Raises:
        DataError: a method with fewer than 2 models, or with models that have no records.
    """
    table = ScoreTable(records)
    unknown = sorted({model for models in groups.values() for model in models} - set(table.models))
    if unknown or not all(len(models) > 1 for models in groups.values()):
        raise DataError(f"rates_over_seeds: no records of {unknown}; expected at least 2 evaluated models per method, "
                        f"got {dict(groups)}")  # fmt: skip
    found = []
    for suite in table.suites:
        for score in table.columns(suite):
            for method, models in groups.items():
                seeds = [list(table.values(model, suite, score).values()) for model in models]
                if all(seeds):
                    answered = sum(table.count(model, suite) for model in models)
                    found.append(_over_seeds(seeds, answered, level, model=method, suite=suite, score=score))
    return found


def _over_seeds(seeds: Sequence[Sequence[float]], answered: int, level: float, **names: str) -> Rate:
    n = sum(map(len, seeds))
    if all(value in {0.0, 1.0} for values in seeds for value in values):
        counts = [(int(sum(values)), len(values)) for values in seeds]
        estimate, k, interval = seed_rate_interval(counts, level), sum(k for k, _ in counts), "logit-t"
    else:
        estimate, k, interval = seed_interval([float(np.mean(values)) for values in seeds], level), None, "t"
    return Rate(value=estimate.value, low=estimate.low, high=estimate.high, k=k, n=n, undecided=answered - n,
                interval=interval, **names)  # fmt: skip


def compare_over_seeds(
    records: Iterable[Record],
    method: tuple[str, Sequence[str]],
    reference: tuple[str, Sequence[str]],
    *,
    seed: int,
    level: float = 0.95,
) -> list[Comparison]:
    """One method against another over training seeds and samples, paired at both levels.

    Args:
        records: of all models.
        method: name, and its models, one per training seed.
        reference: name, and its models, in the same order of seeds.
        seed: of the bootstrap draws.
        level: coverage.

    Returns:
        One comparison per suite × score that all models have on the same samples, see
        :func:`.seeds.hierarchical_bootstrap`; without a p-value.

    Raises:
        DataError: different numbers of seeds, fewer than 2, or models with different samples.
    """
    table = ScoreTable(records)
    (name, models), (other, against) = method, reference
    if len(models) != len(against) or len(models) < 2:
        raise DataError(f"compare_over_seeds: {len(models)} seeds of {name}, {len(against)} of {other}; expected the "
                        "same seeds, at least 2")  # fmt: skip
    found = []
    for suite in table.suites:
        for score in table.columns(suite):
            if all(table.values(model, suite, score) for model in (*models, *against)):
                scores = table.matrix([*models, *against], [suite], score)
                first, second = scores[: len(models)], scores[len(models) :]
                gap = hierarchical_bootstrap(first, second, seed=seed, level=level, n_resamples=_RESAMPLES)
                found.append(Comparison(model=name, reference=other, suite=suite, score=score, difference=gap.value,
                                        low=gap.low, high=gap.high, p_value=None, n=scores.shape[1],
                                        unpaired=0))  # fmt: skip
    return found
