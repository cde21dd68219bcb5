"""The page: the result of a check as one HTML file that needs nothing else, with pictures of doubtful cases."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from monaiseg.checks.doctor import Checkup
from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted
from monaiseg.checks.thumbnails import thumbnail
from monaiseg.data import Progress
from monaiseg.files import write_atomic

PICTURES = 6
"""Maximum number of pictures of a finding."""
ALL_PICTURES = 60
"""Maximum number of pictures on the page: about 2 MB."""
LISTED = 8
"""Cases that are listed at once; the others are shown on a click."""


@dataclass(frozen=True)
class Picture:
    """A picture of a doubtful case, as a data URL."""

    case: str
    detail: str
    url: str


def write_page(path: str | Path, checkup: Checkup, on_progress: Progress | None = None) -> None:
    """Write the page, completely or not at all.

    Args:
        path: the HTML file.
        checkup: the result of a check.
        on_progress: called after each picture.

    Raises:
        StorageError: the file cannot be written.
    """
    chosen = [
        (number, doubt)
        for number, finding in enumerate(checkup.findings)
        for doubt in _pictured(finding)
    ][:ALL_PICTURES]
    pictures: dict[int, list[Picture]] = {}
    for done, (number, doubt) in enumerate(chosen, 1):
        if picture := _picture(checkup.evidence, doubt):
            pictures.setdefault(number, []).append(picture)
        if on_progress:
            on_progress(done, len(chosen))
    loader = PackageLoader("monaiseg.checks", "")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(
        name=checkup.evidence.folder.resolve().name,
        checkup=checkup,
        summary=summary(checkup),
        facts=[*_facts(checkup.evidence)],
        pictures=pictures,
        others={
            number: _without(finding.doubts, pictures.get(number, []))
            for number, finding in enumerate(checkup.findings)
        },
        listed=LISTED,
    )
    write_atomic(Path(path), html.encode())


def summary(checkup: Checkup) -> str:
    """One sentence: how many findings there are, and whether training can start."""
    cases = counted(len(checkup.evidence.cases), "case")
    if not checkup.findings:
        return f"{cases}, and nothing to report"
    stopping = sum(finding.stops_training for finding in checkup.findings)
    found = f"{cases}, {counted(len(checkup.findings), 'finding')}"
    if not stopping:
        return f"{found}; none of them stops training"
    return f"{found}; {stopping} of them {'stops' if stopping == 1 else 'stop'} training"


def _facts(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What the usable cases are like, in a few lines."""
    facts = [*evidence.facts.values()]
    if not facts:
        return
    grids = [found.grid.along_ras for found in facts]
    yield "Voxels", _ranges([shape for shape, _ in grids])
    yield "Voxel size", f"{_ranges([spacing for _, spacing in grids])} mm"
    orientations = Counter(found.orientation for found in facts)
    yield "Orientation", ", ".join(f"{name} ({n})" for name, n in orientations.most_common(4))
    yield "Channels", str(len(facts[0].intensity))
    yield "Labels", f"{evidence.table.num_classes - 1} and background"


def _ranges(triples: list[tuple[float, float, float]]) -> str:
    ends = ((min(sizes), max(sizes)) for sizes in zip(*triples, strict=True))
    return " × ".join(f"{a:.4g}" if a == b else f"{a:.4g}–{b:.4g}" for a, b in ends)


def _without(doubts: Sequence[Doubt], pictures: Sequence[Picture]) -> list[Doubt]:
    """The doubts that no picture shows."""
    shown = {(picture.case, picture.detail) for picture in pictures}
    return [doubt for doubt in doubts if (doubt.case, doubt.detail) not in shown]


def _pictured(finding: Finding) -> list[Doubt]:
    """One doubt for each of the first cases of a finding."""
    first: dict[str, Doubt] = {}
    for doubt in finding.doubts:
        if doubt.case:
            first.setdefault(doubt.case, doubt)
    return [*first.values()][:PICTURES]


def _picture(evidence: Evidence, doubt: Doubt) -> Picture | None:
    case = next(case for case in evidence.cases if case.id == doubt.case)
    png = thumbnail(case, evidence.table, doubt.voxel)
    if png is None:
        return None
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Picture(doubt.case, doubt.detail, url)
