"""Transforms: the chains that bring a case to the network, and its class map home again.

An *item* is a dictionary on its way through a chain: `image` (C, X, Y, Z), `label` (1, X, Y, Z), `case_id`. The
*network grid* is where image and label map lie after the load chain: RAS orientation, the spacing and size that the
settings ask for, padded. The *floor* of a channel is its least intensity there, air in most scans: padding, and
whatever a turned patch finds beyond the volume, has the floor for its intensity and is background.

The load chain is shared by training, validation, prediction and the bundle; what training adds is random and lies
in a chain of its own. All randomness comes from `self.R`, so that `Compose.set_random_state` repeats it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import Pad
from monai.transforms.croppad.dictionary import Padd
from monai.transforms.intensity.array import RandBiasField
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityFixedMeand,
)
from monai.transforms.spatial.dictionary import Orientationd, Resized, Spacingd
from monai.transforms.transform import Randomizable, Transform
from monai.transforms.utility.dictionary import CastToTyped
from monai.transforms.utils import convert_applied_interp_mode
from monai.utils.misc import MAX_SEED
from monai.utils.type_conversion import convert_to_dst_type, dtype_numpy_to_torch
from numpy.typing import NDArray
from torch.nn import functional as F
from typing_extensions import Self, override

from monaiseg.cases import Case
from monaiseg.errors import DataError, MonaisegError
from monaiseg.geometry import Grid, Shape, Spacing, padded_shape
from monaiseg.labels import LabelTable, index_dtype
from monaiseg.settings import (
    IntensitySettings,
    RotationSettings,
    SamplingSettings,
    ScalingSettings,
    Settings,
)
from monaiseg.volumes import grid_clash, read_label_map, read_volume, volume_stem
from monaiseg.warps import extra_transforms, turn_matrix

Item = dict[str, Any]
MULTIPLE = (16, 16, 16)
"""Sizes on the network grid divide by this, or equal the patch."""
MAX_CENTRES = 100_000
"""Voxels remembered of each group that patches are centred on. All of them, as `FgBgToIndicesd` keeps them, take twice
the memory of the image."""
MAX_DRAWS = 20
"""Places that are tried for a patch that must hold a share of what it is centred on. EasyReg tried for ever."""


class CaseChain(Compose):
    """A chain that names the case in what it raises, and raises our own errors bare, not as MONAI wraps them."""

    digest: str | None = None
    """SHA-256 of everything besides the files that decides what the chain makes, where that is known."""

    @property
    def num_centre_groups(self) -> int:
        """Groups of voxels that it finds for patches to be centred on."""
        return sum(step.num_groups for step in self.transforms if isinstance(step, FindCentresd))

    @override
    def __call__(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # as Compose's own
        try:
            return super().__call__(data, *args, **kwargs)
        except Exception as error:
            if (cause := _own_error(error)) is None:
                raise
            raise type(cause)(f"case {case_name(data)!r}: {cause}") from error

    @override
    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> Self:
        """As Compose's, to the same streams; where every transform has one already, these are seeded again.

        Making a stream takes 90 us, seeding it 1.5 us: with twelve of them it was a fifth of a patch's time.
        """
        if seed is None or any("R" not in vars(part) for part in self._random_parts()):
            super().set_random_state(seed, state)
            return self
        self.R.seed(seed % MAX_SEED)
        for transform in self.transforms:
            if isinstance(transform, Randomizable):
                own = int(self.R.randint(MAX_SEED, dtype="uint32"))
                for part in _with_parts(transform):
                    part.R.seed(own)
        return self

    def _random_parts(self) -> list[Randomizable]:
        """This chain, its random transforms, and the array transforms inside these."""
        transforms = [t for t in self.transforms if isinstance(t, Randomizable)]
        return [self, *(part for transform in transforms for part in _with_parts(transform))]


def _with_parts(transform: Randomizable) -> list[Randomizable]:
    """A random transform and those that it is made of, which MONAI gives the same seed."""
    parts = [part for part in vars(transform).values() if isinstance(part, Randomizable)]
    return [transform, *(deeper for part in parts for deeper in _with_parts(part))]


def _own_error(error: BaseException | None) -> MonaisegError | None:
    while error is not None and not isinstance(error, MonaisegError):
        error = error.__cause__
    return error


# ---------------------------------------------------------------- from the files to the network grid


def case_item(case: Case) -> Item:
    """A case as the load chain takes it."""
    label = {} if case.label is None else {"label": str(case.label)}
    return {"image": [str(path) for path in case.images], **label, "case_id": case.id}


def case_name(item: Mapping[str, Any]) -> str:
    """The case's id or, in an item that names none, its first image file."""
    image = item["image"]
    return str(item.get("case_id") or volume_stem(image if isinstance(image, str) else image[0]))


