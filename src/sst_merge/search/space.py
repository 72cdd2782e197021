"""What may be tried, read off the methods themselves: their declared sweeps, and the types and ranges of their options.

A method's *forms* are the sweeps that its file declares: a label, options, and a knob with its strengths. In each form
the knob moves over the range of these strengths. Where a method looks at adapters alone, so that another setting costs
nothing but the merge, its other options move too, as far as their own types say between what. Options of methods that
look at data first stay as the form has them, unless the user says otherwise: each value would be another pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError
from ..methods import SAFETY_WEIGHT, MergeMethod, MethodSweep, available_methods, option_faults
from ..texts import did_you_mean
from .declared import declared_options, default_of, takes_whole_numbers
from .point import Point
from .ranges import Choices, Range, Suggests

__all__ = ["Form", "Space", "forms_of", "search_space"]

_WAYS = "form"
_RANK = "rank"
_EXACT = "exact"


@dataclass(frozen=True)
class Form:
    """One form of a method, and what moves in it.

    Attributes:
        sweep: as the method declares it.
        knob: its range.
        free: other options that move → what they may be, with the value that a warm start takes first.
    """

    sweep: MethodSweep
    knob: Range
    free: Mapping[str, Range | Choices]

    def point(self, value: float, others: Mapping[str, Any], rank: int | None) -> Point:
        """The merge with these settings."""
        sweep = self.sweep
        method = available_methods()[sweep.method]
        # What a method does anyway is not said, so that equal merges are found to be equal.
        told = {name: value for name, value in others.items() if value != default_of(method, name)}
        options = {**sweep.options, **told}
        weight = 1.0
        if sweep.knob == SAFETY_WEIGHT:
            weight = float(value)
        else:
            options[sweep.knob] = value
        once = sweep.knob if sweep.prepare_once else None
        return Point(sweep.label, sweep.method, options, weight, rank, once)


@dataclass(frozen=True)
class Space:
    """Everything that a search may try.

    Attributes:
        forms: label → form.
        ranks: largest ranks of the output; None is exact. The first one is what a warm start takes.
    """

    forms: Mapping[str, Form]
    ranks: tuple[int | None, ...] = (None,)

    def point(self, trial: Suggests) -> Point:
        """The merge that a sampler proposes.

        Args:
            trial: asked for one value after the other.

        Returns:
            The merge, whose options have not been checked together.
        """
        label = trial.suggest_categorical(_WAYS, list(self.forms)) if len(self.forms) > 1 else next(iter(self.forms))
        form = self.forms[label]
        value = form.knob.suggest(trial, f"{label}: {form.sweep.knob}")
        others = {name: of.suggest(trial, f"{label}: {name}") for name, of in form.free.items()}
        rank = self.ranks[0]
        if len(self.ranks) > 1:
            names = [_EXACT if one is None else str(one) for one in self.ranks]
            rank = self.ranks[names.index(trial.suggest_categorical(_RANK, names))]
        return form.point(value, others, rank)

    def warm(self, strengths: int | None) -> list[dict[str, Any]]:
        """Parameters of the merges that the methods' authors would try first.

        Args:
            strengths: of every form so many, evenly spread; None for all, 0 for none.

        Returns:
            One set a merge: the middle of every form, then outwards, so that what is tried first says most.
        """
        found: list[tuple[int, dict[str, Any]]] = []
        for label, form in self.forms.items():
            values = form.sweep.thinned(strengths).values if strengths != 1 else (form.sweep.middle,)
            values = () if strengths == 0 else values
            middle = len(values) // 2
            for place, value in enumerate(values):
                found.append((abs(place - middle), self._parameters(label, form, value)))
        return [parameters for _, parameters in sorted(found, key=lambda one: one[0])]

    def _parameters(self, label: str, form: Form, value: float) -> dict[str, Any]:
        """As a sampler would have to say it."""
        found: dict[str, Any] = {_WAYS: label} if len(self.forms) > 1 else {}
        if form.knob.low != form.knob.high:
            found[f"{label}: {form.sweep.knob}"] = int(value) if form.knob.whole else float(value)
        method = available_methods()[form.sweep.method]
        for name, of in form.free.items():
            if isinstance(of, Choices):
                found[f"{label}: {name}"] = 0
            elif of.low != of.high:
                default = default_of(method, name)
                default = default if isinstance(default, int | float) else of.low
                value = min(max(default, of.low), of.high)  # a range may be the user's
                found[f"{label}: {name}"] = int(value) if of.whole else value
        if len(self.ranks) > 1:
            found[_RANK] = _EXACT if self.ranks[0] is None else str(self.ranks[0])
        return found


def forms_of(names: Sequence[str], *, safety: bool) -> dict[str, MethodSweep]:
    """The declared sweeps that a search takes.

    Args:
        names: methods, which stand for their usual forms, or labels of single forms; none for every method.
        safety: whether a safety adapter is merged; without one, forms for an aligned base are taken.

    Returns:
        Label → sweep, in the order asked for.

    Raises:
        ConfigError: a name that is neither, or a method without a form for what is merged.
    """
    base = "unaligned" if safety else "aligned"
    declared = [sweep for method in available_methods().values() for sweep in method.sweeps]
    known = {sweep.label: sweep for sweep in declared if isinstance(sweep, MethodSweep) and sweep.base == base}
    if not names:
        return {label: sweep for label, sweep in known.items() if not sweep.on_request}
    found: dict[str, MethodSweep] = {}
    for name in names:
        fitting = {label: sweep for label, sweep in known.items() if sweep.method == name and not sweep.on_request}
        fitting = {name: known[name]} if name in known else fitting
        if not fitting:
            there = name in available_methods()
            kind = "skills and a safety adapter" if safety else "skills without a safety adapter"
            why = f"declares no sweep for {kind}" if there else f"is not known{did_you_mean(name, known)}"
            raise ConfigError(
                f"search.methods: {name!r} {why}; expected the name of a method, or one of the labels "
                f"{', '.join(known)}"
            )
        found |= fitting
    return found


def search_space(
    sweeps: Mapping[str, MethodSweep],
    *,
    asked: Mapping[str, Mapping[str, Range | Choices]],
    ranks: Sequence[int | None] = (None,),
) -> Space:
    """What moves in every form.

    Args:
        sweeps: label → declared sweep.
        asked: label → option → what it may be, in place of what the method itself says.
        ranks: largest ranks of the output.

    Returns:
        The space.

    Raises:
        ConfigError: a value that a method refuses.
    """
    return Space({label: _form(sweep, asked.get(label, {})) for label, sweep in sweeps.items()}, tuple(ranks))


def _form(sweep: MethodSweep, asked: Mapping[str, Range | Choices]) -> Form:
    method = available_methods()[sweep.method]
    whole = takes_whole_numbers(method, sweep.knob) and all(float(v).is_integer() for v in sweep.values)
    knob = Range(min(sweep.values), max(sweep.values), whole)
    if sweep.knob in asked:
        chosen = asked[sweep.knob]
        if not isinstance(chosen, Range):
            raise ConfigError(
                f"search.options: {sweep.knob} is the strength of {sweep.label!r}; give it a range, as in "
                f"{{low: {knob.low:g}, high: {knob.high:g}}}"
            )
        inside = tuple(value for value in sweep.values if chosen.low <= value <= chosen.high)
        knob, sweep = replace(chosen, whole=whole), replace(sweep, values=inside or (chosen.low, chosen.high))
    free: dict[str, Range | Choices] = dict(declared_options(method, sweep)) if method.prepare is None else {}
    free = {name: of for name, of in free.items() if _accepted(method, sweep, name, of)}
    for name, of in asked.items():
        if name != sweep.knob:
            _check(method, sweep, name, of)
            free[name] = replace(of, whole=takes_whole_numbers(method, name)) if isinstance(of, Range) else of
    return Form(sweep, knob, free)


def _tried(of: Range | Choices) -> tuple[Any, ...]:
    return of.values if isinstance(of, Choices) else (of.low, of.high)


def _refused(method: MergeMethod, sweep: MethodSweep, name: str, value: Any) -> str | None:
    """Why a method does not take a value in this form, alone with the middle of its strengths."""
    knob = {} if sweep.knob == SAFETY_WEIGHT else {sweep.knob: sweep.middle}
    faults = option_faults(method, {**sweep.options, **knob, name: value})
    return faults[0][1] if faults else None


def _accepted(method: MergeMethod, sweep: MethodSweep, name: str, of: Range | Choices) -> bool:
    return all(_refused(method, sweep, name, value) is None for value in _tried(of))


def _check(method: MergeMethod, sweep: MethodSweep, name: str, of: Range | Choices) -> None:
    for value in _tried(of):
        refused = _refused(method, sweep, name, value)
        if refused is not None:
            raise ConfigError(f"search.options: {refused}")
