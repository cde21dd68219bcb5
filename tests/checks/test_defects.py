"""A folder with one case for each kind of defect: each is named, with its case and a remedy, and nothing else is."""

from __future__ import annotations

import gzip
import shutil

import pytest

import bodies_with_defects as defects
from bodies_with_defects import body, clean, edit_header, write
from monaiseg.checks import check
from monaiseg.data.volumes import read_volume

CHANGED = {
    "mirrored": (defects.mirrored, "turned-round"),
    "upside_down": (defects.upside_down, "turned-round"),
    "shifted": (defects.shifted_labels, "different-grids"),
    "spacing": (defects.other_spacing, "odd-voxel-size"),
    "axes": (defects.other_axes, "odd-orientation"),
    "nan": (defects.not_a_number, "unusable-image"),
    "constant": (defects.constant, "constant-image"),
    "nearly": (defects.nearly_constant, "nearly-constant-image"),
    "levels": (defects.few_levels, "few-levels"),
    "scale": (defects.other_scale, "odd-intensity-scale"),
    "contrast": (defects.inverted_contrast, "odd-contrast"),
    "bits": (defects.eight_bits, "eight-bits"),
    "hollow": (defects.empty_where_labelled, "labels-on-nothing"),
    "half": (defects.fractional, "unusable-label-map"),
    "negative": (defects.negative, "unusable-label-map"),
    "empty": (defects.empty, "empty-label-maps"),
    "full": (defects.full, "inverted-label-maps"),
    "mask255": (defects.one_mask_255, "different-codes"),
    "smooth": (defects.smooth_mask, "interpolated-values"),
    "own": (defects.own_label, "labels-in-one-case"),
    "without_a": (defects.without_heart, "structures-not-drawn"),
    "without_b": (defects.without_heart, "structures-not-drawn"),
    "speck_a": (defects.speck, "slips-of-the-pen"),
    "speck_b": (defects.speck, "slips-of-the-pen"),
    "cut": (defects.cut, "cut-by-the-edge"),
    "crumbs": (defects.crumbs, "many-islands"),
    "slice": (defects.missing_slice, "missing-slices"),
    "tall": (defects.tall, "odd-field-of-view"),
}
"""Name of the case, what is done to it, and the kind of finding."""


def harm(folder, name, how, seed):
    made = body(seed)
    how(made)
    write(folder, name, made)


def write_harmed_files(folder):
    """Cases whose files are harmed after they are written, and files that belong to no case."""
    for number, name in enumerate(
        ("short", "gone", "torn", "nowhere", "odd", "two", "itself", "copy", "near", "labels"), 700
    ):
        write(folder, name, body(number))
    images, labels = folder / "images", folder / "labels"
    raw = (images / "short.nii.gz").read_bytes()
    (images / "short.nii.gz").write_bytes(gzip.compress(gzip.decompress(raw)[:-1000]))
    (images / "gone.nii.gz").write_bytes(b"<html>not found</html>")
    edit_header(images / "torn.nii.gz", qoffset_x=40)
    edit_header(images / "nowhere.nii.gz", sform_code=0, qform_code=0)
    edit_header(images / "odd.nii.gz", bitpix=7)
    both = body(705)
    both.image = both.image[..., None].repeat(2, axis=-1)
    write(folder, "two", both)
    shutil.copy(images / "itself.nii.gz", labels / "itself.nii.gz")
    shutil.copy(images / "ok00.nii.gz", images / "copy.nii.gz")
    noisy, _ = read_volume(images / "ok01.nii.gz")
    near = body(1)
    near.image = 0.5 * noisy + 3
    write(folder, "near", near)
    shutil.copy(labels / "ok02.nii.gz", labels / "labels.nii.gz")
    shutil.copy(images / "ok03.nii.gz", images / "alone.nii.gz")


HARMED = {
    "short": "unusable-image",
    "gone": "unreadable-file",
    "torn": "sform-against-qform",
    "nowhere": "no-orientation",
    "odd": "odd-header",
    "two": "number-of-channels",
    "itself": "image-is-label-map",
    "copy": "same-image",
    "near": "near-duplicates",
    "labels": "same-label-map",
}


@pytest.fixture(scope="module")
def harmed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harmed") / "scans"
    clean(folder, 60)
    for number, (name, (how, _)) in enumerate(CHANGED.items(), 100):
        harm(folder, name, how, number)
    write_harmed_files(folder)
    return check(folder)


def cases_of(checkup, kind):
    return {d.case for f in checkup.findings if f.kind == kind for d in f.doubts}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, kind) for name, (_, kind) in CHANGED.items()), *HARMED.items()],
    ids=[*CHANGED, *HARMED],
)
def test_each_defect_is_named_with_its_case(harmed, name, kind):
    assert name in cases_of(harmed, kind)


def test_the_folder_has_at_least_twenty_five_kinds_each_with_reason_and_remedy(harmed):
    assert len({finding.kind for finding in harmed.findings}) >= 25
    assert all(finding.why.endswith((".", "?")) and finding.remedy for finding in harmed.findings)


def test_no_clean_case_is_accused_of_anything(harmed):
    accused = {
        (finding.kind, doubt.case)
        for finding in harmed.findings
        for doubt in finding.doubts
        if doubt.case.startswith("ok")
    }

    # The original of each copy is named as well.
    assert accused == {
        ("same-image", "ok00"),
        ("near-duplicates", "ok01"),
        ("same-label-map", "ok01"),
        ("same-label-map", "ok02"),
    }


def test_files_without_a_partner_do_not_hide_the_other_findings(harmed):
    (finding,) = [finding for finding in harmed.findings if finding.kind == "files-do-not-pair"]

    assert finding.stops_training
    assert "alone" in " ".join(doubt.detail for doubt in finding.doubts)


def test_what_stops_training_comes_first(harmed):
    stops = [finding.stops_training for finding in harmed.findings]

    assert stops == sorted(stops, reverse=True)


def test_a_sound_dataset_has_no_finding(tmp_path):
    clean(tmp_path, 20)

    assert check(tmp_path).findings == ()
