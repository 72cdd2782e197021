"""``sst-merge evaluate --dry-run``: who will be asked what, how much that is, and whether memory holds it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BaseModelError, ConfigError
from ..evaluation.config import EvaluationConfig
from ..evaluation.settings import CPU_BATCH
from ..machine import operations_per_second, resident_memory
from ..texts import counted, duration, memory_size
from .console import print_table, say, warn
from .estimates import available_memory

if TYPE_CHECKING:
    from ..evaluation import EvaluationPlan
    from ..evaluation.workload import Workload
    from ..suites import Suite

__all__ = ["say_plan"]


def say_plan(
    base: str,
    adapters: Mapping[str, Path],
    suites: "Sequence[Suite]",
    config: EvaluationConfig,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Check an evaluation and tell what it will do; adapters and prompts are read, no model is loaded.

    Args:
        base: folder or hub id.
        adapters: name → folder.
        suites: what is asked.
        config: of the evaluation.
        asked: further arguments of :func:`~sst_merge.evaluation.plan_evaluation`.

    Returns:
        The same as plain values.

    Raises:
        ConfigError: memory does not hold it.
    """
    from ..data_loader import load_tokenizer, resolve_device
    from ..evaluation import plan_evaluation
    from ..evaluation.beginnings import LARGE_VOCABULARY
    from ..evaluation.silence_libraries import quiet_libraries
    from ..evaluation.workload import vocabulary_of, workload

    plan = plan_evaluation(base, adapters, suites, config.out, **asked)
    for warning in plan.sources.warnings:
        warn(warning)
    say(f"models   {len(plan.models)}: {', '.join(plan.models)}")
    found: dict[str, Any] = {"models": list(plan.models), "out": str(config.out)}
    counts = [{"suite": item.suite.name, "prompts": item.samples} for item in plan.suites]
    try:
        tokenizer = load_tokenizer(base, access=config.access)
    except BaseModelError as error:
        print_table("Asked of each model", ["suite", "prompts"], [[str(v) for v in row.values()] for row in counts])
        say(f"time     not estimated: {error}")
        return found | {"suites": counts}
    template = config.chat_template
    if template is None:
        template = bool(getattr(tokenizer, "chat_template", None))
    device = resolve_device(config.device)
    batch = config.batch_size if isinstance(config.batch_size, int) else CPU_BATCH if device == "cpu" else 1
    spares = config.backend == "hf" and vocabulary_of(plan.base) >= LARGE_VOCABULARY
    with quiet_libraries():
        loads = [
            workload(item, tokenizer, chat_template=template, batch_size=batch, spares=spares) for item in plan.suites
        ]
    rows = [
        [load.suite, str(load.prompts), f"{load.answers or '–'}", f"{load.read:,}", f"{load.written or '–'}"]
        for load in loads
    ]
    columns = ["suite", "prompts", "answers written", "tokens read", "written at most"]
    print_table(f"Asked of each of {counted(len(plan.models), 'model')}", columns, rows)
    found["suites"] = [
        {"suite": load.suite, "prompts": load.prompts, "answers": load.answers, "read": load.read}
        | {"written_at_most": load.written}
        for load in loads
    ]
    if config.backend == "vllm":
        say("time     not estimated: vLLM plans its own batches and memory")
        return found
    return found | _costs(base, plan, loads, config, device, batch)


def _costs(
    base: str,
    plan: "EvaluationPlan",
    loads: "Sequence[Workload]",
    config: EvaluationConfig,
    device: str,
    batch: int,
) -> dict[str, Any]:
    import torch

    from ..data_loader import quantised_base
    from ..evaluation.workload import evaluation_costs

    dtype = config.dtype_on(device, plan.base.dtype)
    packed = quantised_base(base, config.access)
    whole = getattr(torch, dtype).itemsize
    costs = evaluation_costs(
        plan.base,
        loads,
        itemsize=whole if packed is None or packed.bits is None else packed.bits / 8,
        batch_size=batch,
        operations=operations_per_second(dtype, device, size=512),
    )
    count = len(plan.models)
    program = 0 if device.startswith("cuda") else resident_memory()
    needed = program + costs.weights + costs.logits
    parts = f"program {memory_size(program)}, weights {memory_size(costs.weights)}, logits {memory_size(costs.logits)}"
    say(f"memory   about {memory_size(needed)}: {parts}; keys and values of what is answered come on top")
    say(f"time     a model about {duration(costs.shortest)} to read,")
    say(f"         {duration(costs.longest)} where all answers are as long as they may be")
    if count > 1:
        every = f"{duration(count * costs.shortest)} to {duration(count * costs.longest)}"
        say(f"         {counted(count, 'model')} {every}")
    say(f"         in {dtype} on {device}, within a factor of three")
    there = available_memory(device, spread=config.device_map is not None)
    if there is not None and needed > there:
        raise ConfigError(
            f"this evaluation needs about {memory_size(needed)} of memory, and {memory_size(there)} are "
            f"there; give a smaller batch (--batch-size), a smaller type (--dtype bfloat16), or take a larger machine"
        )
    return {"memory": needed, "seconds_a_model": {"shortest": costs.shortest, "longest": costs.longest}}
