"""Cases: found in every layout, paired by name, split by seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawings import write_empty
from monaiseg.data.cases import Case, find_cases
from monaiseg.data.pairing import pair_files
from monaiseg.data.splits import split_cases
from monaiseg.errors import DataError, SettingsError

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
    assert found.notes == tuple(
        f"there is no {s} folder, so that split is empty" for s in ("val", "test")
    )


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
    assert found.notes == ("1 test image without label maps not used",)


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
    with pytest.raises(DataError, match=r"x has no label map\n.*y has no channel 0001"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "folders", [("images", "labels"), ("train/images", "train/labels"), ("imagesTr", "labelsTr")]
)
def test_channels_are_found_by_their_numbers_in_every_layout(tmp_path, folders):
    images, labels = (tmp_path / folder for folder in folders)
    for number in (0, 1):
        write_empty(images / f"x_000{number}.nii.gz", images / f"y_000{number}.nii.gz")
    write_empty(labels / "x.nii.gz", labels / "y.nii.gz")

    found = find_cases(tmp_path)

    assert [(case.id, len(case.images)) for case in found.cases] == [("x", 2), ("y", 2)]


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
        ("[]", "not a JSON object"),
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
    with pytest.raises(DataError, match="has images/ and labels/ as well as train"):
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
        f"{tmp_path / 'images'}: files that are not volumes are ignored: README.txt",
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.nii", "a.nii.gz"], r"a\.nii and a\.nii\.gz have the same name but for the ending"),
        (["a.nii", "A.nii"], r"A\.nii and a\.nii have the same name but for the ending"),
        (["ü.nii", "u\u0308.nii"], "have the same name but for the ending"),
        (["a.mgz", "b.nrrd", "c.nii"], r"a\.mgz: is FreeSurfer's format(.|\n)*b\.nrrd: is NRRD"),
        (["README.txt"], r"has no NIfTI files \(.nii or .nii.gz\), only README.txt"),
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
    with pytest.raises(DataError, match="case id 'a' is used 2 times"):
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
        (["a.nii", "b.nii"], ["x.nii"], "2 images and 1 label map do not match"),
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


@pytest.mark.parametrize("cores", [("0", "0_"), ("a", "a_b"), ("S1", "S1_b", "S12")])
def test_names_that_go_on_where_others_end_pair_too(cores):
    """Sorted, `img_0__seg` comes before `img_0_seg`: a pairing in sorted order would exchange the two."""
    pairs, notes = paired([f"{c}.nii" for c in cores], [f"img_{c}_seg.nii" for c in cores])

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
    with pytest.raises(DataError, match="2 cases cannot fill the splits train, test, val"):
        split_cases(["a", "b"])
    assert split_cases(["a", "b"], (50, 0, 50))["test"] == ()


def test_images_that_nnunet_holds_out_are_said_to_be_left_out(tmp_path):
    write_empty(tmp_path / "imagesTr/x_0000.nii.gz", tmp_path / "labelsTr/x.nii.gz")
    write_empty(tmp_path / "imagesTs/y_0000.nii.gz", tmp_path / "labelsTs/y.nii.gz")

    found = find_cases(tmp_path)

    assert [case.id for case in found.cases] == ["x"]
    assert any("imagesTs: 1 image not used" in note for note in found.notes)
    (tmp_path / "imagesTs/y_0000.nii.gz").unlink()
    assert not any("left out" in note for note in find_cases(tmp_path).notes)
