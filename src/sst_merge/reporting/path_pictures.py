"""The paths that a merge chose its point on: refusals against benign divergence."""

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import Chart, Curve, Shown, where_shown
from .pages import PageTable

__all__ = ["budget_path", "target_path"]


def budget_path(report: Mapping[str, Any], said: Mapping[str, Any]) -> Shown | None:
    """What ``tax_budget`` chose among."""
    path = said.get("path")
    if not path:
        return None
    # The options have none where it is the default.
    budget = said.get("tax_budget", (report.get("options") or {}).get("tax_budget"))
    curves = []
    for strength in dict.fromkeys(of["strength"] for of in path):
        own = sorted((of for of in path if of["strength"] == strength), key=lambda of: of["divergence"])
        name = f"strength {strength:.4g}"
        curves.append(
            Curve(name=name, points=[_at(of) for of in own], notes=[_candidate(of) for of in own], look="joined")
        )
    chosen = [of for of in path if (of["mu"], of["strength"]) == (said.get("mu"), said.get("strength"))]
    curves += [
        Curve(name="chosen", points=[_at(of)], notes=[f"chosen: {_candidate(of)}"], look="chosen") for of in chosen
    ]
    rows = [
        [
            "–" if of["mu"] is None else f"{of['mu']:.4g}",
            f"{of['strength']:.4g}",
            f"{of['divergence']:.4g}",
            f"{of['refusal']:.4f}",
            "chosen" if of in chosen else "",
        ]
        for of in sorted(path, key=lambda of: of["divergence"])
    ]
    return where_shown(
        Shown(
            title="The path: refusals against benign divergence",
            caption="Every point is a merge that was tried on held-out prompts. Further up it refuses more surely, "
            "further right it is further from the skilled model; the ring is what was taken, before any refinement.",
            picture=Chart(
                x="benign divergence, nats per answer token",
                y="log-probability of a refusal, per token",
                curves=curves,
                x_log=True,
                limits=[] if budget is None else [(budget, f"tax_budget {budget:g}")],
            ),
            table=PageTable(
                caption="What was tried",
                columns=("μ", "Strength", "Benign divergence", "Refusal log-probability", "Taken"),
                rows=rows,
            ),
        )
    )


def target_path(said: Mapping[str, Any]) -> Shown | None:
    """What ``safety_target`` tested, and chose."""
    target = said.get("safety_target")
    if not target or not target["path"]:
        return None
    path: Sequence[Mapping[str, Any]] = target["path"]
    share = [(of["divergence"], of["refused"] / of["prompts"]) for of in path]
    notes = [
        f"θ = {of['theta']:.3g}: {of['refused']} of {of['prompts']} refused, divergence {of['divergence']:.3g}"
        for of in path
    ]
    place = path.index(target["chosen"])
    curves = [
        Curve(name="refused", points=share, notes=notes, look="joined"),
        Curve(
            name=f"at least, with confidence {target['confidence']:g}",
            points=[(of["divergence"], of["bound"]) for of in path],
            look="joined",
        ),
        Curve(name="chosen", points=[share[place]], notes=[f"chosen: {notes[place]}"], look="chosen"),
    ]
    rows = [
        [
            f"{of['theta']:.3g}",
            f"{of['divergence']:.4g}",
            f"{of['refused']} of {of['prompts']}",
            f"{of['bound']:.3f}",
            ("chosen" if i == place else "accepted")
            if of["accepted"]
            else ("chosen, missed" if i == place else "missed"),
        ]
        for i, of in enumerate(path)
    ]
    return where_shown(
        Shown(
            title="The path: refusals against benign divergence",
            caption="Merges from the safety adapter itself towards the skills alone, asked held-out prompts from the "
            "safest one downwards; the ring is what was taken, before any refinement.",
            picture=Chart(
                x="benign divergence, nats per answer token",
                y="share of harmful prompts refused",
                curves=curves,
                x_log=True,
                floors=[(target["target"], f"safety_target {target['target']:g}")],
            ),
            table=PageTable(
                caption="What was tested",
                columns=("θ", "Benign divergence", "Refused", "At least", "Result"),
                rows=rows,
            ),
        )
    )


def _at(candidate: Mapping[str, Any]) -> tuple[float, float]:
    return candidate["divergence"], candidate["refusal"]


def _candidate(of: Mapping[str, Any]) -> str:
    mu = "" if of["mu"] is None else f"μ = {of['mu']:.4g}, "
    return f"{mu}strength {of['strength']:.4g}: divergence {of['divergence']:.3g}, refusal {of['refusal']:.4g}"
