"""Settings of SST-Merge: what a configuration's ``merge:`` section may hold for ``method: sst``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import FisherError
from ..fim_calculator import ESTIMATOR, STRUCTURE, TRUST_BUDGET, Estimator, Point
from ..fim_calculator.structures import find_structure
from ..methods import MethodOptions
from .recipes import WIDE, completed

__all__ = ["DEFAULT_BUDGET", "FisherOptions", "HardFilter", "SSTOptions", "VilaOptions"]

DEFAULT_BUDGET = 0.02
"""Tax budget where neither it nor μ is given, nats per benign answer token."""

_TARGET_HOLDOUT = 0.5


class FisherOptions(MethodOptions):
    """How the two Fishers are estimated (design, section 3).

    Attributes:
        structure: which correlations are kept: ``diagonal``, ``kronecker``, ``block``, ``lowrank`` or any other that is
            registered; ``auto`` takes ``block`` while it fits, else ``kronecker``, which is
            the default at every size: a block of (pq)² numbers from a few hundred samples overfits.
        estimator: ``log_odds`` (gradient of log p/(1−p), which does not vanish on answers the model is certain of),
            ``empirical`` (gradient of log p) or ``sampled`` (the same with labels drawn from the model).
        point: where gradients are taken: each role's ``own`` sum, where KL to that model has its second order;
            ``trust``, the furthest point on the way to the plain sum whose benign divergence stays within
            ``trust_budget`` (the default with ``inputs: core``); ``merged``, the plain sum of all adapters; or the
            ``base``.
        trust_budget: nats per benign answer token, for ``point: trust``.
        trust_share: the share of the way at which ``point: trust`` lies, where it is known; measured by default.
        harm: file of F_harm, collected before by ``sst-merge fisher collect``; collected by the merge by default.
        benign: file of F_benign, collected likewise.
        skills: files of the utility adapters' own Fishers by adapter name, for ``utility: fisher``.
    """

    structure: str = STRUCTURE
    estimator: Estimator = ESTIMATOR
    point: Point = "own"
    trust_budget: float = Field(default=TRUST_BUDGET, gt=0.0)
    trust_share: float | None = Field(default=None, gt=0.0, le=1.0)
    harm: Path | None = None
    benign: Path | None = None
    skills: Mapping[str, Path] = Field(default_factory=dict)

    @field_validator("structure")
    @classmethod
    def _registered(cls, name: str) -> str:
        try:
            return name if name == "auto" else find_structure(name).structure
        except FisherError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _files_make_sense(self) -> "FisherOptions":
        for name, path in self.files.items():
            if path.suffix != ".safetensors":
                raise ValueError(
                    f"{name}: {path} is not a .safetensors file; expected one that `sst-merge fisher collect` wrote"
                )
        taken = {"harm", "benign"} & set(self.skills)
        if taken:
            raise ValueError(f"skills: {taken.pop()!r} cannot be an adapter's name here; rename the adapter")
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Files of saved Fishers, by what they are the Fisher of: harm, benign, or an adapter's name."""
        named = {"harm": self.harm, "benign": self.benign, **self.skills}
        return {name: path for name, path in named.items() if path is not None}


