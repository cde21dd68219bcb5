"""NIfTI files for the stand-alone runner, read and written by nibabel.

`monaiseg predict` reads and writes by `monaiseg.data`, which checks headers more closely.
"""

from __future__ import annotations

import gzip
import itertools
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".nii.gz", ".nii")
DEFLATE_RATIO = 1100
"""gzip compresses by a factor of at most 1032; a header that declares more than that cannot be right."""


TOLERANCE_MM, TOLERANCE_VOXELS = 0.1, 0.1
"""Grids are the same if no voxel lies further apart than the smaller of these; as in `monaiseg.data.grid`."""
FORMS_VOXELS = 0.5
"""Most that sform and qform may differ. Rounding of the quaternion in a header can be a good part of a voxel."""


class ScanError(ValueError):
    """A scan cannot be used."""


def read_scan(
    files: Sequence[Path], num_channels: int
) -> tuple[NDArray[np.float32], nib.Nifti1Image]:
    """Channels (C, X, Y, Z) of one or several files on one grid, and the first file's image for its header.

    Raises:
        ScanError: a file cannot be read, or has other voxels than the first, or the number of channels is wrong.
    """
    images = [_opened(file) for file in files]
    channels: list[NDArray[np.float32]] = []
    for file, image in zip(files, images, strict=True):
        voxel = _smallest_voxel(images[0].affine)
        apart = _distance(images[0].shape, image.affine, images[0].affine)
        if image.shape[:3] != images[0].shape[:3] or apart > min(
            TOLERANCE_MM, TOLERANCE_VOXELS * voxel
        ):
            raise ScanError(
                f"{file}: is not on the same grid as {files[0]}; resample one onto the other"
            )
        voxels = _voxels(file, image)
        channels += list(np.moveaxis(voxels.reshape(*voxels.shape[:3], -1), -1, 0))
    if len(channels) != num_channels:
        raise ScanError(
            f"{', '.join(map(str, files))}: {len(channels)} channels, and the model takes {num_channels}; give them in "
            "the order of training"
        )
    return np.stack(channels), images[0]


def _opened(file: Path) -> nib.Nifti1Image:
    try:
        image = nib.load(file)
        if not isinstance(image, nib.Nifti1Image):  # also of NIfTI-2
            raise ScanError(f"{file}: is not a NIfTI file; convert it to NIfTI")
        declared = int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        most = file.stat().st_size * (DEFLATE_RATIO if file.name.endswith(".gz") else 1)
        (sform, _), (qform, _) = image.get_sform(coded=True), image.get_qform(coded=True)
    except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{file}: cannot be read ({error}); check the path") from error
    if len(image.shape) not in (3, 4) or declared > most + (1 << 20):
        raise ScanError(
            f"{file}: has the shape {image.shape} in {file.stat().st_size} bytes; give a volume"
        )
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise ScanError(
            f"{file}: does not give its orientation (sform_code and qform_code are 0); copy the geometry from the "
            "original scan"
        )
    if sform is not None and qform is not None:
        apart = _distance(image.shape, sform, qform)
        if apart > FORMS_VOXELS * _smallest_voxel(sform):
            raise ScanError(
                f"{file}: its sform and qform disagree by up to {apart:.3g} mm; set the code of the wrong one to 0"
            )
    return image


def _smallest_voxel(affine: NDArray[np.float64]) -> float:
    """Smallest voxel size in mm."""
    return float(np.linalg.norm(affine[:3, :3], axis=0).min())


def _distance(shape: Sequence[int], one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Largest distance in mm between the places that two affines give to a voxel of a volume (X, Y, Z, ...)."""
    corners = np.array(list(itertools.product(*[(0, size - 1) for size in shape[:3]])))
    difference = one - other
    places = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(np.linalg.norm(places, axis=1).max())


def _voxels(file: Path, image: nib.Nifti1Image) -> NDArray[np.float32]:
    try:
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise ScanError(f"{file}: is damaged ({error}); copy it again") from error
    if not np.isfinite(voxels).all():
        raise ScanError(f"{file}: contains NaN or infinite values; replace them with numbers")
    return voxels


def write_label_map(
    path: Path, label_map: NDArray[Any], like: nib.Nifti1Image, table_xml: str
) -> None:
    """Write label values (X, Y, Z) with the grid of the image `like` and names and colours, completely or not at all."""
    image = type(like)(label_map, like.affine)
    sform, qform = (int(like.header[f"{form}_code"]) for form in ("sform", "qform"))
    image.set_sform(like.affine, sform or qform)
    image.set_qform(like.affine, qform, strip_shears=True)
    image.header["xyzt_units"] = like.header["xyzt_units"]
    image.header.set_intent("label")
    image.header.extensions.append(nib.nifti1.Nifti1Extension("caret", table_xml.encode()))
    payload = image.to_bytes()
    if path.name.endswith(".gz"):
        payload = gzip.compress(payload, 6, mtime=0)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(payload)
        os.replace(temporary, path)  # noqa: PTH105  one call, as documented to be atomic
    finally:
        temporary.unlink(missing_ok=True)


def scans_at(paths: Sequence[Path], num_channels: int) -> list[tuple[str, list[Path]]]:
    """Name and files of each scan at `paths`, which are files or folders of files.

    The channels of one scan are NAME_0000, NAME_0001 and so on, or a file with all of them.

    Raises:
        ScanError: a folder contains no scan, a scan lacks files for some of its channels, or two scans have one name.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if is_scan(p)) if path.is_dir() else [path]
        if not inside:
            raise ScanError(f"{path}: contains no .nii or .nii.gz file")
        files += inside
    scans: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        scans.setdefault((file.parent, scan_name(file, num_channels)), []).append(file)
    for (_, name), channels in scans.items():
        if len(channels) not in (1, num_channels):
            raise ScanError(
                f"{name}: has {len(channels)} files for {num_channels} channels; add the others"
            )
    folders: dict[str, Path] = {}
    for folder, name in scans:
        if folders.setdefault(name, folder) != folder:
            raise ScanError(
                f"{name}: is the name of a scan in {folders[name]} and in {folder}; label them into different folders"
            )
    return [(name, sorted(channels)) for (_, name), channels in scans.items()]


def is_scan(path: Path) -> bool:
    """Whether a file is a volume by its name, and not hidden."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def scan_name(file: Path, num_channels: int) -> str:
    """Name of the scan that a file belongs to, without the number of its channel.

    >>> scan_name(Path("scans/S01_0001.nii.gz"), 2)
    'S01'
    """
    name = next(
        (file.name[: -len(s)] for s in SUFFIXES if file.name.lower().endswith(s)), file.name
    )
    stem, _, number = name.rpartition("_")
    return stem if num_channels > 1 and stem and len(number) == 4 and number.isdigit() else name
