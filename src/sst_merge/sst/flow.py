"""The flow of SST-Merge, from adapters and calibration data to merged cores.

    M = M_U + V h(Λ) Vᵀ F_b (M_S − M_U)        F_h v = λ F_b v        h(λ) = λ/(λ+μ), or 1 for the k best

(design, section 4). Everything happens in the core space; layers are independent except through the common scale of
the two Fishers, the choice of μ, and structure ``lowrank``.
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
    RolePatches,
    auto_structure,
    point_cores,
    point_digest,
    point_settings,
    role_patches,
    trust_region_share,
    vila_parameter_identification,
)
from ..gevp_solver import LayeredGEVP, solve_gevp
from ..methods import MergeProblem
from .calibration_split import split_batches
from .coefficients import CoefficientChoice, optimize_merge_coefficients
from .collect import collect, own_benign, required_model
from .filtering import SafetyFilter, SpectralFilter, SumFilter, fisher_weighted_utility
from .held_out import HeldOutQuotients, held_out_quotients
from .options import HardFilter, SSTOptions
from .refine import RefineTrail, refine_coefficients
from .region import Region, merged_cores
from .saved_fishers import SavedFisher, common_share
from .scaling import equalised, skill_layers
from .wide_inputs import with_wide_inputs

__all__ = ["Cores", "SSTMerge"]

Cores = dict[str, Tensor]

_ROLES = {"harm": "safety", "benign": "utility"}


class SSTMerge:
    """One merge in progress: every stage is computed once, when first asked for.

    Experiments that sweep μ reuse the Fishers and the eigenvectors: build one object, call :meth:`merged` often. With
    ``inputs: wide`` the spaces of :attr:`problem` are not those that were given; they are made at once. Fishers that
    the options name files of are read instead of collected; what needs neither model nor data then does without.

    Args:
        problem: model, adapters, spaces, batches, seed.
        options: all settings.

    Raises:
        MergeError: the adapters' roles do not fit the options.
    """

    def __init__(self, problem: MergeProblem, options: SSTOptions) -> None:
        roles = [a.role for a in problem.adapters]
        if "utility" not in roles:
            raise MergeError("method 'sst' needs at least one adapter of role utility; found only safety adapters")
        if "safety" not in roles and not options.aligned_base:
            raise MergeError(
                "method 'sst' found no adapter of role safety: add one, or set aligned_base: true if the base model "
                "itself is aligned and its safety is to be kept"
            )
        if "safety" in roles and options.aligned_base:
            raise MergeError("aligned_base: true means that there is no safety adapter, but one is given; drop either")
        if options.inputs == "wide":
            problem = with_wide_inputs(problem)
        self.problem, self.options = problem, options
        self.patches = role_patches(problem.adapters, problem.spaces)
        holdout, seed = options.calibration_holdout, problem.seed
        self.fit_harm, self.held_harm = split_batches(problem.harm, holdout, seed)
        self.fit_benign, self.held_benign = split_batches(problem.benign, holdout, seed + 1)

    def _point(self, role: str) -> Cores | None:
        where = self.options.fisher.point
        return self._start.point(where, role, self.trust_region_share if where == "trust" else 1.0)

    @cached_property
    def _start(self) -> RolePatches:
        """The patches with M_U as it is merged: many skills' plain sum is no skilled model, their Fisher merge is."""
        return replace(self.patches, utility=self.utility)

    @cached_property
    def each(self) -> dict[str, Cores]:
        """Every adapter's own core, by name and module, unweighted; zeros in modules that it does not touch."""
        spaces = self.problem.spaces
        zeros = {m: space.coordinates(None) for m, space in spaces.items()}
        return {a.name: zeros | point_cores([a.with_(weight=1.0)], spaces) for a in self.problem.adapters}

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
            raise FisherError(
                "fisher.point: trust is where statistics are taken at a share of the way to the safe model, which "
                "none of the files knows; collect them with `sst-merge fisher collect`, or give fisher.trust_share"
            )
        with CoreModel(required_model(self.problem), self.problem.spaces) as attached:
            return trust_region_share(
                attached,
                self._start.utility,
                self._start.towards_safe,
                # Where nothing is held out the Fishers' own prompts have to do.
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
            settings["calibration_holdout"] = self.options.calibration_holdout
        if kind in self.saved:
            return self._checked(kind, self._point(role), settings, batches)
        found = self._fisher(
            batches,
            role,
            f"Fisher of {kind}{'ful' if kind == 'harm' else ''} prompts",
            region or Region(self.problem.spaces),
        )
        return replace(found, settings=settings)

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
            own_benign(self.problem, name),
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
    def _harm(self) -> Fisher:
        """F_h over whole core spaces."""
        return self.fisher("harm")

    @cached_property
    def fishers(self) -> tuple[Fisher, Fisher, float]:
        """F_h on F_b's scale, F_b, and the factor between them."""
        harm = self._harm if self.region.kept is None else self.fisher("harm", region=self.region)
        benign = self.fisher("benign", region=self.region)
        harm, scale = equalised(harm, benign)
        return harm, benign, scale

    @cached_property
    def gevp(self) -> Any:
        """Ordered directions of the whole model (layer by layer, or across layers for ``lowrank``)."""
        harm, benign, _ = self.fishers
        return solve_gevp(harm, benign, damping=self.options.damping, harm_damping=self._harm_damping)

    @cached_property
    def utility(self) -> Cores:
        """M_U: the skills, as one patch."""
        if self.options.utility == "sum":
            return self.patches.utility
        names = [a.name for a in self._utility_adapters]
        return fisher_weighted_utility(
            {m: tuple(self.each[n][m] for n in names) for m in self.problem.spaces},
            self._adapter_fishers,
            tuple(a.weight for a in self._utility_adapters),
            damping=self.options.damping,
        )

    @cached_property
    def filter(self) -> SafetyFilter:
        """V h(Λ) VᵀF_b as a function of h."""
        if self.options.utility == "sum":
            return SpectralFilter(self.gevp)
        weights = tuple(a.weight for a in self._utility_adapters)
        benign_trace = sum(
            w * f.trace() for fishers in self._adapter_fishers.values() for w, f in zip(weights, fishers, strict=True)
        )
        scaled = self._harm.scaled(benign_trace / self._harm.trace())
        return SumFilter(scaled.layers, self._adapter_fishers, weights, self.options.damping, self._harm_damping)

    def merged(self, *, mu: float | None = None, strength: float | None = None) -> Cores:
        """The merge at one point of the path.

        Args:
            mu: μ of the soft filter; not used by a hard one.
            strength: multiplies M_S; the options' by default.

        Returns:
            M per module.

        Raises:
            MergeError: a soft filter without μ.
        """
        return merged_cores(self.utility, self.change(mu=mu, strength=strength))

    def change(self, *, mu: float | None = None, strength: float | None = None, hard: int | None = None) -> Cores:
        """The filtered patch M − M_U at one point of the path.

        Args:
            mu: μ of the soft filter; not used by a hard one.
            strength: multiplies M_S; the options' by default.
            hard: k of a hard filter; the options' by default.

        Returns:
            M − M_U per module.

        Raises:
            MergeError: a soft filter without μ.
        """
        patch = self.region.restrict(self.difference(strength))
        if isinstance(self.options.filter, HardFilter):
            filtered = self.filter.hard(patch, hard or self.options.filter.hard)
        elif mu is None:
            raise MergeError("the soft filter needs mu")
        else:
            filtered = self.filter.soft(patch, mu)
        return self.region.embed(filtered, self.utility)

    def difference(self, strength: float | None = None) -> Cores:
        """What is filtered: s·M_S − M_U (interpolate) or s·M_S (add).

        Args:
            strength: s; the options' by default.

        Returns:
            D per module.
        """
        s = self.options.strength if strength is None else strength
        if self.options.combine == "add" and not self.options.aligned_base:
            return {m: s * core for m, core in self.patches.safety.items()}
        return {m: s * core - self.utility[m] for m, core in self.patches.safety.items()}

    def choose(self, budget: float) -> CoefficientChoice:
        """μ and strength under a tax budget, on the samples set aside.

        Args:
            budget: nats of KL per benign answer token.

        Returns:
            The choice and everything that was tried.
        """
        hard = isinstance(self.options.filter, HardFilter)
        return optimize_merge_coefficients(
            lambda mu, strength: self.merged(mu=mu, strength=strength),
            required_model(self.problem),
            self.problem.spaces,
            self.utility,
            self.held_harm,
            self.held_benign,
            tax_budget=budget,
            strengths=self.options.tune_strengths or (self.options.strength,),
            tune_mu=not hard,
            progress=self.problem.progress,
        )

    def refined(self, change: Cores, budget: float, trail: RefineTrail | None = None) -> Cores:
        """Re-learn the patch inside the subspace by gradient.

        Args:
            change: the filtered patch.
            budget: nats of KL per benign answer token.
            trail: of the same patch's refinements under other budgets, whose common steps are done once.

        Returns:
            The new patch, M − M_U per module.

        Raises:
            MergeError: the structure has no per-layer basis.
        """
        # With `utility: fisher` the filter has no basis of its own; that of the pooled benign data serves for both.
        if not isinstance(self.gevp, LayeredGEVP):
            raise MergeError("refine needs per-layer directions: structure diagonal, kronecker or block")
        hard = self.options.filter
        refined = refine_coefficients(
            required_model(self.problem),
            self.problem.spaces,
            self.gevp.top(hard.hard) if isinstance(hard, HardFilter) else self.gevp,
            self.utility,
            self.region.restrict(change),
            self.fit_harm,
            self.fit_benign,
            steps=self.options.refine,
            tax_budget=budget,
            embed=lambda cores: self.region.embed(cores, self.utility),
            trail=trail,
            progress=self.problem.progress,
        )
        return self.region.embed(refined, self.utility)

    def held_out(self) -> HeldOutQuotients | None:
        """λ in-sample against the same directions' quotients on the samples set aside; None where there are none."""
        if self.options.utility == "fisher" or not self.held_harm or not self.held_benign:
            return None
        harm = self._fisher(self.held_harm, "safety", "held-out, harmful", self.region, "lowrank")
        benign = self._fisher(self.held_benign, "utility", "held-out, benign", self.region, "lowrank")
        return held_out_quotients(self.gevp, harm.scaled(self.fishers[2]), benign)

    @property
    def _harm_damping(self) -> float:
        given = self.options.harm_damping
        return self.options.damping if given is None else given

    @property
    def _utility_adapters(self) -> list[Any]:
        return [a for a in self.problem.adapters if a.role == "utility"]

    @cached_property
    def _adapter_fishers(self) -> dict[str, tuple[Any, ...]]:
        """Every utility adapter's own Fisher, made fit to be added.

        Raises:
            FisherError: an adapter's Fisher is zero, so that traces cannot be made equal.
        """
        collected = {a.name: self.skill_fisher(a.name) for a in self._utility_adapters}
        options = self.options
        return skill_layers(collected, output_shrinkage=options.output_shrinkage, equal=options.equal_traces)
