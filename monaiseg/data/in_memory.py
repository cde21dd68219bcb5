"""Images in memory, as other libraries hold them.

| library | an image | its label map |
|---|---|---|
| nibabel | an image; a fourth axis has the channels | `Nifti1Image` |
| NumPy | a pair of an array (X, Y, Z) or (C, X, Y, Z) and an affine (4, 4) in mm, RAS+ | array (X, Y, Z) |
| MONAI | `MetaTensor` (X, Y, Z) or (C, X, Y, Z) | `MetaTensor` (1, X, Y, Z) |
| TorchIO | `Subject`, whose intensity images are the channels, or one `ScalarImage` | `LabelMap` |

They go through files in a temporary folder, so that they meet the same checks as any other file. None of these
libraries but nibabel is imported here.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data.cases import Case
from monaiseg.data.images import files_of
from monaiseg.data.label_extension import table_xml
from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError
from monaiseg.files import make_folder


@contextmanager
def as_files(image: Any) -> Iterator[tuple[Path, ...]]:
    """The files of an image: its own if it is given by its path or paths, otherwise a temporary one for the block."""
    if _is_path(image):
        yield files_of(image)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii"
        _write(path, *voxels_and_affine(image))
        try:
            yield (path,)
        except DataError as error:
            raise type(error)(str(error).replace(f"{path}", "the image")) from error


def like_image(label_map: NDArray[Any], image: Any, table: LabelTable) -> Any:
    """A label map (X, Y, Z) on the grid of an image, as the library of that image has it; an array for paths.

    A nibabel image has the names and colours of `table` in its header, as label maps in files have.
    """
    if _is_path(image) or isinstance(image, tuple):
        return label_map
    if isinstance(image, nib.spatialimages.SpatialImage):
        return _nibabel_image(label_map, image, table)
    if _is_of_torchio(image):
        _, affine = voxels_and_affine(image)
        label = importlib.import_module("torchio").LabelMap
        return label(tensor=label_map[None], affine=affine)
    return type(image)(label_map[None], affine=image.affine)


def _nibabel_image(
    label_map: NDArray[Any], image: nib.spatialimages.SpatialImage, table: LabelTable
) -> nib.Nifti1Image:
    """A label map with the forms and codes of a NIfTI image: programs choose by the codes which form they follow."""
    found = nib.Nifti1Image(label_map, image.affine)
    if isinstance(image, nib.Nifti1Pair):  # also Nifti1Image and Nifti2Image
        found.set_sform(*image.get_sform(coded=True))
        found.set_qform(*image.get_qform(coded=True))
        found.header["xyzt_units"] = image.header["xyzt_units"]
    found.header.set_intent("label")
    found.header.extensions.append(nib.nifti1.Nifti1Extension("caret", table_xml(table)))
    return found


def voxels_and_affine(image: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Voxels (X, Y, Z) or (C, X, Y, Z) of an image in memory, and its affine.

    >>> voxels, affine = voxels_and_affine((np.zeros((4, 5, 6)), np.eye(4)))
    >>> voxels.shape
    (4, 5, 6)

    Raises:
        DataError: the image is of no kind that is known, or has no affine.
    """
    if isinstance(image, nib.spatialimages.SpatialImage):
        voxels = np.asanyarray(image.dataobj)
        affine = image.affine
        voxels = np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else voxels
    elif isinstance(image, tuple) and len(image) == 2:
        voxels, affine = np.asarray(image[0]), image[1]
    elif _is_of_torchio(image):
        images = _images_of(image)
        voxels, affine = np.concatenate([part.numpy() for part in images]), images[0].affine
    elif hasattr(image, "affine") and hasattr(image, "detach"):
        voxels, affine = image.detach().cpu().numpy(), image.affine.cpu().numpy()
    else:
        raise DataError(
            f"{type(image).__name__} is not an image with a position; give a path, a nibabel image, a pair of an array and "
            "an affine, a MetaTensor or a TorchIO Subject"
        )
    affine = np.asarray(affine, dtype=float)
    if voxels.ndim not in {3, 4} or affine.shape != (4, 4):
        raise DataError(
            f"an array of shape {voxels.shape} with an affine of shape {affine.shape}; give (X, Y, Z) or (C, X, Y, Z), and "
            "(4, 4)"
        )
    if not np.isfinite(affine).all() or np.linalg.det(affine) == 0:
        raise DataError(
            f"an affine that cannot be inverted: {affine.tolist()}; give one in mm, RAS+"
        )
    return voxels, affine


def write_dataset(folder: str | Path, cases: Mapping[str, Any]) -> Path:
    """Write images and label maps in memory to a folder that `prepare` takes.

    >>> import tempfile
    >>> image, label = np.zeros((4, 5, 6), np.float32), np.zeros((4, 5, 6), np.uint8)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     written = write_dataset(place, {"S01": ((image, np.eye(4)), (label, np.eye(4)))})
    ...     sorted(path.relative_to(place).as_posix() for path in written.rglob("*.nii.gz"))
    ['images/S01.nii.gz', 'labels/S01.nii.gz']

    Args:
        folder: folder for `images` and `labels`; created if missing.
        cases: image and label map by case id: pairs of what `Predictor.predict` takes, or TorchIO's subjects with a
            `LabelMap`.

    Returns:
        The folder.

    Raises:
        DataError: an image or a label map is of no kind that is known.
        StorageError: the folder cannot be written to.
    """
    written_cases(folder, cases)
    return Path(folder)


def written_cases(folder: str | Path, cases: Mapping[str, Any]) -> tuple[Case, ...]:
    """The cases that `write_dataset` writes."""
    images, labels = (make_folder(Path(folder) / name) for name in ("images", "labels"))
    found = []
    for name, pair in cases.items():
        image, label = _pair_of(pair)
        files = (images / f"{name}.nii.gz", labels / f"{name}.nii.gz")
        for path, part in zip(files, (image, label), strict=True):
            with as_files(part) as (source, *_):
                nib.save(nib.load(source), path)
        found.append(Case(name, files[:1], files[1]))
    return tuple(found)


def _pair_of(case: Any) -> tuple[Any, Any]:
    if isinstance(case, dict) and _is_of_torchio(case):
        label = importlib.import_module("torchio").LabelMap
        maps = [part for part in _all_images_of(case) if isinstance(part, label)]
        if len(maps) != 1:
            raise DataError(f"a subject with {len(maps)} label maps; give it one LabelMap")
        return case, maps[0]
    image, label_map = case
    return image, label_map


def _write(path: Path, voxels: NDArray[Any], affine: NDArray[Any]) -> None:
    voxels = np.moveaxis(voxels, 0, 3) if voxels.ndim == 4 else voxels
    voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
    kept = np.int32 if voxels.dtype.kind in "biu" else np.float32
    nib.save(nib.Nifti1Image(voxels.astype(kept), affine), path)


def _images_of(image: Any) -> list[Any]:
    """The intensity images of a TorchIO subject, or the image itself."""
    label = importlib.import_module("torchio").LabelMap
    return [part for part in _all_images_of(image) if not isinstance(part, label)] or [image]


def _all_images_of(subject: Any) -> list[Any]:
    known = importlib.import_module("torchio").Image
    parts = subject.values() if isinstance(subject, Mapping) else ()
    return [part for part in parts if isinstance(part, known)]


def _is_path(image: Any) -> bool:
    several = isinstance(image, Sequence) and bool(image)
    return isinstance(image, str | Path) or (several and isinstance(image[0], str | Path))


def _is_of_torchio(image: Any) -> bool:
    return any(kind.__module__.startswith("torchio.") for kind in type(image).__mro__)
