"""Fisher information in the core space, from batches of text (design, section 3).

Per sample, log-likelihood ℓ = Σ log p(label) over response tokens and g = ∂ℓ/∂M; F = E[vec(g) vec(g)ᵀ]. Samples
share a batch only to share a pass: squaring a batch's mean gradient would underestimate F by about the batch size.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..core_space import CoreSpace
from ..data_loader.batch import IGNORED, Batch
from ..errors import DataError, FisherError
from .accumulate import Accumulator, new_accumulator
from .capture import CoreModel
from .fisher import Fisher, fingerprint
from .points import LowRankUpdates, Point, auto_structure, build_spaces, point_cores
from .structures import DiagonalFisher, LayerFisher

__all__ = [
    "Estimator",
    "compute_fim",
    "compute_fim_benign",
    "compute_fim_harm",
    "lora_gradient_variance_approximation",
    "token_log_odds",
    "token_logprobs",
]

Estimator = Literal["empirical", "sampled", "log_odds"]
Progress = Callable[[int], None]
"""Called with the number of samples done, after every batch."""


def token_logprobs(logits: Tensor, batch: Batch, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token, next-token shift included.

    Args:
        logits: (b, t, vocabulary).
        batch: the samples that they belong to.
        generator: on the CPU; draws the labels from the model (in the given context) instead of reading them.

    Returns:
        log p, (n,), in float32 or float64, and the sample (0 … b-1) that each belongs to, (n,), int64.

    Raises:
        DataError: a sample without response token.
    """
    chosen, targets, sample = _response_logits(logits, batch)
    logs = torch.log_softmax(chosen, dim=-1)
    if generator is not None:
        # By the inverse distribution function: the same draws on every device, whatever the batch size.
        draws = torch.rand(len(sample), 1, generator=generator, dtype=torch.float64).to(logits.device)
        cumulated = logs.detach().double().exp().cumsum(-1)
        targets = torch.searchsorted(cumulated, draws * cumulated[:, -1:]).squeeze(-1).clamp_max(logs.shape[-1] - 1)
    return logs.gather(-1, targets[:, None]).squeeze(-1), sample


