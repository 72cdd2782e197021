"""``sst-merge export``: one adapter in, the form that a server, llama.cpp, Ollama or the hub takes out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, OutputExistsError
from .console import finish, near, print_table, progress_bars, say, shell, warn
from .converting import conversion_from, with_conversion
from .sending import check_is_export, send
from .voice import words_without

if TYPE_CHECKING:
    from ..conversion import ModuleCut
    from ..lora_utils import Adapter

__all__ = ["export"]

_TYPES = ("float32", "float16", "bfloat16")
_SHOWN = 8  # modules in the table of losses


@dataclass(frozen=True)
class _Request:
    """The command's flags, as far as they shape the output."""

    form: str
    output: Path
    base: str | None
    source: str | None
    rank: int | None
    dtype: str | None
    force: bool
    trust_remote_code: bool


@click.command(
    help="Write ADAPTER, a PEFT folder, in another form. OUT is a folder; whatever the form, export_report.json and a "
    "model card lie in it.",
    epilog="Example: sst-merge export out/merged --to gguf --base HuggingFaceTB/SmolLM2-135M-Instruct -o out/gguf",
)
@click.argument("adapter")
@click.option(
    "--to",
    "form",
    type=click.Choice(["peft", "gguf", "full", "ollama"]),
    help="peft: a folder at a server's rank; gguf: a LoRA for llama.cpp; full: base + update; ollama: a Modelfile",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="folder to make")
@click.option(
    "--base", metavar="BASE", help="the base: folder, hub id, or (gguf, ollama) GGUF file; else the adapter's"
)
@click.option("--from", "source", metavar="MODEL", help="ollama: GGUF file, folder or Ollama's name of the base")
@click.option(
    "--serve-rank",
    "rank",
    type=int,
    metavar="RANK",
    help="peft, gguf, ollama: cut or fill to this rank, such as 16 or 64",
)
@click.option("--dtype", type=click.Choice(_TYPES), help="type to write (peft, gguf: float32; full: the base's own)")
@click.option("--leave-out", multiple=True, metavar="MODULE", help="a module to leave out; repeatable")
@click.option("--drop-modules-to-save", is_flag=True, help="leave whole trained weights out")
@click.option("--initial-weights", metavar="FOLDER", help="weights that training began with (PiSSA, OLoRA, ...)")
@with_conversion
@click.option("--trust-remote-code", is_flag=True, help="run Python files that the base brings")
@click.option("--push", metavar="USER/NAME", help="send OUT (without --to: ADAPTER) to the hub, as one commit")
@click.option("--public", is_flag=True, help="with --push: let everybody see it; private otherwise")
@click.option("--force", is_flag=True, help="replace an existing OUT")
@click.option("--dry-run", is_flag=True, help="check everything, say what would be written and sent, and do neither")
def export(
    adapter: str,
    form: str | None,
    output: Path | None,
    push: str | None,
    public: bool,
    dry_run: bool,
    leave_out: Sequence[str],
    drop_modules_to_save: bool,
    rank: int | None,
    convert_rank: int | None,
    convert_lost: float,
    allow_pickle: bool,
    initial_weights: str | None,
    **values: Any,
) -> None:
    """Check, write, send.

    Raises:
        ConfigError: flags that do not belong together.
        OutputExistsError: OUT is there and ``--force`` is not given.
    """
    if form is None and push is None:
        raise ConfigError("give --to FORM (peft, gguf, full or ollama), --push USER/NAME, or both")
    if (form is None) != (output is None):
        raise ConfigError("--to and -o OUT belong together: a form, and the folder that it is written to")
    if form is None and (rank is not None or any(values.values()) or leave_out or drop_modules_to_save):
        raise ConfigError("--push without --to sends ADAPTER as it is; say --to peft where it is to be changed first")
    from ..conversion import check_repository

    if form is None or output is None:
        check_is_export(Path(adapter))
        outcome = send(str(push), Path(adapter), public=public, dry_run=dry_run)
        then = shell(*words_without("--dry-run")) if dry_run else _look_at(str(push))
        finish({"output": None, "push": outcome}, then=then)
        return
    request = _Request(form=form, output=output, rank=rank, **values)
    _check(request, adapter)
    if push is not None:
        check_repository(push)
    from ..lora_utils import Adapter

    conversion = conversion_from(
        request.base,
        convert_rank,
        convert_lost,
        trust_remote_code=request.trust_remote_code,
        allow_pickle=allow_pickle,
        initial=initial_weights,
    )
    opened = Adapter.load(
        adapter, drop_modules_to_save=drop_modules_to_save, leave_out=leave_out, conversion=conversion
    )
    for note in opened.notes:
        warn(note)
    with progress_bars() as progress:
        then = _carry_out(opened, request, dry_run=dry_run, progress=progress)
    sent: dict[str, Any] | None = None
    if push is not None and dry_run:
        say(f"then {output} would be sent to {push} ({'public' if public else 'private'})")
    elif push is not None:
        sent, then = send(push, output, public=public, dry_run=False), _look_at(push)
    finish(
        {"output": None if dry_run else str(output), "report": None if dry_run else _written(output), "push": sent},
        then=shell(*words_without("--dry-run")) if dry_run else then,
    )


