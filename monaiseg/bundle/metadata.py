"""The metadata of a bundle, `configs/metadata.json`: typed after MONAI's specification, filled from the settings.

https://docs.monai.io/en/stable/mb_specification.html defines the fields. MONAI checks the file against a schema that
it downloads. The check here needs no network connection, and also compares the metadata with the settings and labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from monaiseg.data import LabelTable
from monaiseg.errors import SettingsError, listed, nearest
from monaiseg.files import read_json_object
from monaiseg.settings import Settings
from monaiseg.training import versions

Version = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+(\.\d+)?([.+-]?[\w.]+)?$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Number = Annotated[float, Field(strict=False)]
_CODE = re.compile(r"^\s*[$@%]|[@%](#|::)")
"""Matches a text that MONAI's runner would execute, or replace by another part of a configuration."""
POSITIONS = ("position along x in mm", "position along y in mm", "position along z in mm")
"""Further channels of a network with an atlas, which monaiseg's sliding window adds to the image."""
BUNDLE_VERSION = "0.1.0"
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)


class Part(BaseModel):
    """A part of the metadata, with strict types and no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ImageFormat(Part):
    """Format of the input image."""

    type: Literal["image"]
    format: Text
    modality: Text
    num_channels: Annotated[int, Field(ge=1)]
    spatial_shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    dtype: Literal["float32"]
    value_range: list[Number]
    is_patch_data: bool
    channel_def: dict[str, Text]


class PredictionFormat(Part):
    """Format of the network's output: logits."""

    type: Literal["image"]
    format: Literal["segmentation"]
    num_channels: Annotated[int, Field(ge=2)]
    spatial_shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    dtype: Literal["float32"]
    value_range: list[Number]
    is_patch_data: bool
    channel_def: dict[str, Text]


class Inputs(Part):
    """Inputs by name."""

    image: ImageFormat


class Outputs(Part):
    """Outputs by name."""

    pred: PredictionFormat


class DataFormat(Part):
    """Inputs and outputs of the network."""

    inputs: Inputs
    outputs: Outputs


class Metadata(Part):
    """All metadata of a bundle, for MONAI's tools and for readers."""

    model_config = ConfigDict(populate_by_name=True)

    schema_url: Annotated[Text, Field(alias="schema")]
    version: Version
    changelog: dict[str, Text]
    monai_version: Version
    pytorch_version: Version
    numpy_version: Version
    required_packages_version: dict[str, Version]
    name: Text
    task: Text
    description: Text
    authors: Text
    copyright: Text
    data_source: Text
    data_type: Text
    image_classes: Text
    label_classes: Text
    pred_classes: Text
    eval_metrics: dict[str, Number]
    intended_use: Text
    references: list[Text]
    network_data_format: DataFormat


class About(Part):
    """Information about a bundle that settings and labels do not contain: its file `configs/about.json`."""

    name: Text = "monaiseg bundle"
    description: Text = "A residual U-Net that labels 3-D images."
    modality: Text = "not stated"
    data_source: Text = "not stated"
    references: list[Text] = []


def read_about(path: Path) -> About:
    """Read `about.json`; the defaults if there is no such file.

    Raises:
        SettingsError: the file has faults; the message names all of them.
    """
    if not path.exists():
        return About()
    document = read_json_object(path)
    try:
        return About.model_validate(document)
    except ValidationError as error:
        faults = [f"{path}: {_in_words(fault, document, About)}" for fault in error.errors()]
        raise SettingsError(listed(faults)) from error


