"""The flow of SST-Merge, from adapters and calibration data to merged cores.

    M = M_U + V h(Λ) Vᵀ F_b (M_S − M_U)        F_h v = λ F_b v        h(λ) = λ/(λ+μ), or 1 for the k best

(design, section 4). Everything happens in the core space; layers are independent except through the common scale of
the two Fishers, the choice of μ, and structure ``lowrank``.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ..data_loader.batch import Batch
from ..errors import MergeError
from ..fim_calculator import Fisher
from ..fim_calculator.structures import LayerFisher
from ..gevp_solver import GramGEVP, LayeredGEVP, solve_gevp
from ..processes import once
from .coefficients import CoefficientChoice, optimize_merge_coefficients
from .collect import required_model
from .filtering import SafetyFilter, SpectralFilter, SumFilter
from .held_out import HeldOutQuotients, held_out_quotients
from .merge_fishers import Cores, MergeFishers
from .options import HardFilter
from .refine import RefineTrail, refine_coefficients
from .region import merged_cores
from .scaling import equalised
from .teacher_refine import Taught, refine_by_teachers
from .teachers import teachers_of

__all__ = ["SSTMerge"]


class SSTMerge(MergeFishers):
    """One merge in progress: every stage is computed once, when first asked for.

    Experiments that sweep μ reuse the Fishers and the eigenvectors: build one object, call :meth:`merged` often.
    """

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
        return once(
            "eigenproblem",
            lambda: solve_gevp(harm, benign, damping=self.options.damping, harm_damping=self._harm_damping),
        )

    @property
    def directions(self) -> LayeredGEVP | GramGEVP | None:
        """The directions that :attr:`filter` weighs; None for several skills, whose filter has no basis of its own."""
        return self.filter.gevp if isinstance(self.filter, SpectralFilter) else None

    @cached_property
    def filter(self) -> SafetyFilter:
        """V h(Λ) VᵀF_b as a function of h."""
        if self.options.utility == "sum":
            return SpectralFilter(self.gevp)
        weights = tuple(abs(a.weight) for a in self._utility_adapters)
        benign_trace = sum(
            w * f.trace() for fishers in self._adapter_fishers.values() for w, f in zip(weights, fishers, strict=True)
        )
        harm = self._harm.scaled(benign_trace / self._harm.trace()).layers
        if len(weights) == 1 and self._harm.structure != "lowrank":
            benign = {module: of[0].scaled(weights[0]) for module, of in self._adapter_fishers.items()}
            return SpectralFilter(once("eigenproblem", lambda: self._solved(harm, benign)))
        return SumFilter(harm, self._adapter_fishers, weights, self.options.damping, self._harm_damping)

    def _solved(self, harm: Mapping[str, LayerFisher], benign: Mapping[str, LayerFisher]) -> LayeredGEVP:
        rho, harm_rho = self.options.damping, self._harm_damping
        return LayeredGEVP({
            module: solve_gevp(harm[module], of, damping=rho, harm_damping=harm_rho) for module, of in benign.items()
        })

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
        """What is filtered: s·M_S − M_U (interpolate) or s·M_S (add)."""
        s = self.options.strength if strength is None else strength
        if self.options.combine == "add" and not self.options.aligned_base:
            return {m: s * core for m, core in self.patches.safety.items()}
        return {m: s * core - self.utility[m] for m, core in self.patches.safety.items()}

    def choose(self, budget: float) -> CoefficientChoice:
        """μ and strength under a tax budget, on the samples set aside."""
        hard = isinstance(self.options.filter, HardFilter)
        return optimize_merge_coefficients(
            lambda mu, strength: self.merged(mu=mu, strength=strength),
            required_model(self.problem),
            self.problem.spaces,
            self.utility,
            self.held_harm,
            self.judged_benign,
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
        hard, steps = self.options.filter, self.options.refine
        if isinstance(steps, str):
            raise MergeError(f"refine: {steps} takes no steps inside a subspace; call taught()")
        subspace = self.gevp.top(hard.hard) if isinstance(hard, HardFilter) else self.gevp
        # A step looks at one batch of each kind, too little to be shared.
        refined = once(
            "refinement",
            lambda: refine_coefficients(
                required_model(self.problem),
                self.problem.spaces,
                subspace,
                self.utility,
                self.region.restrict(change),
                self.fit_harm,
                self.fit_benign,
                steps=steps,
                tax_budget=budget,
                embed=lambda cores: self.region.embed(cores, self.utility),
                trail=trail,
                progress=self.problem.progress,
            ),
        )
        return self.region.embed(refined, self.utility)

    def taught(
        self,
        cores: Cores,
        nu: float,
        *,
        harm: tuple[Sequence[Batch], Sequence[Batch]] | None = None,
        strength: float = 1.0,
        on_all: bool = True,
    ) -> Taught:
        """Move a merge towards what every adapter itself says (``refine: teachers``).

        Args:
            cores: the merge to start from, M per module.
            nu: weight ν of the safe model, 1/μ; 0 for skills alone.
            harm: harmful prompts of the steps and of the looks; by default as they are split for the Fishers.
            strength: multiplies M_S where it teaches.
            on_all: go on from the best point over all prompts, for as many passes as were taken to it; false where
                something else is decided on the held-out ones afterwards.

        Returns:
            The best point on held-out prompts, never worse there than the start, or what became of it on all prompts.

        Raises:
            MergeError: a skill's weight is negative, or all are 0.
        """
        return refine_by_teachers(
            required_model(self.problem),
            self.problem.spaces,
            teachers_of(self, nu, harm, strength),
            cores,
            seed=self.problem.seed,
            on_all=on_all,
            progress=self.problem.progress,
        )

    def taught_skills(self) -> Taught:
        """The skills alone, moved towards what each of them says."""
        return self.taught(self.utility, 0.0)

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
