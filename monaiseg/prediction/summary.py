"""Summary: what a run leaves beside its label maps: summary.json, and a table of volumes.

Both are about the whole folder, not about the scans of one process: several runs add to them, and a run that goes on
after a stop completes them. Neither holds times, so that equal runs give equal bytes.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monaiseg.data import ChannelProfile, LabelTable, read_label_map, read_volume
from monaiseg.errors import DataError, collecting
from monaiseg.files import read_json_object, remove_leftovers, write_atomic
from monaiseg.prediction.claims import claimed
from monaiseg.prediction.jobs import Job
from monaiseg.prediction.predictor import PredictedFile, Predictor, voxel_counts

SUMMARY_FILE = "summary.json"
WRITE_SECONDS = 60.0
"""A run that is killed loses the records of at most this time; the next one measures these scans again."""


class Summary:
    """Records of the scans of a folder: their files, and in which ways they are far outside the range of the training scans.

    Args:
        folder: folder of the label maps.
        model: name of the model.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.path, self.model = folder / SUMMARY_FILE, model
        self._new: dict[str, dict[str, Any]] = {}
        self._written = time.monotonic()

    def add(self, job: Job, outside: Sequence[str]) -> None:
        """Record a scan that has been predicted; write the file from time to time."""
        self._new[job.case.id] = _record(job) | {
            "label_map": job.label_map.name,
            **({} if job.confidence is None else {"confidence": job.confidence.name}),
            "outside": list(outside),
        }
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()

    def add_fault(self, job: Job, fault: str) -> None:
        """Record a scan that cannot be predicted."""
        self._new[job.case.id] = _record(job) | {"fault": fault}

    def complete(self, jobs: Iterable[Job], predictor: Predictor) -> None:
        """Record the scans that have been predicted by runs that did not live to say so."""
        known = self._read()
        for job in jobs:
            record = known.get(job.case.id, {})
            if (
                job.label_map.exists()
                and "label_map" not in record
                and job.case.id not in self._new
            ):
                try:
                    self.add(job, outside_of(job, predictor))
                except DataError as error:
                    self.add_fault(job, str(error))
        self.write()

    def write(self) -> None:
        """Add the new records to those in the file.

        Raises:
            StorageError: the file cannot be written.
        """
        self._written = time.monotonic()
        if not self._new:
            return
        with claimed(self.path):
            remove_leftovers(self.path)
            cases = self._read() | self._new
            document = {"model": self.model, "cases": {name: cases[name] for name in sorted(cases)}}
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            write_atomic(self.path, text.encode("utf-8", "surrogateescape"))
        self._new.clear()

    def _read(self) -> dict[str, dict[str, Any]]:
        return recorded(self.path.parent)


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """The records in the summary of a folder, by case id; none if there is no such file or it is not ours."""
    path = folder / SUMMARY_FILE
    if not path.exists():
        return {}
    with collecting([]):
        cases = read_json_object(path).get("cases")
        if isinstance(cases, dict) and all(isinstance(it, dict) for it in cases.values()):
            return cases
    return {}


def _record(job: Job) -> dict[str, Any]:
    return {"images": [str(path) for path in job.case.images]}


def outside_of(job: Job, predictor: Predictor) -> list[str]:
    """In which ways a scan lies far outside the range of the training scans, without predicting it.

    Raises:
        DataError: an image cannot be read.
    """
    profiles = []
    for path in job.case.images:
        voxels, header = read_volume(path, orientation=predictor.orientation)
        grid = header.grid
        channels = [voxels] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0)
        profiles += [ChannelProfile.of(channel, grid.orientation) for channel in channels]
    return predictor.far_outside(grid, profiles)


def counted(job: Job) -> PredictedFile:
    """A label map that is there, with its voxels counted.

    Raises:
        DataError: it cannot be read.
    """
    # Any orientation: it changes neither counts nor volumes, and a scan without one has a label map without one.
    labels, header = read_label_map(job.label_map, orientation="RAS")
    voxel_ml = header.grid.voxel_volume_mm3 / 1000
    return PredictedFile(job.case.images[0], job.label_map, voxel_counts(labels), voxel_ml)


def write_volumes(
    path: Path, jobs: Iterable[Job], table: LabelTable, made: Iterable[PredictedFile]
) -> None:
    """Write the volumes of all label maps that are there: of this run, and of others.

    Args:
        path: CSV file.
        jobs: all scans, those of other processes included.
        table: labels of the network.
        made: files that this run has made, whose voxels are counted.

    Raises:
        DataError: a label map cannot be read.
        StorageError: the file cannot be written.
    """
    known = {file.output: file for file in made}
    with claimed(path):  # so that the run that looks last also writes last
        remove_leftovers(path)
        files = [known.get(job.label_map) or counted(job) for job in jobs if job.label_map.exists()]
        write_atomic(path, volumes_csv(files, table).encode("utf-8", "surrogateescape"))


def volumes_csv(files: Iterable[PredictedFile], table: LabelTable) -> str:
    """CSV text with a row per scan and foreground label: number of voxels and volume in ml, 0 if it was not found."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "value", "name", "voxels", "volume_ml"])
    for file in files:
        for label in table.foreground:
            voxels = file.voxels.get(label.value, 0)
            writer.writerow(
                [file.image.name, label.value, label.name, voxels, f"{voxels * file.voxel_ml:.6g}"]
            )
    return text.getvalue()
