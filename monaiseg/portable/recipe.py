"""The recipe of a portable model: everything but the network, as JSON in the metadata of the ONNX file.

The entry `monaiseg` of the metadata is an object with these keys. Spatial lists run along X, Y, Z of RAS.

    format          1
    monaiseg        version of monaiseg that wrote the file
    sha256          of the file, computed with zeros in its own place
    channels        names of the image channels
    intensity       method, region, clip_range, percentile: as in the settings, `dataset.intensity`
    spacing         voxel size in mm that scans are resampled to, or null
    image_shape     voxels that scans are resampled to after that, or null
    patch, overlap, blending, padding_mode, flips, whole_image      the sliding window
    trained_spacing voxel size in mm that the network was laid out for
    labels          value, name, color and partner of each class, background first
    ignored_value   label value of unlabelled voxels in references, or null
    partners        class of the other side for each class, or null
    postprocessing  value, keep_largest, least_mm3 and fill_holes of labels
    head            weight (K, x, y, z, F) and bias (K, x, y, z): see `windows`
    prior           null, or template and atlas of the network, as the arrays that `prior` names
    golden          a synthetic scan (image, affine) and the label map that the network gives it

An array is an object with `dtype`, `shape` and `zlib`, its bytes compressed and in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.portable.intensity import Intensity
from monaiseg.portable.postprocessing import LabelRule
from monaiseg.portable.prior import POSITIONS, Prior, prior_of
from monaiseg.portable.protobuf import ModelError
from monaiseg.portable.resampling import Triple
from monaiseg.portable.route import PADDINGS
from monaiseg.portable.windows import Head

KEY = "monaiseg"
FORMAT = 1
NO_DIGEST = "0" * 64
MAX_RECIPE_BYTES = 64 << 20
MAX_VALUES = 1 << 26
"""Most numbers in an array of the recipe: 256 MiB of float32."""
DTYPES = ("float16", "float32", "float64", "int16", "uint8", "int32", "int64")


@dataclass(frozen=True)
class Golden:
    """A synthetic scan and its label map, to check an installation with."""

    image: NDArray[np.float32]
    """(C, X, Y, Z)"""
    affine: NDArray[np.float64]
    label_map: NDArray[Any]


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe, checked."""

    version: str
    channels: tuple[str, ...]
    intensity: Intensity
    spacing: tuple[float, ...] | None
    image_shape: tuple[int, ...] | None
    patch: Triple
    overlap: tuple[float, ...]
    blending: str
    padding_mode: str
    flips: tuple[int, ...]
    whole_image: bool
    trained_spacing: tuple[float, ...]
    labels: tuple[Mapping[str, Any], ...]
    table_xml: str
    """Names and colours of the labels, as label maps carry them in their headers."""
    ignored_value: int | None
    partners: tuple[int, ...] | None
    postprocessing: tuple[LabelRule, ...]
    head: Head
    prior: Prior | None
    golden: Golden

    @property
    def num_inputs(self) -> int:
        """Channels that the network takes: those of the image and, with an atlas, the positions of the voxels."""
        return len(self.channels) + (0 if self.prior is None else POSITIONS)

    @property
    def label_values(self) -> NDArray[Any]:
        """Label value of each class, in the smallest of uint8, int16 and int32."""
        values = [label["value"] for label in self.labels]
        dtypes = (np.uint8, np.int16, np.int32)
        return np.array(values, next(d for d in dtypes if max(values) <= np.iinfo(d).max))


def recipe_of(text: str) -> Recipe:
    """The recipe in a JSON text.

    Raises:
        ModelError: it is too long, is not JSON, or a key is missing or of the wrong kind.
    """
    if len(text) > MAX_RECIPE_BYTES:
        raise ModelError(f"has a recipe of {len(text)} bytes; at most {MAX_RECIPE_BYTES} are read")
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ModelError(
                f"has format {document['format']!r} and this program reads {FORMAT}; use the runner that was "
                "exported with it, or export it again"
            )
        recipe = _recipe(document)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:  # fmt: skip
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"has a recipe that cannot be used ({error!r}); export it again"
        ) from error
    _check(recipe)
    return recipe


def _recipe(document: Mapping[str, Any]) -> Recipe:
    head, golden = document["head"], document["golden"]
    intensity = document["intensity"]
    clip = intensity["clip_range"]
    return Recipe(
        version=str(document["monaiseg"]),
        channels=tuple(map(str, document["channels"])),
        intensity=Intensity(
            str(intensity["method"]),
            str(intensity["region"]),
            None if clip is None else (float(clip[0]), float(clip[1])),
            float(intensity["percentile"]),
        ),
        spacing=_numbers(document["spacing"], float),
        image_shape=_numbers(document["image_shape"], int),
        patch=_shape(document["patch"]),
        overlap=tuple(map(float, document["overlap"])),
        blending=str(document["blending"]),
        padding_mode=str(document["padding_mode"]),
        flips=tuple(map(int, document["flips"])),
        whole_image=bool(document["whole_image"]),
        trained_spacing=tuple(map(float, document["trained_spacing"])),
        ignored_value=None if document["ignored_value"] is None else int(document["ignored_value"]),
        labels=tuple({**label, "value": int(label["value"]), "name": str(label["name"])} for label in document["labels"]),
        table_xml=str(document["table_xml"]),
        partners=_numbers(document["partners"], int),
        postprocessing=rules_of(document["postprocessing"]),
        head=Head(unpacked(head["weight"]), unpacked(head["bias"])),
        prior=_prior(document["prior"], len(document["labels"])),
        golden=Golden(unpacked(golden["image"]).astype(np.float32), unpacked(golden["affine"]), unpacked(golden["label_map"])),
    )  # fmt: skip


