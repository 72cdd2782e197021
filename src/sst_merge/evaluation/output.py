"""The output folder: results appear whole, the summary last; answers for resuming stay beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import OutputExistsError
from ..files import file_name, file_sha256, sealed_files, unfinished
from .records import Record, write_records
from .summary import Summary, write_summary

__all__ = ["ANSWERS", "RUN", "SUMMARY", "ReportWriter", "check_output", "write_results"]

SUMMARY = "summary.json"
RUN = "run.json"
ANSWERS = "answers"


def check_output(out: Path, *, force: bool) -> None:
    """Refuse to mix results: a folder with a finished evaluation is replaced only on demand.

    A folder without a summary (an evaluation that was killed, also while it wrote its results) is continued.

    Raises:
        OutputExistsError: it is a file, or holds finished results, or something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputExistsError(f"{out} is a file; choose another folder for --out")
    continued = unfinished(out, seal=SUMMARY)
    if (out / SUMMARY).exists() and not force:
        raise OutputExistsError(
            f"{out} holds a finished evaluation; choose another --out, or replace it with --force (answers that are "
            f"there already are not generated again)"
        )
    if any(out.iterdir()) and not continued and not (out / ANSWERS).is_dir() and not (out / SUMMARY).exists():
        raise OutputExistsError(f"{out} holds files, but no evaluation; choose a new or empty folder for --out")


class ReportWriter(Protocol):
    """Writes tables, pictures and pages of a summary into a folder: what no other program reads."""

    def __call__(
        self, summary: Summary, folder: Path, /, *, facts: Mapping[str, object], records: Sequence[Record]
    ) -> object:
        """Write.

        Args:
            summary: of the evaluation.
            folder: to write into.
            facts: settings that a reader of the page wants to know.
            records: every answer.
        """


def write_results(
    out: Path,
    records: Mapping[tuple[str, str], Sequence[Record]],
    summary: Summary,
    provenance: Mapping[str, Any],
    write_report: ReportWriter | None = None,
) -> None:
    """Write everything into a folder beside, then rename it piece by piece; ``summary.json`` comes last.

    Args:
        out: the output folder.
        records: (model, suite) → records.
        summary: of the records.
        provenance: goes into ``run.json``, with the SHA-256 of every file of records.
        write_report: writes pages for people beside them.
    """
    with sealed_files(out, seal=SUMMARY) as aside:
        hashes = {}
        for (model, suite), found in records.items():
            file = aside / "records" / file_name(model) / f"{file_name(suite)}.jsonl"
            write_records(file, found)
            hashes[file.relative_to(aside).as_posix()] = file_sha256(file)
        facts = {**provenance, "records": hashes}
        (aside / RUN).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_summary(aside / SUMMARY, summary)
        if write_report is not None:
            answers = [record for found in records.values() for record in found]
            write_report(summary, aside, facts=_shown(provenance), records=answers)


def _shown(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of the page wants to know; every hash is in ``run.json``."""
    names = ("samples", "seed", "backend", "batch_size", "model", "judges", "versions")
    template = provenance["chat_template"]
    return {
        "base": provenance["base"]["name"],
        "chat template": f"used, SHA-256 {template['sha256'][:16]}" if template["used"] else "not used",
        **{name.replace("_", " "): provenance[name] for name in names},
        **_left_out(provenance),
        "decoding": {name: facts["decoding"] or "option scoring" for name, facts in provenance["suites"].items()},
    }


def _left_out(provenance: Mapping[str, Any]) -> dict[str, Any]:
    if not provenance["exclude"]:
        return {}
    sources = ", ".join(f"{source['name']} ({source['prompts']} prompts)" for source in provenance["exclude"])
    return {
        "calibrated on": sources,
        "rows left out for it": {name: facts["left_out"] for name, facts in provenance["suites"].items()},
    }
