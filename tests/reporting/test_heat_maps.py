"""Heat maps: files, colours, numbers, and that everything stays inside the picture."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from sst_merge.errors import DataError
from sst_merge.reporting import HeatMap, heat_maps

COSINES = HeatMap("Cosine", ["a", "b"], ["a", "b"], [[1.0, -0.001], [None, -1.0]], (-1, 1), "two-sided")
SHARES = HeatMap(
    "Share", ["a – b"], [str(i) for i in range(40)], [[i / 40 for i in range(40)]], (0, 1), "growing", "layer"
)


def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *maps: HeatMap, title: str = "T"):
    from matplotlib.figure import Figure

    figures = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), original(self, *a, **k))[1])
    heat_maps(maps, path_stem=tmp_path / "map", title=title)
    return figures[0]


def test_files_repeat_byte_for_byte_and_leave_nothing_else(tmp_path: Path) -> None:
    written = [heat_maps([COSINES, SHARES], path_stem=tmp_path / n / "v1.0", title="T") for n in ("one", "two")]
    assert [path.name for path in written[0]] == ["v1.0.png", "v1.0.svg"]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert len(list((tmp_path / "one").iterdir())) == 2
    assert ET.parse(written[0][1]).getroot().tag.endswith("svg")
    assert "<dc:date>" not in written[0][1].read_text()


def test_colours_stand_for_values(tmp_path: Path) -> None:
    """The ends of the two-sided scale, and grey for what is not known."""
    from matplotlib.image import imread

    png, _ = heat_maps([COSINES], path_stem=tmp_path / "map", title="T")
    pixels = np.round(imread(png)[..., :3] * 255).astype(int)
    for color in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0xD9, 0xD9, 0xD9)):
        assert (abs(pixels - color).max(-1) == 0).sum() > 1000


def test_tiles_carry_their_numbers_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, tmp_path, COSINES, SHARES)
    cosines, _, shares, _ = figure.axes
    assert [text.get_text() for text in cosines.texts] == ["1.00", "0.00", "–", "−1.00"]
    assert [text.get_color() for text in cosines.texts] == ["white", "#222222", "#222222", "white"]
    assert len(shares.texts) == 0
    assert [text.get_text() for text in shares.get_xticklabels()] == [str(i) for i in range(0, 40, 2)]
    np.testing.assert_allclose(shares.images[0].get_array(), SHARES.values)
    assert shares.images[0].get_clim() == (0, 1)
    for columns, printed in ((12, 12), (13, 0)):
        tiles = HeatMap("x", ["a"], [f"s{i}" for i in range(columns)], [[0.25] * columns])
        assert len(drawn(monkeypatch, tmp_path, tiles).axes[0].texts) == printed


def test_everything_stays_inside_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"an adapter whose name is really very long {i}" for i in range(9)]
    table = [[0.5] * 9 for _ in range(9)]
    maps = [
        HeatMap("A title that says what is shown below it, and how", names, names, table, (0, 1), "growing", "x")
    ] * 2
    figure = drawn(monkeypatch, tmp_path, *maps, title="a very long title " * 20)
    renderer = figure.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes] + [figure.texts[0].get_window_extent(renderer)]
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1
    first, second = boxes[0], boxes[2]
    assert first.y0 >= second.y1


def test_matplotlib_stays_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    heat_maps([COSINES], path_stem=tmp_path / "map", title="T")
    assert dict(matplotlib.rcParams) == before


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to draw"):
        heat_maps([], path_stem=tmp_path / "map", title="T")
    with pytest.raises(DataError, match="heat map 'x': nothing to draw"):
        HeatMap("x", [], ["a"], [], (0, 1), "growing")
    with pytest.raises(DataError, match=r"heat map 'x': 1 rows of \[2\] values for 1 × 1 names"):
        HeatMap("x", ["a"], ["a"], [[1.0, 2.0]], (0, 1), "growing")
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="pass None where nothing was measured"):
            HeatMap("x", ["a"], ["a"], [[value]])
    with pytest.raises(DataError, match="a lower and a larger value"):
        HeatMap("x", ["a"], ["a"], [[1.0]], (1, 0))