def token_log_odds(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-odds log p/(1-p) of every response token, next-token shift included.

    Its gradient is that of log p divided by 1-p: it does not vanish where the model is already certain, so a
    well-known answer still says which directions would break it.

    Args:
        logits: (b, t, vocabulary).
        batch: the samples that they belong to.

    Returns:
        Log-odds, (n,), in float32 or float64, and the sample (0 … b-1) that each belongs to, (n,), int64.

    Raises:
        DataError: a sample without response token.
    """
    chosen, targets, sample = _response_logits(logits, batch)
    own = chosen.gather(-1, targets[:, None])
    others = chosen.scatter(-1, targets[:, None], float("-inf")).logsumexp(-1)
    return own.squeeze(-1) - others, sample


def _response_logits(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict a response token (n, vocabulary), the token (n,), its sample (n,).

    Raises:
        DataError: a sample without response token.
    """
    labels = batch.labels[:, 1:]
    sample, position = (labels != IGNORED).nonzero(as_tuple=True)
    counts = torch.bincount(sample, minlength=len(batch))
    if bool((counts == 0).any()):
        raise DataError(f"sample {int((counts == 0).nonzero()[0])} of a batch has no response token after the first")
    # Only response positions are normalised: the float32 copy stays small for large vocabularies.
    chosen = logits[sample.to(logits.device), position.to(logits.device)]
    chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
    return chosen, labels[sample, position].to(logits.device), sample


def compute_fim(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    batches: Iterable[Batch],
    *,
    point: Mapping[str, Tensor] | None = None,
    structure: str = "auto",
    estimator: Estimator = "empirical",
    generator: torch.Generator | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Fisher:
    """Fisher information of a model's responses with respect to core matrices.

    Args:
        model: a Hugging Face causal language model; its weights are only read.
        spaces: module name to core space.
        batches: text; how it is cut into batches makes no difference.
        point: cores M at which the gradients are taken, by module; 0 by default.
        structure: ``diagonal``, ``kronecker``, ``block``, ``lowrank`` or ``auto`` (:func:`~.points.auto_structure`).
        estimator: ``empirical`` takes the labels of the data, ``sampled`` draws them from the model (the true
            Fisher, one draw a sample), ``log_odds`` takes the data's labels and the gradient of log p/(1-p).
        generator: on the CPU, required by ``sampled``.
        modules: collect for these modules only; the point still holds for all.
        progress: called with the number of samples done.

    Returns:
        The statistics, on the CPU.

    Raises:
        FisherError: unknown structure or estimator, no generator, or gradients that are not finite.
        DataError: no batches.
    """
    _check_estimator(estimator, generator)
    wanted = {name: space for name, space in spaces.items() if modules is None or name in modules}
    if not wanted:
        raise FisherError("no module to collect a Fisher for; check `modules` and the adapters")
    structure = auto_structure(wanted) if structure == "auto" else structure
    draws = generator if estimator == "sampled" else None
    sums: dict[str, Accumulator] = {}
    samples = 0
    with CoreModel(model, spaces) as core_model:
        core_model.set_point(point)
        for name, space in wanted.items():
            sums[name] = new_accumulator(structure, space.shape, core_model.device_of(name))

        def collect(module: str, e: Tensor, z: Tensor) -> None:
            if module in sums:
                sums[module].add(e, z)

        for index, batch in enumerate(batches):
            with core_model.recording(collect):
                logits = core_model.logits(batch)
                score = token_log_odds if estimator == "log_odds" else partial(token_logprobs, generator=draws)
                loss = score(logits, batch)[0].sum()
                core_model.backward(loss)
            _close(sums, batch, index, float(loss.detach()))
            samples += len(batch)
            if progress is not None:
                progress(samples)
    if samples == 0:
        raise DataError("no batches: a Fisher needs at least one sample")
    layers: dict[str, LayerFisher] = {}
    for name in wanted:
        layers[name] = sums.pop(name).finish(samples)
    return Fisher(structure, layers, samples, fingerprint(wanted), f"{estimator}@{_digest(point)}")


def _check_estimator(estimator: str, generator: torch.Generator | None) -> None:
    if estimator not in get_args(Estimator):
        raise FisherError(f"unknown estimator {estimator!r}; known: {', '.join(get_args(Estimator))}")
    if estimator == "sampled" and generator is None:
        raise FisherError("the estimator 'sampled' draws labels: pass generator=torch.Generator().manual_seed(…)")


def _close(sums: Mapping[str, Accumulator], batch: Batch, index: int, loss: float) -> None:
    """End a batch, and refuse it where a statistic is not finite; one transfer to the CPU for all modules.

    Raises:
        FisherError: NaN or Inf in a gradient or in the log-likelihood.
    """
    tokens = batch.tokens
    sizes = [accumulator.close_batch(len(batch), tokens) for accumulator in sums.values()]
    finite = torch.stack([size.detach().to(sizes[0].device, torch.float64) for size in sizes]).isfinite().tolist()
    if not all(finite):
        bad = list(sums)[finite.index(False)]
        raise FisherError(f"module {bad}: gradients of batch {index} hold NaN or Inf (log-likelihood {loss:.6g})")
    if not isfinite(loss):
        raise FisherError(f"batch {index}: log-likelihood {loss}; check the model's precision and the labels")


def _digest(point: Mapping[str, Tensor] | None) -> str:
    """A short name of the point, so that statistics of different points are never added."""
    digest = hashlib.sha256()
    for module in sorted(point or {}):
        core = (point or {})[module].detach().to("cpu", torch.float32).contiguous()
        if bool(core.any()):
            digest.update(module.encode())
            digest.update(core.numpy().tobytes())
    return digest.hexdigest()[:16]


def compute_fim_harm(
    model: nn.Module,
    adapters: Sequence[LowRankUpdates],
    batches: Iterable[Batch],
    *,
    structure: str = "auto",
    estimator: Estimator = "empirical",
    point: Point = "merged",
    spaces: Mapping[str, CoreSpace] | None = None,
    generator: torch.Generator | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Fisher:
    """F_harm: how strongly a direction moves log p(refusal | harmful prompt).

    Args:
        model: the base model.
        adapters: all adapters of the merge; they span the core space.
        batches: harmful prompts with refusals as response.
        structure: see :func:`compute_fim`.
        estimator: see :func:`compute_fim`.
        point: ``merged`` (weighted sum of all adapters), ``own`` (weighted sum of the safety adapters) or ``base``.
        spaces: from :func:`~.points.build_spaces`, if they exist already.
        generator: see :func:`compute_fim`.
        modules: see :func:`compute_fim`.
        progress: see :func:`compute_fim`.

    Returns:
        The statistics.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, compute_fim_harm
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
        >>> fisher = compute_fim_harm(model, [code, safety], [batch()], structure="diagonal", point="merged")
        >>> fisher.samples, fisher.structure, fisher.trace() > 0
        (8, 'diagonal', True)
    """
    spaces = build_spaces(adapters) if spaces is None else spaces
    cores = _point(adapters, spaces, point, own_role="safety")
    return compute_fim(
        model,
        spaces,
        batches,
        point=cores,
        structure=structure,
        estimator=estimator,
        generator=generator,
        modules=modules,
        progress=progress,
    )


def compute_fim_benign(
    model: nn.Module,
    adapters: Sequence[LowRankUpdates],
    batches: Iterable[Batch],
    *,
    structure: str = "auto",
    estimator: Estimator = "empirical",
    point: Point = "merged",
    spaces: Mapping[str, CoreSpace] | None = None,
    generator: torch.Generator | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Fisher:
    """F_benign: what moving in a direction costs on benign prompts (second order of the KL divergence).

    Args:
        model: the base model.
        adapters: all adapters of the merge; they span the core space.
        batches: benign prompts with good answers as response.
        structure: see :func:`compute_fim`.
        estimator: see :func:`compute_fim`.
        point: ``merged`` (weighted sum of all adapters), ``own`` (weighted sum of the utility adapters) or ``base``.
        spaces: from :func:`~.points.build_spaces`, if they exist already.
        generator: see :func:`compute_fim`.
        modules: see :func:`compute_fim`.
        progress: see :func:`compute_fim`.

    Returns:
        The statistics.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, compute_fim_benign
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
        >>> fisher = compute_fim_benign(model, [code, safety], [batch()], structure="diagonal", point="merged")
        >>> fisher.samples, fisher.structure, fisher.trace() > 0
        (8, 'diagonal', True)
    """
    spaces = build_spaces(adapters) if spaces is None else spaces
    cores = _point(adapters, spaces, point, own_role="utility")
    return compute_fim(
        model,
        spaces,
        batches,
        point=cores,
        structure=structure,
        estimator=estimator,
        generator=generator,
        modules=modules,
        progress=progress,
    )


def lora_gradient_variance_approximation(
    model: nn.Module,
    adapters: Sequence[LowRankUpdates],
    batches: Iterable[Batch],
    *,
    point: Point = "merged",
    own_role: str = "utility",
    spaces: Mapping[str, CoreSpace] | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The cheapest Fisher: E[g²] - E[g]², the variance of the per-sample gradient, entry by entry.

    Args:
        model: the base model.
        adapters: all adapters of the merge.
        batches: prompts with responses.
        point: ``merged``, ``own`` (adapters of ``own_role``) or ``base``.
        own_role: whose optimum ``own`` means.
        spaces: from :func:`~.points.build_spaces`, if they exist already.
        modules: see :func:`compute_fim`.
        progress: see :func:`compute_fim`.

    Returns:
        Module name to variance, (p, q), float64.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, lora_gradient_variance_approximation
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
        >>> variance = lora_gradient_variance_approximation(model, [code, safety], [batch()])
        >>> {module: tuple(matrix.shape) for module, matrix in variance.items()}
        {'model.layers.0.mlp.up_proj': (4, 4)}
    """
    spaces = build_spaces(adapters) if spaces is None else spaces
    cores = _point(adapters, spaces, point, own_role=own_role)
    fisher = compute_fim(model, spaces, batches, point=cores, structure="diagonal", modules=modules, progress=progress)
    return {name: layer.variance() for name, layer in fisher.layers.items() if isinstance(layer, DiagonalFisher)}


def _point(
    adapters: Sequence[LowRankUpdates], spaces: Mapping[str, CoreSpace], point: str, *, own_role: str
) -> dict[str, Tensor]:
    if point == "base":
        return {}
    if point == "merged":
        return point_cores(adapters, spaces)
    if point == "own":
        return point_cores(adapters, spaces, role=own_role)
    raise FisherError(f"unknown point {point!r}; known: {', '.join(get_args(Point))}")
