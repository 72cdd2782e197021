"""Settings of SST-Merge: what a configuration's ``merge:`` section may hold for ``method: sst``."""

from typing import Literal

from pydantic import Field, model_validator

from ..methods import MethodOptions

__all__ = ["DEFAULT_BUDGET", "FisherOptions", "HardFilter", "SSTOptions", "VilaOptions"]

DEFAULT_BUDGET = 0.02
"""Tax budget where neither it nor μ is given, nats per benign answer token."""

Structure = Literal["auto", "diagonal", "kronecker", "block", "lowrank"]


class FisherOptions(MethodOptions):
    """How the two Fishers are estimated (design, section 3).

    Attributes:
        structure: which correlations are kept; ``auto`` takes ``block`` while it fits, else ``kronecker``, which is
            the default at every size: a block of (pq)² numbers from a few hundred samples overfits.
        estimator: ``log_odds`` (gradient of log p/(1−p), which does not vanish on answers the model is certain of),
            ``empirical`` (gradient of log p) or ``sampled`` (the same with labels drawn from the model).
        point: where gradients are taken: ``trust``, the furthest point on the way to the plain sum whose benign
            divergence stays within ``trust_budget``; ``merged``, the plain sum of all adapters; each role's ``own``
            sum; or the ``base``.
        trust_budget: nats per benign answer token, for ``point: trust``.
    """

    structure: Structure = "kronecker"
    estimator: Literal["log_odds", "empirical", "sampled"] = "log_odds"
    point: Literal["trust", "merged", "own", "base"] = "trust"
    trust_budget: float = Field(default=0.02, gt=0.0)


class HardFilter(MethodOptions):
    """Keep the ``hard`` = k best directions, whole; per layer, or across layers for structure ``lowrank``.

    Attributes:
        hard: k.
    """

    hard: int = Field(ge=1)


class VilaOptions(MethodOptions):
    """Solve only what VILA-style identification finds worth it; everything else stays at the utility patch.

    Attributes:
        keep_layers: share of the modules.
        keep_directions: share of each kept module's rank directions, on both sides.
    """

    keep_layers: float = Field(default=1.0, gt=0.0, le=1.0)
    keep_directions: float = Field(default=1.0, gt=0.0, le=1.0)


class SSTOptions(MethodOptions):
    """Options of SST-Merge (design, sections 4 and 5).

    Attributes:
        fisher: how the Fishers are estimated.
        filter: ``soft`` h = λ/(λ+μ), or ``{hard: k}``.
        combine: add the filtered M_S (``add``), or move from M_U towards M_S (``interpolate``, the only way with
            ``aligned_base``).
        mu: μ; leave it out to have it chosen under ``tax_budget``.
        tax_budget: largest mean KL divergence (nats per benign answer token) from the skilled model; chooses μ on
            calibration prompts that the Fishers do not see. 0.02 where neither it nor μ is given.
        strength: multiplies M_S before it is filtered.
        tune_strengths: strengths tried beside μ under the budget; ``strength`` alone by default.
        utility: how several utility adapters become M_U: their weighted ``sum``, or ``fisher``:
            argmin Σ w (M − M_i)ᵀF_i(M − M_i), which needs benign data for each adapter.
        equal_traces: with ``utility: fisher``, scale the F_i of every module to one trace, so that the adapters'
            weights alone say how much a skill counts and not the size of its gradients.
        output_shrinkage: with ``utility: fisher`` and Kronecker Fishers, γ by which every F_i's output factor is
            shrunk towards a multiple of the identity: 0 leaves it, at 1 only inputs count, as in RegMean.
        inputs: with ``utility: fisher``, where V comes from: the adapters' own rows (``core``), or also the rows that
            RegMean's merge of all adapters would have (``wide``), for one more pass over each adapter's data.
        aligned_base: no safety adapter is given because the base itself is aligned: M_S = 0.
        damping: ρ of F_benign relative to its mean diagonal.
        harm_damping: ρ of F_harm; None takes ``damping``.
        calibration_holdout: share of the calibration samples kept from the Fishers, to choose μ and to report
            held-out quotients.
        refine: gradient steps that re-learn the coefficients inside the subspace afterwards; 0 for none.
        vila: restrict to the layers and directions worth solving for.
    """

    fisher: FisherOptions = FisherOptions()
    filter: Literal["soft"] | HardFilter = "soft"
    combine: Literal["interpolate", "add"] = "add"
    mu: float | None = Field(default=None, gt=0.0)
    tax_budget: float | None = Field(default=None, gt=0.0)
    strength: float = Field(default=1.0, ge=0.0)
    tune_strengths: tuple[float, ...] = ()
    utility: Literal["sum", "fisher"] = "sum"
    equal_traces: bool = True
    output_shrinkage: float = Field(default=0.7, ge=0.0, le=1.0)
    inputs: Literal["core", "wide"] = "core"
    aligned_base: bool = False
    damping: float = Field(default=0.1, gt=0.0)
    harm_damping: float | None = Field(default=None, ge=0.0)
    calibration_holdout: float = Field(default=0.25, gt=0.0, lt=1.0)
    refine: int = Field(default=0, ge=0)
    vila: VilaOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "SSTOptions":
        if self.mu is not None and self.tax_budget is not None:
            raise ValueError("give either mu or tax_budget (which chooses mu), not both")
        if isinstance(self.filter, HardFilter) and self.mu is not None:
            raise ValueError("mu belongs to the soft filter; a hard filter has k and strength")
        if isinstance(self.filter, HardFilter) and self.tax_budget is not None and not self.tune_strengths:
            raise ValueError("with a hard filter tax_budget chooses the strength: list candidates in tune_strengths")
        given = "output_shrinkage" in self.model_fields_set and self.output_shrinkage > 0
        if given and self.fisher.structure not in ("kronecker", "auto"):
            raise ValueError(f"output_shrinkage needs fisher structure kronecker, not {self.fisher.structure}")
        if self.inputs == "wide" and self.utility != "fisher":
            raise ValueError("inputs: wide belongs to utility: fisher; a plain sum lies within the core space")
        if self.aligned_base and self.combine == "add" and "combine" in self.model_fields_set:
            raise ValueError("aligned_base means M_S = 0, so there is nothing to add; use combine: interpolate")
        return self

    @property
    def budget(self) -> float | None:
        """The tax budget in force, or None where μ (or k) is fixed and nothing is tuned."""
        if self.tax_budget is not None:
            return self.tax_budget
        if isinstance(self.filter, HardFilter):
            return None
        return None if self.mu is not None else DEFAULT_BUDGET