def _prior(record: Mapping[str, Any] | None, num_classes: int) -> Prior | None:
    if record is None:
        return None
    template, atlas = (arrays_of(record[name]) for name in ("template", "atlas"))
    return prior_of(template, atlas, num_classes)


def rules_of(records: Sequence[Mapping[str, Any]]) -> tuple[LabelRule, ...]:
    """Rules of post-processing from JSON; raises KeyError, TypeError or ValueError if they are none."""
    rules = tuple(
        LabelRule(
            int(record["value"]),
            bool(record["keep_largest"]),
            float(record["least_mm3"]),
            bool(record["fill_holes"]),
        )
        for record in records
    )
    if not all(0 <= rule.least_mm3 < math.inf for rule in rules):
        raise ValueError("a volume that is not a number of at least 0")
    return rules


def _numbers(values: Any, kind: type) -> Any:
    return None if values is None else tuple(map(kind, values))


def _shape(values: Sequence[Any]) -> Triple:
    x, y, z = map(int, values)
    return x, y, z


def _check(recipe: Recipe) -> None:
    """Raise ModelError if parts of a recipe do not fit one another, or would make a computation without end."""
    count = len(recipe.labels)
    values = [label["value"] for label in recipe.labels]
    weight, golden = recipe.head.weight, recipe.golden
    fits = {
        "channels": 1 <= len(recipe.channels) <= 64,
        "patch": all(1 <= n <= 1024 for n in recipe.patch),
        "overlap": len(recipe.overlap) == 3 and all(0 <= share < 1 for share in recipe.overlap),
        "spacing": recipe.spacing is None
        or (len(recipe.spacing) == 3 and all(1e-3 <= mm <= 100 for mm in recipe.spacing)),
        "trained_spacing": len(recipe.trained_spacing) == 3 and all(0 < mm < math.inf for mm in recipe.trained_spacing),
        "image_shape": recipe.image_shape is None
        or (len(recipe.image_shape) == 3 and all(1 <= n <= 4096 for n in recipe.image_shape)),
        "intensity": recipe.intensity.method in ("zscore", "minmax", "percentile", "none")
        and recipe.intensity.region in ("image", "foreground")
        and 0 <= recipe.intensity.percentile <= 100,
        "padding_mode": recipe.padding_mode in PADDINGS,
        "blending": recipe.blending in ("gaussian", "constant"),
        "flips": len(set(recipe.flips)) == len(recipe.flips) and set(recipe.flips) <= {0, 1, 2},
        "labels": 1 <= count <= 32_766 and values == sorted(set(values)) and values[0] == 0 and values[-1] < 2**31,
        "table_xml": "<!" not in recipe.table_xml,
        "partners": recipe.partners is None or sorted(recipe.partners) == list(range(count)),
        "head": weight.ndim == 5 and weight.dtype == np.float32 and len(weight) == count
        and recipe.head.bias.shape == weight.shape[:4]
        and all(n % step == 0 for n, step in zip(recipe.patch, weight.shape[1:4], strict=True)),
        "golden": golden.image.ndim == 4 and golden.image.shape[0] == len(recipe.channels)
        and golden.image.shape[1:] == golden.label_map.shape and golden.affine.shape == (4, 4),
    }  # fmt: skip
    if wrong := [name for name, is_right in fits.items() if not is_right]:
        raise ModelError(f"has a recipe whose {', '.join(wrong)} cannot be used; export it again")


# ---------------------------------------------------------------- arrays and digest


def packed(array: NDArray[Any]) -> dict[str, Any]:
    """An array as JSON-compatible values."""
    payload = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    text = base64.b64encode(zlib.compress(payload.tobytes(), 9)).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "zlib": text}


def unpacked(record: Mapping[str, Any]) -> NDArray[Any]:
    """The array of `packed`; no more bytes are unpacked than its shape holds.

    Raises:
        ModelError: the record is none, or its bytes do not have the length that its shape says.
    """
    shape = tuple(int(n) for n in record["shape"])
    if record["dtype"] not in DTYPES or min(shape, default=0) < 1 or math.prod(shape) > MAX_VALUES:
        raise ModelError(
            f"has an array of {record['dtype']} {shape} in its recipe; export it again"
        )
    dtype = np.dtype(record["dtype"]).newbyteorder("<")
    size = math.prod(shape) * dtype.itemsize
    engine = zlib.decompressobj()
    try:
        payload = engine.decompress(base64.b64decode(record["zlib"], validate=True), size + 1)
    except (zlib.error, binascii.Error) as error:
        raise ModelError(f"has a damaged array in its recipe ({error}); copy the file again") from error  # fmt: skip
    if len(payload) != size:
        raise ModelError(
            f"has an array in its recipe that does not have the size {shape}; export it again"
        )
    array = np.frombuffer(payload, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def arrays_of(records: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Arrays by name, each as `unpacked`."""
    return {name: unpacked(record) for name, record in records.items()}


def digest_of(payload: bytes, written: str) -> str:
    """SHA-256 of a file with zeros where `written`, the digest in its recipe, stands."""
    return hashlib.sha256(payload.replace(written.encode(), NO_DIGEST.encode(), 1)).hexdigest()
