"""The doctor: all findings about a dataset, before anything is trained.

A *finder* is a function that takes the evidence and yields findings of one kind. The quick part needs only what
preparation has measured; the rest needs the voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monaiseg.checks import (
    duplicates,
    files,
    grids,
    intensities,
    label_geometry,
    label_values,
    resources,
    sides,
    sizes,
)
from monaiseg.checks.evidence import Evidence, evidence_of_task, gather
from monaiseg.checks.findings import Finding, by_weight
from monaiseg.data import DataTask, Progress
from monaiseg.errors import MonaisegError
from monaiseg.settings import Settings

if TYPE_CHECKING:
    from monaiseg.planning import Estimate

SCHEMA_VERSION = 1
"""Version of the JSON file."""

Finder = Callable[[Evidence], Iterable[Finding]]

NOTED: tuple[Finder, ...] = (
    files.layout,
    files.notes_on_folder,
    files.refused,
    grids.different_grids,
    grids.contradicting_forms,
    files.numbers_of_channels,
    files.changed_since,
    label_values.unlisted_values,
    label_values.empty_label_maps,
    label_values.inverted_label_maps,
    label_values.slips_and_gaps,
    label_values.names_without_voxels,
    label_values.sides_in_names,
    duplicates.same_images,
    duplicates.same_person,
    files.odd_headers,
)
"""What preparation refuses or notes by itself."""

QUICK: tuple[Finder, ...] = (
    files.small_splits,
    label_values.settings_and_labels,
    label_values.different_codes,
    label_values.labels_in_one_case,
    label_values.labels_absent_from_splits,
    grids.odd_orientation,
    grids.odd_spacing,
    grids.odd_extent,
    intensities.nearly_constant,
    intensities.odd_scale,
    intensities.odd_contrast,
    intensities.not_hounsfield,
    intensities.labels_on_nothing,
    sizes.patch_and_images,
    sizes.doubtful_resampling,
    sizes.vanishing_structures,
)
"""What else follows from the facts of the cases."""

THOROUGH: tuple[Finder, ...] = (
    label_values.interpolated_values,
    intensities.odd_number_type,
    label_geometry.cut_structures,
    label_geometry.missing_slices,
    label_geometry.islands,
    label_geometry.mirrored_cases,
    sides.swapped_sides,
    duplicates.same_label_maps,
    duplicates.near_duplicates,
    sizes.network_fits,
)
"""What follows from the voxels."""


@dataclass(frozen=True)
class Checkup:
    """The result of a check."""

    findings: tuple[Finding, ...]
    """Those first that stop training."""
    evidence: Evidence
    estimate: Estimate | None
    """Time, memory and disk of the training; None without settings, or if training cannot start."""

    @property
    def stops_training(self) -> bool:
        """Whether training cannot start."""
        return any(finding.stops_training for finding in self.findings)

    def to_record(self) -> dict[str, Any]:
        """The result as JSON-compatible values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "cases": len(self.evidence.cases),
            "stops_training": self.stops_training,
            "findings": [finding.to_record() for finding in self.findings],
            "estimate": None if self.estimate is None else asdict(self.estimate),
        }


def check(
    path: str | Path,
    settings: Settings | None = None,
    *,
    label_table: str | Path | None = None,
    group_by: str | None = None,
    on_progress: Progress | None = None,
) -> Checkup:
    """Check a dataset's folder, or a prepared data task, before training. Every file is read once.

    ```python
    import monaiseg

    for finding in monaiseg.check("scans").findings:
        print(finding.what, finding.remedy, sep=": ")
    ```

    With settings, a few training steps are run to estimate time and memory; this takes some seconds.

    Args:
        path: folder in one of the layouts of `monaiseg.data.find_cases`, or the folder of a data task.
        settings: settings of the training, whose sizes and labels are compared with the cases.
        label_table: file with the names of the label values, as `prepare` takes it.
        group_by: how to find the person that a case belongs to, as `prepare` takes it.
        on_progress: called after each case.

    Raises:
        DataError: the folder holds neither, or the label table or the groups cannot be read.
        SettingsError: `group_by` is not a pattern.
    """
    evidence = gather(
        path, settings, label_table=label_table, group_by=group_by, on_progress=on_progress
    )
    findings = [*_all(evidence, (*NOTED, *QUICK, *THOROUGH))]
    estimate = None
    if settings is not None and not any(finding.stops_training for finding in findings):
        estimate, more = _estimated(evidence, settings)
        findings += more
    return Checkup(tuple(by_weight(findings)), evidence, estimate)


def _estimated(evidence: Evidence, settings: Settings) -> tuple[Estimate | None, list[Finding]]:
    """The estimate for a training, and findings if this computer is too small for it."""
    try:
        estimate = resources.measured(evidence, settings)
    except MonaisegError as error:
        return None, [label_values.contradiction(str(error))]
    return estimate, [*resources.lacking(evidence, estimate)]


def quick_findings(task: DataTask, settings: Settings | None = None) -> list[Finding]:
    """Findings about a data task beyond its notes. No file is opened."""
    return by_weight([*_all(evidence_of_task(task, settings), QUICK)])


def _all(evidence: Evidence, finders: Iterable[Finder]) -> Iterator[Finding]:
    for find in finders:
        yield from find(evidence)
