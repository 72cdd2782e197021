"""What one merge is computed from: the roles' patches, the two Fishers on one scale, data set aside.

The calibration samples are split once: one part makes the Fishers, the other never meets them and decides μ and the
held-out quotients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import DataError, FisherError, MergeError
from ..fim_calculator import CoreModel, Fisher, compute_fim, point_cores
from ..methods import MergeProblem
from .options import FisherOptions
from .region import Region

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "Collector",
    "RolePatches",
    "equalised",
    "merged_cores",
    "own_benign",
    "require_data",
    "role_patches",
    "split_batches",
]


@dataclass(frozen=True)
class RolePatches:
    """Weighted sums of the adapters' cores, by role and module.

    Attributes:
        utility: Σ w M over role ``utility``.
        safety: Σ w M over role ``safety``; zeros where there is none.
        each: every adapter's own core, by name and module, unweighted.
    """

    utility: dict[str, Tensor]
    safety: dict[str, Tensor]
    each: dict[str, dict[str, Tensor]]

    @property
    def towards_safe(self) -> dict[str, Tensor]:
        """From the skilled model towards the safe one: M_S, or −M_U where the base itself is the safe model."""
        if any(bool(core.any()) for core in self.safety.values()):
            return self.safety
        return {m: -core for m, core in self.utility.items()}

    def point(self, where: str, role: str, share: float = 1.0) -> dict[str, Tensor] | None:
        """Cores of the model at which a role's gradients are taken (design, section 3).

        Args:
            where: ``trust``, ``merged``, ``own`` or ``base``.
            role: whose Fisher it is.
            share: how far to go for ``trust``.

        Returns:
            Cores per module, or None for the base itself.
        """
        if where == "base":
            return None
        if where == "own":
            return self.safety if role == "safety" else self.utility
        if where == "trust":
            return {m: self.utility[m] + share * step for m, step in self.towards_safe.items()}
        return {m: self.utility[m] + self.safety[m] for m in self.utility}


def role_patches(problem: MergeProblem) -> RolePatches:
    """Coordinates of every adapter in the shared spaces, and their sums by role.

    Args:
        problem: adapters and spaces.

    Returns:
        Cores on the spaces' device and type.
    """
    zeros = {m: space.coordinates(None) for m, space in problem.spaces.items()}
    sums = {role: zeros | point_cores(problem.adapters, problem.spaces, role=role) for role in ("utility", "safety")}
    each = {a.name: zeros | point_cores([a.with_(weight=1.0)], problem.spaces) for a in problem.adapters}
    return RolePatches(sums["utility"], sums["safety"], each)


def split_batches(batches: Sequence[Batch], share: float, seed: int) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """Set aside a share of the samples, at least one on each side.

    Args:
        batches: with distinct prompts (the data loader removes duplicates).
        share: of the samples to set aside, between 0 and 1.
        seed: which ones.

    Returns:
        (kept, set aside), rows in their old order and batches.

    Raises:
        DataError: fewer than two samples.
    """
    total = sum(len(b) for b in batches)
    if total < 2:
        raise DataError(f"{total} calibration samples cannot be split into Fisher and held-out parts; give at least 2")
    n_aside = min(total - 1, max(1, round(share * total)))
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:n_aside]] = True
    kept, aside, start = [], [], 0
    for batch in batches:
        mask = chosen[start : start + len(batch)].to(batch.input_ids.device)
        start += len(batch)
        kept.extend(_rows(batch, ~mask))
        aside.extend(_rows(batch, mask))
    return tuple(kept), tuple(aside)


def _rows(batch: Batch, mask: Tensor) -> list[Batch]:
    if not bool(mask.any()):
        return []
    return [Batch(batch.input_ids[mask], batch.attention_mask[mask], batch.labels[mask])]


def require_data(problem: MergeProblem) -> "PreTrainedModel":
    """The model, after a check that calibration data are there too.

    Args:
        problem: the merge.

    Returns:
        The base model.

    Raises:
        DataError: no model, or no harm or benign batches.
    """
    if problem.model is None or not problem.harm or not problem.benign:
        raise DataError(
            "method 'sst' needs base_model, data.harm and data.benign; found model: "
            f"{problem.model is not None}, harm batches: {len(problem.harm)}, benign batches: {len(problem.benign)}"
        )
    return problem.model


def own_benign(problem: MergeProblem, name: str) -> Sequence[Batch]:
    """A utility adapter's own benign data, for ``utility: fisher``.

    Args:
        problem: the merge.
        name: of the adapter.

    Returns:
        Its batches.

    Raises:
        MergeError: there are none.
    """
    batches = problem.adapter_benign.get(name, ())
    if not batches:
        raise MergeError(
            f"utility: fisher needs benign data of each utility adapter; adapter {name!r} has none. "
            "Give it a `data:` section, or use utility: sum"
        )
    return batches


@dataclass(frozen=True)
class Collector:
    """Collects Fishers of one merge with the same settings.

    Attributes:
        problem: model, full spaces, seed, progress.
        options: the estimator.
    """

    problem: MergeProblem
    options: FisherOptions

    def fisher(
        self,
        batches: Sequence[Batch],
        role: str,
        stage: str,
        *,
        structure: str,
        point: Mapping[str, Tensor] | None,
        region: Region | None = None,
    ) -> Fisher:
        """One Fisher.

        Args:
            batches: what it is taken over.
            role: ``safety`` for harm, ``utility`` for benign; decides the label seed.
            stage: name for the progress bar.
            structure: which correlations are kept.
            point: cores at which gradients are taken; None is the base.
            region: collect only there; everywhere by default.

        Returns:
            The statistics, unscaled.
        """
        model, spaces = require_data(self.problem), self.problem.spaces
        generator = torch.Generator().manual_seed(self.problem.seed * 2 + (role == "safety"))
        total = sum(len(b) for b in batches)
        progress = self.problem.progress
        tick = None if progress is None else lambda done: progress(stage, done, total)
        if region is None or region.kept is None:
            return compute_fim(
                model,
                spaces,
                batches,
                point=point,
                structure=structure,
                estimator=self.options.estimator,
                generator=generator,
                progress=tick,
            )
        # A region's bases cannot express the point, so the point is held in the full spaces around it.
        with CoreModel(model, spaces) as around:
            around.set_point(point)
            return compute_fim(
                model,
                region.spaces,
                batches,
                structure=structure,
                estimator=self.options.estimator,
                generator=generator,
                progress=tick,
            )


def equalised(f_harm: Fisher, f_benign: Fisher) -> tuple[Fisher, float]:
    """Scale F_h so that both traces agree over all layers; μ and λ then mean the same on every model.

    Args:
        f_harm: F_h.
        f_benign: F_b.

    Returns:
        The scaled F_h and the factor.

    Raises:
        FisherError: a trace is zero, so that there is nothing to compare.
    """
    harm, benign = f_harm.trace(), f_benign.trace()
    if harm <= 0 or benign <= 0:
        which = "harm" if harm <= 0 else "benign"
        raise FisherError(f"the {which} Fisher is zero: no gradient reaches any merged module; check data and labels")
    return f_harm.scaled(benign / harm), benign / harm


def merged_cores(utility: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """M_U + change; modules without a change stay at M_U.

    Args:
        utility: M_U per module.
        change: filtered patch per module.

    Returns:
        Merged cores per module.
    """
    return {m: core + change[m] if m in change else core for m, core in utility.items()}
