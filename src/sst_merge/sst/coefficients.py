"""Choose μ and the patch's strength on calibration prompts that the Fishers did not see (design, section 4).

    maximise   mean log p(refusal | harmful prompt)
    subject to mean KL(skilled ‖ merged) per benign answer token ≤ tax_budget

The path in μ is monotone (smaller μ: more safety, more divergence), so a coarse grid over eight decades and one
finer grid inside the bracket that the budget falls into decide it; forward passes only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..errors import DataError, OptionError
from ..fim_calculator import CoreModel
from ..progress import Progress
from .likelihood import Candidate, score_candidates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CoefficientChoice", "optimize_merge_coefficients"]

Path = Callable[[float | None, float], Mapping[str, Tensor]]

_COARSE = tuple(10.0**e for e in range(4, -5, -1))


@dataclass(frozen=True)
class CoefficientChoice:
    """The chosen point and everything that was tried.

    Attributes:
        best: the chosen candidate.
        tried: all candidates, in the order of trial.
        feasible: whether any candidate met the budget; if not, ``best`` has the smallest divergence.
    """

    best: Candidate
    tried: tuple[Candidate, ...]
    feasible: bool


def optimize_merge_coefficients(
    path: Path,
    model: "PreTrainedModel",
    spaces: Mapping[str, CoreSpace],
    skilled: Mapping[str, Tensor],
    harm: Sequence[Batch],
    benign: Sequence[Batch],
    *,
    tax_budget: float,
    strengths: Sequence[float] = (1.0,),
    tune_mu: bool = True,
    fine_points: int = 5,
    progress: Progress | None = None,
) -> CoefficientChoice:
    """Maximise refusal under a bound on the benign divergence.

    Args:
        path: (μ, strength) → merged cores; μ is None where ``tune_mu`` is False.
        model: the base model.
        spaces: core space per module.
        skilled: cores M_U of the skilled model, the reference of the divergence.
        harm: held-out harmful prompts with refusals.
        benign: held-out benign prompts with good answers.
        tax_budget: bound on the divergence, nats per answer token, > 0.
        strengths: patch strengths to try.
        tune_mu: False for a hard filter, where only strengths are tried.
        fine_points: μ values tried inside the bracket.
        progress: called with (stage, done, total).

    Returns:
        The choice, with every candidate's figures.

    Raises:
        OptionError: the budget is not positive, or no strengths.
        DataError: no harm or no benign batches.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, optimize_merge_coefficients
        >>> from sst_merge.fim_calculator import build_spaces
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).eval()
        >>> def adapter(name, role):
        ...     factors = LoraFactors(torch.randn(8, 2), torch.randn(2, 8))
        ...     return Adapter.from_factors({"model.layers.0.mlp.up_proj": factors}, name=name, role=role)
        >>> code, safety = adapter("code", "utility"), adapter("safety", "safety")
        >>> def batch():
        ...     ids = torch.randint(16, (8, 5))
        ...     return Batch(ids, torch.ones_like(ids), ids.where(torch.arange(5) > 2, -100))
        >>> spaces = build_spaces([code, safety])
        >>> def cores(adapter):
        ...     return {module: space.coordinates(adapter.factors(module)) for module, space in spaces.items()}
        >>> skill, patch = cores(code), cores(safety)
        >>> def path(mu, strength):  # a patch that shrinks as the penalty grows
        ...     return {module: skill[module] + strength / (1 + mu) * patch[module] for module in spaces}
        >>> choice = optimize_merge_coefficients(path, model, spaces, skill, [batch()], [batch()], tax_budget=0.1)
        >>> choice.best.divergence <= 0.1 or not choice.within_budget
        True
    """
    if tax_budget <= 0 or not strengths:
        raise OptionError(f"tax_budget must be > 0 with at least one strength; found {tax_budget} and {strengths}")
    if not harm or not benign:
        raise DataError("choosing coefficients needs held-out harm and benign batches; give more calibration samples")
    tried: list[Candidate] = []

    def try_all(points: Sequence[tuple[float | None, float]]) -> None:
        cores = [path(mu, strength) for mu, strength in points]
        scores = score_candidates(attached, cores, skilled, harm, benign)
        tried.extend(Candidate(mu, s, *score) for (mu, s), score in zip(points, scores, strict=True))

    passes = 2 if tune_mu and fine_points else 1
    with CoreModel(model, spaces) as attached:
        _report(progress, 0, passes)
        grid: Sequence[float | None] = _COARSE if tune_mu else (None,)
        try_all([(mu, strength) for strength in strengths for mu in grid])
        _report(progress, 1, passes)
        if passes == 2:
            try_all([p for strength in strengths for p in _bracket(tried, strength, tax_budget, fine_points)])
            _report(progress, 2, passes)
    within = [c for c in tried if c.divergence <= tax_budget]
    best = max(within, key=lambda c: c.refusal) if within else min(tried, key=lambda c: c.divergence)
    return CoefficientChoice(best, tuple(tried), bool(within))


def _bracket(tried: Sequence[Candidate], strength: float, budget: float, points: int) -> list[tuple[float, float]]:
    """μ values between the last coarse one within the budget and the first one beyond it."""
    own = [c for c in tried if c.strength == strength and c.mu is not None]
    beyond = [c.mu for c in own if c.divergence > budget and c.mu is not None]
    if not beyond or len(beyond) == len(own):
        return []
    low = max(beyond)
    high = min((c.mu for c in own if c.mu is not None and c.mu > low), default=low * 10.0)
    steps = torch.linspace(0.0, 1.0, points + 2, dtype=torch.float64)[1:-1]
    return [(float(low * (high / low) ** t), strength) for t in steps]


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress("choosing coefficients", done, total)