def load_chain(settings: Settings, table: LabelTable | None = None) -> list[Transform]:
    """From files to the network grid: image and, with a label table, label map as class indices.

    Both stay MetaTensors, which know their affine and the way back.
    """
    dataset = settings.dataset
    count = 1 if table is None else 2
    keys = ("image", "label")[:count]
    chain: list[Transform] = [ReadCased(dataset.num_channels, with_label=table is not None)]
    if table is not None:
        every = -1 in dataset.seg.interested_label_list
        chain += [ClassIndicesd(table, "refuse" if every else "background")]
    chain += [
        Orientationd(keys, axcodes="RAS", labels=None),
        # Before resampling, as nnU-Net does: interpolation moves the statistics of small regions.
        NormaliseChannelsd(dataset.intensity),
    ]
    if settings.spacing_mm is not None:
        modes = ("bilinear", "nearest")[:count]
        chain += [Spacingd(keys, pixdim=settings.spacing_mm, mode=modes)]
    if settings.image_shape is not None:
        shape = padded_shape(settings.image_shape, MULTIPLE)
        # torch's "nearest" takes the voxel half a voxel too low; "nearest-exact" takes the nearest.
        modes, smoothed = ("trilinear", "nearest-exact")[:count], (True, False)[:count]
        chain += [Resized(keys, spatial_size=shape, mode=modes, anti_aliasing=smoothed)]
    padding = settings.patch_shape, dataset.seg.partition.padding_mode
    chain += [Padd("image", PadUp(*padding, with_floor=True))]
    if table is not None:
        chain += [
            Padd("label", PadUp(*padding, with_floor=False)),
            CastToTyped("label", dtype_numpy_to_torch(index_dtype(table.num_classes))),
        ]
    return chain


def cached_chain(settings: Settings, table: LabelTable, *, for_training: bool) -> CaseChain:
    """The load chain, and what of a case waits in the cache, as plain tensors.

    The item has `image` float32, `label` uint8 or int16, `affine` (4, 4) of the network grid and `floor` (C,); for
    training also the voxels that patches may be centred on, see `FindCentresd`.
    """
    chain: list[Transform] = [*load_chain(settings, table), AsPlainTensors()]
    method = settings.dataset.seg.sampling.method
    if for_training and method != "uniform":
        num_groups = table.num_classes if method == "balanced" else 2
        chain += [FindCentresd(num_groups, settings.dataset.seg.sampling.centres_per_class)]
    cached = CaseChain(chain)
    cached.digest = chain_digest(settings, table, for_training=for_training)
    return cached


def inference_chain(settings: Settings) -> CaseChain:
    """The load chain for images alone; `to_file_grid` leads back through it."""
    return CaseChain(load_chain(settings))


def to_file_grid(class_map: torch.Tensor, item: Mapping[str, Any], chain: Compose) -> NDArray[Any]:
    """A class map (X, Y, Z) on the network grid as class indices (X, Y, Z) on the grid of the image's file.

    Args:
        class_map: integers, as the network's argmax gives them for the item's image.
        item: what `chain` made of the case.
        chain: the inference chain, which is inverted here, step by step and by nearest neighbour.
    """
    # Invertd would take torch's "nearest" for the way back through Resize as well: half a voxel too low.
    steps = [
        convert_applied_interp_mode(
            step, mode="nearest-exact" if step["class"] == "Resize" else "nearest"
        )
        for step in item["image"].applied_operations
    ]
    there = MetaTensor(class_map[None], affine=item["image"].affine, applied_operations=steps)
    home = chain.inverse({"image": there})["image"].as_tensor()[0]
    return np.asarray(home.to(class_map.dtype).cpu())


