"""Images in memory are predicted and scored as their files are, and come back as their library has them."""

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio
from monai.data import MetaTensor

import monaiseg
from monaiseg.data import find_cases, make_phantom, write_dataset, write_phantom
from monaiseg.data.volumes import read_label_table
from monaiseg.errors import DataError


@pytest.fixture(scope="module")
def predictor(trained):
    return monaiseg.Predictor(trained.run_folder, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = make_phantom((20, 24, 28), (1.2, 1.0, 0.8), "LPI", label_values=(1, 4), seed=5)
    return write_phantom(tmp_path_factory.mktemp("scan"), "scan", made)


@pytest.fixture(scope="module")
def expected(predictor, files):
    return predictor.predict(files[0])


@pytest.fixture(scope="module")
def scan(files):
    return nib.load(files[0])


def test_a_nibabel_image_gives_one_on_its_grid(predictor, scan, expected):
    found = predictor.predict(scan)

    assert isinstance(found, nib.Nifti1Image)
    assert np.array_equal(np.asarray(found.dataobj), expected)
    assert np.allclose(found.affine, scan.affine)


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (3, 0)])
def test_a_nibabel_image_keeps_the_codes_and_gets_names_and_colours(
    predictor, scan, sform, qform, tmp_path
):
    """ITK and nibabel choose sform or qform by their codes; with other codes the label map would move."""
    coded = nib.Nifti1Image(np.asarray(scan.dataobj), scan.affine, scan.header)
    coded.set_sform(scan.affine if sform else None, sform)
    coded.set_qform(scan.affine if qform else None, qform)

    nib.save(predictor.predict(coded), tmp_path / "labels.nii.gz")

    header = nib.load(tmp_path / "labels.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (sform, qform)
    assert np.allclose(nib.load(tmp_path / "labels.nii.gz").affine, scan.affine, atol=1e-3)
    assert read_label_table(tmp_path / "labels.nii.gz") == predictor.table


@pytest.mark.parametrize("channels", [False, True])
def test_an_array_with_its_affine_gives_an_array(predictor, scan, expected, channels):
    voxels = scan.get_fdata(dtype=np.float32)

    found = predictor.predict((voxels[None] if channels else voxels, scan.affine))

    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected)


def test_a_metatensor_gives_one_with_its_affine(predictor, scan, expected):
    image = MetaTensor(scan.get_fdata(dtype=np.float32)[None], affine=torch.tensor(scan.affine))

    found = predictor.predict(image)

    assert isinstance(found, MetaTensor)
    assert np.array_equal(found[0].numpy(), expected)
    assert torch.equal(found.affine, image.affine)


@pytest.mark.parametrize("kind", ["subject", "image"])
def test_a_subject_of_torchio_gives_a_label_map(predictor, files, expected, kind):
    image = torchio.ScalarImage(files[0])

    found = predictor.predict(torchio.Subject(t1=image) if kind == "subject" else image)

    assert isinstance(found, torchio.LabelMap)
    assert np.array_equal(found.numpy()[0], expected)
    assert np.allclose(found.affine, image.affine)


def test_images_in_memory_are_scored_as_their_files_are(predictor, files):
    (image, reference) = (nib.load(path) for path in files)

    (case,) = monaiseg.evaluate(predictor, {"scan": (image, reference)}).cases

    found = monaiseg.evaluate(predictor, [monaiseg.Case("scan", (files[0],), files[1])])
    assert case.mean_dice == found.cases[0].mean_dice


def test_a_dataset_is_written_from_pairs_and_from_subjects(files, tmp_path):
    image, label = (nib.load(path) for path in files)
    subject = torchio.Subject(t1=torchio.ScalarImage(files[0]), seg=torchio.LabelMap(files[1]))

    folder = write_dataset(tmp_path / "scans", {"pair": (image, label), "subject": subject})

    assert [case.id for case in find_cases(folder).cases] == ["pair", "subject"]
    for name in ("pair", "subject"):
        written = nib.load(folder / "labels" / f"{name}.nii.gz")
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(label.dataobj))
        assert np.allclose(written.affine, label.affine)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4)), "ndarray is not an image with a position; give a path"),
        ((np.zeros((4, 4)), np.eye(4)), r"an array of shape \(4, 4\)"),
        ((np.zeros((4, 4, 4)), np.zeros((4, 4))), "an affine that cannot be inverted"),
    ],
)
def test_what_is_no_image_is_refused(predictor, image, message):
    with pytest.raises(DataError, match=message):
        predictor.predict(image)
