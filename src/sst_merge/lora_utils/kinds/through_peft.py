"""Kinds that PEFT itself works out: its own layer is put around one layer of the base, and merged into it.

The base is never loaded: a stand-in model has nothing but the adapter's modules, under their full names, and each has
its weight only while it is its turn.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AdapterError
from ...reading import cause
from ..folders import CONFIG_NAME
from ..layouts import Conv1DKind
from ..nearest import Nearest
from .base_side import BaseSide
from .lowering import Limits, from_matrix
from .stored import StoredKind

__all__ = ["peft_updates"]

_WAY_OUT = "merge the adapter into its base with PEFT (merge_and_unload) and use sst-merge extract"


def peft_updates(stored: StoredKind, base: BaseSide, limits: Limits) -> Iterator[tuple[str, Nearest, bool]]:
    """All modules' updates, one at a time.

    Args:
        stored: the adapter.
        base: its base.
        limits: of the cut.

    Yields:
        Module, its update, and whether the last column of A multiplies a constant 1 and so moves the bias.

    Raises:
        AdapterError: the installed PEFT does not know the kind, or reads the file otherwise.
    """
    modules = list(stored.parts)
    # With the weights at hand each layer is a model of its own, or the whole base would be in memory.
    groups = [modules] if base.weights is None else [[module] for module in modules]
    for group in groups:
        skeleton = nn.Module()
        for module in group:
            _put(skeleton, module, _layer(base, module, values=base.weights is not None))
        adapted = _adapted(stored, skeleton, group)
        for module in group:
            layer = adapted.get_base_model().get_submodule(module)
            update, bias_update = _merged_difference(layer, base, module)
            moves_bias = bias_update is not None and bool(bias_update.any())
            if moves_bias and bias_update is not None:
                update = torch.cat([update, bias_update[:, None]], dim=1)
            yield module, from_matrix(update, limits), moves_bias


def _layer(base: BaseSide, module: str, *, values: bool) -> Any:
    """A layer as the base has it, in float64; without values its weight is one zero, seen many times."""
    shape = base.shape(module)
    if isinstance(shape.kind, Conv1DKind):
        from transformers.pytorch_utils import Conv1D

        layer: Any = Conv1D(1, 1)
        layer.nf, layer.nx = shape.d_out, shape.d_in
    else:
        layer = nn.Linear(shape.d_in, shape.d_out, bias=shape.bias, device="meta")
    if values:
        weight, bias = base.values(module)
    else:
        zero = torch.zeros((), dtype=torch.float64)
        weight = zero.expand(shape.d_out, shape.d_in)
        bias = zero.expand(shape.d_out) if shape.bias else None
    _set(layer, shape.kind.stored(weight), bias)
    return layer


def _set(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)


def _put(skeleton: nn.Module, name: str, layer: nn.Module) -> None:
    *parents, last = name.split(".")
    at = skeleton
    for parent in parents:
        if parent not in at._modules:
            at.add_module(parent, nn.Module())
        at = at.get_submodule(parent)
    at.add_module(last, layer)


def _adapted(stored: StoredKind, skeleton: nn.Module, modules: list[str]) -> Any:
    """The stand-in model with PEFT's layers around its own, and the file's tensors in them.

    Raises:
        AdapterError: PEFT does not know the kind or a field of it, or would save other tensors than it was given.
    """
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    config = _config(stored)
    config.target_modules = modules
    given = stored.tensors([*stored.shared, *(key for module in modules for key in stored.parts[module].values())])
    try:
        model = PeftModel(skeleton, config)
        model.double()
        set_peft_model_state_dict(model, dict(given))
        held = get_peft_model_state_dict(model, save_embedding_layers=False)
    except Exception as error:  # each kind has refusals of its own
        others = f", one of the {len(modules)} that are loaded at once," if len(modules) > 1 else ""
        raise AdapterError(
            f"{stored.file}: the installed PEFT cannot load module {modules[0]!r}{others} as {stored.kind.name} "
            f"({cause(error)}); check that the configuration and the base are this adapter's, or {_WAY_OUT}"
        ) from error
    for key in sorted(held.keys() | given.keys()):
        mine, its = given.get(key), held.get(key)
        if mine is None or its is None or mine.shape != its.shape or not torch.equal(mine.double(), its.double()):
            raise AdapterError(
                f"{stored.file}: tensor {key!r} is not read by the installed PEFT as it lies in the file (its shape "
                f"is {None if mine is None else tuple(mine.shape)}, PEFT has "
                f"{None if its is None else tuple(its.shape)}); check that the base is this adapter's, or {_WAY_OUT}"
            )
    return model


def _config(stored: StoredKind) -> Any:
    """PEFT's configuration of the adapter.

    Raises:
        AdapterError: the installed PEFT does not know the kind, or a field of it.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    where = stored.file.parent / CONFIG_NAME
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(stored.kind.name)
    if known is None:
        raise AdapterError(
            f"{where}: peft_type is {stored.kind.name!r}, which the installed PEFT {peft.__version__} does not know; "
            f"upgrade PEFT (pip install -U peft)"
        )
    raw = dict(stored.config)
    names = {field.name for field in fields(known)}
    for field in sorted(raw.keys() - names):
        if raw[field] is True or (raw[field] and isinstance(raw[field], (str, list, dict))):
            raise AdapterError(
                f"{where}: {field} is {raw[field]!r}, a field that the installed PEFT {peft.__version__} does not know "
                f"of {stored.kind.name}; it may change what ΔW is. Upgrade PEFT (pip install -U peft)"
            )
    kept = {name: value for name, value in raw.items() if name in names - _PICKS}
    kept |= {"inference_mode": True, "task_type": None}
    return known(**{name: value for name, value in kept.items() if name != "peft_type"})


# Fields that say which modules of a base are adapted, which the file's tensors say better.
_PICKS = {"exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"}


def _merged_difference(layer: Any, base: BaseSide, module: str) -> tuple[Tensor, Tensor | None]:
    """ΔW (d_out, d_in) and the bias' update of a layer, by merging PEFT's update into the base's weight."""
    kind = base.shape(module).kind
    weight, bias = base.values(module)
    inner = layer.get_base_layer()
    before = inner.weight, inner.bias
    _set(inner, kind.stored(weight).clone(), None if bias is None else bias.clone())
    with torch.no_grad():
        layer.merge()
    merged, merged_bias = inner.weight.data, None if bias is None else inner.bias.data
    difference = kind.matrix(merged).double() - weight
    # The stand-in's own weight back in: what was merged is not kept until the last layer had its turn.
    inner.weight, inner.bias = before
    return difference, None if bias is None or merged_bias is None else merged_bias.double() - bias
