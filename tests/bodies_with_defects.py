"""A dataset of small bodies, and what can go wrong with one of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (24, 26, 22)
LEFT, RIGHT, HEART, LIVER = 1, 2, 3, 4
TABLE = "value,name\n1,left lung\n2,right lung\n3,heart\n4,liver\n"
BALLS = {LEFT: (7, 13, 13), RIGHT: (17, 13, 13), HEART: (12, 18, 13), LIVER: (14, 12, 6)}
"""Middles of the structures; x runs to the patient's right."""


@dataclass
class Body:
    """Image, label map and header of a case. A defect changes them."""

    image: NDArray[Any]
    label: NDArray[Any]
    affine: NDArray[Any] = field(default_factory=lambda: np.eye(4))
    label_affine: NDArray[Any] | None = None
    dtype: Any = np.int16
    label_dtype: Any = np.uint8


def body(seed: int) -> Body:
    """Four balls in a box, at slightly different places in each body, under a texture of its own."""
    draw = np.random.default_rng(seed)
    places = np.indices(SHAPE)
    label = np.zeros(SHAPE, np.int64)
    for value, middle in BALLS.items():
        around = np.array(middle) + draw.uniform(-0.6, 0.6, 3)
        distance = np.sqrt(((places - around[:, None, None, None]) ** 2).sum(axis=0))
        label[distance < 3.6] = value
    texture = ndimage.gaussian_filter(draw.normal(size=SHAPE), 1.5)
    image = 2000 + 300 * label + 200 * texture / texture.std()
    return Body(image, label)


def write(folder: Path, name: str, made: Body) -> None:
    """Write `images/NAME.nii.gz` and `labels/NAME.nii.gz`."""
    for kind, voxels, affine, dtype in (
        ("images", made.image, made.affine, made.dtype),
        ("labels", made.label, made.label_affine, made.label_dtype),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        where = made.affine if affine is None else affine
        picture = nib.Nifti1Image(np.asarray(voxels).astype(dtype), where)
        picture.header.set_xyzt_units("mm")
        picture.header.set_sform(where, 1)
        picture.header.set_qform(where, 1)
        nib.save(picture, folder / kind / f"{name}.nii.gz")


def edit_header(path: Path, **fields: Any) -> None:
    """Overwrite fields of a file's header, as no library would."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = np.frombuffer(raw, nib.nifti1.header_dtype, 1)
    for key, value in fields.items():
        header[key][0] = value
    path.write_bytes(gzip.compress(bytes(raw)))


def clean(folder: Path, count: int, first: int = 0) -> list[str]:
    """Write bodies without a defect; returns their names."""
    names = [f"ok{number:02}" for number in range(first, first + count)]
    for number, name in enumerate(names, first):
        write(folder, name, body(number))
    return names


Defect = Callable[[Body], None]


def mirrored(made: Body) -> None:
    made.image, made.label = made.image[::-1], made.label[::-1]


def upside_down(made: Body) -> None:
    made.image, made.label = made.image[..., ::-1], made.label[..., ::-1]


def shifted_labels(made: Body) -> None:
    made.label_affine = made.affine.copy()
    made.label_affine[0, 3] = 5


def other_spacing(made: Body) -> None:
    made.affine = np.diag([1, 1, 5, 1])


def other_axes(made: Body) -> None:
    made.image, made.label = made.image[::-1], made.label[::-1]
    made.affine = np.diag([-1, 1, 1, 1])
    made.affine[0, 3] = SHAPE[0] - 1


def not_a_number(made: Body) -> None:
    made.image[3, 4, 5] = np.nan
    made.dtype = np.float32


def constant(made: Body) -> None:
    made.image[:] = 7


def nearly_constant(made: Body) -> None:
    made.image[:] = 7
    made.image[12, 13, 13] = 9000


def few_levels(made: Body) -> None:
    made.image = np.round(made.image / made.image.max() * 8)


def other_scale(made: Body) -> None:
    made.image, made.dtype = made.image / 4000, np.float32


def inverted_contrast(made: Body) -> None:
    made.image = 5000 - made.image


def eight_bits(made: Body) -> None:
    made.image, made.dtype = np.clip(made.image / 8, 0, 255), np.uint8


def empty_where_labelled(made: Body) -> None:
    made.image[made.label > 0] = 0


def fractional(made: Body) -> None:
    made.label, made.label_dtype = made.label * 0.5, np.float32


def negative(made: Body) -> None:
    made.label[made.label == LIVER], made.label_dtype = -1, np.int16


def empty(made: Body) -> None:
    made.label[:] = 0


def full(made: Body) -> None:
    made.label[made.label == 0] = HEART


def one_mask_255(made: Body) -> None:
    made.label = np.where(made.label > 0, 255, 0)


def smooth_mask(made: Body) -> None:
    """A mask of 0 and 255 after linear interpolation."""
    mask = np.where(made.label > 0, 255.0, 0.0)
    made.label = np.round(ndimage.gaussian_filter(mask, 1.0))


def own_label(made: Body) -> None:
    made.label[2:5, 2:5, 2:5], made.label_dtype = 900, np.int16


def speck(made: Body) -> None:
    made.label[2, 2, 2:4], made.label_dtype = 901, np.int16


def without_heart(made: Body) -> None:
    made.label[made.label == HEART] = 0


def cut(made: Body) -> None:
    """The liver leaves the field of view."""
    made.label = made.label[..., 6:]
    made.image = made.image[..., 6:]


def crumbs(made: Body) -> None:
    for x in range(1, 23, 3):
        made.label[x, 1, (1, 20)] = HEART
    draw = np.indices(SHAPE)
    made.label[((draw - 12) ** 2).sum(axis=0) < 90] = HEART


def missing_slice(made: Body) -> None:
    made.label[:, :, 13] = np.where(made.label[:, :, 13] == HEART, 0, made.label[:, :, 13])


def exchanged_lungs(made: Body) -> None:
    made.label = np.select([made.label == LEFT, made.label == RIGHT], [RIGHT, LEFT], made.label)


def tall(made: Body) -> None:
    """A field of view that is five times as long."""
    made.image = np.concatenate([made.image] * 5, axis=2)
    made.label = np.concatenate([made.label, *[np.zeros_like(made.label)] * 4], axis=2)
