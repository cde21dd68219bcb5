"""The page: scores, plots, pictures and viewer in one HTML file that works from disk, without a network.

The page says so to the browser as well: its content security policy allows the scripts inside it, by their checksums,
and no request at all. All names that come from files are escaped. Paths are shortened to their last part.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monaiseg import __version__
from monaiseg.evaluation import LESIONS, LabelSummary, tolerance_words
from monaiseg.files import read_json_object, sha256_of, write_atomic
from monaiseg.report.agreement import Agreement, agreements
from monaiseg.report.cases import CaseView, css_color, worst_cases
from monaiseg.report.confusion import Confusion, confusion_of
from monaiseg.report.plots import FEW_STRUCTURES, learning_curves, volume_plots
from monaiseg.report.score_folder import RUN_SETTINGS_FILE, ScoreFolder
from monaiseg.report.strips import lowest_shown, strip

REPORT_FILE = "report.html"
MOST_BYTES = 15_000_000
"""Size that a page stays below, so that it can be sent by mail."""
VOLUME_LETTERS = 9_000_000
"""Letters for the volumes of the viewer; the rest of the page takes up to 6 MB."""
MOST_CLASSES_IN_MATRIX = 13
MOST_CLASSES = 2000
"""With more classes there is no confusion: its table would take gigabytes."""
MOST_CONFUSED = 25
_SCRIPTS = ("niivue/niivue.umd.js", "page.js", "viewer.js")

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Tile:
    """A headline score."""

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table of labels."""

    label: LabelSummary
    color: str
    strip: Markup
    agreement: Agreement | None


def write_page(
    scores: ScoreFolder,
    output: Path,
    *,
    command: Sequence[str],
    most_cases: int = 6,
    advance: Advance = lambda _done, _all: None,
) -> Path:
    """Write the report of a set of scores.

    Args:
        scores: what `read_score_folder` gives.
        output: the HTML file.
        command: words of the command that makes the report, to be shown in it.
        most_cases: number of worst cases to show.
        advance: called with the number of cases read so far and of all to be read.

    Raises:
        DataError: a file that the scores refer to cannot be read.
        StorageError: the file cannot be written.
    """
    with_files = [case for case in scores.worst_first() if scores.files(case) is not None]
    total, done = len(with_files) + min(most_cases, len(with_files)), 0

    def on_case() -> None:
        nonlocal done
        done += 1
        advance(done, total)

    views = list(worst_cases(scores, most_cases, VOLUME_LETTERS, on_case))
    confusion = _confusion(scores, with_files, on_case)
    text = render(scores, views, confusion, output, command)
    write_atomic(output, text.encode())
    return output


def _confusion(
    scores: ScoreFolder, cases: Sequence[str], on_case: Callable[[], None]
) -> Confusion | None:
    files = {case: scores.files(case) for case in cases}
    pairs = {case: found[1:] for case, found in files.items() if found is not None}
    if not pairs or scores.table.num_classes > MOST_CLASSES:
        return None
    return confusion_of(pairs, scores.table, on_case)


