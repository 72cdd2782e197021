"""The forms of ``sst-merge export``: a PEFT folder, a LoRA in GGUF, a whole model; written, or said in a dry run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .console import near, print_table, say, shell, warn

if TYPE_CHECKING:
    from ..conversion import ModuleCut
    from ..lora_utils import Adapter

__all__ = ["Request", "carry_out"]

_SHOWN = 8  # modules in the table of losses
_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Request:
    """The command's flags, as far as they shape the output."""

    form: str
    output: Path
    base: str | None
    source: str | None
    rank: int | None
    dtype: str | None
    force: bool
    trust_remote_code: bool


def carry_out(adapter: "Adapter", request: Request, *, dry_run: bool, progress: Any) -> str:
    """Write one form, or say what would be written; returns the command that follows."""
    match request.form:
        case "peft":
            return _peft(adapter, request, dry_run=dry_run)
        case "full":
            return _full(adapter, request, dry_run=dry_run, progress=progress)
        case _:
            return _gguf(adapter, request, dry_run=dry_run)


def _peft(adapter: "Adapter", request: Request, *, dry_run: bool) -> str:
    from ..conversion import SERVED_RANKS, VLLM_VERSION, least_served_rank, rank_cuts, vllm_objections, write_peft
    from ..data_loader import torch_type

    largest = max(adapter.rank(module) for module in adapter.modules)
    cuts = None if request.rank is None else rank_cuts(adapter, request.rank)
    rank = largest if request.rank is None else request.rank
    _say_cuts(rank, cuts)
    if dry_run:
        say(f"nothing written; without --dry-run {len(adapter.modules)} modules of rank {rank} go to {request.output}")
        return ""
    write_peft(
        request.output,
        adapter,
        rank=request.rank,
        dtype=torch_type(request.dtype) if request.dtype else None,
        force=request.force,
        extra_files=_papers(adapter, request, cuts),
        copies={} if adapter.path is None else _tokenizer_of(adapter.name, adapter.path),
    )
    for sentence in vllm_objections(request.output):
        warn(f"vLLM {VLLM_VERSION} would refuse it: {sentence}")
    say(request.output)
    served = least_served_rank(rank)
    if served is None:
        warn(f"vLLM takes ranks up to {SERVED_RANKS[-1]}; --serve-rank {SERVED_RANKS[-1]} cuts to it")
        return shell("sst-merge", "inspect", request.output)
    lora = ("--enable-lora", "--max-lora-rank", served, "--lora-modules", f"merged={request.output}")
    return shell("vllm", "serve", near(adapter.base_model or "BASE"), *lora)


def _gguf(adapter: "Adapter", request: Request, *, dry_run: bool) -> str:
    from ..conversion import ADAPTER_NAME, GgufBase, check_gguf, modelfile, named_for_base, rank_cuts, write_gguf
    from ..data_loader import BaseAccess, torch_type
    from ..files import atomic_folder, file_name

    access = BaseAccess(trust_remote_code=request.trust_remote_code)
    base = _base(adapter, request)
    known = GgufBase.of(base, access=access)
    if known.shapes is None:
        named = named_for_base(adapter, base, access=access)
        adapter = named.adapter
        for note in named.notes:
            warn(note)
    largest = max(adapter.rank(module) for module in adapter.modules)
    cuts = None if request.rank is None else rank_cuts(adapter, request.rank)
    _say_cuts(largest if request.rank is None else request.rank, cuts)
    dtype = request.dtype or "float32"
    name = f"{file_name(adapter.name)}-lora-{_SHORT[dtype]}.gguf" if request.form == "gguf" else ADAPTER_NAME
    text = modelfile(_from(request, known)) if request.form == "ollama" else None
    if dry_run:
        check_gguf(adapter, known)
        say(f"nothing written; without --dry-run {len(adapter.modules)} modules go to {request.output / name}")
        return ""
    with atomic_folder(request.output, force=request.force) as folder:
        write_gguf(folder / name, adapter, known, dtype=torch_type(dtype), rank=request.rank)
        for paper, content in _papers(adapter, request, cuts).items():
            (folder / paper).write_text(content, encoding="utf-8")
        if text is not None:
            (folder / "Modelfile").write_text(text, encoding="utf-8")
    say(request.output)
    if text is not None:
        return shell("ollama", "create", file_name(adapter.name).lower(), "-f", request.output / "Modelfile")
    return shell("llama-server", "-m", "BASE.gguf", "--lora", request.output / name)


