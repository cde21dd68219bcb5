"""Faults of a bundle, all at once and before it runs: file, key, what is wrong, and the nearest name that is right.

MONAI's runner names one fault, when it comes there; it never names a key that nothing uses, or metadata and spacing
that contradict the network. What the runner says well itself, such as the type of a value, is left to it. Nothing of
the bundle is run or imported.

An *id* is the way to a part of a configuration, with `::` between its names, as in `train::trainer::max_epochs`.
"""

from __future__ import annotations

import copy
import inspect
import pydoc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_item import ConfigComponent
from monai.bundle.config_parser import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.reference_resolver import ReferenceResolver
from monai.utils.enums import BundleProperty, BundlePropertyConfig

from monaiseg.bundle.build import ABOUT_FILE
from monaiseg.bundle.components import LABELS_FILE, SETTINGS_FILE, WEIGHTS_FILE, bundle_labels
from monaiseg.bundle.configuration import MIXINS, WORKFLOWS, Config, configurations
from monaiseg.bundle.metadata import metadata_faults, read_about
from monaiseg.data import LabelTable, Spacing
from monaiseg.errors import CheckpointError, MonaisegError, nearest
from monaiseg.files import read_json_object
from monaiseg.networks import network_of, plan_topology
from monaiseg.settings import Settings, parse_settings
from monaiseg.training import check_weights

METADATA_FILE = "configs/metadata.json"
REQUIRED = (
    "LICENSE",
    "docs/README.md",
    "docs/data_license.txt",
    ABOUT_FILE,
    SETTINGS_FILE,
    LABELS_FILE,
    METADATA_FILE,
    "configs/logging.conf",
    *(f"configs/{name}.json" for name in (*WORKFLOWS, *MIXINS)),
)
LIBRARIES = {"monaiseg", "monai", "torch", "ignite"}
"""Packages that are imported to look names up."""
FREE = {"imports", "initialize", "run", "finalize", "_meta_"}
"""Keys of MONAI's that any configuration may have."""


def lint_bundle(folder: str | Path) -> list[str]:
    """Faults of the bundle in a folder, one line each; none where it is as it should be."""
    if not (Path(folder) / "configs").is_dir():
        return [f"{folder}: has no configs, so it is no bundle; write one: `monaiseg bundle build`"]
    return list(dict.fromkeys(_faults(Path(folder))))


def _faults(folder: Path) -> Iterator[str]:
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    yield from (f"{name}: is missing; `monaiseg bundle build` writes it" for name in missing)
    found: list[str] = []
    settings = _read(
        folder, SETTINGS_FILE, found, lambda path: parse_settings(path.read_bytes(), SETTINGS_FILE)
    )
    labels = _read(folder, LABELS_FILE, found, lambda path: _labels(path, settings))
    _read(folder, ABOUT_FILE, found, read_about)
    metadata = _read(folder, METADATA_FILE, found, read_json_object)
    documents = {
        name: _read(folder, f"configs/{name}.json", found, read_json_object)
        for name in configurations()
    }
    yield from found
    if metadata is not None:
        faults = metadata_faults(metadata, settings, labels)
        yield from (f"{METADATA_FILE}: {fault}" for fault in faults)
    for name in documents:
        yield from (f"configs/{name}.json: {it}" for it in _configuration(name, documents))
    yield from _network(folder, documents, settings, labels)


def _read(folder: Path, name: str, found: list[str], reader: Callable[[Path], Any]) -> Any:
    """What a file holds; None, and its faults to the list, where it cannot be read."""
    if not (folder / name).is_file():
        return None
    try:
        return reader(folder / name)
    except MonaisegError as error:
        for line in str(error).splitlines():
            text = line.replace(f"{folder}/", "")
            found.append(text if text.startswith(name) else f"{name}: {text}")
        return None


def _labels(path: Path, settings: Settings | None) -> LabelTable:
    """The labels of the network, or all of the file's where the settings cannot be read."""
    if settings is None:
        return LabelTable.read_csv(path)
    return bundle_labels(str(path.parents[1]), settings)


# ---------------------------------------------------------------- configurations


def _configuration(name: str, documents: Mapping[str, Config | None]) -> list[str]:
    """Faults of a configuration; of one that is laid over another, those that it adds."""
    names = [MIXINS[name], name] if name in MIXINS else [name]
    layers = [document for each in names if (document := documents[each]) is not None]
    if len(layers) < len(names):
        return []
    known = set(_configuration(names[0], documents)) if name in MIXINS else set()
    try:
        parser, fresh = _merged(layers), _merged([configurations()[each] for each in names])
    except (LookupError, ValueError, OSError) as error:
        return [f"{error}; mend it"]
    return [fault for fault in _part_faults(names[0], parser, fresh) if fault not in known]


def _merged(layers: list[Config]) -> ConfigParser:
    """Configurations laid over one another by MONAI's own rules; nothing is made of them."""
    parser = ConfigParser(config={}, globals=False)
    for layer in layers:
        parser.update(copy.deepcopy(layer))
    parser.parse()
    return parser


