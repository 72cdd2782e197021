"""The configuration of the experiments: in which world, what is merged, measured, how often, and with how many prompts.

``quick:`` holds the fields that the quick version replaces, nested as above it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ..errors import ConfigError
from ..texts import did_you_mean
from ..worlds.registry import available_worlds, open_world
from ..yaml_config import Section, read_yaml, validated
from .subsets import plain_experts

__all__ = [
    "ALL",
    "AblationConfig",
    "Calibration",
    "ComparisonConfig",
    "DriftConfig",
    "ExperimentConfig",
    "InterferenceConfig",
    "Prompts",
    "SafetyTaxConfig",
    "SecondWorld",
    "SkillGroup",
    "WorldChoice",
    "load_experiment_config",
]

ALL = "all"
"""In place of a list of methods: every one that fits."""


def _all_or_some(value: object) -> object:
    return () if value == ALL else (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_all_or_some)]
Seeds = Annotated[tuple[int, ...], Field(min_length=1)]


def _distinct(values: tuple[Any, ...], what: str) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is given twice")


def _without_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    _distinct(names, "skill")
    return names


Skills = Annotated[tuple[str, ...], AfterValidator(_without_repeats)]


class WorldChoice(Section):
    """A world by name, with its own options beside it."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)

    @property
    def label(self) -> str:
        """Name and options, as in ``lab 0``."""
        return " ".join(str(value) for value in self.parameters.values())

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain values for a cell."""
        return self.model_dump(mode="json")

    @property
    def experts(self) -> Mapping[str, str]:
        """Skill adapter → its task."""
        return open_world(**self.parameters).experts

    @property
    def summary(self) -> str:
        """What the world says of itself."""
        return available_worlds()[self.name].summary


class Prompts(Section):
    """How many prompts of every kind; dev prompts choose strengths, test prompts are reported."""

    dev: int = Field(ge=8, le=384, description="dev prompts per kind")
    test: int = Field(ge=8, le=512, description="test prompts per kind")


class Calibration(Section):
    """What the methods are given to look at."""

    harm: int = Field(default=256, ge=2, le=1024, description="harmful prompts with refusals")
    benign: int = Field(default=384, ge=2, le=1200, description="benign prompts, half from the skills' own tasks")


class SkillGroup(Section):
    """Skill adapters that are merged together."""

    name: str = Field(min_length=1)
    skills: Skills = Field(min_length=1, description="skill adapters of the world")
    methods: Names = Field(default=(), description="labels of method_sweeps; all: every registered method")
    seeds: tuple[int, ...] = Field(default=(), description="of the experiment's seeds these alone; all by default")
    joint: bool | tuple[int, ...] = Field(
        default=False, description="also train one adapter on the data of all that are merged; or with which seeds"
    )

    def seeds_of(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """Those of the experiment's seeds that this group is measured with, in their order."""
        return tuple(seed for seed in seeds if not self.seeds or seed in self.seeds)

    def joint_with(self, seed: int) -> bool:
        """Whether one adapter is also trained on the data of all, with this seed."""
        return self.joint if isinstance(self.joint, bool) else seed in self.joint


class SecondWorld(Section):
    """The headline figures again, in another world with another base."""

    world: WorldChoice
    seeds: Seeds
    groups: tuple[SkillGroup, ...] = Field(min_length=1)


class DriftConfig(Section):
    """Task experts merged into the aligned base."""

    groups: tuple[SkillGroup, ...] = Field(min_length=1)
    utility_slack: float = Field(
        default=0.02,
        ge=0.0,
        lt=1.0,
        description="the safest strength is taken whose dev utility is at least plain merging's less this",
    )


class SafetyTaxConfig(Section):
    """Experiment 1."""

    groups: tuple[SkillGroup, ...] = Field(min_length=1)
    thresholds: tuple[float, ...] = Field(default=(0.8, 0.9, 0.95), min_length=1)
    drift: DriftConfig | None = None
    methods: Names = Field(default=(), description="in place of every group's own list")
    second_base: SecondWorld | None = None

    @field_validator("thresholds")
    @classmethod
    def _shares(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < t <= 1 for t in thresholds):
            raise ValueError(f"thresholds are refusal rates above 0 and at most 1, found {list(thresholds)}")
        _distinct(thresholds, "threshold")
        return thresholds

    @model_validator(mode="after")
    def _names(self) -> "SafetyTaxConfig":
        _distinct(tuple(group.name for group in self.groups), "group")
        if self.drift is not None:
            _distinct(tuple(group.name for group in self.drift.groups), "drift group")
        if self.second_base is not None:
            _distinct(tuple(group.name for group in self.second_base.groups), "group of the second base")
        return self


class InterferenceConfig(Section):
    """Experiment 2."""

    sizes: tuple[int, ...] = Field(min_length=1, description="numbers of experts")
    subsets: int = Field(default=5, ge=1, description="random subsets per size, as far as there are different ones")
    seeds: Seeds = Field(description="of the adapters; subset r takes seed r modulo their number")
    methods: Names = ()
    families: Skills = Field(default=(), description="experts to draw from; all by default")
    poisoned_sizes: tuple[int, ...] = Field(default=(), description="numbers of experts, the poisoned one among them")
    joint_sizes: tuple[int, ...] = Field(
        default=(), description="numbers of experts for which one adapter is also trained on the data of all"
    )
    samples_per_skill: int = Field(default=32, ge=2, le=256, description="calibration prompts of every skill")
    with_safety: bool = Field(default=True, description="a second stage adds the safety adapter on the unaligned base")
    prompts: Prompts

    @field_validator("sizes", "poisoned_sizes", "joint_sizes")
    @classmethod
    def _sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        _distinct(sizes, "size")
        return sizes


