"""What alignment changed, V = W_aligned − W_unaligned, as the safety-aware methods use it.

V comes from the weights of two bases, read one module at a time, or is the update of the safety adapters (then
W_aligned = W + ΔW_S, and V is as low-rank as they are). From weights it has full rank, so that it (cut to a low rank)
or its image of the updates (exact) widens the core space of a module; V itself is never kept.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ...core_space import CoreSpace
from ...errors import BaseModelError, MergeError
from ...fim_calculator import point_cores
from ...lora_utils import LoraFactors
from .. import MergeProblem
from .widening import joined

__all__ = [
    "Alignment",
    "alignment_cores",
    "alignment_cosine",
    "alignment_operators",
    "alignment_source",
    "low_rank",
    "weight_difference",
]

Alignment = Literal["auto", "weights", "safety"]

_DENSE_SVD = 512
_OVERSAMPLING = 16
_POWER_ITERATIONS = 4


def alignment_source(problem: MergeProblem, asked: Alignment, method: str) -> Literal["weights", "safety"]:
    """Where V comes from.

    Args:
        problem: the merge.
        asked: ``auto`` takes the weights of both bases where they are given, else the safety adapters.
        method: for messages.

    Returns:
        ``weights`` or ``safety``.

    Raises:
        MergeError: what was asked for is not there.
    """
    weights = problem.base_weights is not None and problem.aligned_weights is not None
    safety = any(a.role == "safety" for a in problem.adapters)
    found = asked if asked != "auto" else "weights" if weights else "safety"
    if (found == "weights" and not weights) or (found == "safety" and not safety):
        raise MergeError(
            f"option 'alignment' = {asked!r} of method {method!r}: weights of both bases are "
            f"{'given' if weights else 'not given'}, adapters of role safety are {'given' if safety else 'not given'}; "
            f"give base_model and aligned_base_model, or an adapter of role safety"
        )
    return found


def weight_difference(problem: MergeProblem, module: str) -> Tensor:
    """V of one module from the weights of both bases.

    Args:
        problem: with both weights.
        module: canonical name.

    Returns:
        (d_out, d_in), on the device and in the type of the core spaces.

    Raises:
        BaseModelError: weights are missing, or of other shapes than the adapters need.
    """
    space = problem.spaces[module]
    if problem.base_weights is None or problem.aligned_weights is None:
        raise BaseModelError(f"module {module!r}: weights of the unaligned and of the aligned base are needed")
    expected = (space.left.shape[0], space.d_in)
    for weights in (problem.base_weights, problem.aligned_weights):
        if (found := weights.shape(module, kind=space.kind)) != expected:
            raise BaseModelError(
                f"{weights.folder}: module {module!r} is {found} (d_out, d_in), the adapters need {expected}; "
                f"the adapters and both bases must be of one model"
            )
    dtype, device = space.left.dtype, space.left.device
    aligned = problem.aligned_weights.weight(module, kind=space.kind, dtype=dtype)
    return (aligned - problem.base_weights.weight(module, kind=space.kind, dtype=dtype)).to(device)


def low_rank(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """The best B·A of a rank, by an SVD or, for large matrices, by a randomised one (arXiv:0909.4061).

    Args:
        matrix: (d_out, d_in).
        rank: at most this.
        generator: on the CPU, of the randomised start.

    Returns:
        B (d_out, r), A (r, d_in) and the share of ‖matrix‖²_F that they hold.
    """
    if min(matrix.shape) <= max(_DENSE_SVD, 4 * rank):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        width = rank + _OVERSAMPLING
        start = torch.randn(matrix.shape[1], width, generator=generator, dtype=torch.float64).to(matrix)
        basis = torch.linalg.qr(matrix @ start)[0]
        for _ in range(_POWER_ITERATIONS):
            basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis)[0])[0]
        inner, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        left = basis @ inner
    total = float(matrix.double().square().sum())
    kept = float(values[:rank].double().square().sum())
    return left[:, :rank] * values[:rank], right[:rank], min(1.0, kept / total) if total > 0 else 1.0


def alignment_cores(
    problem: MergeProblem, source: str, rank: int
) -> tuple[dict[str, CoreSpace], dict[str, Tensor], dict[str, float]]:
    """V in core coordinates: of the safety adapters exactly, of two bases as their best update of a rank.

    Args:
        problem: the merge.
        source: ``weights`` or ``safety``.
        rank: of V per module, for ``weights``.

    Returns:
        Spaces that hold all adapters and V, the core of V, and the share of ‖V‖² kept, per module.
    """
    if source == "safety":
        zeros = {m: space.coordinates(None) for m, space in problem.spaces.items()}
        cores = zeros | point_cores(problem.adapters, problem.spaces, role="safety")
        return dict(problem.spaces), cores, dict.fromkeys(cores, 1.0)
    generator = torch.Generator().manual_seed(problem.seed)
    spaces, vectors, energies = {}, {}, {}
    for done, (module, space) in enumerate(problem.spaces.items(), start=1):
        b, a, energies[module] = low_rank(weight_difference(problem, module), rank, generator)
        vector = LoraFactors(b, a, space.kind)
        vector = vector.with_bias() if space.bias else vector
        spaces[module] = replace(space, left=joined(space.left, vector.b), right=joined(space.right, vector.a.T))
        vectors[module] = spaces[module].coordinates(vector)
        if problem.progress is not None:
            problem.progress("alignment vector", done, len(problem.spaces))
    return spaces, vectors, energies


def alignment_operators(problem: MergeProblem, source: str) -> tuple[dict[str, CoreSpace], dict[str, Tensor | None]]:
    """C = V Vᵀ / ‖V‖_F of Safe LoRA as an operator on cores: C ΔW = U (K M) Rᵀ, exactly.

    With V from weights, C U leaves the span of U: the left basis is widened by it.

    Args:
        problem: the merge.
        source: ``weights`` or ``safety``.

    Returns:
        Spaces in which both ΔW and C ΔW are exact, and K (p, p) per module in float64; None where V = 0.
    """
    if source == "safety":
        _, cores, _ = alignment_cores(problem, source, rank=1)
        return dict(problem.spaces), {m: _gram_over_norm(core.double()) for m, core in cores.items()}
    spaces: dict[str, CoreSpace] = {}
    operators: dict[str, Tensor | None] = {}
    for done, (module, space) in enumerate(problem.spaces.items(), start=1):
        difference = weight_difference(problem, module)
        norm = float(difference.double().norm())
        spaces[module], operators[module] = space, None
        if norm > 0:
            image = (difference @ (difference.T @ space.left)) / norm
            wide = replace(space, left=joined(space.left, image))
            spaces[module] = wide
            operators[module] = (wide.left.T @ image).double() @ (space.left.T @ wide.left).double()
        if problem.progress is not None:
            problem.progress("alignment", done, len(problem.spaces))
    return spaces, operators


def alignment_cosine(operator: Tensor | None, core: Tensor) -> float | None:
    """cos(C ΔW, ΔW) from cores: cos(K M, M).

    Args:
        operator: K, (p, p), or None where V = 0.
        core: M, (p, q).

    Returns:
        Between -1 and 1, 0 where K M = 0; None where V or M is 0, so that there is nothing to compare.
    """
    norm = float(core.norm())
    if operator is None or norm == 0:
        return None
    image = operator @ (core / norm)
    length = float(image.norm())
    return float((image * core).sum()) / (length * norm) if length > 0 else 0.0


def _gram_over_norm(core: Tensor) -> Tensor | None:
    norm = float(core.norm())
    # Scaled first: the square of a tiny update would underflow.
    return (core / norm) @ core.T if norm > 0 else None
