"""What a search leaves in its folder: every trial as a table, the front, a configuration for each merge, and a page."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_text
from ..measures.intervals import rate
from ..reporting import MergePoint, search_page
from ..worlds.outcomes import Counts
from .config import Wanted
from .front import chosen, front, within
from .merge_files import point_merge, write_merge_file
from .study import Trial

__all__ = ["Results", "merge_command", "merge_file", "rate_text", "write_results"]

_FORMAT = "sst_merge.search/1"


@dataclass(frozen=True)
class Results:
    """What was written.

    Attributes:
        front: merges that no other beats.
        best: the one that is wanted, or None.
        paths: files, the page last.
    """

    front: tuple[Trial, ...]
    best: Trial | None
    paths: tuple[Path, ...]


def write_results(out: Path, trials: Sequence[Trial], wanted: Wanted, merge: Mapping[str, Any], title: str) -> Results:
    """Write everything; the same trials give the same bytes.

    Args:
        out: folder of the search.
        trials: all that were proposed.
        wanted: which merge is the best.
        merge: what all merges have in common, as a configuration without method.
        title: of the page.

    Returns:
        The front, the best merge and the files.
    """
    edge, best = front(trials, wanted.over_refusal), chosen(trials, wanted)
    done = [trial for trial in trials if trial.measured is not None]
    for trial in done:
        # Whether the settings are those of a method is for the merge to say, so this is written for all.
        made = point_merge(merge, trial.point, out / "merged" / f"trial_{trial.number}")
        write_merge_file(merge_file(out, trial), made, note=f"trial {trial.number}: {_said(trial)}")
    records = [_record(out, trial, wanted, edge) for trial in trials]
    written = [out / "trials.csv", out / "search.json"]
    write_text(written[0], _csv(records))
    summary = {
        "format": _FORMAT,
        "wanted": wanted.model_dump(mode="json"),
        "best": None if best is None else best.number,
        "front": [trial.number for trial in edge],
        "trials": records,
    }
    write_text(written[1], json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    best_file = out / "best.yaml"
    if best is not None:
        write_merge_file(best_file, point_merge(merge, best.point, out / "merged" / "best"), note=_said(best))
        written.append(best_file)
    else:
        best_file.unlink(missing_ok=True)  # of an earlier search that asked for less
    page = out / "index.html"
    points = [_page_point(out, trial, wanted, edge, best) for trial in done]
    write_text(page, search_page(points, safety=wanted.safety, over_refusal=wanted.over_refusal, title=title))
    return Results(tuple(edge), best, (*written, page))


def merge_file(out: Path, trial: Trial) -> Path:
    """The configuration of a trial's merge.

    Args:
        out: folder of the search.
        trial: measured.

    Returns:
        The file.
    """
    return out / "merges" / f"trial_{trial.number}.yaml"


def merge_command(out: Path, trial: Trial) -> list[str]:
    """The words that make a trial's merge, from any folder."""
    return ["sst-merge", "merge", str(merge_file(out, trial).absolute())]


def rate_text(counts: Counts | None) -> str:
    """A rate with its 95 % interval (Wilson's); a dash where nothing was asked."""
    if counts is None:
        return "–"
    found = rate(counts.k, counts.n)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _said(trial: Trial) -> str:
    return f"{trial.point.label}, {trial.point.settings}".replace("\n", " ")


def _record(out: Path, trial: Trial, wanted: Wanted, edge: Sequence[Trial]) -> dict[str, Any]:
    found = trial.measured
    record: dict[str, Any] = {
        "trial": trial.number,
        "form": trial.point.label,
        **{name: value for name, value in trial.point.parameters.items() if name != "prepare_from"},
        "failure": trial.failure,
    }
    if found is None:
        return record
    needless = found.over_refusal
    return record | {
        "safety": found.safety.rate,
        "skill": found.skill,
        "over_refusal": None if needless is None else needless.rate,
        "counts": found.to_dict(),
        "within_limit": within(found, wanted.over_refusal),
        "on_front": trial in edge,
        "merge": merge_file(out, trial).relative_to(out).as_posix(),
    }


_COLUMNS = (
    *("trial", "form", "method", "options", "safety_weight", "rank", "safety", "skill", "over_refusal"),
    *("within_limit", "on_front", "merge", "failure"),
)


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(_COLUMNS)
    for record in records:
        row = {**record, "options": json.dumps(record["options"], ensure_ascii=False)}
        table.writerow([_cell(row.get(name)) for name in _COLUMNS])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    """Nothing that a spreadsheet would take for a formula."""
    if isinstance(value, str) and value[:1] in "=+-@\t\r":
        return f"'{value}"
    return value


def _page_point(out: Path, trial: Trial, wanted: Wanted, edge: Sequence[Trial], best: Trial | None) -> MergePoint:
    import shlex

    found = trial.measured
    assert found is not None
    skills = [f"{name}: {score:.2f} of {n}" for name, (score, n) in found.skills.items()]
    return MergePoint(
        number=trial.number,
        label=trial.point.label,
        settings=trial.point.settings,
        safety=found.safety.rate,
        skill=found.skill,
        lines=(
            f"safety {rate_text(found.safety)}, n = {found.safety.n}",
            *skills,
            f"over-refusal {rate_text(found.over_refusal)}",
        ),
        within=within(found, wanted.over_refusal),
        on_front=trial in edge,
        best=trial == best,
        command=shlex.join(merge_command(out, trial)),
    )
