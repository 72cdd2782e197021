"""The merged adapter in memory, and its folder on disk."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..errors import MergeError
from ..files import atomic_folder, synced
from ..lora_utils import (
    Adapter,
    ExpectedFile,
    LoraFactors,
    Ranks,
    WholeWeight,
    adapter_fingerprints,
    fitting_task_type,
    write_adapter_files,
)
from .report import MergeReport

__all__ = ["FileText", "MergeResult", "write_merge"]

_REPORT_NAME = "merge_report.json"

FileText = str | Callable[[Mapping[str, Any]], str]
"""Text of a file, or a function that makes it from the finished report (:meth:`MergeReport.to_dict`)."""


@dataclass(frozen=True)
class MergeResult:
    """What :func:`~sst_merge.merging.merge` returns.

    Attributes:
        adapter: the merged adapter, in memory.
        report: figures and provenance; the same for the same inputs and seed.
        timings: seconds by stage; kept apart because they never repeat.
        inputs: folders that were read, which the output must not replace.

    Example:
        >>> import tempfile, torch
        >>> from sst_merge import Adapter, LoraFactors, merge
        >>> factors = LoraFactors(torch.ones(2, 1), torch.ones(1, 3))
        >>> result = merge([Adapter.from_factors({"layer": factors}, name="code")])
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = result.save(f"{place}/merged")
        ...     sorted(file.name for file in folder.iterdir())
        ['adapter_config.json', 'adapter_model.safetensors', 'merge_report.json']
    """

    adapter: Adapter
    report: MergeReport
    timings: Mapping[str, float] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()

    def save(
        self,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        ranks: Ranks = "uniform",
        force: bool = False,
        extra_files: Mapping[str, FileText] = MappingProxyType({}),
    ) -> Path:
        """Write adapter, ``merge_report.json`` and further files into one new folder, all or nothing.

        Args:
            path: folder to make.
            dtype: type to write; that of the computation by default.
            ranks: ``uniform`` or ``pattern``, where the modules' ranks differ.
            force: replace an existing folder.
            extra_files: file name → text, or a function of the finished report.

        Returns:
            The folder.
        """
        modules = ((module, self.adapter.factors(module)) for module in self.adapter.modules)
        write_merge(
            path,
            modules,
            lambda: self.report,
            base_model=self.adapter.base_model,
            task_type=fitting_task_type(self.adapter.task_type, self.adapter.whole),
            whole=self.adapter.whole,
            modules_to_save=self.adapter.modules_to_save,
            dtype=dtype,
            ranks=ranks,
            force=force,
            extra_files=extra_files,
            copies={},
            inputs=self.inputs,
        )
        return Path(path)


def write_merge(
    path: str | Path,
    modules: Iterable[tuple[str, LoraFactors]],
    report: Callable[[], MergeReport],
    *,
    base_model: str | None,
    task_type: str | None,
    whole: Mapping[str, WholeWeight],
    modules_to_save: tuple[str, ...],
    dtype: torch.dtype | None,
    ranks: Ranks,
    force: bool,
    extra_files: Mapping[str, FileText],
    copies: Mapping[str, Path],
    inputs: Sequence[Path],
    expected: ExpectedFile | None = None,
) -> MergeReport:
    """Stream modules to disk, then ask for the report, add the hashes of what was written, and finish the folder.

    Args:
        path: folder to make.
        modules: (name, factors), consumed one at a time.
        report: called when all modules are written.
        base_model: written as ``base_model_name_or_path``.
        task_type: PEFT's task type.
        whole: canonical tensor name → whole weight that is written along.
        modules_to_save: PEFT's field of that name.
        dtype: type to write; the factors' own by default.
        ranks: ``uniform`` or ``pattern``, where the modules' ranks differ.
        force: replace an existing folder.
        extra_files: file name → text, or a function of the finished report.
        copies: relative name → file that is copied there as it is, such as a tokenizer's.
        inputs: folders that were read.
        expected: as in :func:`~sst_merge.lora_utils.write_adapter_files`.

    Returns:
        The report as written.

    Raises:
        MergeError: the output is, holds or lies in a folder that is read, or an extra file has a name in use.
    """
    target = Path(path).resolve()
    for folder in inputs:
        source = folder.resolve()
        if target == source or target.is_relative_to(source) or source.is_relative_to(target):
            raise MergeError(f"output {target} and input {source} share a folder; choose another output")
    with atomic_folder(path, force=force) as folder:
        rank, written_type = write_adapter_files(
            folder,
            modules,
            base_model=base_model,
            task_type=task_type,
            dtype=dtype,
            ranks=ranks,
            whole=whole,
            modules_to_save=modules_to_save,
            expected=expected,
        )
        with synced(folder):
            hashes = adapter_fingerprints(folder)
        if clash := sorted((hashes.keys() | {_REPORT_NAME}) & {*extra_files, *copies}):
            raise MergeError(f"extra file {clash[0]!r} is written by the merge itself; use another name")
        dtype_name = str(written_type).removeprefix("torch.")
        output = {"dtype": dtype_name, "rank": rank, "task_type": task_type, "files": hashes}
        finished = replace(report(), output=output)
        plain = finished.to_dict()
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / _REPORT_NAME).write_text(text, encoding="utf-8")
        for name, source in copies.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / name)
        for name, content in extra_files.items():
            if Path(name).name != name:
                raise MergeError(f"extra file {name!r} is not a plain file name; expected a name without a folder")
            (folder / name).write_text(content if isinstance(content, str) else content(plain), encoding="utf-8")
    return finished
