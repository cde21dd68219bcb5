"""Cases: found in every layout, paired by name, split by seed, examined, listed, read back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monaiseg.cases import (
    SPLITS,
    Case,
    DataTask,
    check_duplicates,
    check_labels,
    check_unchanged,
    examine_cases,
    find_cases,
    fresh_folder,
    label_notes,
    pair_files,
    read_data_task,
    read_list_file,
    scan_labels,
    split_cases,
    write_data_task,
    write_list_file,
)
from monaiseg.errors import DataError, SettingsError, StorageError
from monaiseg.geometry import Grid
from monaiseg.labels import LabelTable
from monaiseg.settings import settings_from_dict
from monaiseg.volumes import read_header, write_image, write_label_map

SHAPE = (3, 4, 5)
GRID = Grid.of(SHAPE, np.diag([1, 1, 2, 1]))
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[1, 1:3, 1:4] = 1  # six voxels
LABEL[2, 2, 2] = 4


def write_case(
    image: Path, label: Path | None = None, *, seed: int = 0, grid: Grid = GRID, values: Any = LABEL
) -> Case:
    """A case of 60 voxels on disk."""
    for path in (image, *([label] if label else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_image(image, np.random.default_rng(seed).normal(size=SHAPE), GRID)
    if label:
        write_label_map(label, values, grid)
    return Case(image.name.removesuffix(".nii.gz"), (image,), label)


def write_empty(*paths: Path) -> None:
    """Files of the right names with nothing in them: finding opens none."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def cases(tmp_path) -> Callable[[int], tuple[Case, ...]]:
    """Writes that many cases with different images."""

    def write(count: int) -> tuple[Case, ...]:
        return tuple(
            write_case(tmp_path / f"images/S{n}.nii.gz", tmp_path / f"labels/S{n}.nii.gz", seed=n)
            for n in range(count)
        )

    return write


@pytest.fixture
def task(cases, tmp_path) -> DataTask:
    """A data task of four cases, not yet written."""
    members = cases(4)
    facts = examine_cases(members)
    splits = {"train": members[:2], "val": members[2:3], "test": members[3:], "debug": members[:1]}
    folder = tmp_path / "out" / "task"
    return DataTask(folder, "task", 7, splits, scan_labels(facts), facts, ("T1",), ("a note",))


# ---------------------------------------------------------------- finding


def test_images_and_labels_are_left_for_us_to_split(tmp_path):
    for name in ("b.nii", "a.nii.gz"):
        write_empty(tmp_path / "images" / name, tmp_path / "labels" / name)

    found = find_cases(tmp_path)

    assert found.splits is None
    assert found.cases == (
        Case("a", (tmp_path / "images/a.nii.gz",), tmp_path / "labels/a.nii.gz"),
        Case("b", (tmp_path / "images/b.nii",), tmp_path / "labels/b.nii"),
    )


def test_folders_that_are_split_stay_as_they_are(tmp_path):
    for name in ("train/{}/a.nii", "train/{}/b.nii", "val/{}/c.nii", "test/{}/d.nii"):
        write_empty(*(tmp_path / name.format(kind) for kind in ("images", "labels")))

    found = find_cases(tmp_path)

    assert found.splits == {"train": ("a", "b"), "val": ("c",), "test": ("d",)}
    assert [case.id for case in found.cases] == ["a", "b", "c", "d"]


def test_a_split_that_is_not_there_is_said_to_be_empty(tmp_path):
    write_empty(tmp_path / "train/images/a.nii", tmp_path / "train/labels/a.nii")
    found = find_cases(tmp_path)
    assert found.splits == {"train": ("a",)}
    assert found.notes == tuple(f"no {s} folder: that split is empty" for s in ("val", "test"))


