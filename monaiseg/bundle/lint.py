"""Find all faults of a bundle before it runs. Each line names the file, the key, the problem and a likely correction.

MONAI's runner reports one fault at a time, when it reaches it. It never reports keys that nothing uses, or metadata
and spacing that contradict the network. Faults that the runner explains well, such as a value of the wrong type, are
left to it. No code of the bundle is run or imported.

An *id* is the path to a part of a configuration, with `::` between the names, such as `train::trainer::max_epochs`.
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
from monaiseg.data import LabelTable, Spacing, load_label_table
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
"""Packages that are imported to look up names."""
FREE = {"imports", "initialize", "run", "finalize", "_meta_"}
"""MONAI's own keys, which any configuration may have."""


def lint_bundle(folder: str | Path) -> list[str]:
    """Faults of the bundle in a folder, one line each; an empty list if there are none."""
    if not (Path(folder) / "configs").is_dir():
        return [
            f"{folder}: has no configs, so it is not a bundle; write one with `monaiseg bundle build`"
        ]
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
    """Content of a file. If it cannot be read: None, and its faults are added to `found`."""
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
    """The labels of the network, or all labels in the file if the settings cannot be read."""
    if settings is None:
        return load_label_table(path)
    return bundle_labels(str(path.parents[1]), settings)


# ---------------------------------------------------------------- configurations


def _configuration(name: str, documents: Mapping[str, Config | None]) -> list[str]:
    """Faults of a configuration. For one that is merged into another, only the faults that it adds."""
    names = [MIXINS[name], name] if name in MIXINS else [name]
    layers = [document for each in names if (document := documents[each]) is not None]
    if len(layers) < len(names):
        return []
    known = set(_configuration(names[0], documents)) if name in MIXINS else set()
    try:
        parser, fresh = _merged(layers), _merged([configurations()[each] for each in names])
    except (LookupError, ValueError, OSError) as error:
        return [f"{error}; correct it"]
    return [fault for fault in _part_faults(names[0], parser, fresh) if fault not in known]


def _merged(layers: list[Config]) -> ConfigParser:
    """Configurations merged by MONAI's own rules, without building any part."""
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
                hint = _did_you_mean(reference, items) or "nothing has that name"
                yield f"{way}: '@{reference}' refers to nothing; {hint}"
    for way, part in items.items():
        if ConfigComponent.is_instantiable(part) and (fault := _target_fault(part)):
            yield f"{way}: {fault}"


def _property_faults(name: str, items: Config) -> Iterator[str]:
    """Faults in the ids that MONAI's tools expect. MONAI's `check_properties` would need the data."""
    for prop, told in (TrainProperties if name == "train" else InferProperties).items():
        way, user_way = told[BundlePropertyConfig.ID], told.get(BundlePropertyConfig.REF_ID)
        if told[BundleProperty.REQUIRED] and way not in items:
            hint = _did_you_mean(str(way), items) or "add it"
            yield f"{way}: is missing (MONAI's property {prop!r}); {hint}"
        user = items.get(str(user_way))
        if isinstance(user, str) and user[:1] != "$" and user != f"@{way}":
            yield f"{user_way}: is {user!r}; use '@{way}'"


def _unknown_keys(found: Config, fresh: Config, referred: set[str], way: str = "") -> Iterator[str]:
    """Keys that a newly built bundle does not have and nothing refers to; MONAI ignores them without a message."""
    for key, value in found.items():
        here = f"{way}::{key}" if way else key
        ours = fresh.get(key)
        if isinstance(ours, dict) and isinstance(value, dict) and "_target_" not in ours:
            yield from _unknown_keys(value, ours, referred, here)
        elif key not in fresh and here not in referred and not (way == "" and key in FREE):
            hint = _did_you_mean(key, fresh.keys() - found.keys())
            yield f"{here}: unknown key; {hint or 'nothing refers to it; remove it'}"


def _target_fault(part: Config) -> str | None:
    """A fault in the function or class that a part names, or in its arguments; None if there is none."""
    target = part["_target_"]
    if not isinstance(target, str) or target.split(".")[0] not in LIBRARIES:
        return None  # a reference, a short name that MONAI looks up, or the bundle's own code
    made = pydoc.locate(target)
    if not callable(made):
        place, _, name = target.rpartition(".")
        names = [other for other in dir(pydoc.locate(place)) if not other.startswith("_")]
        hint = _did_you_mean(name, names)
        return f"there is no function or class {target!r}; {hint or 'give its full name, with the module'}"
    given = {key: it for key, it in part.items() if key not in ConfigComponent.non_arg_keys}
    try:
        signature = inspect.signature(made)
    except ValueError:  # a built-in without a signature
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
    """Faults if the configurations do not agree on one network that can be built, or the weights do not fit it."""
    spacings: list[Spacing] = []
    for name, document in documents.items():
        given = (document or {}).get("spacing", [])
        if given and not _is_spacing(given):
            yield f"configs/{name}.json: spacing: is {given}; give three numbers above 0, in mm"
        elif given and spacings and tuple(given) != spacings[0]:
            yield (
                f"configs/{name}.json: spacing: is {given}, but {list(spacings[0])} in train.json; the layout of "
                "the network depends on it, so use the same everywhere"
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
    except Exception as error:  # noqa: BLE001 - a damaged file can make torch raise anything
        yield f"{name}: cannot be read ({str(error).splitlines()[0][:80]}); pack the bundle again"
