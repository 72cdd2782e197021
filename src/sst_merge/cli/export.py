"""``sst-merge export``: one adapter in, the form that a server, llama.cpp, Ollama or the hub takes out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, OutputExistsError
from .console import finish, progress_bars, say, shell, warn
from .converting import conversion_from, with_conversion
from .export_forms import Request, carry_out
from .sending import check_is_export, send
from .voice import words_without

__all__ = ["export"]

_TYPES = ("float32", "float16", "bfloat16")


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
    request = Request(form=form, output=output, rank=rank, **values)
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
        then = carry_out(opened, request, dry_run=dry_run, progress=progress)
    sent: dict[str, Any] | None = None
    if push is not None and dry_run:
        say(f"then {output} would be sent to {push} ({'public' if public else 'private'})")
    elif push is not None:
        sent, then = send(push, output, public=public, dry_run=False), _look_at(push)
    finish(
        {"output": None if dry_run else str(output), "report": None if dry_run else _written(output), "push": sent},
        then=shell(*words_without("--dry-run")) if dry_run else then,
    )


def _check(request: Request, adapter: str) -> None:
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