def test_a_decathlon_dataset_brings_names_of_labels_and_channels(tmp_path):
    write_empty(tmp_path / "imagesTr/la_1.nii.gz", tmp_path / "labelsTr/la_1.nii.gz")
    document = {
        "labels": {"0": "background", "1": "anterior"},
        "modality": {"1": "T2", "0": "FLAIR"},
        "training": [{"image": "./imagesTr/la_1.nii.gz", "label": "./labelsTr/la_1.nii.gz"}],
        "test": ["./imagesTs/la_2.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document))

    found = find_cases(tmp_path)

    files = (tmp_path / "imagesTr/la_1.nii.gz",), tmp_path / "labelsTr/la_1.nii.gz"
    assert found.cases == (Case("la_1", *files),)
    assert found.label_names == {0: "background", 1: "anterior"}
    assert found.channel_names == ("FLAIR", "T2")
    assert found.notes == ("1 test images without label maps left out",)


def test_nnu_nets_numbers_are_channels(tmp_path):
    for name in ("imagesTr/x_0000", "imagesTr/x_0001", "imagesTr/y_0000", "imagesTr/y_0001"):
        write_empty(tmp_path / f"{name}.nii.gz")
    write_empty(tmp_path / "labelsTr/x.nii.gz", tmp_path / "labelsTr/y.nii.gz")
    document = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "tumour": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(document))

    found = find_cases(tmp_path)

    images = tuple(tmp_path / f"imagesTr/x_000{c}.nii.gz" for c in (0, 1))
    assert found.cases[0] == Case("x", images, tmp_path / "labelsTr/x.nii.gz")
    assert found.label_names == {0: "background", 1: "tumour"}
    assert found.channel_names == ("T1", "T2")

    (tmp_path / "imagesTr/y_0001.nii.gz").unlink()
    (tmp_path / "labelsTr/x.nii.gz").unlink()
    with pytest.raises(DataError, match=r"x has no label map\n.*y lacks channel 0001"):
        find_cases(tmp_path)


@pytest.mark.parametrize("item", ["../out.nii.gz", "/etc/passwd", 3, None])
def test_a_decathlon_list_cannot_lead_out_of_its_folder(tmp_path, item):
    (tmp_path / "dataset.json").write_text(
        json.dumps({"training": [{"image": item, "label": "a.nii"}]})
    )
    with pytest.raises(DataError, match=r"training\[0\]: 'image' is .*inside the dataset's folder"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ('{"labels": ["a"], "training": []}', "pair numbers with names"),
        ('{"labels": {"a": "b"}}', "pair numbers with names"),
        ('{"training": 3}', "lists no cases"),
    ],
)
def test_a_dataset_json_that_cannot_be_understood_is_named(tmp_path, text, found):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=found) as caught:
        find_cases(tmp_path)
    assert str(tmp_path / "dataset.json") in str(caught.value)


def test_a_folder_without_a_known_layout_is_told_the_layouts(tmp_path):
    (tmp_path / "scans").mkdir()
    with pytest.raises(DataError, match="has scans; a dataset has images/ and labels/"):
        find_cases(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        find_cases(tmp_path / "gone")


def test_split_and_unsplit_folders_do_not_mix(tmp_path):
    for kind in ("images", "labels"):
        write_empty(tmp_path / f"{kind}/a.nii", tmp_path / f"train/{kind}/b.nii")
    with pytest.raises(DataError, match="has images, labels and train"):
        find_cases(tmp_path)


def test_hidden_and_temporary_files_are_ignored_and_counted(tmp_path):
    write_empty(*(tmp_path / kind / "a.nii" for kind in ("images", "labels")))
    write_empty(
        *(tmp_path / "images" / n for n in (".DS_Store", "._a.nii", "a.nii~", "README.txt"))
    )

    found = find_cases(tmp_path)

    assert len(found.cases) == 1
    assert found.notes == (
        f"{tmp_path / 'images'}: 3 hidden or temporary files ignored",
        f"{tmp_path / 'images'}: ignored, no volumes: README.txt",
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.nii", "a.nii.gz"], r"a\.nii and a\.nii\.gz would be one case"),
        (["a.nii", "A.nii"], r"A\.nii and a\.nii would be one case"),
        (["ü.nii", "u\u0308.nii"], "would be one case"),
        (["a.mgz", "b.nrrd", "c.nii"], r"a\.mgz: is FreeSurfer's format(.|\n)*b\.nrrd: is NRRD"),
        (["README.txt"], r"holds no NIfTI files \(.nii, .nii.gz\) but README.txt"),
        (["-a.nii"], "case id '-a'"),
        (["a\nb.nii"], r"case id 'a\\nb'"),
    ],
)
def test_files_that_cannot_be_cases_are_named(tmp_path, names, found):
    write_empty(*(tmp_path / kind / name for kind in ("images", "labels") for name in names))
    with pytest.raises(DataError, match=found):
        find_cases(tmp_path)