class AblationConfig(Section):
    """SST-Merge's own parts: one factor at a time from the defaults, and a small cross."""

    seeds: Seeds
    prompts: Prompts
    parts: bool = Field(default=True, description="without teachers, without wide inputs, without both")
    structures: tuple[str, ...] = ("diagonal", "kronecker", "block", "lowrank")
    estimators: tuple[str, ...] = ("log_odds", "empirical", "sampled")
    points: tuple[str, ...] = ("trust", "merged", "own", "base")
    combines: tuple[str, ...] = ("add", "interpolate")
    hard_filter: bool = True
    samples: tuple[int, ...] = (16, 64, 256, 1024)
    damping: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    cross_structures: tuple[str, ...] = Field(default=("kronecker", "block"), description="crossed with cross_points")
    cross_points: tuple[str, ...] = ("merged", "own", "base")
    without_skill_data: bool = Field(default=True, description="calibrate without the skills' own data")


class ComparisonConfig(Section):
    """Experiment 3: every registered method on the first group of experiment 1, and the ablation."""

    methods: Names = ()
    cost_repeats: int = Field(default=3, ge=1, description="fresh processes per method that time and memory come from")
    ablation: AblationConfig


class ExperimentConfig(Section):
    """All three experiments."""

    world: WorldChoice = Field(description="where everything is measured: its name and its options")
    seeds: Seeds = Field(description="of the adapters; the base is the same")
    prompts: Prompts
    strengths: int | None = Field(
        default=None, ge=2, description="of every method's strengths so many, evenly spread; all by default"
    )
    calibration: Calibration = Calibration()
    safety_tax: SafetyTaxConfig
    interference: InterferenceConfig
    comparison: ComparisonConfig
    n_resamples: int = Field(default=2000, ge=100, description="bootstrap draws")
    bootstrap_seed: int = Field(default=0, ge=0, description="of the bootstrap draws")
    workers: int = Field(default=2, ge=1, le=64, description="processes, one thread each")

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        _distinct(seeds, "seed")
        return seeds

    @model_validator(mode="after")
    def _in_the_world(self) -> "ExperimentConfig":
        drift, second = self.safety_tax.drift, self.safety_tax.second_base
        parts = [("safety_tax", self.safety_tax.groups, self.world, self.seeds)]
        if drift is not None:
            parts.append(("safety_tax.drift", drift.groups, self.world, self.seeds))
        if second is not None:
            parts.append(("safety_tax.second_base", second.groups, second.world, second.seeds))
        for section, groups, world, seeds in parts:
            for group in groups:
                _check_skills(f"{section}.groups", group.skills, world)
                _check_seeds(f"{section}.groups", group, seeds)
        many = self.interference
        _check_skills("interference.families", many.families, self.world)
        experts = len(many.families or plain_experts(self.world.experts))
        for n in (*many.sizes, *many.poisoned_sizes):
            if not 2 <= n <= experts:
                raise ValueError(f"interference: sizes lie between 2 and {experts}, the number of experts; found {n}")
        return self


def _check_skills(field: str, skills: tuple[str, ...], world: WorldChoice) -> None:
    known = plain_experts(world.experts)
    unknown = [name for name in skills if name not in known]
    if unknown:
        close = did_you_mean(unknown[0], known)
        raise ValueError(f"{field}: no expert {unknown[0]!r}{close}; world {world.label} has {', '.join(known)}")


def _check_seeds(field: str, group: SkillGroup, seeds: Seeds) -> None:
    _distinct(group.seeds, f"{field}: seed of {group.name!r}")
    joint = () if isinstance(group.joint, bool) else group.joint
    others = sorted({*group.seeds, *joint} - set(seeds))
    if others:
        raise ValueError(
            f"{field}: {group.name!r} has seed {others[0]}; a group's seeds are some of the experiment's, "
            f"{', '.join(map(str, seeds))}"
        )


def load_experiment_config(
    path: Path, *, quick: bool = False, overrides: Mapping[str, object] | None = None
) -> ExperimentConfig:
    """Read a configuration file.

    Args:
        path: YAML file.
        quick: put the fields of its section ``quick`` over the others.
        overrides: dotted field name → value, over both.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: file and field, what was found and what was expected, for every fault.
    """
    raw = read_yaml(path)
    small = raw.pop("quick", {})
    if not isinstance(small, dict):
        raise ConfigError(f"{path}: quick: found {small!r}; expected fields of the configuration with other values")
    # The quick version is checked even where it is not used, so that it cannot rot.
    quicker = validated(ExperimentConfig, _over(raw, small), source=f"{path}, with quick")
    if overrides is None and quick:
        return quicker
    chosen = _over(raw, small) if quick else raw
    for name, value in (overrides or {}).items():
        nested: Any = value
        for key in reversed(name.split(".")):
            nested = {key: nested}
        chosen = _over(chosen, nested)
    return validated(ExperimentConfig, chosen, source=str(path))


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which nested fields are replaced one by one, lists whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(value, dict) and isinstance(old, Mapping) else value
    return merged
