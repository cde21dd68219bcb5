"""Run: label the scans of a cohort, alone or as one of several processes, and leave tables about all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from monaiseg.data import Case, Grid
from monaiseg.errors import DataError, listed
from monaiseg.machine import peak_process_memory
from monaiseg.prediction.cohort import Advance, check_there, predict_files
from monaiseg.prediction.jobs import Job, Share, jobs_of
from monaiseg.prediction.predictor import PredictedFile, Predictor, prediction_bytes
from monaiseg.prediction.summary import Summary, write_volumes
from monaiseg.training import distributed

LONG_SECONDS = 60.0
"""A run that takes longer says so at its start."""
SAMPLE_SECONDS = 3.0
"""Time for which windows are computed before the time of the whole run is estimated."""


def predict_cohort(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    *,
    model: str,
    overwrite: bool = False,
    confidence: bool = False,
    strict: bool = False,
    memory_bytes: int | None = None,
    share: Share | None = None,
    volumes: Path | None = None,
    on_file: Callable[[PredictedFile], None],
    on_progress: Advance,
    say: Callable[[str], None],
) -> list[Job]:
    """Predict cases into a folder, with summary.json about all of them. Processes of torchrun share the work.

    Args:
        predictor: the trained network.
        cases: all cases, those of other shares included.
        folder: folder for the label maps.
        model: name of the model, for the summary.
        overwrite: as for `predict_files`, like the next four.
        confidence: see there.
        strict: see there.
        memory_bytes: see there.
        share: the part of the cases that this command predicts. None: all of them.
        volumes: CSV file for the volumes of the structures in all label maps that are there.
        on_file: called with each file that was written.
        on_progress: called after each window.
        say: called with what a user should know.

    Returns:
        The cases that were complete before.

    Raises:
        DataError: some cases could not be predicted; all others have been.
        SettingsError, StorageError: as `predict_files`.
    """
    jobs = jobs_of(cases, folder, confidence=confidence)
    check_there(jobs)
    own = Share(distributed.rank() + 1, distributed.size()).within(share or Share())
    before = [] if overwrite else [job for job in own.of(jobs) if job.is_complete]
    summary, made, fault = Summary(folder, model), [], ""
    forecast = Forecast(predictor, own.of(jobs), say)

    def advance(case_id: str, done: int, total: int) -> None:
        forecast.advance(case_id, done, total)
        on_progress(case_id, done, total)

    try:
        for file in predict_files(
            predictor,
            cases,
            folder,
            overwrite=overwrite,
            confidence=confidence,
            strict=strict,
            memory_bytes=memory_bytes,
            share=own,
            summary=summary,
            on_progress=advance,
            say=say,
        ):
            made.append(file)
            on_file(file)
    except DataError as error:
        fault = str(error)
    faults = [text for text in distributed.exchanged(fault) if text]  # waits for the others
    if distributed.is_first() and folder.is_dir():
        summary.complete(jobs, predictor)
        if volumes is not None:
            write_volumes(volumes, jobs, predictor.table, made)
    if faults and distributed.is_first():
        raise DataError(listed(faults))
    if faults:
        raise SystemExit(2)
    return before


class Forecast:
    """Says after the first windows of a long run how long it will take and how much memory it needs."""

    def __init__(
        self, predictor: Predictor, jobs: Sequence[Job], say: Callable[[str], None]
    ) -> None:
        self.predictor, self.jobs, self.say = predictor, jobs, say
        self._begun: tuple[float, int] | None = None
        self._is_said = False

    def advance(self, case_id: str, done: int, total: int) -> None:
        """Take note of windows that are done. The first are slower, so time counts from there."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, done
        seconds, windows = now - self._begun[0], done - self._begun[1]
        if self._is_said or seconds < SAMPLE_SECONDS or not windows:  # a scan that failed adds none
            return
        self._is_said = True
        left = seconds / windows * (total - done)
        if left > LONG_SECONDS:
            gigabytes = self._memory_bytes(case_id) / 1e9
            self.say(
                f"{total:,} windows: about {left / 60:.0f} minutes and {gigabytes:.1f} GB of memory"
            )

    def _memory_bytes(self, case_id: str) -> int:
        """Peak so far, and what the largest scan needs beyond this one, with another of its size read ahead."""
        needs = {}
        for job in self.jobs:
            try:
                needs[job.case.id] = self._needed(self.predictor.header(job.case.images[0]).grid)
            except DataError:  # reported at the end
                continue
        largest = max(needs.values())
        more = largest - needs[case_id] + (largest if len(needs) > 1 else 0)
        return peak_process_memory() + more

    def _needed(self, grid: Grid) -> int:
        return prediction_bytes(self.predictor.settings, grid)