def test_the_same_name_in_two_splits_is_refused(tmp_path):
    write_empty(
        *(tmp_path / s / k / "a.nii" for s in ("train", "test") for k in ("images", "labels"))
    )
    with pytest.raises(DataError, match="case id 'a' stands 2 times"):
        find_cases(tmp_path)


# ---------------------------------------------------------------- pairing


def paired(images: list[str], labels: list[str]) -> tuple[dict[str, str], list[str]]:
    pairs, notes = pair_files([Path(n) for n in images], [Path(n) for n in labels], "data")
    return {image.name: label.name for image, label in pairs}, notes


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a.nii", "b.nii.gz"], ["a.nii.gz", "b.nii"]),
        (["S01.nii", "S02.nii"], ["S01_seg.nii", "S02_seg.nii"]),
        (["S01_T1.nii", "S02_T1.nii"], ["seg_S01.nii", "seg_S02.nii"]),
        (["image1.nii", "image2.nii", "image10.nii"], ["label1.nii", "label2.nii", "label10.nii"]),
        (["image1.nii", "image2.nii", "image10.nii"], ["map01.nii", "map02.nii", "map10.nii"]),
        (["anna.nii", "andrea.nii"], ["seg_anna.nii", "seg_andrea.nii"]),
    ],
)
def test_names_that_agree_pair_silently(images, labels):
    assert paired(images, labels) == (dict(zip(images, labels, strict=True)), [])
    assert paired(images[::-1], labels) == paired(images, labels)


def test_names_that_do_not_agree_pair_in_sorted_order_and_it_is_said():
    pairs, notes = paired(["b.nii", "a.nii"], ["x.nii", "y.nii"])

    assert pairs == {"a.nii": "x.nii", "b.nii": "y.nii"}
    assert len(notes) == 1
    assert "paired in sorted order: a.nii with x.nii to b.nii with y.nii" in notes[0]


@pytest.mark.parametrize(
    ("images", "labels", "lone"),
    [
        (["a.nii", "b.nii", "c.nii"], ["a.nii", "b.nii", "d.nii"], "image c.nii.*\n.*map d.nii"),
        (["a.nii", "b.nii"], ["a.nii"], "image b.nii has no label map"),
        (["a.nii"], ["a.nii", "b.nii"], "label map b.nii has no image"),
        (
            ["S1_T1.nii", "S2_T1.nii", "S3_T1.nii"],
            ["S1_seg.nii", "S2_seg.nii"],
            "image S3_T1.nii has no label map$",
        ),
        (["S1.nii", "S2.nii"], ["S2_seg.nii", "S3_seg.nii"], "image S1.nii.*\n.*map S3_seg.nii"),
        (["a.nii", "b.nii"], ["x.nii"], "2 images and 1 label maps do not pair"),
    ],
)
def test_files_without_a_partner_are_all_named(images, labels, lone):
    with pytest.raises(DataError, match=lone):
        paired(images, labels)


@given(
    cores=st.lists(st.text("abc019_", min_size=1, max_size=5), unique=True, min_size=2, max_size=8),
    data=st.data(),
)
def test_a_common_beginning_or_end_never_changes_the_pairs(cores, data):
    mixed = data.draw(st.permutations(cores))
    pairs, notes = paired([f"{core}.nii" for core in cores], [f"img_{c}_seg.nii" for c in mixed])
    assert pairs == {f"{core}.nii": f"img_{core}_seg.nii" for core in cores}
    assert notes == []


