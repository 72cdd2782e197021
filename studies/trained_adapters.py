"""How the adapters behind a study were trained: a list beside its page, with their SHA-256, and a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sst_merge.experiments.run import Experiments
from sst_merge.experiments.setups import world_of
from sst_merge.experiments.training import artefacts_of
from sst_merge.files import atomic_file, file_sha256
from sst_merge.reporting import markdown_table
from sst_merge.worlds.world import Artefact

__all__ = ["list_adapters", "trained", "training_table"]

_ADAPTERS = "adapters.json"


def list_adapters(
    folder: Path, experiments: Experiments, names: Sequence[str], *, only_known: bool = False
) -> list[dict[str, Any]]:
    """How the adapters of some experiments were trained; written beside the page.

    Args:
        folder: of the page; entries of before stand for adapters that are not on this machine.
        experiments: finished.
        names: of experiments.
        only_known: take the entries of before alone.

    Returns:
        One entry per adapter, in the order of their names.
    """
    listed = folder / _ADAPTERS
    known = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
    if only_known:
        return list(known)
    found = {str(Artefact(of["base"], of["adapter"], of["seed"])): dict(of) for of in known}
    for parameters in [entry.cell.parameters for name in names for entry in experiments.planned(name)]:
        for artefact in artefacts_of(parameters):
            folder = world_of(parameters["problem"]["world"]).find(artefact)
            if artefact.adapter is not None and folder is not None:
                found[str(artefact)] = trained(folder, artefact)
    adapters = [found[name] for name in sorted(found)]
    with atomic_file(listed) as aside:
        aside.write_text(json.dumps(adapters, indent=1) + "\n", encoding="utf-8")
    return adapters


def trained(folder: Path, artefact: Artefact) -> dict[str, Any]:
    """One adapter's report, without its losses.

    Args:
        folder: of the adapter.
        artefact: that it is.

    Returns:
        Plain values.
    """
    report = json.loads((folder / "training_report.json").read_text(encoding="utf-8"))
    losses = report.pop("losses")
    weights = file_sha256(folder / "adapter_model.safetensors")
    ends = {"first_loss": losses[0], "last_loss": losses[-1]}
    own = {"adapter": artefact.adapter, "base": artefact.base, "seed": artefact.seed, "sha256": weights}
    return report | {"trained_on": report.get("base")} | ends | own


def training_table(adapters: Sequence[Mapping[str, Any]]) -> str:
    """Rows, steps and time of every adapter.

    Args:
        adapters: of :func:`list_adapters`.

    Returns:
        Markdown.
    """
    rows = [
        [a["adapter"], a["base"], a["seed"], a["rows"], a["steps"], f"{a['seconds'] / 60:.1f}", a["sha256"][:12]]
        for a in adapters
    ]
    return markdown_table(rows, ["Adapter", "Base", "Seed", "Rows", "Steps", "Minutes", "SHA-256"])
