"""The ONNX file: the network, and a recipe in its metadata with everything else that a prediction needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monaiseg import __version__
from monaiseg.data import MULTIPLE, padded_shape, rule_records, table_xml
from monaiseg.errors import CheckpointError, SettingsError
from monaiseg.export.golden import GoldenScan, golden_scan
from monaiseg.export.network import onnx_network
from monaiseg.files import write_atomic
from monaiseg.networks import ResidualUNet
from monaiseg.portable import (
    FORMAT,
    KEY,
    MAX_BYTES,
    NO_DIGEST,
    PortableModel,
    Replay,
    digest_of,
    packed,
)
from monaiseg.prediction import Predictor

if TYPE_CHECKING:
    import onnx

ROOM_BYTES = 64 << 20
"""Kept for the recipe and the golden scan in the file."""


def export_onnx(predictor: Predictor, output: str | Path) -> Replay:
    """Write a trained network as one ONNX file, after replaying its golden scan with onnxruntime.

    Raises:
        SettingsError: the predictor is of a portable model, or its network is too large.
        CheckpointError: onnxruntime does not give the golden scan its label map; nothing is written.
        StorageError: `output` cannot be written.
    """
    if not isinstance(predictor.network, ResidualUNet):
        raise SettingsError(f"{output}: the model is a portable one already; give a checkpoint")
    _check_size(predictor.network, output)
    channels = predictor.settings.dataset.num_channels
    network = onnx_network(predictor.network, channels)
    payload = payload_of(network, recipe(predictor, golden_scan(predictor)))
    replay = PortableModel(payload).replay()
    if not replay.passed:
        raise CheckpointError(
            f"{output}: onnxruntime labels {replay.differing} of {replay.voxels} voxels of a synthetic scan differently "
            "from torch; nothing was written. Use other versions of torch and onnxruntime"
        )
    write_atomic(output, payload)
    return replay


def _check_size(network: ResidualUNet, output: str | Path) -> None:
    """Refuse a network that would need weights in a second file, which portable models do not have."""
    weights = 4 * sum(tensor.numel() for tensor in network.state_dict().values())
    most = MAX_BYTES - ROOM_BYTES
    if weights > most:
        raise SettingsError(
            f"{output}: the network has {weights / 2**30:.1f} GiB of weights, and a portable model holds at most "
            f"{most / 2**30:.1f}; use the checkpoint"
        )


def payload_of(model: onnx.ModelProto, document: dict[str, Any]) -> bytes:
    """The bytes of the file, with the SHA-256 of all others in the recipe."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps({**document, "sha256": NO_DIGEST})
    model.producer_name, model.producer_version = "monaiseg", __version__
    payload = bytes(model.SerializeToString(deterministic=True))
    digest = digest_of(payload, NO_DIGEST)
    return payload.replace(NO_DIGEST.encode(), digest.encode(), 1)


def recipe(predictor: Predictor, golden: GoldenScan) -> dict[str, Any]:
    """Everything but the network that a prediction needs, as JSON-compatible values; see `monaiseg.portable.recipe`."""
    settings, table = predictor.settings, predictor.table
    partition = settings.dataset.seg.partition
    image_shape = settings.image_shape and padded_shape(settings.image_shape, MULTIPLE)
    weight, bias = (part.float().cpu().numpy() for part in predictor.network.head_matrix())
    return {
        "format": FORMAT,
        "monaiseg": __version__,
        "sha256": NO_DIGEST,
        "channels": _channel_names(predictor),
        "intensity": settings.dataset.intensity.model_dump(mode="json"),
        "spacing": settings.spacing_mm,
        "image_shape": image_shape,
        "patch": settings.patch_shape,
        "overlap": settings.window_overlap,
        "blending": partition.blending,
        "padding_mode": partition.padding_mode,
        "flips": predictor.flips,
        "whole_image": settings.dataset.seg.use_whole_img_as_input,
        "trained_spacing": predictor.spacing,
        "labels": [record for record in table.to_records() if record["value"] != table.ignored_value],
        "table_xml": table_xml(table).decode(),
        "ignored_value": table.ignored_value,
        "partners": table.partner_classes if 0 in predictor.flips else None,
        "postprocessing": rule_records(predictor.rules),
        "head": {"weight": packed(weight.astype(np.float32)), "bias": packed(bias.astype(np.float32))},
        "prior": prior_record(predictor.network),
        "golden": {
            "image": packed(golden.image),
            "affine": packed(golden.affine),
            "label_map": packed(golden.label_map),
        },
    }  # fmt: skip


def prior_record(network: object) -> dict[str, Any] | None:
    """Template and atlas of a network as JSON-compatible values; None if it has none."""
    prior = getattr(network, "prior", None)
    if prior is None:
        return None
    parts = {"template": prior.template.tensors(), "atlas": prior.atlas.tensors()}
    return {
        part: {name: packed(tensor.numpy()) for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }


def _channel_names(predictor: Predictor) -> list[str]:
    """Names of the channels; a dataset may have none."""
    count = predictor.settings.dataset.num_channels
    return list(predictor.channels) or [f"channel {number}" for number in range(1, count + 1)]
