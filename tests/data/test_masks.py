"""Masks of single structures become label maps; where they overlap, a rule that is said in a line decides."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from drawings import GRID, SHAPE, write_case
from monaiseg.data.data_tasks import read_data_task
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import read_label_map, write_label_map
from monaiseg.errors import DataError, SettingsError
from monaiseg.preparation import prepare

KIDNEY, CYST, AORTA = (np.zeros(SHAPE, np.uint8) for _ in range(3))
KIDNEY[0:2, 1:3, 1:4] = 1  # twelve voxels
CYST[1, 2, 2:5] = 1  # three, two of them in the kidney
AORTA[2, 3, 4] = 1
MASKS = {"kidney": KIDNEY, "cyst": CYST, "aorta": AORTA}


def write_masks(folder, masks=None, grid: Grid = GRID) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in (MASKS if masks is None else masks).items():
        write_label_map(folder / f"{name}.nii.gz", mask, grid)


@pytest.fixture(params=["case folders", "mask folders", "channels"])
def masked(tmp_path, request):
    """Three cases, in each of the layouts."""
    for n in range(3):
        if request.param == "case folders":
            write_case(tmp_path / f"in/s{n}/ct.nii.gz", seed=n)
            write_masks(tmp_path / f"in/s{n}/segmentations")
        else:
            for channel in ("",) if request.param == "mask folders" else ("_0000", "_0001"):
                write_case(
                    tmp_path / f"in/images/s{n}{channel}.nii.gz",
                    seed=10 * n + len(channel) + (channel[-1:] == "1"),
                )
            write_masks(tmp_path / f"in/labels/s{n}")
    return tmp_path / "in"


def label_of(task, case_id: str = "s0"):
    case = next(
        c for split in ("train", "val", "test") for c in task.cases[split] if c.id == case_id
    )
    return read_label_map(case.label)[0]


def test_masks_become_label_maps_of_the_data_task(masked, tmp_path):
    task = prepare(masked, tmp_path / "out", "t", masks=True)

    assert task.table.names == ("background", "aorta", "cyst", "kidney")
    label = label_of(task)
    assert np.array_equal(label == 2, CYST == 1)
    assert np.array_equal(label == 3, (KIDNEY == 1) & (CYST == 0))
    assert np.array_equal(label == 1, AORTA == 1)
    assert all(task.folder in case.label.parents for case in task.cases["train"])
    assert read_data_task(task.folder) == task
    assert (
        "masks overlap in 6 voxels of 3 cases, mostly kidney and cyst (6); the smaller structure, the second of each "
        "pair, was kept there"
    ) in task.notes


def test_the_later_structure_counts_where_that_is_asked_for(masked, tmp_path):
    label = label_of(prepare(masked, tmp_path / "out", "t", masks=True, overlaps="later"))

    assert np.array_equal(label == 3, KIDNEY == 1)


def test_overlaps_are_refused_where_that_is_asked_for(masked, tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)3 of 3 cases.*case 's0': masks overlap: cyst and kidney \(2 voxels\)"
    ):
        prepare(masked, tmp_path / "out", "t", masks=True, overlaps="refuse")
    assert not (tmp_path / "out/t").exists()
    with pytest.raises(SettingsError, match="'larger' is not a rule; use smaller, later, refuse"):
        prepare(masked, tmp_path / "out", "t", masks=True, overlaps="larger")


def test_the_smaller_structure_is_the_smaller_in_all_cases_together(masked, tmp_path):
    """A structure that lies above in one case and below in another could not be learnt."""
    folder = (
        next(masked.glob("**/s1")) if not (masked / "s1").exists() else masked / "s1/segmentations"
    )
    folder = folder if folder.is_dir() else masked / "labels/s1"
    large = np.zeros(SHAPE, np.uint8)
    large[1, 1:4, 0:5] = 1
    write_masks(
        folder, {"cyst": large, "kidney": KIDNEY * 0 + np.pad([[[1]]], ((1, 1), (2, 1), (2, 2)))}
    )

    task = prepare(masked, tmp_path / "out", "t", masks=True)

    assert label_of(task, "s1")[1, 2, 2] == 2  # the cyst: 21 voxels of all cases, the kidney 25


def test_masks_of_one_structure_are_0_and_any_other_value(masked, tmp_path):
    for path in masked.rglob("aorta.nii.gz"):
        write_label_map(path, AORTA * 255, GRID)
    assert (label_of(prepare(masked, tmp_path / "out", "t", masks=True)) == 1).sum() == 1

    for path in masked.rglob("aorta.nii.gz"):
        write_label_map(path, AORTA + 2 * CYST, GRID)
    with pytest.raises(
        DataError, match=r"aorta.nii.gz: has several values \(1 to 2\); a mask has one"
    ):
        prepare(masked, tmp_path / "out", "t", masks=True)


def test_a_table_gives_the_structures_their_values(masked, tmp_path):
    (tmp_path / "l.csv").write_text("value;name\n52;aorta\n2;kidney\n90;liver\n7;cyst\n")
    task = prepare(masked, tmp_path / "out", "t", masks=True, label_table=tmp_path / "l.csv")

    assert task.table.values == (0, 2, 7, 52)
    assert set(np.unique(label_of(task))) == {0, 2, 7, 52}
    assert any("names 90 (liver), which no label map has" in note for note in task.notes)
    (tmp_path / "l.csv").write_text("value;name\n52;aorta\n2;kidney\n")
    with pytest.raises(DataError, match="no structures named cyst"):
        prepare(masked, tmp_path / "out", "u", masks=True, label_table=tmp_path / "l.csv")


def test_missing_masks_are_noted(masked, tmp_path):
    next(iter(sorted(masked.rglob("cyst.nii.gz")))).unlink()

    task = prepare(masked, tmp_path / "out", "t", masks=True)

    assert (
        "masks are missing: cyst (in 1 of 3 cases); in these cases the structure is background"
        in task.notes
    )


def test_a_mask_on_another_grid_is_refused_and_one_in_another_order_is_not(masked, tmp_path):
    turn = np.array([[0, -1], [1, -1], [2, 1]])
    grid = Grid.of(SHAPE, GRID.array @ nib.orientations.inv_ornt_aff(turn, SHAPE))
    paths = sorted(masked.rglob("kidney.nii.gz"))
    write_label_map(paths[0], nib.orientations.apply_orientation(KIDNEY, turn), grid)
    assert (label_of(prepare(masked, tmp_path / "out", "t", masks=True)) == 3).sum() == 10

    write_label_map(paths[0], KIDNEY, Grid.of(SHAPE, np.diag([1, 1, 3, 1])))
    with pytest.raises(
        DataError, match=r"(?s)1 of 3 cases.*kidney.nii.gz: is not on the grid of its image"
    ):
        prepare(masked, tmp_path / "out", "u", masks=True)


def write_layers(path, *layers, like=GRID) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.stack(layers, -1).astype(np.uint8), like.array), path)


def test_layers_of_one_file_become_a_label_map(tmp_path):
    for n in range(3):
        write_case(tmp_path / f"in/images/s{n}.nii.gz", seed=n)
        write_layers(tmp_path / f"in/labels/s{n}.nii.gz", KIDNEY, CYST)
    with pytest.raises(DataError, match="has 2 channels.*`prepare --masks` builds one from layers"):
        prepare(tmp_path / "in", tmp_path / "out", "t")

    task = prepare(tmp_path / "in", tmp_path / "out", "t", masks=True)

    assert task.table.values == (0, 1, 2)
    assert np.array_equal(label_of(task) == 2, CYST == 1)
    (tmp_path / "l.csv").write_text("value,name\n1,kidney\n2,cyst\n")
    task = prepare(
        tmp_path / "in", tmp_path / "out", "u", masks=True, label_table=tmp_path / "l.csv"
    )
    assert task.table.names == ("background", "kidney", "cyst")


def test_layers_that_share_values_between_them_keep_these(tmp_path):
    """3D Slicer puts segments that do not overlap into one layer."""
    for n in range(3):
        write_case(tmp_path / f"in/images/s{n}.nii.gz", seed=n)
        write_layers(tmp_path / f"in/labels/s{n}.nii.gz", KIDNEY * 4 + AORTA * 9, CYST * 7)

    assert prepare(tmp_path / "in", tmp_path / "out", "t", masks=True).table.values == (0, 4, 7, 9)

    write_layers(tmp_path / "in/labels/s1.nii.gz", KIDNEY * 4, CYST * 4)
    with pytest.raises(DataError, match="several layers have the value 4"):
        prepare(tmp_path / "in", tmp_path / "out", "u", masks=True)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["a/ct.nii.gz"], "has 1 image and 0 folders"),
        (["a/segmentations/x.nii.gz"], "has 0 images and 1 folder"),
        (["images/a.nii.gz", "labels/b/x.nii.gz"], "image a has no folder"),
        (["images/a.nii.gz", "images/b.nii.gz", "labels/b/x.nii.gz"], "image a has no folder"),
        (["notes.txt"], "has no cases"),
        (
            [
                "a/ct.nii.gz",
                "a/m/x.nii.gz",
                "b/ct.nii.gz",
                "b/m/x.nii.gz",
                "c/mr.nii.gz",
                "c/m/x.nii.gz",
            ],
            "has the images mr.nii.gz",
        ),
    ],
)
def test_folders_that_are_no_cases_are_named(tmp_path, files, found):
    for file in files:
        (tmp_path / "in" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / file).touch()

    with pytest.raises(DataError, match=found):
        prepare(tmp_path / "in", tmp_path / "out", "t", masks=True)


def test_without_the_option_folders_of_masks_are_told_of_it(tmp_path):
    write_masks(tmp_path / "in/a/segmentations")
    with pytest.raises(DataError, match="use `prepare --masks`"):
        prepare(tmp_path / "in", tmp_path / "out", "t")


def test_masks_can_be_preprocessed_at_once(masked, tmp_path, settings):
    from monaiseg.settings import dump_settings, settings_from_dict

    document = settings.model_dump(mode="json")
    document["dataset"]["num_channels"] = 2 if (masked / "images/s0_0001.nii.gz").exists() else 1
    (tmp_path / "s.json").write_text(dump_settings(settings_from_dict(document)))

    task = prepare(masked, tmp_path / "out", "t", masks=True, preprocess=tmp_path / "s.json")

    assert read_data_task(task.folder) == task
    files = [
        file
        for split in ("train", "val", "test")
        for case in task.cases[split]
        for file in case.files
    ]
    assert all(file.exists() for file in files)