def render(
    scores: ScoreFolder,
    views: Sequence[CaseView],
    confusion: Confusion | None,
    output: Path,
    command: Sequence[str],
) -> str:
    """The text of the page."""
    environment = Environment(
        loader=PackageLoader("monaiseg.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent}
    has_viewer = any(view.volumes is not None for view in views)
    scripts = [_asset(name) for name in _SCRIPTS if has_viewer or name == "page.js"]
    found = agreements(scores.scores["reference_ml"], scores.scores["prediction_ml"])
    of_labels = {label.name: found[label.name] for label in scores.labels if label.name in found}
    low = lowest_shown([v for row in scores.scores["dice"].values() for v in row.values()])
    return environment.get_template("page.html").render(
        title=_title(scores),
        summary=scores.summary,
        version=__version__,
        policy=_policy(scripts),
        style=Markup(_asset("page.css")),  # noqa: S704 - our own
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own, and NiiVue's
        tiles=_tiles(scores),
        curves=learning_curves(scores.history(), scores.table),
        rows=_rows(scores, found, low),
        low=low,
        scored_labels=scores.summary.scored_labels,
        lesions=LESIONS if any(label.is_lesion for label in scores.summary.labels) else (),
        volumes=volume_plots(of_labels, scores.table),
        few_structures=len(of_labels) <= FEW_STRUCTURES,
        confusion=confusion,
        matrix=confusion is not None and len(confusion.names) <= MOST_CLASSES_IN_MATRIX,
        most_confused=MOST_CONFUSED,
        views=views,
        cases=_case_rows(scores, views, output),
        viewer=_viewer(views, scores) if has_viewer else None,
        facts=_facts(scores, command),
        settings=_settings(scores),
    )


def _title(scores: ScoreFolder) -> str:
    model = scores.run.name if scores.run is not None else Path(scores.summary.model).name
    where = [Path(scores.summary.data_task).name, scores.summary.split]
    return " · ".join(filter(None, [model or "scores", *where]))


def _asset(name: str) -> str:
    return (resources.files("monaiseg.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: these scripts, styles and pictures of the page, and nothing from anywhere."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _tiles(scores: ScoreFolder) -> list[Tile]:
    """The headline scores, with their intervals."""
    summary = scores.summary
    tolerance = tolerance_words([label.tolerance_mm for label in scores.labels])
    metrics = (
        ("Dice", "dice", 3, ""),
        (f"Surface Dice at {tolerance}", "surface_dice", 3, ""),
        ("Hausdorff, 95 %", "hd95_mm", 2, " mm"),
        ("Mean surface distance", "assd_mm", 2, " mm"),
    )
    tiles = []
    for title, metric, digits, unit in metrics:
        mean = summary.overall[metric]
        value = "–" if mean.value is None else f"{mean.value:.{digits}f}{unit}"
        note = ""
        if mean.low is not None and mean.high is not None:
            note = f"{mean.low:.{digits}f} to {mean.high:.{digits}f}"
        tiles.append(Tile(title, value, note))
    missed, invented = (sum(getattr(x, n) for x in scores.labels) for n in ("missed", "invented"))
    tiles.append(Tile("Structures missed", str(missed), f"{invented} invented"))
    seconds = f"{summary.seconds_per_case:.3g} s per case" if summary.seconds_per_case else ""
    tiles.append(Tile("Cases", str(summary.cases), seconds))
    return tiles


def _rows(scores: ScoreFolder, found: Mapping[str, Agreement], low: float) -> list[Row]:
    colors = {label.value: css_color(label.color) for label in scores.table.labels}
    return [
        Row(
            label=label,
            color=colors.get(label.values[0], "#808080"),
            strip=strip([row.get(label.name, math.nan) for row in scores.scores["dice"].values()], low),
            agreement=found.get(label.name),
        )
        for label in scores.summary.labels
    ]  # fmt: skip


def _case_rows(
    scores: ScoreFolder, views: Sequence[CaseView], output: Path
) -> list[dict[str, Any]]:
    """All cases, worst first, with a link to the prediction if it is in a folder beside the page."""
    shown = {view.case_id for view in views}
    beside = output.absolute().parent == scores.path.absolute()
    noted = scores.sources.cases if scores.sources is not None and beside else {}
    rows = []
    for case_id in scores.worst_first():
        prediction = noted[case_id].prediction if case_id in noted else None
        near = prediction is not None and not Path(prediction).is_absolute()
        rows.append(
            {
                "id": case_id,
                "dice": scores.summary.per_case[case_id],
                "worst": scores.worst_structures(case_id, 3),
                "shown": case_id in shown,
                "link": Path(prediction).as_posix() if near and prediction is not None else None,
            }
        )
    return rows


def _viewer(views: Sequence[CaseView], scores: ScoreFolder) -> dict[str, Any]:
    """What the viewer's script reads, beside the volumes: cases, and names and colours of the class indices."""
    return {
        "labels": [{"name": x.name, "color": list(x.color)} for x in scores.table.labels],
        "cases": [
            {
                "id": view.case_id,
                "step": view.volumes.step,
                "places": [
                    {"name": place.name, "voxel": place.voxel, "ml": place.ml}
                    for place in view.volumes.places
                ],
            }
            for view in views
            if view.volumes is not None
        ],
    }


def _facts(scores: ScoreFolder, command: Sequence[str]) -> list[tuple[str, str]]:
    """What a reader needs to repeat the scores: commands, versions, checksums."""
    facts = [
        ("Report", _shown_command(command)),
        ("monaiseg that wrote the report", __version__),
    ]
    sources = scores.sources
    if sources is not None:
        facts += [
            ("Scores", _shown_command(sources.command)),
            ("Scores finished (UTC)", sources.finished),
            ("Versions", ", ".join(f"{name} {v}" for name, v in sources.versions.items())),
        ]
        if sources.model_sha256 is not None:
            facts.append(("SHA-256 of the model", sources.model_sha256))
    facts += [
        ("SHA-256 of scores.csv", sha256_of(scores.path / "scores.csv")),
        ("SHA-256 of the label table", scores.table.digest()),
    ]
    return facts


def _shown_command(words: Sequence[str]) -> str:
    return shlex.join([_without_folders(word) for word in words])


def _settings(scores: ScoreFolder) -> str | None:
    """The settings of the run as JSON, without its folders; None if there is no run."""
    if scores.run is None or not (scores.run / RUN_SETTINGS_FILE).is_file():
        return None
    document = read_json_object(scores.run / RUN_SETTINGS_FILE)
    return json.dumps(_stripped(document), indent=1, ensure_ascii=False)


def _stripped(value: Any) -> Any:
    """A JSON value whose texts hold no folders."""
    if isinstance(value, dict):
        return {key: _stripped(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_stripped(part) for part in value]
    return _without_folders(value) if isinstance(value, str) else value


def _without_folders(text: str) -> str:
    """The last part of a text that is a path, also behind `--option=`; other texts are unchanged.

    >>> _without_folders("/data/people/work/first"), _without_folders("--data=../work/scans"), _without_folders("test")
    ('first', '--data=scans', 'test')
    """
    option, equals, value = text.partition("=")
    if equals and option.startswith("--"):
        return option + equals + _without_folders(value)
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2] or text[:1]


def _number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A number, or a dash if it is not defined."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _percent(share: float) -> str:
    """A share in percent with two significant digits below 10 %, or a dash if it is not defined."""
    return "–" if math.isnan(share) else f"{100 * share:.{0 if share >= 0.1 else 1}f} %"
