"""What a merge costs: time of preparation and of the layers, and peak memory, each in a process of its own."""

import multiprocessing
import time
from collections.abc import Mapping
from typing import Any

from ..errors import MergeError
from ..machine import peak_memory
from ..methods import MethodSweep
from .setups import setup_of
from .updates_by_knob import swept_updates

__all__ = ["cost_cell"]


def cost_cell(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Merge once in a fresh process, where nothing is cached and the peak of memory is the merge's own.

    Args:
        parameters: ``problem``, ``swept`` and ``repeat``.

    Returns:
        ``seconds`` of one merge at the middle strength with all its preparation, ``more_seconds`` of another strength
        afterwards, ``peak_mib``, the rise of the largest resident size over the loaded model, adapters and data, and
        ``processor_seconds`` of the process.

    Raises:
        MergeError: the process ended without an answer.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        # Importing takes longer than most merges do, and would count as theirs; nothing is computed by it.
        context.set_forkserver_preload(["peft", "transformers", __name__])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(dict(parameters), sender))
    child.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        child.join()
        raise MergeError(
            f"the process that measures a merge ended with code {child.exitcode}; is there enough memory?"
        ) from None
    child.join()
    return found


def _in_child(parameters: dict[str, Any], sender: Any) -> None:
    import torch

    torch.set_num_threads(1)
    swept = MethodSweep("", **{**parameters["swept"], "values": tuple(parameters["swept"]["values"])})
    setup = setup_of(parameters["problem"])
    before = peak_memory()
    started = time.perf_counter()
    path = swept_updates(setup.problem, swept)
    path(swept.middle)
    first = time.perf_counter() - started
    peak = peak_memory()
    started = time.perf_counter()
    path(swept.values[-1])
    figures = {"seconds": first, "more_seconds": time.perf_counter() - started}
    figures["peak_mib"] = round((peak - before) / 2**20, 1)
    sender.send(figures | {"processor_seconds": time.process_time()})
    sender.close()