class ToFileGridd(Transform):
    """`pred`, a class map (1, X, Y, Z) on the network grid, to the grid of the image's file.

    Args:
        chain: the inference chain that the image came by.
    """

    def __init__(self, chain: Compose) -> None:
        self.chain = chain

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        classes = to_file_grid(torch.as_tensor(data["pred"])[0], data, self.chain)
        return {**data, "pred": torch.from_numpy(classes)[None]}


class LabelValuesd(Transform):
    """`pred`, class indices, to the label values of the files."""

    def __init__(self, table: LabelTable) -> None:
        self.table = table

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        values = self.table.label_values(data["pred"].numpy())
        return {**data, "pred": torch.from_numpy(values)}


class ReadReferenced(Transform):
    """Adds `label`, the class indices (1, X, Y, Z) of the file `reference`, and the `voxel_volume_mm3` of its grid."""

    def __init__(self, table: LabelTable) -> None:
        self.table = table

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        values, header = read_label_map(data["reference"])
        if clash := grid_clash(header, data["image"].meta["filename_or_obj"]):
            raise DataError(clash)
        classes = self.table.class_indices(values, others="background")
        volume = header.grid.voxel_volume_mm3
        return {**data, "label": torch.from_numpy(classes)[None], "voxel_volume_mm3": volume}


def target_shape(grid: Grid, settings: Settings) -> Shape:
    """Shape on the network grid, along X, Y, Z, of an image that lies on `grid` in its file."""
    return padded_up(_sampled_shape(grid, settings), settings.patch_shape)


def sampled_spacing(grid: Grid, settings: Settings) -> Spacing:
    """Voxel size in mm on the network grid, along X, Y, Z, of an image that lies on `grid` in its file."""
    shape, spacing = grid.along_ras
    if settings.image_shape is None:
        return settings.spacing_mm or spacing
    sampled = _sampled_shape(grid, settings)
    x, y, z = (n * size / m for n, size, m in zip(shape, spacing, sampled, strict=True))
    return x, y, z


def _sampled_shape(grid: Grid, settings: Settings) -> Shape:
    """Shape of an image after resampling and resizing, before it is padded."""
    if settings.image_shape is not None:
        return padded_shape(settings.image_shape, MULTIPLE)
    return resampled_shape(*grid.along_ras, settings.spacing_mm)


def resampled_shape(shape: Shape, spacing: Spacing, wanted: Spacing | None) -> Shape:
    """Shape of an image at another voxel size; None keeps its own.

    >>> resampled_shape((11, 11, 11), (1.0, 1.0, 2.0), (1.0, 2.0, 1.0))
    (11, 6, 21)
    """
    if wanted is None:
        return shape
    x, y, z = (
        round((n - 1) * have / want) + 1
        for n, have, want in zip(shape, spacing, wanted, strict=True)
    )
    return x, y, z


def resize_note(settings: Settings) -> str | None:
    """What is done to a size in `img_after_resize` that is not one of multiples of 16; None where nothing is."""
    given = settings.dataset.img_after_resize
    if settings.image_shape is None or given == (rounded := padded_shape(given, MULTIPLE)):
        return None
    return (
        f"dataset.img_after_resize: {list(given)} is rounded up to {list(rounded)}, multiples of "
        f"{MULTIPLE[0]}; images are resampled to that"
    )