def _check(request: _Request, adapter: str) -> None:
    """Refuse flags that the form has no use for.

    Raises:
        ConfigError: such a flag, or an output that would replace what is read.
        OutputExistsError: OUT is there and ``--force`` is not given.
    """
    from ..conversion import SERVED_RANKS

    if request.output.exists() and not request.force:
        raise OutputExistsError(f"{request.output} exists already; choose another -o, or replace it with --force")
    target = request.output.resolve()
    for place in (adapter, request.base, request.source):
        source = None if place is None else Path(place).resolve()
        if source is not None and source.exists() and (target in {source, *source.parents} or source in target.parents):
            raise ConfigError(f"-o {request.output}: it and {place}, which is read, share a folder; choose another -o")
    if request.rank is not None and request.rank not in SERVED_RANKS:
        known = ", ".join(map(str, SERVED_RANKS))
        raise ConfigError(f"--serve-rank {request.rank}: no rank that servers make room for; take one of {known}")
    if request.source is not None and request.form != "ollama":
        raise ConfigError("--from belongs to --to ollama")
    if request.form == "full" and request.rank is not None:
        raise ConfigError("--serve-rank: a whole model has no rank; leave it out, or export --to peft first")


def _look_at(repository: str) -> str:
    return f"look at https://huggingface.co/{repository}"


def _written(folder: Path) -> dict[str, Any]:
    from ..conversion import REPORT_NAME

    report: dict[str, Any] = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    return report


def _carry_out(adapter: "Adapter", request: _Request, *, dry_run: bool, progress: Any) -> str:
    """Write one form, or say what would be written; returns the command that follows."""
    match request.form:
        case "peft":
            return _peft(adapter, request, dry_run=dry_run)
        case "full":
            return _full(adapter, request, dry_run=dry_run, progress=progress)
        case _:
            return _gguf(adapter, request, dry_run=dry_run)


def _peft(adapter: "Adapter", request: _Request, *, dry_run: bool) -> str:
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


def _gguf(adapter: "Adapter", request: _Request, *, dry_run: bool) -> str:
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


def _full(adapter: "Adapter", request: _Request, *, dry_run: bool, progress: Any) -> str:
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


_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def _base(adapter: "Adapter", request: _Request) -> str:
    """The base that was given, else the adapter's own.

    Raises:
        ConfigError: none.
    """
    base = request.base or adapter.base_model
    if base is None:
        raise ConfigError(f"--base: missing; {adapter.path} names no base, which --to {request.form} needs")
    return base


def _from(request: _Request, base: Any) -> str:
    """What FROM of a Modelfile names.

    Raises:
        ConfigError: nothing that Ollama could load.
    """
    if request.source is not None:
        return request.source
    if base.shapes is not None or Path(base.name).is_dir():
        return str(base.name)
    raise ConfigError(f"--from: missing; Ollama does not know {base.name!r}: name its GGUF file, or Ollama's own name")


def _papers(adapter: "Adapter", request: _Request, cuts: "dict[str, ModuleCut] | None") -> dict[str, str]:
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
