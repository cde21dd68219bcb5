"""Cohort: many scans, labelled in one run, in several at once, or in one that was stopped and started again.

The next scan is read while one is computed and the last label map is written, see `pipeline`. What is complete is left
as it is. Files are written whole or not at all, a label map last, so whatever ends a run, the next one goes on. Each
scan is claimed by the run that labels it, so several runs into one folder share the work, see `claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from monaiseg.data import Case, VolumeHeader, grouped_notes, write_confidence
from monaiseg.errors import (
    DataError,
    MonaisegError,
    OutOfMemoryError,
    collecting,
    lack_of_memory,
    listed,
)
from monaiseg.files import is_there, make_folder, remove_leftovers
from monaiseg.machine import free_memory, gigabytes, process_memory, return_free_memory
from monaiseg.prediction.claims import Claim, drop_abandoned
from monaiseg.prediction.jobs import Job, Share, jobs_of
from monaiseg.prediction.pipeline import pipelined
from monaiseg.prediction.predictor import (
    Inference,
    PredictedFile,
    Predictor,
    Progress,
    Scan,
    outside_note,
    prediction_bytes,
)
from monaiseg.prediction.summary import Summary, counted

READ_AHEAD_SHARE = 0.5
"""Share of the free memory that a scan may take if it is read while another is computed."""

Advance = Callable[[str, int, int], None]
"""Called with the id of the scan that is computed, the number of windows done and that of all windows of all scans."""


def predict_files(
    predictor: Predictor,
    images: Iterable[Case | Sequence[str | Path]],
    folder: str | Path,
    *,
    overwrite: bool = False,
    confidence: bool = False,
    strict: bool = False,
    memory_bytes: int | None = None,
    share: Share | None = None,
    summary: Summary | None = None,
    on_progress: Advance | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[PredictedFile]:
    """Predict cases and write their label maps to `folder` as `<case id>_pred.nii.gz`, in order.

    Existing label maps are kept, as they may have been corrected by hand. If a case cannot be predicted, the others are
    predicted nevertheless. Cases that another run into this folder is predicting are left to it, and waited for.

    Args:
        predictor: the trained network.
        images: the cases, or the files of each.
        folder: folder for the label maps; created if missing.
        overwrite: predict cases with an existing label map again.
        confidence: also write `<case id>_confidence.nii.gz`: from 0 where the best two classes are equally likely to 1.
        strict: refuse scans that lie far outside the range of the training scans.
        memory_bytes: memory that this process may use. None: what is free.
        share: the part of the cases to predict. None: all of them.
        summary: record of each case, which is written along the way.
        on_progress: called after each window.
        say: called with what a user should know while the work goes on.

    Raises:
        SettingsError: two label maps would have the same path, or an output would overwrite an input.
        DataError: a file does not exist, reported before the first prediction; or volumes cannot be used or need more
            memory than there is, reported after all other cases are predicted.
        StorageError: `folder` cannot be written to.
    """
    every_job = jobs_of(images, folder, confidence=confidence)
    check_there(every_job)
    jobs = (share or Share()).of(every_job)
    faults = _unreadable(predictor, jobs, say)
    if faults and len(faults) == len(jobs):
        raise DataError(listed(list(faults.values())))
    make_folder(folder)
    cohort = _Cohort(predictor, overwrite, strict, memory_bytes)
    counter = _Counter(predictor, on_progress)
    pending = [job for job in jobs if job not in faults and (overwrite or not job.is_complete)]
    try:
        while pending:
            left_to_others = []
            counter.expect(pending)
            for job, outcome in cohort.run(pending, counter):
                if isinstance(outcome, _TakenError):
                    left_to_others.append(job)
                elif isinstance(outcome, DataError):
                    faults[job] = str(outcome)
                elif isinstance(outcome, Exception) and not isinstance(outcome, _CompleteError):
                    raise outcome
                elif isinstance(outcome, PredictedFile):
                    if summary is not None:
                        summary.add(job, outcome.outside)
                    yield outcome
            pending = _unfinished(left_to_others, say)
            cohort.overwrite = False  # what another run has just made need not be made again
    finally:
        cohort.drop_all()
        if summary is not None:
            for job, fault in faults.items():
                summary.add_fault(job, fault)
            summary.write()
    drop_abandoned(job.label_map for job in jobs)
    if faults:
        raise DataError(listed([faults[job] for job in jobs if job in faults]))


def check_there(jobs: Iterable[Job]) -> None:
    """Raise DataError if images do not exist: a mistake in the command, which is better corrected before it runs."""
    missing = [path for job in jobs for path in job.case.images if not is_there(path)]
    if missing:
        raise DataError(
            listed([f"{path}: there is no such file; correct the path" for path in missing])
        )


def _unreadable(
    predictor: Predictor, jobs: Sequence[Job], say: Callable[[str], None] | None
) -> dict[Job, str]:
    """Jobs with files whose header cannot be read, and the reasons; oddities in the other headers are said."""
    headers: list[VolumeHeader] = []
    faults: dict[Job, str] = {}
    for job in jobs:
        problems: list[str] = []
        for file in job.case.images:
            with collecting(problems):
                headers.append(predictor.header(file))
        if problems:
            faults[job] = listed(problems)
    for note in grouped_notes((str(h.path), note) for h in headers for note in h.notes):
        if say is not None:
            say(note)
    return faults


def _unfinished(jobs: Sequence[Job], say: Callable[[str], None] | None) -> list[Job]:
    """Wait for other runs to finish these jobs; the jobs that they did not finish."""
    if jobs and say is not None:
        say(f"waiting for {len(jobs)} label maps that another run is making")
    for job in jobs:
        claim = Claim(job.label_map)
        claim.take(-1)
        claim.drop()
    return [job for job in jobs if not job.is_complete]


class _TakenError(Exception):
    """Another run is predicting this case."""


class _CompleteError(Exception):
    """Another run has predicted this case since this one started."""


class _Counter:
    """Windows done and to do."""

    def __init__(self, predictor: Predictor, on_progress: Advance | None) -> None:
        self.predictor, self.on_progress = predictor, on_progress
        self.done = self.total = 0
        self.windows: dict[Job, int] = {}

    def expect(self, jobs: Sequence[Job]) -> None:
        """Count the windows of jobs that are due."""
        grids = {job: self.predictor.header(job.case.images[0]).grid for job in jobs}
        self.windows = {job: self.predictor.count_windows(grid) for job, grid in grids.items()}
        self.total = self.done + sum(self.windows.values())

    def within(self, job: Job) -> Progress:
        """The function to call with the windows done of this job."""

        def advance(done: int, _: int) -> None:
            if self.on_progress is not None:
                self.on_progress(job.case.id, self.done + done, self.total)

        return advance

    def close(self, job: Job) -> None:
        """Count all windows of a job as done."""
        self.done += self.windows[job]


@dataclass
class _Cohort:
    """The stages of the pipeline, and the claims that are held."""

    predictor: Predictor
    overwrite: bool
    strict: bool
    memory_bytes: int | None
    claims: dict[Job, Claim] = field(default_factory=dict)

    def run(
        self, jobs: Sequence[Job], counter: _Counter
    ) -> Iterator[tuple[Job, PredictedFile | Exception]]:
        """Each job, in order, with the file that was written or the error."""

        def compute(job: Job, scan: Scan) -> Inference:
            with self._naming_lack_of_memory(job):
                wanted = job.confidence is not None
                return self.predictor.infer(scan, counter.within(job), confidence=wanted)

        for job, outcome in pipelined(jobs, self.read, compute, self.write, self.may_read_ahead):
            self._drop(job)
            counter.close(job)
            return_free_memory()  # or the process grows by a tenth from the 30th scan to the 300th
            yield job, outcome

    def may_read_ahead(self, job: Job) -> bool:
        """Whether there is memory to read a scan while another is computed."""
        return self._needed(job) <= READ_AHEAD_SHARE * self._free()

    def read(self, job: Job) -> Scan:
        """Claim a scan and read it."""
        claim = Claim(job.label_map)
        if not claim.take():
            raise _TakenError
        self.claims[job] = claim
        if job.is_complete and not self.overwrite:
            raise _CompleteError
        for path in filter(None, (job.label_map, job.confidence)):
            remove_leftovers(path)
        need, free = self._needed(job), self._free()
        if need > free:
            why = f"needs about {gigabytes(need)} of memory, and {gigabytes(free)} are free"
            raise DataError(_too_large(job, why))
        with self._naming_lack_of_memory(job):
            scan = self.predictor.read(job.case.images)
        if scan.outside and self.strict:
            advice = "correct it, or label it without --strict"
            raise DataError(outside_note(scan.files, scan.outside, advice))
        return scan

    def write(self, job: Job, scan: Scan, found: Inference) -> PredictedFile:
        """Write the files of a scan that are not there, the label map last."""
        with self._naming_lack_of_memory(job):
            if job.confidence is not None:
                confidence = self.predictor.confidence_map(scan, found)
                write_confidence(job.confidence, confidence, scan.grid, like=scan.files[0])
            if job.label_map.exists() and not self.overwrite:  # it may have been corrected by hand
                return replace(counted(job), outside=scan.outside)
            return self.predictor.write(scan, found, job.label_map)

    def drop_all(self) -> None:
        """Let all claims go."""
        for job in list(self.claims):
            self._drop(job)

    def _drop(self, job: Job) -> None:
        if claim := self.claims.pop(job, None):
            claim.drop()

    def _needed(self, job: Job) -> int:
        return prediction_bytes(
            self.predictor.settings, self.predictor.header(job.case.images[0]).grid
        )

    def _free(self) -> int:
        """Bytes of memory that can still be used."""
        if self.memory_bytes is None:
            return free_memory()
        return max(min(free_memory(), self.memory_bytes - process_memory()), 0)

    @contextmanager
    def _naming_lack_of_memory(self, job: Job) -> Iterator[None]:
        """A lack of memory becomes a DataError of this case, so that the other cases continue."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            is_other = isinstance(error, MonaisegError) and not isinstance(error, OutOfMemoryError)
            if is_other or (lack := lack_of_memory(error)) is None:
                raise
            why = f"memory ran out on {self.predictor.device} ({lack})"
            raise DataError(_too_large(job, why)) from error


def _too_large(job: Job, why: str) -> str:
    return (
        f"{job.case.images[0]}: {why}; close other programs, crop the scan, or use a computer with more memory. The other "
        "scans were predicted"
    )
