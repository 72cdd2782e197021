"""What may be tried, read off the methods themselves: their declared sweeps, and the types and ranges of their options.

A method's *forms* are the sweeps that its file declares: a label, options, and a knob with its strengths. In each form
the knob moves over the range of these strengths. Where a method looks at adapters alone, so that another setting costs
nothing but the merge, its other options move too, as far as their own types say between what. Options of methods that
look at data first stay as the form has them, unless the user says otherwise: each value would be another pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from ..errors import ConfigError
from ..methods import SAFETY_WEIGHT, MergeMethod, MethodSweep, available_methods, option_faults
from ..texts import did_you_mean
from .point import Point

__all__ = ["Choices", "Form", "Range", "Space", "Suggests", "forms_of", "search_space"]

_LOG_FROM = 10.0
"""A range whose ends differ by this factor or more is searched on a logarithmic scale."""
_OPEN_END = 0.05
"""How far inside an end that is excluded the search stays, as a share of the range."""
_WAYS = "form"
_RANK = "rank"
_EXACT = "exact"


class Suggests(Protocol):
    """What a sampler's trial offers; Optuna's has it."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of several."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low: smallest.
        high: largest.
        whole: whether they are whole numbers.
    """

    low: float
    high: float
    whole: bool = False

    @property
    def log(self) -> bool:
        """Whether factors count rather than differences."""
        return not self.whole and self.low > 0 and self.high / self.low >= _LOG_FROM

    def suggest(self, trial: Suggests, name: str) -> Any:
        """A value by a sampler."""
        if self.low == self.high:
            return int(self.low) if self.whole else self.low
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        values: at least two; the first is what a warm start takes.
    """

    values: tuple[Any, ...]

    def suggest(self, trial: Suggests, name: str) -> Any:
        """A value by a sampler, which sees its position: values may be lists and sections."""
        return self.values[trial.suggest_categorical(name, range(len(self.values)))]

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)


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
        told = {name: value for name, value in others.items() if value != _default(method, name)}
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
                default = _default(method, name)
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
    whole = _whole(method, sweep.knob) and all(float(v).is_integer() for v in sweep.values)
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
    free: dict[str, Range | Choices] = dict(_declared(method, sweep)) if method.prepare is None else {}
    free = {name: of for name, of in free.items() if _accepted(method, sweep, name, of)}
    for name, of in asked.items():
        if name != sweep.knob:
            _check(method, sweep, name, of)
            free[name] = replace(of, whole=_whole(method, name)) if isinstance(of, Range) else of
    return Form(sweep, knob, free)


def _declared(method: MergeMethod, sweep: MethodSweep) -> list[tuple[str, Range | Choices]]:
    """Options that move by what their own types say, the one that a form fixes left out."""
    varied = {s.knob: s.values for s in method.sweeps if isinstance(s, MethodSweep)}
    found: list[tuple[str, Range | Choices]] = []
    for name, info in method.options.model_fields.items():
        if name == sweep.knob or name in sweep.options:
            continue
        default = _default(method, name)
        words = _words(info)
        bounds = _bounds(info)
        if words:
            found.append((name, Choices((default, *(word for word in words if word != default)))))
        elif not isinstance(default, int | float):
            continue  # a warm start could not leave it as it is
        elif bounds is not None:
            found.append((name, replace(bounds, low=min(bounds.low, default), high=max(bounds.high, default))))
        elif name in varied:
            ends = (*varied[name], default)
            found.append((name, Range(min(ends), max(ends))))
    return found


def _default(method: MergeMethod, name: str) -> Any:
    found = method.options.model_fields.get(name)
    return None if found is None else found.get_default(call_default_factory=True)


def _whole(method: MergeMethod, name: str) -> bool:
    """Whether an option takes whole numbers alone."""
    info = method.options.model_fields.get(name)
    kinds = () if info is None else _kinds(info.annotation)
    return int in kinds and float not in kinds


def _words(info: FieldInfo) -> tuple[Any, ...]:
    """What a switch or a choice among words may be; nothing where it may be something else as well."""
    kinds = _kinds(info.annotation)
    if kinds == (bool,):
        return (True, False)
    if kinds and all(get_origin(kind) is Literal for kind in kinds):
        return tuple(word for kind in kinds for word in get_args(kind))
    return ()


def _bounds(info: FieldInfo) -> Range | None:
    """The range of a number that is bounded on both sides."""
    kinds = _kinds(info.annotation)
    if kinds not in ((int,), (float,)):
        return None
    low = next((float(m.ge) for m in info.metadata if isinstance(m, Ge)), None)  # type: ignore[arg-type]
    high = next((float(m.le) for m in info.metadata if isinstance(m, Le)), None)  # type: ignore[arg-type]
    above = next((float(m.gt) for m in info.metadata if isinstance(m, Gt)), None)  # type: ignore[arg-type]
    below = next((float(m.lt) for m in info.metadata if isinstance(m, Lt)), None)  # type: ignore[arg-type]
    start, end = low if low is not None else above, high if high is not None else below
    if start is None or end is None:
        return None
    if kinds == (int,):
        return Range(start + (low is None), end - (high is None), whole=True)
    inside = _OPEN_END * (end - start)
    return Range(start + inside * (low is None), end - inside * (high is None))


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, None left out; one type otherwise."""
    if get_origin(annotation) in {Union, UnionType}:
        return tuple(kind for inner in get_args(annotation) for kind in _kinds(inner) if kind is not type(None))
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    return (annotation,)


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