def _full(adapter: "Adapter", request: Request, *, dry_run: bool, progress: Any) -> str:
    from ..conversion import check_full_model, write_full_model
    from ..data_loader import BaseAccess, choose_tokenizer

    access = BaseAccess(trust_remote_code=request.trust_remote_code)
    base = _base(adapter, request)
    tokenizer = choose_tokenizer({adapter.name: adapter.path} if adapter.path else {}, base=base, given=None)
    for warning in tokenizer.warnings:
        warn(warning)
    if dry_run:
        size = check_full_model(adapter, base, dtype=request.dtype, access=access)
        say(f"nothing written; without --dry-run a model of {size / 1e9:.3f} GB goes to {request.output}")
        return ""
    written = write_full_model(
        request.output,
        adapter,
        base,
        dtype=request.dtype,
        force=request.force,
        access=access,
        tokenizer=tokenizer.files,
        extra_files=_papers(adapter, request, None),
        progress=progress,
    )
    for note in written.notes:
        warn(note)
    if written.untied:
        warn(f"{' and '.join(written.untied)} are one tensor in the base and two here: the adapter moves one of them")
    say(f"{len(written.changed)} of {written.tensors} tensors changed")
    say(request.output)
    return shell("vllm", "serve", request.output)


def _base(adapter: "Adapter", request: Request) -> str:
    """The base that was given, else the adapter's own.

    Raises:
        ConfigError: none.
    """
    base = request.base or adapter.base_model
    if base is None:
        raise ConfigError(f"--base: missing; {adapter.path} names no base, which --to {request.form} needs")
    return base


def _from(request: Request, base: Any) -> str:
    """What FROM of a Modelfile names.

    Raises:
        ConfigError: nothing that Ollama could load.
    """
    if request.source is not None:
        return request.source
    if base.shapes is not None or Path(base.name).is_dir():
        return str(base.name)
    raise ConfigError(f"--from: missing; Ollama does not know {base.name!r}: name its GGUF file, or Ollama's own name")


def _papers(adapter: "Adapter", request: Request, cuts: "dict[str, ModuleCut] | None") -> dict[str, str]:
    from ..conversion import REPORT_NAME, export_card, export_report, record_text

    settings = {"rank": request.rank, "dtype": request.dtype}
    # Whoever gets the export has nothing of a folder's name on this machine.
    base = request.base if request.base is not None and not Path(request.base).exists() else adapter.base_model
    record = export_report(adapter, form=request.form, base=base, settings=settings, cuts=cuts)
    return {REPORT_NAME: record_text(record), "README.md": export_card(record)}


def _tokenizer_of(name: str, folder: Path) -> Mapping[str, Path]:
    """Files of the tokenizer that lies in the adapter's folder."""
    from ..data_loader import choose_tokenizer

    return choose_tokenizer({name: folder}, base=None, given=None).files


def _say_cuts(rank: int, cuts: "dict[str, ModuleCut] | None") -> None:
    from ..conversion import lost_share

    if cuts is None:
        return
    worst = sorted((item for item in cuts.items() if item[1].lost > 0.0), key=lambda item: -item[1].share)
    if not worst:
        say(f"rank {rank}: no module has more, so every update is exact")
        return
    rows = [(module, str(cut.rank), f"{100 * cut.share:.3g} %") for module, cut in worst[:_SHOWN]]
    share = 100 * lost_share(cuts.values())
    say(f"rank {rank}: {share:.3g} % of the energy is lost; {len(worst)} of {len(cuts)} modules are cut")
    print_table("Largest losses", ("module", "rank before", "lost"), rows)
