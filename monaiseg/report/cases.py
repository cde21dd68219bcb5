"""Worst cases: their pictures, and their volumes for the viewer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monaiseg.data import LabelTable
from monaiseg.evaluation import CaseVolumes, Look, draw_case, read_case, shown_values
from monaiseg.report.score_folder import ScoreFolder
from monaiseg.report.volumes import EmbeddedVolumes, embedded

MARGIN_MM = 12.0
"""Around the labels, so that their surroundings can be seen."""
WORST_STRUCTURES = 5
MOST_NAMES = 12
"""Most labels in the legend of a picture."""
WIDE = Look(dark=True, legend=False)
TALL = Look(dark=True, legend=False, label_maps="in columns", panel_inches=2.6)
"""For phones."""


@dataclass(frozen=True)
class Named:
    """A label in a legend."""

    name: str
    color: str


@dataclass(frozen=True)
class CaseView:
    """What the report shows of a case."""

    case_id: str
    mean_dice: float | None
    worst: list[tuple[str, float]]
    """The structures with the lowest Dice."""
    wide: str
    """Picture as a data URI; a row per label map."""
    tall: str
    """The same for narrow screens; a column per label map."""
    legend: list[Named]
    more_names: int
    """Number of labels in the picture that the legend leaves out."""
    volumes: EmbeddedVolumes | None
    """None if the page has no room for them."""


def worst_cases(
    scores: ScoreFolder, most: int, volume_budget: int, on_case: Callable[[], object]
) -> Iterator[CaseView]:
    """The cases with the lowest mean Dice that have files, worst first; their volumes fit into `volume_budget` letters.

    Raises:
        DataError: a file cannot be read.
    """
    left = volume_budget
    table = scores.table
    there = [case for case in scores.worst_first() if scores.files(case) is not None]
    for case_id in there[:most]:
        files = scores.files(case_id)
        assert files is not None
        case = read_case(*files, table).cropped(MARGIN_MM)
        volumes = embedded(case, table, left)
        left -= 0 if volumes is None else volumes.size
        yield _view(scores, case_id, case, table, volumes)
        on_case()


def _view(
    scores: ScoreFolder,
    case_id: str,
    case: CaseVolumes,
    table: LabelTable,
    volumes: EmbeddedVolumes | None,
) -> CaseView:
    shown = shown_values([case.reference, case.prediction], case.worst_point)
    labels = {label.value: label for label in table.labels}
    return CaseView(
        case_id=case_id,
        mean_dice=scores.summary.per_case.get(case_id),
        worst=scores.worst_structures(case_id, WORST_STRUCTURES),
        wide=_picture(case, table, WIDE),
        tall=_picture(case, table, TALL),
        legend=[
            Named(labels[value].name, css_color(labels[value].color))
            for value in shown[:MOST_NAMES]
        ],
        more_names=max(len(shown) - MOST_NAMES, 0),
        volumes=volumes,
    )


def _picture(case: CaseVolumes, table: LabelTable, look: Look) -> str:
    """A picture of a case as a data URI."""
    maps = (("reference", case.reference), ("prediction", case.prediction))
    figure = draw_case(case.image, maps, table, case.spacing, point=case.worst_point, look=look)
    data = io.BytesIO()
    figure.savefig(data, format="webp", dpi=130, pil_kwargs={"quality": 82})
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def css_color(color: tuple[int, int, int]) -> str:
    """A colour in CSS.

    >>> css_color((255, 0, 16))
    '#ff0010'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)