def _part_faults(name: str, parser: ConfigParser, fresh: ConfigParser) -> Iterator[str]:
    items = {way: item.get_config() for way, item in parser.ref_resolver.items.items() if way}
    yield from _property_faults(name, items)
    references = {
        way: [*ReferenceResolver.match_refs_pattern(text)]
        for way, text in items.items()
        if isinstance(text, str)
    }
    referred = {reference for found in references.values() for reference in found}
    yield from _unknown_keys(parser.get(), fresh.get(), referred)
    for way, found in references.items():
        for reference in found:
            if reference not in items and reference.partition("::")[0] != "_meta_":
                hint = _did_you_mean(reference, items) or "there is no such part"
                yield f"{way}: '@{reference}' leads nowhere; {hint}"
    for way, part in items.items():
        if ConfigComponent.is_instantiable(part) and (fault := _target_fault(part)):
            yield f"{way}: {fault}"


def _property_faults(name: str, items: Config) -> Iterator[str]:
    """What MONAI's tools look for, and under which id; its own `check_properties` needs the data."""
    for prop, told in (TrainProperties if name == "train" else InferProperties).items():
        way, user_way = told[BundlePropertyConfig.ID], told.get(BundlePropertyConfig.REF_ID)
        if told[BundleProperty.REQUIRED] and way not in items:
            hint = _did_you_mean(str(way), items) or "add it"
            yield f"{way}: is missing, MONAI's property {prop!r}; {hint}"
        user = items.get(str(user_way))
        if isinstance(user, str) and user[:1] != "$" and user != f"@{way}":
            yield f"{user_way}: is {user!r}; use '@{way}'"


def _unknown_keys(found: Config, fresh: Config, referred: set[str], way: str = "") -> Iterator[str]:
    """Keys that a fresh bundle lacks and nothing refers to: MONAI would not say that they have no effect."""
    for key, value in found.items():
        here = f"{way}::{key}" if way else key
        ours = fresh.get(key)
        if isinstance(ours, dict) and isinstance(value, dict) and "_target_" not in ours:
            yield from _unknown_keys(value, ours, referred, here)
        elif key not in fresh and here not in referred and not (way == "" and key in FREE):
            hint = _did_you_mean(key, fresh.keys() - found.keys())
            yield f"{here}: unknown key; {hint or 'nothing refers to it; remove it'}"


def _target_fault(part: Config) -> str | None:
    """What is wrong with the function or class that a part names, or with the arguments that it is given."""
    target = part["_target_"]
    if not isinstance(target, str) or target.split(".")[0] not in LIBRARIES:
        return None  # a reference, a short name for MONAI to find, or code that the bundle brings
    made = pydoc.locate(target)
    if not callable(made):
        place, _, name = target.rpartition(".")
        names = [other for other in dir(pydoc.locate(place)) if not other.startswith("_")]
        hint = _did_you_mean(name, names)
        return f"there is no function or class {target!r}; {hint or 'name one with its module'}"
    given = {key: it for key, it in part.items() if key not in ConfigComponent.non_arg_keys}
    try:
        signature = inspect.signature(made)
    except ValueError:  # built in, without one
        return None
    try:
        signature.bind_partial(**given)
        if "_mode_" not in part:
            signature.bind(**given)
    except TypeError as error:
        unknown = next((key for key in given if key not in signature.parameters), None)
        hint = _did_you_mean(unknown or "", signature.parameters.keys() - given.keys())
        return f"{target}: {error}; {hint or ('remove it' if unknown else 'add it')}"
    return None


def _did_you_mean(name: str, known: Any) -> str | None:
    guess = nearest(name, known)
    return f"did you mean {guess!r}?" if guess else None


# ---------------------------------------------------------------- network


def _network(
    folder: Path,
    documents: Mapping[str, Config | None],
    settings: Settings | None,
    labels: LabelTable | None,
) -> Iterator[str]:
    """Whether the configurations mean one network that can be built, and weights fit it if there are any."""
    spacings: list[Spacing] = []
    for name, document in documents.items():
        given = (document or {}).get("spacing", [])
        if given and not _is_spacing(given):
            yield f"configs/{name}.json: spacing: is {given}; give three numbers above 0, in mm"
        elif given and spacings and tuple(given) != spacings[0]:
            yield (
                f"configs/{name}.json: spacing: is {given}, but {list(spacings[0])} in train.json; the network's "
                "layout follows from it, so use one"
            )
        elif given:
            spacings.append((given[0], given[1], given[2]))
    if settings is None or labels is None or not spacings:
        return
    try:
        plan_topology(settings.tsk_set.network, settings.patch_shape, spacings[0])
        yield from _weights(folder / "models" / WEIGHTS_FILE, settings, labels, spacings[0])
    except MonaisegError as error:
        yield f"{SETTINGS_FILE}: {error}"


def _is_spacing(value: Any) -> bool:
    sizes = value if isinstance(value, list) else []
    return len(sizes) == 3 and all(type(mm) in (int, float) and mm > 0 for mm in sizes)


def _weights(path: Path, settings: Settings, labels: LabelTable, spacing: Spacing) -> Iterator[str]:
    if not path.is_file():
        return
    name = f"models/{path.name}"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        check_weights(weights, network_of(settings, labels, spacing).state_dict(), name)
    except CheckpointError as error:
        yield str(error)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes torch raise
        yield f"{name}: cannot be read ({str(error).splitlines()[0][:80]}); pack the bundle again"