# ---------------------------------------------------------------- splitting


@given(
    ids=st.sets(st.text("abcdef0123", min_size=1), min_size=3, max_size=60),
    test=st.integers(0, 49),
    val=st.integers(0, 50),
    seed=st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_every_case_is_in_one_split_whatever_the_files_order(ids, test, val, seed, data):
    sizes = (100 - test - val, test, val)
    splits = split_cases(data.draw(st.permutations(sorted(ids))), sizes, seed)

    assert splits == split_cases(ids, sizes, seed)
    members = [name for split in ("train", "val", "test") for name in splits[split]]
    assert sorted(members) == sorted(ids)
    for split, size in zip(("train", "test", "val"), sizes, strict=True):
        assert bool(splits[split]) == bool(size)
    assert set(splits["debug"]) <= set(splits["train"])
    assert splits["debug"]


def test_another_seed_makes_another_split():
    ids = [f"S{n}" for n in range(20)]
    assert split_cases(ids, seed=0) != split_cases(ids, seed=1)
    assert {s: len(m) for s, m in split_cases(ids).items()} == {
        "train": 14,
        "val": 2,
        "test": 4,
        "debug": 5,
    }


def test_a_new_case_leaves_the_order_of_the_others_alone():
    ids = [f"S{n}" for n in range(100)]
    before, after = split_cases(ids), split_cases([*ids, "new"])
    moved = set(before["test"]) ^ set(after["test"])
    assert len(moved - {"new"}) <= 2


@pytest.mark.parametrize("sizes", [(70, 20, 20), (0, 50, 50), (110, -10, 0), (0, 0, 0)])
def test_sizes_that_are_no_percentages_are_refused(sizes):
    with pytest.raises(SettingsError, match="sum to 100"):
        split_cases(["a", "b", "c"], sizes)


def test_two_cases_cannot_fill_three_splits():
    with pytest.raises(DataError, match="2 cases cannot fill train, test, val"):
        split_cases(["a", "b"])
    assert split_cases(["a", "b"], (50, 0, 50))["test"] == ()


# ---------------------------------------------------------------- examining


def test_facts_are_those_of_the_drawing(tmp_path):
    image = np.where(LABEL > 0, 10.0, 0.0)
    image[0, 0, 0] = 20
    case = write_case(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz")
    write_image(tmp_path / "a.nii.gz", image, GRID)

    facts = examine_cases([case])["a"]

    assert facts.shape == SHAPE
    assert facts.spacing == (1.0, 1.0, 2.0)
    assert facts.orientation == "RAS"
    assert facts.label_voxels == {0: 53, 1: 6, 4: 1}
    assert facts.foreground_share == pytest.approx(7 / 60)
    (channel,) = facts.intensity
    assert (channel.min, channel.max, channel.p50) == (0, 20, 0)
    assert channel.mean == pytest.approx(90 / 60)
    assert (channel.foreground_mean, channel.foreground_std) == (10, 0)


def test_channels_come_from_several_files_or_from_one(tmp_path):
    channels = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    paths = [tmp_path / f"{name}.nii.gz" for name in ("both", "one", "two")]
    for path, image in zip(paths, (channels, channels[..., 0], channels[..., 1]), strict=True):
        write_image(path, image, GRID)

    facts = examine_cases([Case("both", (paths[0],)), Case("each", (paths[1], paths[2]))])

    assert facts["both"].intensity == facts["each"].intensity
    assert facts["both"].voxel_digest == facts["each"].voxel_digest
    assert facts["both"].checksum != facts["each"].checksum


def test_all_bad_cases_are_named_with_all_that_is_wrong(tmp_path, cases):
    good = cases(3)
    shifted = Grid.of(SHAPE, np.diag([1, 1, 3, 1]))
    grids = write_case(tmp_path / "grids.nii.gz", tmp_path / "grids_seg.nii.gz", grid=shifted)
    gone = Case("gone", (tmp_path / "gone.nii.gz",), tmp_path / "gone_seg.nii.gz")
    write_label_map(tmp_path / "same.nii.gz", LABEL, GRID)
    same = Case("same", (tmp_path / "same.nii.gz",), tmp_path / "same.nii.gz")
    flat = write_case(tmp_path / "flat.nii.gz")
    write_image(flat.images[0], np.full(SHAPE, 3.0), GRID)
    double = write_case(tmp_path / "double.nii.gz")
    write_image(double.images[0], np.random.default_rng(0).normal(size=(*SHAPE, 2)), GRID)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/p.nii.gz")
    pipe = Case("pipe", (tmp_path / "pipe/p.nii.gz",))

    with pytest.raises(DataError) as caught:
        examine_cases([*good, grids, gone, same, flat, double, pipe])

    message = str(caught.value)
    assert message.startswith("6 of 9 cases cannot be used:\n")
    assert "lie on different grids: spacing (1.0, 1.0, 2.0) and (1.0, 1.0, 3.0)" in message
    assert f"case 'gone': label map {gone.label}: is not there" in message
    assert f"case 'gone': image {gone.images[0]}: is not there" in message
    assert f"case 'same': image and label map {same.label} are the same file" in message
    assert "case 'flat': image" in message
    assert "holds the one value 3; give a scan" in message
    assert "case 'double': has 2 channels and most cases 1" in message
    assert "is not a regular file" in message


def test_progress_counts_to_the_number_of_cases(cases):
    steps: list[tuple[int, int]] = []
    examine_cases(cases(3), 2, lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_an_image_in_two_splits_is_refused_and_twice_in_one_is_noted(tmp_path):
    first = write_case(tmp_path / "first.nii.gz", tmp_path / "first_seg.nii.gz")
    again = write_case(tmp_path / "again.nii", None)  # the same voxels in another packing
    facts = examine_cases([first, replace(again, id="again")])

    assert check_duplicates({"train": ["first", "again"]}, facts) == [
        "cases first (train) and again (train) are the same image"
    ]
    with pytest.raises(DataError, match=r"first \(train\) and again \(test\) are the same image"):
        check_duplicates({"train": ["first"], "test": ["again"]}, facts)


def test_a_file_that_changed_since_the_check_is_named(cases):
    members = cases(2)
    facts = examine_cases(members)
    check_unchanged(members, facts)
    write_image(members[1].images[0], np.zeros(SHAPE), GRID)
    with pytest.raises(DataError, match="case 'S1': .*changed since the check"):
        check_unchanged(members, facts)


# ---------------------------------------------------------------- labels


def test_the_table_is_the_union_of_all_cases(tmp_path):
    a = write_case(tmp_path / "a.nii.gz", tmp_path / "a_.nii.gz", values=LABEL)
    b = write_case(tmp_path / "b.nii.gz", tmp_path / "b_.nii.gz", values=LABEL * 3)
    facts = examine_cases([a, b])

    assert scan_labels(facts, {4: "tail"}).values == (0, 1, 3, 4, 12)
    assert scan_labels(facts, {4: "tail"}).names[3] == "tail"
    with pytest.raises(DataError) as caught:
        check_labels(facts, LabelTable.from_values([1, 4]))
    assert "case 'b': its label map has values 3 (6 voxels), 12 (1 voxels)" in str(caught.value)
    assert "case 'a'" not in str(caught.value)


def test_a_label_map_that_looks_like_an_image_is_refused(tmp_path):
    grid = Grid.of((10, 10, 10), np.eye(4))
    write_label_map(tmp_path / "l.nii.gz", np.arange(1000).reshape(grid.shape), grid)
    write_image(tmp_path / "i.nii.gz", np.arange(1000).reshape(grid.shape), grid)
    facts = examine_cases([Case("i", (tmp_path / "i.nii.gz",), tmp_path / "l.nii.gz")])

    with pytest.raises(DataError, match="1000 different values, like an image"):
        scan_labels(facts)
    assert scan_labels(facts, {1: "one"}).num_classes == 1000


def test_doubtful_label_maps_and_classes_without_training_cases_are_noted(tmp_path):
    maps = {"empty": LABEL * 0, "full": np.ones(SHAPE, int), "usual": LABEL}
    members = [
        write_case(tmp_path / f"{n}.nii.gz", tmp_path / f"{n}_seg.nii.gz", values=v, seed=i)
        for i, (n, v) in enumerate(maps.items())
    ]
    facts = examine_cases(members)

    notes = label_notes({"train": ["empty", "full"], "val": ["usual"]}, facts, scan_labels(facts))

    assert notes == [
        "case 'empty': its label map is all background",
        "case 'full': 100% of its label map is foreground; is it inverted?",
        "no training case has the labels 4 (label 4): they cannot be learnt",
    ]


# ---------------------------------------------------------------- list files

ODD_NAMES = [
    "plain", "with space", "com,ma", "pi|pe", "pl+us", 'quo"te', "back\\slash", "new\nline", "ümläut",
    "no-break\u00a0space", "line\u2028separator", "None", "tab\tbed", "zero\u200bwidth",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_path_survives_the_lists(tmp_path, name):
    images = (tmp_path / f"{name}.nii", tmp_path / name / "second.nii")
    label = tmp_path / f"{name}_seg.nii"
    write_empty(*images, label)
    written = (Case("a b", images, label), Case("c", images[:1], None), Case("d", images, None))

    write_list_file(tmp_path / "file_path_list.txt", written)

    assert read_list_file(tmp_path / "file_path_list.txt") == written
    assert len((tmp_path / "file_path_list.txt").read_text().splitlines()) == 3


def test_plain_paths_are_written_as_easyreg_writes_them(tmp_path):
    case = Case("S1", (Path("/data/S1.nii.gz"),), Path("/data/S1_seg.nii.gz"))
    write_list_file(tmp_path / "file_path_list.txt", [case])
    assert (tmp_path / "file_path_list.txt").read_text() == (
        "/data/S1.nii.gz     /data/S1_seg.nii.gz\n"
    )
    assert (tmp_path / "file_name_list.txt").read_text() == "S1\n"


@pytest.mark.parametrize("separator", [" ", "\t", ",", "|", "+", "     ", ", "])
def test_all_of_easyregs_separators_are_read(tmp_path, separator):
    image, label = tmp_path / "S.1.nii.gz", tmp_path / "S1_seg.nii.gz"
    write_empty(image, label)
    (tmp_path / "file_path_list.txt").write_text(f"{image}{separator}{label}{separator}\r\n\n")
    assert read_list_file(tmp_path / "file_path_list.txt") == (Case("Sd1", (image,), label),)


def test_relative_paths_start_here_or_at_the_list(tmp_path, monkeypatch):
    write_empty(tmp_path / "lists/a.nii", tmp_path / "here/b.nii")
    (tmp_path / "lists/list.txt").write_text("a.nii\nb.nii None\n")
    monkeypatch.chdir(tmp_path / "here")
    first, second = read_list_file(tmp_path / "lists/list.txt")
    assert (first.images, second.images) == (
        (tmp_path / "lists/a.nii",),
        (tmp_path / "here/b.nii",),
    )


def test_all_that_a_list_cannot_name_is_named_at_once(tmp_path):
    write_empty(tmp_path / "a.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "list.txt").write_text(
        f"{tmp_path}/a.nii\n{tmp_path}/gone.nii\nhttps://host/x.nii\n\\\\host\\x.nii\n/dev/zero\n"
        f'{tmp_path}/pipe.nii\n{tmp_path}\n"{tmp_path}/a.nii\nNone {tmp_path}/a.nii\n"\\q"\n"a\\u0000b"\n'
        f"{'x' * 5000}\n"
    )
    with pytest.raises(DataError) as caught:
        read_list_file(tmp_path / "list.txt")
    lines = str(caught.value).splitlines()
    assert [int(line.split("line ")[1].split(":")[0]) for line in lines] == list(range(2, 13))
    for line, words in zip(
        lines,
        [
            "cannot be found", "no path of this machine", "no path of this machine", "not a regular file",
            "not a regular file", "not a regular file", "quotation mark", "image's path first",
            "between quotation marks", "cannot be found", "cannot be found",
        ],
        strict=True,
    ):  # fmt: skip
        assert words in line


def test_a_declared_root_keeps_the_list_inside(tmp_path):
    write_empty(tmp_path / "in/a.nii", tmp_path / "out/b.nii")
    (tmp_path / "in/link.nii").symlink_to(tmp_path / "out/b.nii")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{tmp_path}/in/a.nii\n")
    assert len(read_list_file(listing, root=tmp_path / "in")) == 1
    for path in ("in/../out/b.nii", "out/b.nii", "in/link.nii"):
        listing.write_text(f"{tmp_path}/{path}\n")
        assert len(read_list_file(listing)) == 1
        with pytest.raises(DataError, match="lies outside of"):
            read_list_file(listing, root=tmp_path / "in")


def test_names_are_one_for_each_line_and_all_different(tmp_path):
    write_empty(tmp_path / "a.nii", tmp_path / "b.nii")
    listing, names = tmp_path / "file_path_list.txt", tmp_path / "file_name_list.txt"
    listing.write_text(f"{tmp_path}/a.nii\n{tmp_path}/b.nii\n")
    names.write_text("one\n")
    with pytest.raises(DataError, match="1 names for 2 lines"):
        read_list_file(listing)
    names.write_text("one\none\n")
    with pytest.raises(DataError, match="case id 'one' stands 2 times"):
        read_list_file(listing)
    names.write_text("../one\ntwo\n")
    with pytest.raises(DataError, match=r"case id '\.\./one'"):
        read_list_file(listing)


# ---------------------------------------------------------------- data tasks


def test_a_data_task_is_read_back_as_it_was_written(task):
    write_data_task(task)

    assert read_data_task(task.folder) == task
    for split in SPLITS:
        assert (task.folder / split / "file_path_list.txt").is_file()
        assert (task.folder / split / "file_name_list.txt").is_file()
    assert sorted(path.name for path in task.folder.parent.iterdir()) == ["task"]


def test_easyregs_lists_alone_make_a_data_task(task):
    write_data_task(task)
    (task.folder / "dataset.json").unlink()
    shutil.rmtree(task.folder / "debug")

    read = read_data_task(task.folder)

    assert {s: read.cases[s] for s in ("train", "val", "test")} == {
        s: task.cases[s] for s in ("train", "val", "test")
    }
    assert read.cases["debug"] == task.cases["train"]
    assert read.table == task.table
    assert read.facts == task.facts
    assert "labels were read from all the label maps" in read.notes[0]


def test_a_file_that_is_gone_is_named_when_the_task_is_read(task):
    write_data_task(task)
    for split in ("train", "val"):
        task.cases[split][0].images[0].unlink()
    with pytest.raises(DataError) as caught:
        read_data_task(task.folder)
    assert str(task.cases["train"][0].images[0]) in str(caught.value)
    assert str(task.cases["val"][0].images[0]) in str(caught.value)


def test_lists_that_share_a_case_are_refused(task):
    write_data_task(task)
    (task.folder / "dataset.json").unlink()
    shutil.copytree(task.folder / "train", task.folder / "val", dirs_exist_ok=True)
    with pytest.raises(
        DataError, match=r"case 's0' stands in train and val(.|\n)*image .*S0.nii.gz stands"
    ):
        read_data_task(task.folder)


def test_a_debug_case_comes_from_train(task):
    write_data_task(task)
    shutil.copytree(task.folder / "val", task.folder / "debug", dirs_exist_ok=True)
    with pytest.raises(DataError, match="debug case 'S2' is not a training case"):
        read_data_task(task.folder)


def test_lists_edited_by_hand_do_not_agree_silently_with_the_json(task):
    write_data_task(task)
    for name in ("file_path_list.txt", "file_name_list.txt"):
        listing = task.folder / "train" / name
        listing.write_text(listing.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"names other cases than train/file_path_list\.txt"):
        read_data_task(task.folder)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (
            lambda document: document.update(schema_version=2),
            "schema_version 2 and this monaiseg reads 1",
        ),
        (lambda document: document.pop("cases"), "KeyError"),
        (lambda document: document["cases"][0].update(split="holdout"), "holdout"),
        (lambda document: document["cases"][0].update(facts=3), "prepare the data again"),
        (lambda document: document["labels"][0].update(value=5), "background"),
    ],
)
def test_a_dataset_json_of_another_kind_is_refused(task, edit, found):
    write_data_task(task)
    path = task.folder / "dataset.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=found) as caught:
        read_data_task(task.folder)
    assert str(path) in str(caught.value)


def test_training_cases_need_label_maps_and_test_cases_do_not(task):
    write_data_task(task)
    (task.folder / "dataset.json").unlink()
    for split in ("val", "test"):
        (task.folder / split / "file_path_list.txt").write_text(
            f"{task.cases[split][0].images[0]}\n"
        )
    with pytest.raises(DataError, match="case 'S2' has no label map"):
        read_data_task(task.folder)
    write_list_file(task.folder / "val/file_path_list.txt", task.cases["val"])
    assert read_data_task(task.folder).cases["test"][0].label is None


def test_a_folder_without_lists_is_no_data_task(tmp_path):
    with pytest.raises(DataError, match="monaiseg prepare"):
        read_data_task(tmp_path)


def test_writing_again_replaces_a_data_task_but_nothing_else(task):
    write_data_task(task)
    before = (task.folder / "dataset.json").stat()
    write_data_task(task)
    assert (task.folder / "dataset.json").stat() == before

    write_data_task(replace(task, seed=8))
    assert read_data_task(task.folder).seed == 8

    (task.folder / "my first training").mkdir()
    write_data_task(replace(task, seed=8))  # says the same
    with pytest.raises(SettingsError, match="holds my first training beside another data task"):
        write_data_task(task)
    assert read_data_task(task.folder).seed == 8


def test_a_folder_that_fails_half_way_leaves_the_old_one(task):
    write_data_task(task)

    def fill_the_disk() -> None:
        with fresh_folder(task.folder) as scratch:
            (scratch / "half").touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        fill_the_disk()
    assert read_data_task(task.folder) == task
    assert sorted(path.name for path in task.folder.parent.iterdir()) == ["task"]


@pytest.mark.parametrize(
    ("seg", "class_num", "values"),
    [([-1], -1, (0, 1, 4)), ([-1], 3, (0, 1, 4)), ([4], -1, (0, 4)), ([4, 0], 2, (0, 4))],
)
def test_settings_choose_the_labels(task, seg, class_num, values):
    settings = settings_from_dict(
        {
            "dataset": {"seg": {"interested_label_list": seg}},
            "tsk_set": {"seg": {"class_num": class_num}},
        }
    )
    assert task.label_table(settings).values == values


def test_settings_that_do_not_fit_the_labels_are_told_the_right_ones(task):
    with pytest.raises(SettingsError, match=r"no labels 2, 9; it has 0, 1, 4"):
        task.label_table(
            settings_from_dict({"dataset": {"seg": {"interested_label_list": [9, 2]}}})
        )
    with pytest.raises(SettingsError, match=r"class_num: 57 is not .*; use 3, or -1"):
        task.label_table(settings_from_dict({"tsk_set": {"seg": {"class_num": 57}}}))


def test_the_real_cases_are_found_and_examined(hippocampus):
    found = find_cases(hippocampus)
    facts = examine_cases(found.cases[:20])

    assert len(found.cases) == 200
    assert found.notes == ()
    assert scan_labels(facts).values == (0, 1, 2)
    assert {fact.orientation for fact in facts.values()} == {"RAS"}
    assert read_header(found.cases[0].images[0]).grid.shape == facts[found.cases[0].id].shape
