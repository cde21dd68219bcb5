"""A portable model: an ONNX file with its recipe, ready to label scans with onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monaiseg.portable.intensity import normalised
from monaiseg.portable.postprocessing import Components, postprocessed
from monaiseg.portable.protobuf import ModelError, metadata_of
from monaiseg.portable.recipe import KEY, Recipe, digest_of, recipe_of
from monaiseg.portable.route import Route, route_of
from monaiseg.portable.windows import class_map, every_mirror, mirrored

MAX_BYTES = 1 << 30
"""Largest model that is read."""
LEAST_AGREEMENT = 0.999
"""Share of the golden scan's voxels that must have the label that the network gave when it was exported. Processors add
in different orders, so voxels whose two best scores are nearly equal may differ."""


class Replay(NamedTuple):
    """What came of replaying the golden scan of a model."""

    voxels: int
    differing: int

    @property
    def passed(self) -> bool:
        """Whether enough voxels have the label that they should have."""
        return self.differing <= (1 - LEAST_AGREEMENT) * self.voxels


class PortableModel:
    """A network in an ONNX file with everything needed to use it.

    Args:
        source: the ONNX file, or its bytes.
        threads: threads for computation; None for one per core.
        overlap: share of the window that neighbouring windows have in common; None for that of the recipe.
        flips: whether windows are also mirrored, if the recipe says so.
        components: numbers the components of a mask, for post-processing; None for `components_of`.

    Raises:
        ModelError: the file is missing, damaged, of another kind, or not allowed.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        threads: int | None = None,
        overlap: float | None = None,
        flips: bool = True,
        components: Components | None = None,
    ) -> None:
        payload = source if isinstance(source, bytes) else _read(Path(source))
        try:
            self.recipe = checked_recipe(payload)
            self.network = _network(payload, self.recipe, threads)
        except ModelError as error:
            where = "the model" if isinstance(source, bytes) else source
            raise ModelError(f"{where}: {error}") from error
        self.overlap = self.recipe.overlap if overlap is None else (overlap,) * 3
        self.mirrors = every_mirror(self.recipe.flips if flips else ())
        self.components = components

    def label_map(
        self,
        image: NDArray[np.float32],
        affine: NDArray[np.float64],
        on_progress: Callable[[int, int], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> NDArray[Any]:
        """Label values (X, Y, Z) of a scan.

        Args:
            image: (C, X, Y, Z), in the axis order of the file and the channel order of training.
            affine: (4, 4) of the file, voxel index to mm.
            on_progress: called after each window with the number of windows done and of all windows.
            on_note: called with what a user should know of the scan.

        Raises:
            RouteError: the scan cannot be brought to the network grid.
        """
        route = self.route(image.shape[1:], affine)
        classes = self.class_map(self.prepared(image, route), on_progress, on_note)
        labels = self.recipe.label_values[route.back(classes)]
        voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
        return postprocessed(labels, self.recipe.postprocessing, voxel_mm3, self.components)

    def route(self, shape: Sequence[int], affine: NDArray[np.float64]) -> Route:
        """The way of a scan to the network grid and back."""
        recipe = self.recipe
        return route_of(
            shape,
            affine,
            spacing=recipe.spacing,
            image_shape=recipe.image_shape,
            patch=recipe.patch,
        )

    def prepared(self, image: NDArray[np.float32], route: Route) -> NDArray[np.float32]:
        """A scan (C, X, Y, Z) on the network grid."""
        # Before resampling, as in training: interpolation changes the statistics of small regions.
        scaled = [normalised(channel, self.recipe.intensity) for channel in route.turned(image)]
        return route.sampled(np.stack(scaled), self.recipe.padding_mode)

    def class_map(
        self,
        image: NDArray[np.float32],
        on_progress: Callable[[int, int], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> NDArray[Any]:
        """Class index of every voxel of an image (C, X, Y, Z) on the network grid."""
        recipe = self.recipe
        x, y, z = image.shape[1:]
        return class_map(
            mirrored(self.network, self.mirrors, placed=recipe.prior is not None),
            self._placed(image, on_note),
            recipe.head.with_mirrors(self.mirrors, recipe.partners),
            (x, y, z) if recipe.whole_image else recipe.patch,
            self.overlap,
            blending=recipe.blending,
            prior=recipe.prior,
            on_progress=on_progress,
        )

    def _placed(
        self, image: NDArray[np.float32], on_note: Callable[[str], None] | None
    ) -> NDArray[np.float32]:
        """An image (C, X, Y, Z) with the positions of its voxels as further channels, for a network with an atlas."""
        prior = self.recipe.prior
        if prior is None:
            return image
        placed = prior.template.place(image, self.recipe.trained_spacing)
        misfit = prior.template.misfit(placed)
        if on_note is not None and misfit is not None:
            on_note(misfit)
        return np.concatenate([image, placed.positions])

    def replay(self) -> Replay:
        """Label the golden scan and compare the label map with that of the export."""
        golden = self.recipe.golden
        found = self.label_map(golden.image, golden.affine)
        return Replay(found.size, int((found != golden.label_map).sum()))


def checked_recipe(payload: bytes) -> Recipe:
    """The recipe of an ONNX file, after checking the file.

    Raises:
        ModelError: the file is damaged, of another kind, or not allowed.
    """
    text = metadata_of(payload).get(KEY)
    if text is None:
        raise ModelError("was not exported by monaiseg; use a file that `monaiseg export` wrote")
    recipe = recipe_of(text)
    written = str(json.loads(text).get("sha256", ""))
    if len(written) != 64 or digest_of(payload, written) != written:
        raise ModelError("is damaged: its SHA-256 is not the one that it records; copy it again")
    return recipe


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ModelError(
                f"{path}: is not a file; give the ONNX file that `monaiseg export` wrote"
            )
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(
                f"{path}: has {path.stat().st_size} bytes, and the largest model may have {MAX_BYTES}; use the checkpoint"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _network(
    payload: bytes, recipe: Recipe, threads: int | None
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network of a checked file, from windows to features."""
    import onnxruntime  # noqa: PLC0415  slow to import

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Threads that spin for work take a core from other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(payload, options, ["CPUExecutionProvider"])
        inputs, outputs = session.get_inputs(), session.get_outputs()
    except Exception as error:  # onnxruntime's own, which are no class of its interface
        reason = " ".join(str(error).split())
        raise ModelError(
            f"cannot be run by onnxruntime {onnxruntime.__version__} ({reason}); install the latest onnxruntime, or "
            "export the model again"
        ) from error
    if [item.name for item in (*inputs, *outputs)] != ["image", "features"]:
        raise ModelError(
            "does not have the input `image` and the output `features`; export it again"
        )
    if inputs[0].shape[1] != recipe.num_inputs:
        raise ModelError(
            f"takes {inputs[0].shape[1]} channels, but describes {recipe.num_inputs}; export it again"
        )

    def features(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        (found,) = session.run(["features"], {"image": np.ascontiguousarray(windows)})
        return np.asarray(found, np.float32)

    return features