class HardFilter(MethodOptions):
    """Keep the ``hard`` = k best directions, whole; per layer, or across layers for structure ``lowrank``.

    Attributes:
        hard: k, number of directions that are kept.
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
        filter: what passes of each direction: ``soft`` h = λ/(λ+μ), or ``{hard: k}``.
        combine: move from M_U towards M_S (``interpolate``, the only way with ``aligned_base``), or add the filtered
            M_S (``add``, the default with ``inputs: core``).
        mu: μ of the soft filter, the λ at which half of a direction passes; with ``inputs: wide`` 1 where neither it
            nor what chooses it is given.
        tax_budget: largest mean KL divergence (nats per benign answer token) from the skilled model; chooses μ on
            calibration prompts that the Fishers do not see. With ``inputs: core`` 0.02 where neither it nor μ is given.
        safety_target: rate of refusals to keep with ``confidence`` on held-out harmful prompts; chooses a place between
            the skills and the safety adapter, at the least benign divergence, and takes the place of ``mu``,
            ``tax_budget`` and ``strength``. The way leads through taught merges, or with ``refine: 0`` along ``mu`` and
            strength of the closed form.
        confidence: probability that the rate of refusals really is ``safety_target``, over draws of the prompts.
        if_missed: what happens where no point keeps ``safety_target``: ``refuse`` to merge, or write the ``safest``.
        strength: multiplies M_S before it is filtered.
        tune_strengths: strengths tried beside μ under the budget; ``strength`` alone by default.
        utility: how several utility adapters become M_U: ``fisher``, argmin Σ w (M − M_i)ᵀF_i(M − M_i), each F_i from
            the adapter's own benign data, or the common ones where it has none; or their weighted ``sum`` (the default
            with ``inputs: core``).
        equal_traces: with ``utility: fisher``, scale the F_i of every module to one trace, so that the adapters'
            weights alone say how much a skill counts and not the size of its gradients.
        output_shrinkage: with ``utility: fisher`` and Kronecker Fishers, γ by which every F_i's output factor is
            shrunk towards a multiple of the identity: 0 leaves it, at 1 only inputs count, as in RegMean; 0.7 by
            default with ``inputs: core``.
        inputs: where V comes from: the adapters' own rows and those that RegMean's merge of all adapters would have
            (``wide``), for up to three more passes over each adapter's data (one where a larger model needs sketches);
            or their own rows alone (``core``). The defaults of ``utility``, ``combine``, ``damping``,
            ``output_shrinkage`` and ``fisher.point`` belong to ``wide``; for ``core``, which is taken with saved
            Fishers, ``vila``, a hard filter, ``utility: sum`` or another structure than ``kronecker``, they are others.
        aligned_base: no safety adapter is given because the base itself is aligned: M_S = 0.
        damping: ρ, added to the diagonal of F_benign, relative to its mean; 0.1 by default with ``inputs: core``.
        harm_damping: the same for F_harm; null takes ``damping``.
        calibration_holdout: share of the calibration samples kept from the Fishers, to choose μ and to report
            held-out quotients, which ``utility: sum`` alone has; of a skill's own data the share is kept from the steps
            of teachers alone. 0 gives the Fishers all of them. That is the default
            with ``inputs: wide`` where no ``tax_budget``, ``safety_target`` or ``refine`` reads them; else it is a
            quarter, and with a ``safety_target`` half of the harmful ones: a bound on a rate needs prompts more than a
            Fisher does.
        refine: what follows the closed form. A number: so many gradient steps that re-learn the coefficients inside the
            subspace; 0 for none. ``teachers``: steps towards what every adapter itself says on its own data (the rest
            of the benign data is the base's, and harmful prompts are the safety adapters', with ν = 1/μ); their best
            point on held-out prompts is taken. Then weights say how much a skill counts, not how far it goes;
            ``tax_budget`` chooses μ, but the steps do not hold to it; and without safety adapter or ``aligned_base``
            the skills alone are merged. For skills without data of their own their merge teaches, on the common benign
            data. ``auto``, the default with ``inputs: wide``: teachers, unless a budget or a target chooses, a weight
            is negative, or there are too few prompts to hold any out.
        vila: restrict to the layers and directions worth solving for.
    """

    fisher: FisherOptions = FisherOptions()
    filter: Literal["soft"] | HardFilter = "soft"
    combine: Literal["interpolate", "add"] = WIDE["combine"]
    mu: float | None = Field(default=None, gt=0.0)
    tax_budget: float | None = Field(default=None, gt=0.0)
    safety_target: float | None = Field(default=None, gt=0.0, lt=1.0)
    confidence: float = Field(default=0.9, gt=0.0, lt=1.0)
    if_missed: Literal["refuse", "safest"] = "refuse"
    strength: float = Field(default=1.0, ge=0.0)
    tune_strengths: tuple[float, ...] = ()
    utility: Literal["sum", "fisher"] = WIDE["utility"]
    equal_traces: bool = True
    output_shrinkage: float = Field(default=WIDE["output_shrinkage"], ge=0.0, le=1.0)
    inputs: Literal["core", "wide"] = WIDE["inputs"]
    aligned_base: bool = False
    damping: float = Field(default=WIDE["damping"], gt=0.0)
    harm_damping: float | None = Field(default=None, ge=0.0)
    calibration_holdout: float = Field(default=0.25, ge=0.0, lt=1.0)
    refine: Literal["auto", "teachers"] | Annotated[int, Field(ge=0)] = WIDE["refine"]
    vila: VilaOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, given: Any) -> Any:
        return completed(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _consistent(self) -> "SSTOptions":
        if self.mu is not None and self.tax_budget is not None:
            raise ValueError("give either mu or tax_budget (which chooses mu), not both")
        self._check_target()
        if isinstance(self.filter, HardFilter) and self.mu is not None:
            raise ValueError("mu belongs to the soft filter; a hard filter has k and strength")
        if isinstance(self.filter, HardFilter) and self.tax_budget is not None and not self.tune_strengths:
            raise ValueError("with a hard filter tax_budget chooses the strength: list candidates in tune_strengths")
        if self.tune_strengths and self.budget is None and self.safety_target is None:
            raise ValueError(
                "tune_strengths needs a tax_budget under which they are tried; give one, or strength alone"
            )
        if self.fisher.skills and self.utility != "fisher":
            raise ValueError("fisher.skills belongs to utility: fisher; a plain sum needs no Fisher of single skills")
        if self.fisher.files and self.vila is not None:
            raise ValueError(
                "vila chooses where to solve by statistics of its own, which saved Fishers (fisher.harm, "
                "fisher.benign) do not have; drop either"
            )
        if self.inputs == "wide" and self.utility != "fisher":
            raise ValueError("inputs: wide belongs to utility: fisher; a plain sum lies within the core space")
        if self.inputs == "wide" and isinstance(self.filter, HardFilter):
            raise ValueError("inputs: wide goes with the soft filter; a hard one chooses among the adapters' own rows")
        if self.inputs == "wide" and self.vila is not None:
            raise ValueError("vila keeps a part of the adapters' own rows, so it belongs to inputs: core")
        if self.refine == "teachers" and self.calibration_holdout == 0:
            raise ValueError("refine: teachers takes its best point on held-out prompts; give calibration_holdout > 0")
        if self.refine in {"auto", "teachers"} and self.vila is not None:
            raise ValueError(f"refine: {self.refine} moves every core, vila leaves some where they are; drop either")
        if self.aligned_base and self.combine == "add" and "combine" in self.model_fields_set:
            raise ValueError("aligned_base means M_S = 0, so there is nothing to add; use combine: interpolate")
        return self

    def _check_target(self) -> None:
        """Refuse what a safety target decides itself, and what belongs to one and has none.

        Raises:
            ValueError: such an option was given.
        """
        given = self.model_fields_set
        if self.safety_target is None:
            alone = given & {"confidence", "if_missed"}
            if alone:
                raise ValueError(f"{min(alone)} belongs to safety_target; give that, too")
            return
        chosen = [n for n in ("mu", "tax_budget", "strength", "tune_strengths") if n in given and getattr(self, n)]
        if chosen:
            raise ValueError(
                f"{chosen[0]} and safety_target exclude each other: the target chooses mu and strength along one path, "
                "at the least benign divergence. To bound the divergence instead, give tax_budget without a target"
            )
        if isinstance(self.filter, HardFilter):
            raise ValueError("safety_target moves mu and needs the soft filter; drop filter, or give k and strength")

    @property
    def harm_holdout(self) -> float:
        """Share of the harmful samples kept from the Fishers."""
        chosen = "calibration_holdout" in self.model_fields_set or self.safety_target is None
        return self.calibration_holdout if chosen else _TARGET_HOLDOUT

    @property
    def budget(self) -> float | None:
        """The tax budget in force, or None where μ (or k) is fixed, a safety target chooses, or nothing is tuned."""
        if self.tax_budget is not None:
            return self.tax_budget
        if isinstance(self.filter, HardFilter) or self.safety_target is not None:
            return None
        return None if self.mu is not None else DEFAULT_BUDGET
