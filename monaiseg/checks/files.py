"""Files: cases that cannot be read or used, and files that do not form cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted, one_a_case, several
from monaiseg.checks.grids import unclear_headers
from monaiseg.data import Step, split_cases
from monaiseg.errors import DataError

_REFUSED: dict[Step, tuple[str, str, str, str]] = {
    "header": (
        "unreadable-file",
        "{cases} cannot be read",
        "Every listed file must be readable: a case that is left out silently would be missing from the scores.",
        "Each line says what to do with its file; or remove image and label map of the case.",
    ),
    "image": (
        "unusable-image",
        "{cases} with voxels that cannot be used",
        "One voxel that is NaN or damaged makes the loss NaN, and the run fails.",
        "Each line says what to do with its file; or remove image and label map of the case.",
    ),
    "label map": (
        "unusable-label-map",
        "{cases} with label maps that cannot be used",
        "Labels are whole numbers from 0 on; it is unclear which label 1.5 or -1 would be.",
        "Each line says what to do with its file. Resample label maps by nearest neighbour only.",
    ),
    "constant image": (
        "constant-image",
        "{cases} with images of a single value",
        "Such an image shows nothing; its labels teach the network to guess.",
        "Export the image again, or remove the case.",
    ),
    "same file": (
        "image-is-label-map",
        "{cases} where image and label map are the same file",
        "The network would learn to copy its input, and the scores would be perfect and worthless.",
        "Replace the image with the scan.",
    ),
}


def layout(evidence: Evidence) -> Iterator[Finding]:
    """Files that do not pair, or are not where a dataset has them."""
    if evidence.layout_fault is not None:
        first, *rest = evidence.layout_fault.splitlines()
        yield Finding(
            "files-do-not-pair",
            first,
            "Training needs image and label map of every case; which belong together follows from their names.",
            "Give image and label map the same name. Move images without label maps out of the folder.",
            tuple(Doubt("", line) for line in rest),
            stops_training=True,
        )


def notes_on_folder(evidence: Evidence) -> Iterator[Finding]:
    """What was noted when the cases were found."""
    for note in evidence.notes:
        yield Finding(
            "folder",
            note,
            "It decides which files belong to the dataset.",
            "Nothing, if this is what you expect.",
        )


def refused(evidence: Evidence) -> Iterator[Finding]:
    """Cases that cannot be used; faults of the geometry are in `grids`."""
    elsewhere = set(unclear_headers(evidence))
    for step, (kind, what, why, remedy) in _REFUSED.items():
        doubts = tuple(
            Doubt(name, refusal.sentence)
            for name, refusals in evidence.refusals.items()
            for refusal in refusals
            if refusal.step == step and refusal not in elsewhere
        )
        if doubts:
            cases = counted(len({doubt.case for doubt in doubts}), "case")
            yield Finding(kind, what.format(cases=cases), why, remedy, doubts, stops_training=True)


def numbers_of_channels(evidence: Evidence) -> Iterator[Finding]:
    """Cases with more or fewer channels than the others."""
    counts = {name: len(found.intensity) for name, found in evidence.facts.items()}
    if len(set(counts.values())) < 2:
        return
    usual = Counter(counts.values()).most_common(1)[0][0]
    doubts = tuple(
        Doubt(name, f"{counted(n, 'channel')}, most cases have {usual}")
        for name, n in counts.items()
        if n != usual
    )
    yield Finding(
        "number-of-channels",
        f"{counted(len(doubts), 'case')} with a different number of channels",
        "The network has a fixed number of input channels.",
        "Give all cases the same channels, in the same order.",
        doubts,
        stops_training=True,
    )


def odd_headers(evidence: Evidence) -> Iterator[Finding]:
    """Oddities in files that are accepted."""
    if doubts := one_a_case(
        Doubt(name, f"{Path(path).name} {note}")
        for name, found in evidence.facts.items()
        for path, note in found.notes
    ):
        yield Finding(
            "odd-header",
            f"{counted(len(doubts), 'case')} with unusual headers",
            "They are read as described; other programs may read them differently.",
            "Write the files again with a program that you trust, if the description is not what you expect.",
            doubts,
        )


def changed_since(evidence: Evidence) -> Iterator[Finding]:
    """Files of a data task that are not those that were prepared."""
    if evidence.task is None or not evidence.details:
        return
    then = evidence.task.facts
    doubts = [
        Doubt(case.id, several(map(str, case.files)))
        for case in evidence.cases
        if case.id in evidence.facts and evidence.facts[case.id].checksum != then[case.id].checksum
    ]
    if doubts:
        yield Finding(
            "changed-files",
            f"{counted(len(doubts), 'case')} with files that changed since `prepare` read them",
            "`train` refuses them: the prepared dataset, and any plan made from it, describe other files.",
            "Run `prepare` again, or put the old files back.",
            tuple(doubts),
            stops_training=True,
        )


def small_splits(evidence: Evidence) -> Iterator[Finding]:
    """Splits without cases, and datasets with fewer cases than splits."""
    if evidence.splits is None:
        try:
            split_cases([case.id for case in evidence.cases])
        except DataError as error:
            yield Finding(
                "too-few-cases",
                str(error),
                "Without test cases you cannot tell how good the network is.",
                "Add cases. To train anyway: `prepare --train-size 100 --val-size 0 --test-size 0`.",
            )
        return
    if not evidence.splits.get("train"):
        yield Finding(
            "no-training-cases",
            "there are no training cases",
            "Nothing can be learnt.",
            "Prepare the data again with a larger --train-size, or fill train/images and train/labels.",
            stops_training=True,
        )
    if not evidence.splits.get("val"):
        yield Finding(
            "no-validation-cases",
            "there are no validation cases",
            "The best model is chosen by its score on them; without them nothing shows when to stop.",
            "Prepare the data again with a larger --val-size.",
        )