def chain_digest(settings: Settings, table: LabelTable, *, for_training: bool) -> str:
    """SHA-256 of everything besides the files that decides what `cached_chain` makes of them."""
    sources = [
        Path(__file__).with_name(f"{name}.py") for name in ("transforms", "volumes", "labels")
    ]
    meaning = [
        settings.dataset.model_dump(include={"num_channels", "intensity"}),
        settings.image_shape,
        settings.spacing_mm,
        settings.patch_shape,
        settings.dataset.seg.partition.padding_mode,
        settings.dataset.seg.interested_label_list,
        settings.dataset.seg.sampling.model_dump(include={"method", "centres_per_class"})
        if for_training
        else None,
        table.digest(),
        [version(package) for package in ("monai", "torch", "numpy")],
        [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources],
    ]
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()


class ReadCased(Transform):
    """Image (C, X, Y, Z) float32 and, where wanted, label map (1, X, Y, Z), through the gate of `volumes`.

    Not MONAI's `LoadImaged`: where the reader that it is given refuses a file, it tries its others, and so would go
    round the gate.

    Args:
        num_channels: channels that an image must have; one a file, or those of 4-D files.
        with_label: whether the label map is read.
    """

    def __init__(self, num_channels: int, *, with_label: bool) -> None:
        self.num_channels, self.with_label = num_channels, with_label

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        paths = [data["image"]] if isinstance(data["image"], str) else list(data["image"])
        image, grid = self._image(paths)
        meta = {"filename_or_obj": paths[0]}
        tensor = MetaTensor(image, affine=torch.from_numpy(grid.array), meta=meta)
        item = {**data, "image": tensor, "case_id": case_name(data)}
        if self.with_label:
            values, header = read_label_map(data["label"])
            _check_grid(grid, header.grid, data["label"])
            item["label"] = MetaTensor(torch.from_numpy(values[None]), meta=item["image"].meta)
        return item

    def _image(self, paths: Sequence[str]) -> tuple[torch.Tensor, Grid]:
        channels: list[NDArray[np.float32]] = []
        grids: list[Grid] = []
        for path in paths:
            values, header = read_volume(path)
            grids.append(header.grid)
            _check_grid(grids[0], header.grid, path)
            planes = values[None] if values.ndim == 3 else np.moveaxis(values, -1, 0)
            channels += [plane.astype(np.float32) for plane in planes]  # small integers overflow
        if len(channels) != self.num_channels:
            raise DataError(
                f"{', '.join(paths)}: {len(channels)} channels, but dataset.num_channels is "
                f"{self.num_channels}; give one file a channel, or a 4-D file, in the order of training"
            )
        return torch.from_numpy(np.stack(channels)), grids[0]


def _check_grid(first: Grid, grid: Grid, path: str) -> None:
    if (words := first.difference(grid)) is not None:
        raise DataError(
            f"{path}: lies on another grid than the case's first image: {words}; resample one onto the other"
        )


class ClassIndicesd(Transform):
    """Label values to class indices, by the label table."""

    def __init__(self, table: LabelTable, others: Literal["refuse", "background"]) -> None:
        self.table, self.others = table, others

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        label = data["label"]
        classes = self.table.class_indices(label.as_tensor().numpy(), others=self.others)
        return {**data, "label": MetaTensor(torch.from_numpy(classes), meta=label.meta)}


class NormaliseChannelsd(Transform):
    """Intensities to one scale, each channel by itself."""

    def __init__(self, settings: IntensitySettings) -> None:
        self.settings = settings

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"]
        channels = image.as_tensor().numpy()
        scaled = np.stack([normalised(channel, self.settings) for channel in channels])
        return {**data, "image": convert_to_dst_type(scaled, image)[0]}


def normalised(values: NDArray[Any], settings: IntensitySettings) -> NDArray[np.float32]:
    """One channel (X, Y, Z) on the scale of `settings`; a constant one becomes constant, 0 or the lower end."""
    region = values[values > 0] if settings.region == "foreground" else values
    region = region if region.size else values
    if settings.clip_range is not None:
        values, region = (np.clip(array, *settings.clip_range) for array in (values, region))
    centre, scale, offset = _scale(region, settings)
    scaled = np.empty(values.shape, np.float32)
    for plane, source in zip(scaled, values, strict=True):  # in float64, without a second volume
        plane[...] = (source.astype(np.float64) - centre) / scale + offset
    return scaled


