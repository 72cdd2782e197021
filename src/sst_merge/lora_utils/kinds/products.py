"""LoHa, LoKr, AdaLoRA and VeRA: products of small matrices, whose factors follow without ΔW and without PEFT.

- LoHa (Hyeon-Woo et al. 2022, 2108.06098): ΔW = s (W1a W1b) ∘ (W2a W2b), of rank r² at most.
- LoKr (Yeh et al. 2024, 2309.14859): ΔW = s W1 ⊗ W2, either of them possibly a product.
- AdaLoRA (Zhang et al. 2023, 2303.10512): ΔW = s B diag(E) A.
- VeRA (Kopiczko et al. 2024, 2310.11454): ΔW = diag(b) B diag(d) A, with A and B shared by all layers.
"""

import torch
from torch import Tensor

from ...errors import AdapterError
from ..folders import CONFIG_NAME
from ..keys import how_to_leave_out
from ..nearest import Nearest
from ..patterns import ModulePatterns
from .base_side import BaseSide
from .lowering import Limits, from_kronecker, from_pair
from .stored import StoredKind

__all__ = ["adalora_update", "loha_update", "lokr_update", "vera_projections", "vera_update"]

_ADALORA_EPSILON = 1e-5  # PEFT adds it to the rank that it divides by


def loha_update(stored: StoredKind, module: str, limits: Limits) -> Nearest:
    """One module of a LoHa adapter.

    Raises:
        AdapterError: a tensor decomposition of a convolution, or parts that are missing.
    """
    stored.require(module, ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
    parts = stored.of_module(module)
    b = torch.einsum("or,os->ors", parts["hada_w1_a"], parts["hada_w2_a"]).flatten(1)
    a = torch.einsum("ri,si->rsi", parts["hada_w1_b"], parts["hada_w2_b"]).flatten(0, 1)
    return from_pair(b * _lycoris_scale(stored, module), a, limits)


def lokr_update(stored: StoredKind, module: str, limits: Limits) -> Nearest:
    """One module of a LoKr adapter.

    Raises:
        AdapterError: a convolution, or parts that are missing.
    """
    whole, pair = ("lokr_w{}",), ("lokr_w{}_a", "lokr_w{}_b")
    choices = [
        [p.format(1) for p in one] + [p.format(2) for p in two] for one in (whole, pair) for two in (whole, pair)
    ]
    stored.require(module, *choices)
    parts = stored.of_module(module)
    left, right = (
        parts[f"lokr_w{k}"] if f"lokr_w{k}" in parts else parts[f"lokr_w{k}_a"] @ parts[f"lokr_w{k}_b"] for k in (1, 2)
    )
    if left.ndim != 2 or right.ndim != 2:
        raise AdapterError(
            f"{stored.file}: module {module!r} has LoKr of a convolution, of shapes {tuple(left.shape)} and "
            f"{tuple(right.shape)}; expected matrices, of a linear layer. {how_to_leave_out([module], stored.parts)}"
        )
    return from_kronecker(left * _lycoris_scale(stored, module), right, limits)


def adalora_update(stored: StoredKind, module: str, limits: Limits) -> Nearest:
    """One module of an AdaLoRA adapter, whose rank may have shrunk to zero."""
    stored.require(module, ("lora_A", "lora_B", "lora_E"))
    parts = stored.of_module(module)
    a, b, e = parts["lora_A"], parts["lora_B"], parts["lora_E"]
    alpha = stored.number("lora_alpha", stored.config.get("lora_alpha", 8))
    # The rank that it began with: what is left of it after pruning does not change the scale.
    began = stored.number("init_r", stored.config.get("init_r", 12))
    scale = (alpha if alpha > 0 else float(a.shape[0])) / (began + _ADALORA_EPSILON)
    if a.shape[0] == 0:
        a, b, e = a.new_zeros(1, a.shape[1]), b.new_zeros(b.shape[0], 1), e.new_zeros(1, 1)
    return from_pair(b * scale, a * e, limits)


def vera_update(
    stored: StoredKind,
    base: BaseSide,
    projections: tuple[Tensor, Tensor],
    module: str,
    limits: Limits,
) -> Nearest:
    """One module of a VeRA adapter.

    Args:
        stored: the adapter.
        base: shapes of the layers.
        projections: the shared A (r, widest d_in) and B (widest d_out, r).
        module: its name.
        limits: of the cut.

    Raises:
        AdapterError: parts that are missing, or that do not fit the base.
    """
    stored.require(module, ("vera_lambda_b", "vera_lambda_d"))
    parts, shape = stored.of_module(module), base.shape(module)
    a, b = projections[0][:, : shape.d_in], projections[1][: shape.d_out]
    if parts["vera_lambda_b"].shape != (shape.d_out,) or a.shape != (parts["vera_lambda_d"].shape[0], shape.d_in):
        raise AdapterError(
            f"{stored.file}: module {module!r} has {parts['vera_lambda_b'].shape[0]} outputs and rank "
            f"{parts['vera_lambda_d'].shape[0]}, the base {base.name!r} has {shape.d_out} outputs there and the shared "
            f"A is {tuple(a.shape)}; the adapter was trained on another base"
        )
    return from_pair(parts["vera_lambda_b"][:, None] * b, parts["vera_lambda_d"][:, None] * a, limits)


def vera_projections(stored: StoredKind, base: BaseSide) -> tuple[Tensor, Tensor]:
    """The A and B that all layers of a VeRA adapter share: of the file, or drawn again from the key in its config.

    Raises:
        AdapterError: the file holds something else beside the modules.
    """
    ends = {key.rpartition(".")[2]: key for key in stored.shared}
    if ends.keys() == {"vera_A", "vera_B"}:
        found = stored.tensors(stored.shared)
        return found[ends["vera_A"]].double(), found[ends["vera_B"]].double()
    if ends or stored.config.get("save_projection", True) is not False:
        raise AdapterError(
            f"{stored.file}: the projections that all modules share are {sorted(ends) or 'missing'}, expected vera_A "
            f"and vera_B; save the adapter again with save_projection=True"
        )
    from peft.tuners.vera.model import _kaiming_init

    rank = int(stored.number("r", stored.config.get("r", 256)))
    key = int(stored.number("projection_prng_key", stored.config.get("projection_prng_key", 0)))
    shapes = [base.shape(module) for module in stored.parts]
    generator = torch.Generator(device="cpu").manual_seed(key)
    # PEFT draws both in float32, A first.
    a = _kaiming_init((rank, max(shape.d_in for shape in shapes)), generator=generator)
    b = _kaiming_init((max(shape.d_out for shape in shapes), rank), generator=generator)
    return a.double(), b.double()


def _lycoris_scale(stored: StoredKind, module: str) -> float:
    """The scale alpha / r of a module, each with its exceptions.

    Raises:
        AdapterError: a field that is no number, or a rank below 1.
    """
    config = stored.config
    where = stored.file.parent / CONFIG_NAME
    found = []
    for field, pattern in (("alpha", "alpha_pattern"), ("r", "rank_pattern")):
        exceptions = config.get(pattern) or {}
        if not isinstance(exceptions, dict):
            raise AdapterError(f"{where}: {pattern} is {exceptions!r}, expected an object of module pattern → number")
        numbers = {key: stored.number(f"{pattern}[{key!r}]", value) for key, value in exceptions.items()}
        own = ModulePatterns(numbers).find(module)
        found.append(stored.number(field, config.get(field, 8)) if own is None else own)
    if found[1] < 1:
        raise AdapterError(f"{where}: r is {found[1]!r}, expected a whole number of at least 1")
    return found[0] / found[1]
