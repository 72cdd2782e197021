"""Segments that wrappers of training leave in tensor names, and that no model has when it is loaded.

``torch.compile``, data-parallel and FSDP wrappers, activation checkpointing and Lightning each put a module around
another one. A checkpoint saved through them has their attribute's name as one more segment, and PEFT, which looks for
the plain names, then loads nothing and says nothing.
"""

__all__ = ["PREFIX", "plain_key"]

PREFIX = "base_model.model."
_WRAPPERS = frozenset({
    "_orig_mod",  # torch.compile
    *("module", "_module"),  # DistributedDataParallel, DeepSpeed, averaged models; Opacus
    *("_fsdp_wrapped_module", "_fpw_module"),  # FSDP of torch; of FairScale and torch_xla
    "_checkpoint_wrapped_module",  # activation checkpointing
    "_forward_module",  # Lightning Fabric
})


def plain_key(key: str) -> str:
    """A tensor's name without wrappers, and with PEFT's prefix once where an adapter was wrapped by PEFT twice.

    Args:
        key: of a safetensors file, such as ``base_model.model.model.layers.0._orig_mod.mlp.up_proj.lora_A.weight``.

    Returns:
        The same for ordinary names.
    """
    plain = ".".join(segment for segment in key.split(".") if segment not in _WRAPPERS)
    while plain.startswith(PREFIX * 2):
        plain = plain.removeprefix(PREFIX)
    return plain