def _scale(region: NDArray[Any], settings: IntensitySettings) -> tuple[float, float, float]:
    """Centre, scale and offset: an intensity becomes (intensity - centre) / scale + offset.

    By numpy, whose sums do not depend on the number of threads.
    """
    if settings.method == "none":
        return 0.0, 1.0, 0.0
    least, most = float(region.min()), float(region.max())
    if settings.method == "zscore":
        spread = float(region.std(dtype=np.float64)) if least < most else 1.0
        return float(region.mean(dtype=np.float64)), spread, 0.0
    top, length = most, 2.0
    if settings.method == "percentile":
        percentile = float(np.percentile(region, settings.percentile))
        if percentile > least:  # else nearly all is background: the greatest serves
            top, length = percentile, 1.9
    return least, (top - least) / length if least < most else 1.0, -1.0


class PadUp(Pad):
    """Pads to multiples of 16 and at least the patch, alike on both sides.

    Image and label map are continued alike: tissue that goes on in the one is not background in the other.

    Args:
        patch_shape: voxels along X, Y, Z.
        mode: one of `_CONTINUATIONS`, or "constant".
        with_floor: under "constant" with the least of each channel, else with 0, the background. After `zscore` 0 is the
            mean of an image, and a grey slab beside the head looks like tissue.
    """

    def __init__(self, patch_shape: Shape, mode: str, *, with_floor: bool) -> None:
        super().__init__()
        self.patch_shape, self.with_floor = patch_shape, with_floor
        self.continuation = _CONTINUATIONS.get(mode)

    @override
    def compute_pad_width(self, spatial_shape: Sequence[int]) -> Any:
        x, y, z = spatial_shape
        target = padded_up((x, y, z), self.patch_shape)
        added = [wanted - size for wanted, size in zip(target, spatial_shape, strict=True)]
        return ((0, 0), *((width // 2, width - width // 2) for width in added))

    @override
    def __call__(self, img: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # as Pad's own
        padded: Any = super().__call__(img, *args, **kwargs)  # keeps the books: affine, way back
        widths = self.compute_pad_width(img.shape[1:])[1:]
        channels, padded_channels = img.as_tensor().numpy(), padded.as_tensor().numpy()
        for channel, whole in zip(channels, padded_channels, strict=True):
            if self.continuation is None:
                around = channel.min() if self.with_floor else 0
                whole[...] = np.pad(channel, widths, constant_values=around)
            else:
                whole[...] = np.pad(channel, widths, mode=self.continuation)
        return padded


_CONTINUATIONS: dict[str, Literal["reflect", "edge", "wrap"]] = {
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}
"""numpy's names for the settings' padding modes; "constant" is not one."""


def padded_up(shape: Shape, patch_shape: Shape) -> Shape:
    """Shape that an image on the network grid is padded to: multiples of 16, and at least the patch."""
    x, y, z = map(max, padded_shape(shape, MULTIPLE), patch_shape)
    return x, y, z


class AsPlainTensors(Transform):
    """Plain tensors for MetaTensors, which cost more than a cut; affine and floor beside them."""

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"].as_tensor().contiguous()
        return {
            "image": image,
            "label": data["label"].as_tensor().contiguous(),
            "affine": torch.as_tensor(data["image"].affine, dtype=torch.float64).clone(),
            "floor": image.amin(dim=(1, 2, 3)),
            "case_id": data["case_id"],
        }


class FindCentresd(Transform):
    """Adds the voxels that patches may be centred on, group after group.

    A *group* is a class, or with two groups background and foreground. `centres` are indices into the flat volume,
    int32, at most `MAX_CENTRES` a group, evenly spaced; `centre_ends` (groups,) says where each group ends, and
    `group_voxels` (groups,) how many voxels each has in the volume.

    Not `ClassesToIndicesd`: for 57 classes at 192 x 224 x 192 voxels it takes 0.7 s, this 0.1 s.
    """

    def __init__(self, num_groups: int, most: int = -1) -> None:
        self.num_groups = num_groups
        self.most = MAX_CENTRES if most == -1 else min(most, MAX_CENTRES)

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        label = data["label"].numpy().ravel()
        groups = np.minimum(label, self.num_groups - 1)
        by_group = np.argsort(groups, kind="stable").astype(np.int32)  # a radix sort
        counts = np.bincount(groups, minlength=self.num_groups)
        chosen = [
            voxels[(2 * np.arange(self.most) + 1) * voxels.size // (2 * self.most)]
            if voxels.size > self.most
            else voxels
            for voxels in np.split(by_group, np.cumsum(counts)[:-1])
        ]
        ends = np.cumsum([voxels.size for voxels in chosen])
        return {
            **data,
            "centres": torch.from_numpy(np.concatenate(chosen)),
            "centre_ends": torch.from_numpy(ends),
            "group_voxels": torch.from_numpy(counts),
        }


# ---------------------------------------------------------------- training


def training_chain(settings: Settings, table: LabelTable) -> list[Transform]:
    """The random part: a patch of a cached item, turned, zoomed, mirrored and changed in its intensities.

    Anatomy first, then what a scanner does to it: coil field, contrast, blur, noise. Per patch, averaged over the
    default probabilities, on one core: 4 ms for 40 x 56 x 40 voxels, 23 ms for 96 x 96 x 96, seeding included.

    Raises:
        SettingsError: patches are mirrored left to right, and a label with a side has no partner.
    """
    seg = settings.dataset.seg
    weights = {
        "pos_neg": (seg.sampling.neg, seg.sampling.pos),
        "balanced": (1.0,) * table.num_classes,
        "uniform": (),
    }[seg.sampling.method]
    shape = None if seg.use_whole_img_as_input else settings.patch_shape
    change = seg.augmentation
    if not change.enabled:
        still = RotationSettings(probability=0.0), ScalingSettings(probability=0.0)
        return [RandPatchd(shape, weights, *still, seg.sampling)]
    chain: list[Transform] = [
        RandPatchd(shape, weights, change.rotation, change.scaling, seg.sampling),
        *extra_transforms(settings),
    ]
    mirrors = (change.flip.left_right, change.flip.front_back, change.flip.up_down)
    if any(mirrors):
        chain += [RandMirrord(mirrors, table.partner_classes if mirrors[0] else None)]
    if change.bias_field.probability:
        chain += [RandCoilFieldd(change.bias_field.probability, change.bias_field.strength)]
    if change.contrast.probability:
        low, high = change.contrast.factor
        factors = (low - 1, high - 1)
        chain += [
            RandScaleIntensityFixedMeand("image", prob=change.contrast.probability, factors=factors)
        ]
    if change.gamma.probability:
        chain += [
            RandAdjustContrastd("image", prob=change.gamma.probability, gamma=change.gamma.gamma)
        ]
    if change.smoothing.probability:
        sigma = change.smoothing.sigma
        chain += [
            RandGaussianSmoothd("image", sigma, sigma, sigma, prob=change.smoothing.probability)
        ]
    if change.noise.probability:
        chain += [RandGaussianNoised("image", prob=change.noise.probability, std=change.noise.std)]
    return chain


class RandPatchd(Randomizable, Transform):
    """One patch of a cached item, cut along axes that are turned and zoomed at random about its centre.

    Instead of `RandCropByPosNegLabeld` (or `RandCropByLabelClassesd`) and `RandAffined`, for two reasons. A patch
    that is cut first and turned then has nothing to fill its corners with; here they come from the volume. And it is
    quicker: at 96 x 96 x 96 voxels 31 ms against 144, at 40 x 56 x 40 3.7 against 6. A patch that is not turned costs
    a copy. Turning is done in millimetres, so that voxels of 1 x 1 x 3 mm do not shear.

    Args:
        shape: patch in voxels; None takes the whole volume.
        weights: how often a patch is centred on each group of the item's centres; empty puts it anywhere.
        rotation: probability, and the greatest angle about each axis.
        scaling: probability, and the range of the zoom.
        sampling: the least that a patch holds of the group it is centred on.
    """

    def __init__(
        self,
        shape: Shape | None,
        weights: Sequence[float],
        rotation: RotationSettings,
        scaling: ScalingSettings,
        sampling: SamplingSettings | None = None,
    ) -> None:
        self.shape = shape
        self.weights = np.array(weights)
        self.rotation = rotation
        self.scaling = scaling
        self.sampling = sampling or SamplingSettings()

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image, label = data["image"], data["label"]
        shape = np.array(self.shape or image.shape[1:])
        start = self._start(data, shape)
        turn = self._turn(data["affine"])
        if turn is None:
            image = _window(image, start, start + shape, data["floor"]).clone()
            label = _window(label, start, start + shape, [0]).clone()
        else:
            centre = start + (shape - 1) / 2
            image, label = turned_patch(image, label, centre, shape, turn, data["floor"])
        kept = {key: data[key] for key in ("floor", "affine", "case_id")}
        return {"image": image, "label": label, **kept}

    def _start(self, data: Mapping[str, Any], shape: NDArray[Any]) -> NDArray[Any]:
        """First voxel of the patch, which lies within the volume; drawn again while the patch holds too little."""
        volume = np.array(data["image"].shape[1:])
        if not self.weights.size:
            return np.asarray(self.R.randint(0, volume - shape + 1))
        ends = data["centre_ends"].numpy()
        counts = np.diff(ends, prepend=0)
        shares = self.weights * (counts > 0)
        shares = shares if shares.any() else counts > 0  # none of the wanted groups is in this case
        group = self.R.choice(counts.size, p=shares / shares.sum())
        least = self._least(data, shape, group)
        fullest, most = volume, -1
        for _ in range(MAX_DRAWS):
            pick = self.R.randint(ends[group] - counts[group], ends[group])
            centre = np.array(np.unravel_index(int(data["centres"][pick]), volume))
            start = np.asarray(np.clip(centre - shape // 2, 0, volume - shape))
            if least == 0:
                return start
            label = _window(data["label"], start, start + shape, [0])
            groups = label.clamp(max=counts.size - 1)  # with two, all of the foreground is one
            held = int((groups == group).sum())
            if held >= least:
                return start
            if held > most:
                fullest, most = start, held
        return fullest

    def _least(self, data: Mapping[str, Any], shape: NDArray[Any], group: int) -> float:
        """Voxels of its group that a patch must hold."""
        shares = self.sampling.least_patch_share
        if group < len(shares):
            return shares[group] * float(shape.prod())
        return self.sampling.least_class_share * float(data["group_voxels"][group])

    def _turn(self, affine: torch.Tensor) -> NDArray[np.float64] | None:
        """A random `turn`, see `turned_patch`; None for none at all."""
        turns, zooms = self.R.rand(2) < (self.rotation.probability, self.scaling.probability)
        angles = self.R.uniform(-self.rotation.degrees, self.rotation.degrees, size=3)
        factor = self.R.uniform(*self.scaling.factor)
        if not (turns or zooms):
            return None
        x, y, z = np.linalg.norm(affine.numpy()[:3, :3], axis=0)
        return turn_matrix(angles * turns, factor if zooms else 1.0, (x, y, z))


def turned_patch(
    image: torch.Tensor,
    label: torch.Tensor,
    centre: NDArray[Any],
    shape: NDArray[Any],
    turn: NDArray[np.float64],
    floor: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch of image (C, X, Y, Z), linearly interpolated, and label map (1, X, Y, Z), by nearest neighbour.

    Args:
        image: the volume.
        label: its class indices.
        centre: of the patch, in voxels of the volume.
        shape: of the patch.
        turn: matrix (3, 3) from an offset to the patch's centre to the offset in the volume.
        floor: (C,) intensities beyond the volume; the label there is background.
    """
    half = (shape - 1) / 2
    reach = np.abs(turn) @ half
    start = np.floor(centre - reach).astype(int) - 1  # one voxel more: coordinates are rounded
    stop = np.ceil(centre + reach).astype(int) + 2
    image, label = _window(image, start, stop, floor), _window(label, start, stop, [0])
    # A coordinate is the sum of what the patch's three axes add to it: no grid of homogeneous coordinates is built.
    added = [
        torch.from_numpy(np.outer(np.arange(size) - middle, column).astype(np.float32))
        for size, middle, column in zip(shape, half, turn.T, strict=True)
    ]  # per axis of the patch (size, 3)
    added[0] += torch.from_numpy((centre - start).astype(np.float32))
    return _linear(image, added), _nearest(label, added)


def _linear(image: torch.Tensor, added: Sequence[torch.Tensor]) -> torch.Tensor:
    """`grid_sample` wants coordinates from -1 to 1, the last axis first."""
    reach = 2 / (torch.tensor(image.shape[1:]) - 1)
    along_x, along_y, along_z = ((part * reach).flip(-1) for part in added)
    grid = (along_x - 1)[:, None, None] + (along_y[:, None] + along_z)  # (X, Y, Z, 3)
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=True)[0]


def _nearest(label: torch.Tensor, added: Sequence[torch.Tensor]) -> torch.Tensor:
    """By whole-number indices: `grid_sample` knows no uint8, and takes 22 ms for 2.5 at 96 x 96 x 96 voxels."""
    along_x, along_y, along_z = added
    x, y, z = (
        (along_x[:, None, None, axis] + (along_y[:, None, axis] + along_z[:, axis])).round_().int()
        for axis in range(3)
    )
    _, _, size_y, size_z = label.shape
    flat = (x * size_y + y) * size_z + z
    return label.reshape(-1).index_select(0, flat.view(-1)).view(1, *flat.shape)


def _window(
    volume: torch.Tensor, start: NDArray[Any], stop: NDArray[Any], outside: Any
) -> torch.Tensor:
    """The voxels from `start` to before `stop` of a volume (C, X, Y, Z): a view, or a copy with `outside` beyond it."""
    sizes = np.array(volume.shape[1:])
    x, y, z = (
        slice(int(low), int(high))
        for low, high in zip(np.clip(start, 0, sizes), np.clip(stop, 0, sizes), strict=True)
    )
    inside = volume[:, x, y, z]
    before, after = np.maximum(-start, 0), np.maximum(stop - sizes, 0)
    widths = [int(width) for pair in zip(before[::-1], after[::-1], strict=True) for width in pair]
    if not any(widths):
        return inside
    channels = zip(inside, outside, strict=True)
    return torch.stack([F.pad(channel, widths, value=float(fill)) for channel, fill in channels])


class RandMirrord(Randomizable, Transform):
    """Mirrors image and label map; left to right, labels become their partners.

    Args:
        probabilities: along X, Y, Z.
        partner_classes: for each class the class in the mirror; None where X is never mirrored.
    """

    def __init__(
        self, probabilities: tuple[float, float, float], partner_classes: Sequence[int] | None
    ) -> None:
        self.probabilities = probabilities
        self.partners = torch.tensor(partner_classes if partner_classes is not None else [])

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        mirrored = self.R.rand(3) < self.probabilities
        axes = [axis + 1 for axis in range(3) if mirrored[axis]]
        if axes:
            d["image"], d["label"] = d["image"].flip(axes), d["label"].flip(axes)
        if mirrored[0]:
            label = d["label"]
            partners = self.partners.to(label.dtype)
            d["label"] = partners.index_select(0, label.view(-1).int()).view(label.shape)
        return d


class RandCoilFieldd(Randomizable, Transform):
    """MONAI's `RandBiasField` on intensities above the floor: air stays air, whatever the normalisation made of it."""

    def __init__(self, probability: float, strength: float) -> None:
        self.field = RandBiasField(coeff_range=(-strength, strength), prob=probability)

    @override
    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> Self:
        super().set_random_state(seed, state)
        self.field.set_random_state(seed, state)
        return self

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image, floor = data["image"], data["floor"][:, None, None, None]
        self.field.randomize(image.shape[1:])
        if not self.field._do_transform:
            return dict(data)
        return {**data, "image": self.field(image - floor, randomize=False) + floor}