def metadata_of(
    settings: Settings,
    labels: LabelTable,
    about: About,
    channels: Sequence[str] = (),
    eval_metrics: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The metadata of a bundle.

    Args:
        settings: settings with the patch shape and the number of channels.
        labels: label table of the network, background first.
        about: information that settings and labels do not contain.
        channels: names of the image channels, if known.
        eval_metrics: measured scores.

    Raises:
        SettingsError: names would be code for MONAI's runner; the message lists up to ten of them.
    """
    installed = versions() | {name: version_of(name) for name in ("nibabel", "pytorch-ignite")}
    count = settings.dataset.num_channels
    names = tuple(channels) or ("image",) if count == 1 else tuple(channels)
    names = names if len(names) == count else tuple(f"channel {n}" for n in range(count))
    _check_texts([*labels.names, *names, *_texts_in(about.model_dump())])
    structures = f"{labels.num_classes - 1} structures"
    document = {
        "schema": _SCHEMA,
        "version": BUNDLE_VERSION,
        "changelog": {BUNDLE_VERSION: "first version"},
        "monai_version": installed["monai"],
        "pytorch_version": installed["torch"].partition("+")[0],
        "numpy_version": installed["numpy"],
        "required_packages_version": {
            name: installed[name] for name in ("monaiseg", "nibabel", "pytorch-ignite")
        },
        "name": about.name,
        "task": f"Segmentation of {structures} in 3-D images",
        "description": about.description
        or f"Labels {structures} in 3-D images by a residual U-Net.",
        "authors": "the monaiseg contributors",
        "copyright": "Copyright (c) the monaiseg contributors; Apache-2.0",
        "data_source": about.data_source,
        "data_type": "nifti",
        "image_classes": ", ".join(names) if count > 1 else f"one channel, {names[0]}",
        "label_classes": f"label values of {structures}, and 0 for the background; see labels.csv",
        "pred_classes": f"{labels.num_classes} channels of logits, the background first; see channel_def",
        "eval_metrics": dict(eval_metrics or {}),
        "intended_use": "Research. Not a medical device: do not base decisions about patients on its output.",
        "references": list(about.references),
        "network_data_format": _data_format(settings, labels, about.modality, names),
    }
    return Metadata.model_validate(document).model_dump(by_alias=True)


def _data_format(
    settings: Settings, labels: LabelTable, modality: str, channels: Sequence[str]
) -> dict[str, Any]:
    """Formats of the network's input and output."""
    shape = list(settings.patch_shape)
    common = {"type": "image", "spatial_shape": shape, "dtype": "float32", "is_patch_data": True}
    image = {
        **common,
        "format": "magnitude",
        "modality": modality,
        "num_channels": settings.network_channels,
        "value_range": value_range(settings),
        "channel_def": {
            str(index): name
            for index, name in enumerate(
                [*channels, *POSITIONS[: settings.network_channels - len(channels)]]
            )
        },
    }
    prediction = {
        **common,
        "format": "segmentation",
        "num_channels": labels.num_classes,
        "value_range": [],
        "channel_def": {str(index): name for index, name in enumerate(labels.names)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": prediction}}


def value_range(settings: Settings) -> list[float]:
    """Lower and upper bound of the network's input; empty if there is none."""
    return [-1.0, 1.0] if settings.dataset.intensity.method == "minmax" else []


def _check_texts(texts: Sequence[Any]) -> None:
    """Raise SettingsError if MONAI's runner would execute a text, or replace it by another part of a configuration."""
    if hostile := [text for text in texts if isinstance(text, str) and _CODE.search(text)]:
        shown = ", ".join(repr(text[:60]) for text in hostile[:10])
        raise SettingsError(
            f"{shown}: cannot be used in a bundle, where '$' begins code, and '@' and '%' references; use another name"
        )


def metadata_faults(
    document: Mapping[str, Any], settings: Settings | None, labels: LabelTable | None
) -> Iterator[str]:
    """Faults of the metadata, as lines of the form `key: what is wrong`."""
    try:
        Metadata.model_validate(document)
    except ValidationError as error:
        yield from (_in_words(fault, document, Metadata) for fault in error.errors())
    versions_told = document.get("changelog")
    if isinstance(versions_told, Mapping) and document.get("version") not in versions_told:
        yield f"changelog: has no entry for version {document.get('version')}; add it"
    for text in filter(_CODE.search, _texts_in(document)):
        yield f"{text[:60]!r} would be run as code by MONAI; write it without '$', '@' or '%'"
    formats = document.get("network_data_format")
    if settings is not None and labels is not None and isinstance(formats, Mapping):
        yield from _disagreements(formats, settings, labels)


def _disagreements(
    formats: Mapping[str, Any], settings: Settings, labels: LabelTable
) -> Iterator[str]:
    """Faults where the metadata contradict the settings or the labels."""
    expected: dict[str, Any] = {
        "inputs.image.num_channels": settings.network_channels,
        "inputs.image.spatial_shape": list(settings.patch_shape),
        "outputs.pred.num_channels": labels.num_classes,
        "outputs.pred.spatial_shape": list(settings.patch_shape),
    }
    for path, wanted in expected.items():
        found = _at(formats, path)
        if found is not None and found != wanted:
            yield f"network_data_format.{path}: is {found}, but the network has {wanted}; use that"
    names = _at(formats, "outputs.pred.channel_def")
    if isinstance(names, Mapping):
        wanted_names = {str(index): name for index, name in enumerate(labels.names)}
        for index in dict.fromkeys([*wanted_names, *names]):
            if names.get(index) != wanted_names.get(index):
                yield (
                    f"network_data_format.outputs.pred.channel_def: class {index} is {names.get(index)!r}, but "
                    f"{wanted_names.get(index)!r} in labels.csv; use that"
                )
    channels = _at(formats, "inputs.image.channel_def")
    count = settings.network_channels
    if isinstance(channels, Mapping) and list(channels) != [str(n) for n in range(count)]:
        yield (
            f"network_data_format.inputs.image.channel_def: names the channels {', '.join(channels)}; name 0 to "
            f"{count - 1}"
        )


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _texts_in(value: Any) -> Iterator[str]:
    """Every string in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(item)


def _in_words(fault: Any, document: Mapping[str, Any], model: Any) -> str:
    """One of pydantic's errors, as `key: what is wrong`."""
    location = [str(part) for part in fault["loc"]]
    path = ".".join(location)
    if fault["type"] == "missing":
        return f"{path}: is missing; add it"
    if fault["type"] == "extra_forbidden":
        for name in location[:-1]:
            model = model.model_fields[name].annotation
        known = [field.alias or name for name, field in model.model_fields.items()]
        guess = nearest(location[-1], known)
        words = f"did you mean {guess!r}?" if guess else f"the known keys are {', '.join(known)}"
        return f"{path}: unknown key; {words}"
    value: Any = document
    for part in fault["loc"]:
        value = value[part] if isinstance(value, list | Mapping) else value
    return f"{path}: is {str(value)[:60]!r}; {fault['msg'].lower()}"
