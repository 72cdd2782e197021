"""What a merge is computed from: its patches, the point of the gradients, and Fishers, collected or read.

The Fishers need the point, the point needs M_U, and with ``utility: fisher`` M_U needs the skills' own Fishers.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import FisherError, MergeError
from ..fim_calculator import (
    CoreModel,
    Fisher,
    LayerFisher,
    RolePatches,
    auto_structure,
    point_cores,
    point_digest,
    point_settings,
    role_patches,
    trust_region_share,
    vila_parameter_identification,
)
from ..methods import MergeProblem
from .calibration_split import samples_of, split_batches, without_samples
from .collect import collect, required_model
from .filtering import fisher_weighted_utility
from .options import SSTOptions
from .region import Region
from .saved_fishers import SavedFisher, common_share
from .scaling import skill_layers
from .settling import KnownData, settled
from .wide_inputs import with_wide_inputs

__all__ = ["Cores", "MergeFishers"]

Cores = dict[str, Tensor]

_ROLES = {"harm": "safety", "benign": "utility"}


class MergeFishers:
    """Every stage before the eigenproblem, computed once, when first asked for.

    With ``inputs: wide`` the spaces of :attr:`problem` are not those that were given; they are made at once. Fishers
    that the options name files of are read instead of collected; a merge that then needs neither model nor data runs
    without them.

    Args:
        problem: model, adapters, spaces, batches, seed.
        options: all settings; ``refine: auto`` is settled here.
        skills_only: whether M_U is all that is asked for, so that no safe model need be there.

    Raises:
        MergeError: the adapters' roles do not fit the options.
    """

    def __init__(self, problem: MergeProblem, options: SSTOptions, *, skills_only: bool = False) -> None:
        options = settled(options, KnownData.of(problem))
        roles = [a.role for a in problem.adapters]
        if "utility" not in roles:
            raise MergeError("method 'sst' needs at least one adapter of role utility; found only safety adapters")
        # Teachers make the skills' merge better without any safety; the closed form would be M_U as it is.
        self.skills_alone = "safety" not in roles and not options.aligned_base
        if self.skills_alone and options.refine != "teachers" and not skills_only:
            raise MergeError(
                "method 'sst' found no adapter of role safety: add one, or set aligned_base: true if the base model "
                "itself is aligned and its safety is to be kept; to merge skills alone, give every one of them two "
                "benign prompts of its own or more (`data:`), or set refine: teachers"
            )
        if "safety" in roles and options.aligned_base:
            raise MergeError("aligned_base: true means that there is no safety adapter, but one is given; drop either")
        self.options = options
        holdout, seed = options.calibration_holdout, problem.seed
        self.fit_harm, self.held_harm = split_batches(problem.harm, options.harm_holdout, seed)
        self.fit_benign, self.held_benign = split_batches(problem.benign, holdout, seed + 1)
        if options.inputs == "wide":
            problem = with_wide_inputs(problem, self.fit_harm, self.fit_benign, aligned_base=options.aligned_base)
        self.problem = problem
        self.patches = role_patches(problem.adapters, problem.spaces)

    def _point(self, role: str) -> Cores | None:
        where = self.options.fisher.point
        return self._start.point(where, role, self.trust_region_share if where == "trust" else 1.0)

    @cached_property
    def _start(self) -> RolePatches:
        """The patches with M_U as it is merged: many skills' plain sum is not a skilled model, their merge is."""
        return replace(self.patches, utility=self.utility)

    @cached_property
    def each(self) -> dict[str, Cores]:
        """Every adapter's own core, by name and module, unweighted; zeros in modules that it does not touch."""
        spaces = self.problem.spaces
        zeros = {m: space.coordinates(None) for m, space in spaces.items()}
        return {a.name: zeros | point_cores([a.with_(weight=1.0)], spaces) for a in self.problem.adapters}

    def own_parts(self, name: str) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
        """A utility adapter's own prompts: those for the steps of teachers, and those that no step sees.

        Raises:
            DataError: it has one prompt alone.
        """
        place = [a.name for a in self._utility_adapters].index(name)
        own = self.problem.adapter_benign.get(name, ())
        return split_batches(own, self.options.calibration_holdout, self.problem.seed + 2 + place)

    @cached_property
    def judged_benign(self) -> tuple[Batch, ...]:
        """Held-out prompts that say what safety costs: the common ones, and the skills' own that are not among these.

        Common prompts alone do not see what becomes of a skill.
        """
        several = [n for n, own in self.problem.adapter_benign.items() if sum(map(len, own)) > 1]
        skills = [a.name for a in self._utility_adapters if a.name in several]
        own = [batch for name in skills for batch in self.own_parts(name)[1]]
        return (*self.held_benign, *without_samples(own, samples_of(self.problem.benign)))

    @cached_property
    def structure(self) -> str:
        """The Fishers' structure, ``auto`` resolved; a sum over utility adapters is never formed densely."""
        if self.options.fisher.structure != "auto":
            return self.options.fisher.structure
        return "kronecker" if self.options.utility == "fisher" else auto_structure(self.region.spaces)

    @cached_property
    def saved(self) -> dict[str, SavedFisher]:
        """The files that the options name, read, by what they are the Fisher of: harm, benign, or a skill."""
        return {name: SavedFisher.read(path) for name, path in self.options.fisher.files.items()}

    @cached_property
    def trust_region_share(self) -> float:
        """How far on the way to the plain sum the gradients are taken (``point: trust``).

        Raises:
            FisherError: it is to come from saved Fishers, which do not know it.
        """
        given = self.options.fisher.trust_share
        if given is None:
            given = common_share({name: self.saved[name] for name in _ROLES if name in self.saved})
        if given is not None:
            return given
        if self.problem.model is None and self.saved:
            taken = "; ".join(
                f"{file.path} at {file.fisher.settings.get('point', 'a point without name')}"
                for file in self.saved.values()
            )
            raise FisherError(
                "fisher.point is 'trust' in this merge, and no saved Fisher says at which share of the way to the safe "
                f"model it was taken: found {taken}. Merge at that point, give fisher.trust_share, or collect them "
                "again at 'trust'"
            )
        with CoreModel(required_model(self.problem), self.problem.spaces) as attached:
            return trust_region_share(
                attached,
                self._start.utility,
                self._start.towards_safe,
                # Where nothing is held out, the Fishers' own prompts are used.
                self.held_benign or self.fit_benign,
                budget=self.options.fisher.trust_budget,
            )

    @cached_property
    def region(self) -> Region:
        """Where the problem is solved: everywhere, or what VILA identification keeps."""
        vila = self.options.vila
        if vila is None:
            return Region(self.problem.spaces)
        everywhere = Region(self.problem.spaces)
        harm = self._fisher(self.fit_harm, "safety", "identification, harmful prompts", everywhere, "diagonal")
        benign = self._fisher(self.fit_benign, "utility", "identification, benign prompts", everywhere, "diagonal")
        return Region.identified(
            self.problem.spaces,
            vila_parameter_identification(
                harm, benign, keep_layers=vila.keep_layers, keep_directions=vila.keep_directions
            ),
        )

    def _fisher(
        self, batches: Sequence[Batch], role: str, stage: str, region: Region, structure: str | None = None
    ) -> Fisher:
        return collect(
            self.problem,
            batches,
            role,
            stage,
            structure=structure or self.structure,
            estimator=self.options.fisher.estimator,
            point=self._point(role),
            region=region,
        )

    def fisher(self, kind: str, *, region: Region | None = None) -> Fisher:
        """F_h or F_b as it is collected or was saved, not scaled.

        Args:
            kind: ``harm`` or ``benign``.
            region: where; everywhere by default.

        Returns:
            The statistics, with the settings that the merge knows.
        """
        role, chosen = _ROLES[kind], self.options.fisher
        batches = self.fit_harm if kind == "harm" else self.fit_benign
        trust = chosen.point == "trust"
        settings = {"data": kind, "seed": self.problem.seed} | point_settings(
            self.problem.adapters,
            chosen.point,
            role,
            share=self.trust_region_share if trust else None,
            trust_budget=chosen.trust_budget if trust and chosen.trust_share is None else None,
        )
        if batches:
            harm = kind == "harm"
            settings["calibration_holdout"] = self.options.harm_holdout if harm else self.options.calibration_holdout
        if kind in self.saved:
            return self._checked(kind, self._point(role), settings, batches)
        found = self._fisher(
            batches,
            role,
            f"Fisher of {kind}{'ful' if kind == 'harm' else ''} prompts",
            region or Region(self.problem.spaces),
        )
        return replace(found, settings=settings)

    def skill_batches(self, name: str) -> Sequence[Batch]:
        """What a utility adapter is judged on: its own benign data, or the common ones where it has none."""
        return self.problem.adapter_benign.get(name, ()) or self.fit_benign

    def skill_fisher(self, name: str) -> Fisher:
        """A utility adapter's own Fisher, at its own optimum, on its own benign data, collected or as it was saved.

        Args:
            name: of the adapter.

        Returns:
            The statistics, with the settings that the merge knows.
        """
        settings = {"data": f"benign of {name}", "seed": self.problem.seed}
        if name in self.saved:
            return self._checked(name, self.each[name], settings, self.problem.adapter_benign.get(name, ()))
        found = collect(
            self.problem,
            self.skill_batches(name),
            "utility",
            f"Fisher of adapter {name}",
            structure=self.structure,
            estimator=self.options.fisher.estimator,
            point=self.each[name],
            region=Region(self.problem.spaces),
        )
        return replace(found, settings=settings)

    def _checked(self, name: str, point: Cores | None, settings: dict[str, Any], batches: Sequence[Batch]) -> Fisher:
        return self.saved[name].checked(
            spaces=self.problem.spaces,
            structure=self.structure,
            origin=f"{self.options.fisher.estimator}@{point_digest(point)}",
            settings=settings | ({"samples": sum(len(batch) for batch in batches)} if batches else {}),
        )

    @cached_property
    def utility(self) -> Cores:
        """M_U: the skills, as one patch."""
        if self.options.utility == "sum":
            return self.patches.utility
        adapters = self._utility_adapters
        if len(adapters) == 1:
            return self.patches.utility
        # A negative weight merges the reverse of an update; how much it counts is its size.
        signs = {a.name: -1.0 if a.weight < 0 else 1.0 for a in adapters}
        return fisher_weighted_utility(
            {m: tuple(sign * self.each[n][m] for n, sign in signs.items()) for m in self.problem.spaces},
            self._adapter_fishers,
            tuple(abs(a.weight) for a in adapters),
            damping=self.options.damping,
        )

    @property
    def _utility_adapters(self) -> list[Any]:
        return [a for a in self.problem.adapters if a.role == "utility"]

    @cached_property
    def _adapter_fishers(self) -> dict[str, tuple[LayerFisher, ...]]:
        """Every utility adapter's own Fisher, made fit to be added.

        Raises:
            FisherError: an adapter's Fisher is zero, so that traces cannot be made equal.
        """
        collected = {a.name: self.skill_fisher(a.name) for a in self._utility_adapters}
        options = self.options
        return skill_layers(collected, output_shrinkage=options.output_shrinkage, equal=options.equal_traces)
