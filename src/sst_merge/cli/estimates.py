"""What a merge with data will need, said before anything heavy is loaded, and refused where it cannot fit."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..data_loader import DataSource
from ..errors import BaseModelError, ConfigError
from ..machine import free_memory, operations_per_second, resident_memory
from ..merging.config import MergeConfig
from ..texts import duration, memory_size, shown
from .calibration import read_data
from .console import say

if TYPE_CHECKING:
    from ..data_loader import Batch, TokenizerChoice
    from ..lora_utils import BaseModelIndex
    from ..merging import MergeInputs, MergePlan
    from ..merging.data_cost import PassCosts

__all__ = ["available_memory", "memory_option", "parse_size", "planned_memory", "say_data_costs", "tokens_a_sample"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

memory_option = click.option(
    "--memory", metavar="SIZE", help="with --dry-run: memory to plan for, such as 24GiB (default: what is free here)"
)
"""The flag of commands that plan passes over data."""


def parse_size(text: str) -> int:
    """Bytes of a size such as ``24GiB``, ``500 MB`` or ``1000000``.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if found is None or found[2] not in _UNITS:
        raise ConfigError(f"--memory {shown(text)}: expected a size, such as 24GiB, 500MB or a number of bytes")
    return round(float(found[1]) * _UNITS[found[2]])


def planned_memory(text: str | None, *, dry_run: bool) -> int | None:
    """Bytes of ``--memory``, None without it.

    Raises:
        ConfigError: it is no size, or there is nothing to plan.
    """
    if text is None:
        return None
    if not dry_run:
        raise ConfigError(f"--memory {shown(text)}: it is what a dry run plans for; add --dry-run, or leave it out")
    return parse_size(text)


def say_data_costs(
    config: MergeConfig,
    plan: "MergePlan",
    base: "BaseModelIndex",
    tokenizer: "TokenizerChoice",
    *,
    memory: int | None,
    only: str | None = None,
) -> dict[str, Any]:
    """Tell memory and time of all passes over data; the rows are read and tokenised, no weight is loaded.

    Args:
        config: of the merge.
        plan: the checked merge.
        base: layers of the base.
        tokenizer: what encodes the data.
        memory: bytes to plan for, or None for what is free here.
        only: a single Fisher, see :func:`~sst_merge.merging.data_cost.pass_costs`.

    Returns:
        The same as plain values; empty where there is nothing to estimate from, which is said.

    Raises:
        MergeError: it does not fit.
    """
    from ..data_loader import computing_type, quantised_base, resolve_device
    from ..merging.data_cost import pass_costs, require_memory
    from ..merging.data_passes import TextSize

    sources: list[DataSource | None] = [config.data.harm, config.data.benign, *(one.data for one in config.adapters)]
    if any(source is not None and source.path is None for source in sources):
        say("passes   not estimated: data on the hub are not fetched in a dry run")
        return {}
    try:
        data = read_data(config, tokenizer)
    except BaseModelError as error:
        say(f"passes   not estimated: {error}")
        return {}
    device = resolve_device(config.device)
    named = base.dtype or "float32"
    quantised = None if config.base_model is None else quantised_base(config.base_model, config.access)
    # Packed weights are loaded as their package wants them.
    auto = named if quantised is not None else computing_type(named, device)
    dtype = auto if config.model_dtype == "auto" else config.model_dtype
    sizes = {"harm": TextSize.of(data.harm), "benign": TextSize.of(data.benign)}
    sizes |= {f"benign of {name}": TextSize.of(batches) for name, batches in data.own.items()}
    costs = pass_costs(
        plan,
        base,
        sizes,
        dtype=dtype,
        program=0 if device.startswith("cuda") else resident_memory(),
        operations=operations_per_second(dtype, device, size=512),
        only=only,
        bits=None if quantised is None else quantised.bits,
    )
    for one in costs.passes:
        say(f"pass     {one.name}: {one.tokens} tokens, about {duration(one.seconds)}")
    shares = ", ".join(f"{name} {memory_size(size)}" for name, size in costs.parts.items() if size)
    say(f"memory   about {memory_size(costs.bytes)} while data are read: {shares}")
    say(f"time     about {duration(costs.seconds)} for these passes in {dtype} on {device}, within a factor of three")
    taught = sum(one.seconds for one in costs.passes if one.name.startswith(("learning from", "looks at")))
    if taught:
        say(
            f"         {duration(taught)} of it for the adapters' teaching, which refine: 0 leaves out (--set refine=0)"
        )
    available = memory if memory is not None else available_memory(device, spread=config.device_map is not None)
    if available is not None:
        batch_size, length = config.data.batch_size, None
        if config.data.batch_tokens is not None:
            read = [*data.harm, *data.benign, *(batch for batches in data.own.values() for batch in batches)]
            batch_size, length = max((tuple(batch.input_ids.shape) for batch in read), key=math.prod, default=(1, 1))
        require_memory(
            costs.bytes,
            available,
            parts=costs.parts,
            batch_size=batch_size,
            length=length,
            itemsize=costs.itemsize,
            packed=quantised is not None,
        )
    return _plain(costs, available)


def available_memory(device: str, *, spread: bool) -> int | None:
    """Bytes that this process may come to have on a device; None where that is not known, or spread over several."""
    if spread:
        return None
    if not device.startswith("cuda"):  # one memory, or what the CPU and Apple's GPUs share
        free = free_memory()
        return None if free is None else free + resident_memory()
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def _plain(costs: "PassCosts", available: int | None) -> dict[str, Any]:
    passes = [{"name": one.name, "tokens": one.tokens, "seconds": one.seconds} for one in costs.passes]
    memory = {"bytes": costs.bytes, "available_bytes": available, "parts": dict(costs.parts)}
    return {"passes": passes, "pass_seconds": costs.seconds, "pass_memory": memory}


def tokens_a_sample(inputs: "MergeInputs") -> Mapping[str, float]:
    """Stage of the progress bars → tokens of one step, for the stages whose steps are samples."""

    def mean(batches: "Sequence[Batch]") -> float:
        return sum(batch.tokens for batch in batches) / max(1, sum(map(len, batches)))

    harm, benign = mean(inputs.harm), mean(inputs.benign)
    own = {f"Fisher of adapter {name}": mean(batches) for name, batches in inputs.adapter_benign.items()}
    return own | {
        "Fisher of harmful prompts": harm,
        "Fisher of benign prompts": benign,
        "held-out, harmful": harm,
        "held-out, benign": benign,
    }
