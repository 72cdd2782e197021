"""The pictures of docs/concepts.md: a problem in two dimensions, λ of the lab's adapters, and the measured safety tax.

python docs/_site/pictures.py        # writes docs/pictures/*.svg; half a minute of one core
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sst_merge import solve_gevp

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "pictures"
Array = np.ndarray[Any, np.dtype[np.float64]]

# The toy: moving along the first axis helps safety most and costs most; the oblique direction costs little.
F_HARM: Array = np.array([[4.0, 1.2], [1.2, 1.6]])
F_BENIGN: Array = np.array([[3.6, -0.5], [-0.5, 0.3]])
PATCH: Array = np.array([1.0, 0.8])
MU = 3.0
_RED, _BLUE, _GREEN, _GREY = "#b3403a", "#2f5d9b", "#12805c", "#666666"
_STYLE = {"svg.hashsalt": "sst-merge", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def toy() -> dict[str, Any]:
    """What the two-dimensional problem answers.

    Returns:
        ``values`` λ (2,), ``vectors`` V (2, 2), ``harm_top`` the first eigenvector of F_harm alone (2,),
        ``harm_top_quotient`` its gain per cost, and ``kept`` the filtered patch (2,).
    """
    found = solve_gevp(F_HARM, F_BENIGN, damping=0.0)
    values, vectors = found.eigenvalues.numpy(), found.eigenvectors.numpy()
    top = np.linalg.eigh(F_HARM)[1][:, -1]
    top *= np.sign(top[0])
    kept = vectors @ (values / (values + MU) * (vectors.T @ F_BENIGN @ PATCH))
    return {
        "values": values,
        "vectors": vectors,
        "harm_top": top,
        "harm_top_quotient": float(top @ F_HARM @ top / (top @ F_BENIGN @ top)),
        "kept": kept,
    }


def draw_toy() -> Figure:
    """Left: the two Fishers and the directions. Right: the patch and what the filter keeps of it."""
    found = toy()
    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        _ellipse(axes, F_BENIGN, _BLUE, "equal benign cost")
        axes.set_aspect("equal")
        axes.set_xlim(-2.1, 2.1)
        axes.set_ylim(-2.1, 2.1)
        axes.set_axis_off()
    _ellipse(left, F_HARM, _RED, "equal gain of safety")
    for number, (value, vector) in enumerate(zip(found["values"], found["vectors"].T, strict=True), 1):
        _arrow(left, vector / np.linalg.norm(vector) * 1.5, _GREEN, f"v{number}: λ = {value:.1f}")
    _arrow(left, found["harm_top"] * 1.5, _RED, f"most gain alone: {found['harm_top_quotient']:.1f}")
    left.set_title("gain per cost of a direction")
    _arrow(right, PATCH, _GREY, "safety patch")
    _arrow(right, found["kept"], _GREEN, "what is kept")
    right.set_title(f"the patch, filtered with μ = {MU:g}")
    left.legend(loc="lower left", fontsize=7, frameon=False)
    return figure


def _ellipse(axes: Axes, fisher: Array, colour: str, label: str) -> None:
    """All x with xᵀFx = 1/2."""
    angles = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angles), np.sin(angles)]) * np.sqrt(0.5)
    axes.plot(*(np.linalg.inv(np.linalg.cholesky(fisher).T) @ circle), color=colour, label=label)


def _arrow(axes: Axes, tip: Array, colour: str, text: str) -> None:
    axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.6})
    axes.annotate(text, tip * 1.08, color=colour, fontsize=8, ha="left" if tip[0] > -0.3 else "right", va="bottom")


def lab_eigenvalues() -> Array:
    """λ of all directions of the lab's adapters ``swap_pairs`` and ``safety``, all layers together, descending."""
    from sst_merge import compute_fim_benign, compute_fim_harm
    from sst_merge.worlds.merge_setup import merge_setup
    from sst_merge.worlds.registry import open_world

    problem = merge_setup(open_world(name="lab", seed=0), ["swap_pairs"], harm_samples=64, benign_samples=96).problem
    harm = compute_fim_harm(problem.model, problem.adapters, problem.harm, benign=problem.benign)
    benign = compute_fim_benign(problem.model, problem.adapters, problem.benign)
    return solve_gevp(harm, benign).eigenvalues.numpy()


def draw_eigenvalues(values: Array) -> Figure:
    """λ by rank, with the share of the patch that two filters keep there."""
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = figure.subplots()
    rank = np.arange(1, len(values) + 1)
    axes.loglog(rank, values, color=_GREEN, lw=2, label="λ, safety gained per benign cost")
    axes.set_xlabel(f"direction, of {len(values):,}")
    axes.set_ylabel("λ")
    share = axes.twinx()
    for mu, style in ((1.0, "--"), (10.0, ":")):
        share.plot(rank, values / (values + mu), style, color=_GREY, label=f"share kept, μ = {mu:g}")
    share.set_ylim(0, 1.02)
    share.set_ylabel("share of the patch kept")
    lines = [*axes.get_lines(), *share.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="lower left", fontsize=7, frameon=False)
    return figure


def main() -> None:
    """Draw all."""
    with rc_context(_STYLE):
        drawn = {"two_fishers": draw_toy(), "eigenvalues": draw_eigenvalues(lab_eigenvalues())}
        OUT.mkdir(exist_ok=True)
        for name, figure in drawn.items():
            figure.savefig(OUT / f"{name}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
