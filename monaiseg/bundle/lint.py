"""Faults of a bundle, all at once and without a network: file, key, what is wrong, and the nearest name that is right.

An *id* is the way to a part of a configuration, with `::` between its names, as in `train::trainer::max_epochs`. Only
modules of monaiseg, MONAI, torch and ignite are imported to look names up; nothing of the bundle itself is run.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import copy
import importlib
import importlib.util
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.reference_resolver import ReferenceResolver
from monai.utils.enums import BundleProperty, BundlePropertyConfig

from monaiseg.bundle.build import ABOUT_FILE
from monaiseg.bundle.components import LABELS_FILE, SETTINGS_FILE, WEIGHTS_FILE, bundle_labels
from monaiseg.bundle.configuration import MIXINS, WORKFLOWS, Config, configurations
from monaiseg.bundle.metadata import CODE, metadata_faults, read_about, texts_in
from monaiseg.data import LabelTable, Spacing
from monaiseg.errors import CheckpointError, MonaisegError, nearest
from monaiseg.networks import network_of, plan_topology
from monaiseg.settings import Settings, parse_settings
from monaiseg.training import check_weights

METADATA_FILE = "configs/metadata.json"
LOGGING_FILE = "configs/logging.conf"
REQUIRED = (
    "LICENSE",
    "docs/README.md",
    "docs/data_license.txt",
    ABOUT_FILE,
    SETTINGS_FILE,
    LABELS_FILE,
    METADATA_FILE,
    LOGGING_FILE,
    *(f"configs/{name}.json" for name in (*WORKFLOWS, *MIXINS)),
)
LIBRARIES = {"monaiseg", "monai", "torch", "ignite"}
"""Packages that are imported to look names up."""
KINDS: dict[str, type] = {"max_epochs": int, "val_interval": int}
"""What belongs where a fresh bundle has an expression."""
FREE = {"imports", "initialize", "run", "finalize", "_meta_"}
"""Keys of MONAI's that any configuration may have."""
KEYWORDS = {"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"}
_NAMES = {"list": "a list", "dict": "a section", "bool": "true or false", "str": "a text"}
_NAMES |= {"int": "a whole number", "part": "a part with `_target_`"}
_ATTRIBUTES = re.compile(r"@(defaults|settings|labels)((?:\.\w+)+)")


def lint_bundle(folder: str | Path) -> list[str]:
    """Faults of the bundle in a folder, one line each; none where it is as it should be."""
    folder = Path(folder)
    if not (folder / "configs").is_dir():
        return [
            f"{folder}: is no bundle, it has no configs; write one with `monaiseg bundle build`"
        ]
    return list(dict.fromkeys(_faults(folder)))


def _faults(folder: Path) -> Iterator[str]:
    for name in REQUIRED:
        if not (folder / name).is_file():
            yield f"{name}: is missing; `monaiseg bundle build` writes it"
    found: list[str] = []
    settings = _read(folder, SETTINGS_FILE, found, _settings)
    labels = _read(folder, LABELS_FILE, found, LabelTable.read_csv)
    _read(folder, ABOUT_FILE, found, read_about)
    if settings is not None and labels is not None:
        labels = _read(folder, LABELS_FILE, found, lambda _: bundle_labels(str(folder), settings))
    metadata = _read(folder, METADATA_FILE, found, _object)
    _read(folder, LOGGING_FILE, found, _check_logging)
    documents = {
        name: _read(folder, f"configs/{name}.json", found, _object) for name in configurations()
    }
    yield from found
    if metadata is not None:
        yield from (f"{METADATA_FILE}: {fault}" for fault in _metadata(metadata, settings, labels))
    for name, document in documents.items():
        base = documents.get(MIXINS.get(name, ""), {})
        if document is not None and base is not None:
            lint = _Lint(name, document, base, settings, labels)
            yield from (f"configs/{name}.json: {fault}" for fault in lint.faults())
    yield from _network(folder, documents, settings, labels)


def _read(folder: Path, name: str, found: list[str], reader: Callable[[Path], Any]) -> Any:
    """What a file holds; None, and its faults to the list, where it cannot be read."""
    if not (folder / name).is_file():
        return None
    try:
        return reader(folder / name)
    except (MonaisegError, ValueError, configparser.Error) as error:
        for line in str(error).splitlines():
            text = line.replace(f"{folder}/", "")
            found.append(text if text.startswith(name) else f"{name}: {text}")
        return None


def _settings(path: Path) -> Settings:
    return parse_settings(path.read_bytes(), source=SETTINGS_FILE)


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, none of whose keys stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]}: stands twice in one section; keep one")
        return dict(pairs)

    document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    if not isinstance(document, dict):
        raise ValueError("holds no section in braces; write it again")  # noqa: TRY004 - of the file
    return document


def _check_logging(path: Path) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(path.read_text(encoding="utf-8"), source=LOGGING_FILE)
    for section in ("loggers", "handlers", "formatters"):
        if not parser.has_option(section, "keys"):
            raise ValueError(f"{section}: has no keys; add the section with them")


def _metadata(
    document: Config, settings: Settings | None, labels: LabelTable | None
) -> Iterator[str]:
    yield from metadata_faults(document, settings, labels)
    for text in texts_in(document):
        if CODE.search(text):
            yield f"{text[:60]!r} is code to MONAI's runner; write it without '$', '@' or '%'"


def _network(
    folder: Path,
    documents: Mapping[str, Any],
    settings: Settings | None,
    labels: LabelTable | None,
) -> Iterator[str]:
    """Whether the configurations mean one network that can be built, and weights fit it if there are any."""
    spacings = {
        name: document["spacing"]
        for name, document in documents.items()
        if document is not None and "spacing" in document
    }
    valid = {name: spacing for name, spacing in spacings.items() if _is_spacing(spacing)}
    for name in spacings.keys() - valid.keys():
        yield f"configs/{name}.json: spacing: is {spacings[name]}; give three numbers above 0, in mm"
    values = list(valid.values())
    for name, spacing in valid.items():
        if spacing != values[0]:
            yield (
                f"configs/{name}.json: spacing: is {spacing}, but {values[0]} in {next(iter(valid))}.json; use one"
            )
    if settings is None or labels is None or not values:
        return
    x, y, z = map(float, values[0])
    try:
        plan_topology(settings.tsk_set.network, settings.patch_shape, (x, y, z))
        yield from _weights(folder / "models" / WEIGHTS_FILE, settings, labels, (x, y, z))
    except MonaisegError as error:
        yield f"{SETTINGS_FILE}: {error}"


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


def _is_spacing(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(size) in (int, float) and size > 0 for size in value)
    )


class _Lint:
    """The faults of one configuration; of a mixin, those of what it changes.

    Args:
        name: of the configuration.
        document: what its file holds.
        base: the configuration that it is laid over.
        settings: of the bundle, where they can be read.
        labels: of the bundle's network, likewise.
    """

    def __init__(
        self,
        name: str,
        document: Config,
        base: Config,
        settings: Settings | None,
        labels: LabelTable | None,
    ) -> None:
        self.name, self.document = name, document
        self.whole = _laid_over(base, document)
        self.fresh = configurations()[name]
        self.objects = {"defaults": settings, "settings": settings, "labels": labels}
        self.ids = dict(_walk(self.whole))
        self.referred = {ref for value in self.ids.values() for ref in _references(value)}

    def faults(self) -> Iterator[str]:
        """One line each."""
        if self.name in WORKFLOWS:
            yield from self._properties()
        yield from self._keys(self.document, self.fresh, "")
        for way, value in _walk(self.document):
            yield from (f"{way}: {fault}" for fault in self._value(value))
            if isinstance(value, Mapping) and "_target_" in value:
                yield from self._part(way, value)

    def _properties(self) -> Iterator[str]:
        """MONAI's own demands: what its tools look for, and under which id."""
        properties = TrainProperties if self.name == "train" else InferProperties
        for name, told in properties.items():
            way = str(told[BundlePropertyConfig.ID])
            if told[BundleProperty.REQUIRED] and way not in self.ids:
                guess = self._guess(way)
                yield f"{way}: is missing, MONAI's property {name!r}{guess or '; add it'}"
            user = self.ids.get(str(told.get(BundlePropertyConfig.REF_ID)))
            if isinstance(user, str) and user[:1] != "$" and user != f"@{way}":
                yield f"{told[BundlePropertyConfig.REF_ID]}: is {user!r}; use '@{way}'"

    def _keys(self, found: Config, fresh: Config, way: str) -> Iterator[str]:
        """Keys that a fresh bundle lacks and nothing refers to, and kinds of value that do not belong there."""
        for key, value in found.items():
            here = f"{way}::{key}" if way else key
            if key in fresh:
                yield from self._kind(here, value, fresh[key])
                plain = isinstance(fresh[key], dict) and "_target_" not in fresh[key]
                if plain and isinstance(value, dict):
                    yield from self._keys(value, fresh[key], here)
            elif not (way == "" and key in FREE) and here not in self.referred and "#" not in key:
                guess = nearest(key, [name for name in fresh if name not in found])
                hint = f"did you mean {guess!r}?" if guess else "nothing refers to it; remove it"
                yield f"{here}: unknown key; {hint}"

    def _kind(self, way: str, value: Any, fresh: Any) -> Iterator[str]:
        wanted = KINDS.get(way) or type(fresh)
        kind = "part" if isinstance(fresh, dict) and "_target_" in fresh else wanted.__name__
        is_reference = isinstance(value, str) and value[:1] in {"@", "$", "%"}
        fits = {
            "part": isinstance(value, dict) and "_target_" in value,
            "int": type(value) is int and value > 0,
        }.get(kind, type(value) is wanted)
        if not fits and not is_reference and kind in _NAMES:
            yield f"{way}: is {json.dumps(value)[:60]}; {_NAMES[kind]} belongs there"

    def _value(self, value: Any) -> Iterator[str]:
        """Faults of a text that is a reference or an expression."""
        if not isinstance(value, str):
            return
        for reference in _references(value):
            if reference not in self.ids and reference.partition("::")[0] != "_meta_":
                guess = self._guess(reference) or "; there is no such part"
                yield f"'@{reference}' leads nowhere{guess}"
        for name, attributes in _ATTRIBUTES.findall(value):
            yield from self._attributes(name, attributes)
        if value[:1] == "$":
            yield from self._expression(value)

    def _attributes(self, name: str, attributes: str) -> Iterator[str]:
        item: Any = self.objects[name]
        for attribute in attributes.split(".")[1:]:
            if item is None:
                return
            if not hasattr(item, attribute):
                known = [other for other in dir(item) if other[0] != "_"]
                guess = nearest(attribute, known)
                hint = f"; did you mean {guess!r}?" if guess else ""
                yield f"'@{name}{attributes}': there is no {attribute!r}{hint}"
                return
            item = getattr(item, attribute)

    def _expression(self, text: str) -> Iterator[str]:
        code = re.sub(r"@[\w:#]*", "_reference", text[1:])
        try:
            tree = ast.parse(code.strip())
        except SyntaxError as error:
            yield f"{text!r} is not Python ({error.msg}); mend it"
            return
        imports = [value for value in self.ids.values() if str(value).startswith("$import ")]
        known = {"monai", "torch", "np", "numpy", "_reference", *dir(builtins)}
        known |= {str(value).split()[-1] for value in imports}
        bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not _is_read(n)}
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _is_read(n)}
        for name in sorted(used - known - bound):
            yield f"{text!r}: {name!r} is not known; import it, or refer to a part with '@'"

    def _part(self, way: str, part: Mapping[str, Any]) -> Iterator[str]:
        """Whether the function or class is there, and takes these arguments."""
        target = part["_target_"]
        if not isinstance(target, str) or target[:1] in {"$", "@"}:
            return
        made = _located(target)
        if isinstance(made, str):
            yield f"{way}::_target_: {made}"
        elif made is not None:
            given = {key: value for key, value in part.items() if key not in KEYWORDS}
            yield from (f"{way}{fault}" for fault in _argument_faults(target, made, given))

    def _guess(self, way: str) -> str | None:
        guess = nearest(way, self.ids)
        return f"; did you mean {guess!r}?" if guess else None


def _laid_over(base: Config, document: Config) -> Config:
    """A configuration with a mixin's keys, `#` and `::` leading inwards, over its own; as MONAI merges files."""
    whole: Any = copy.deepcopy(base)
    for key, value in document.items():
        *way, last = ReferenceResolver.split_id(key)
        place = whole
        for name in way:
            inside = isinstance(place, list) and name.isdigit() and int(name) < len(place)
            place = (
                place[int(name)]
                if inside
                else place.get(name, {})
                if isinstance(place, dict)
                else {}
            )
        if isinstance(place, dict):
            place[last] = value
    return typing.cast(Config, whole)


def _walk(value: Any, way: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside of a configuration with its id."""
    if way:
        yield way, value
    listed = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in listed.items() if isinstance(listed, Mapping) else ():
        yield from _walk(item, f"{way}::{key}" if way else str(key))


def _references(value: Any) -> list[str]:
    return list(ReferenceResolver.match_refs_pattern(value)) if isinstance(value, str) else []


def _is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)


def _located(target: str) -> Any:
    """The function or class of a dotted name; a fault in words; or None for what is not ours to import."""
    root, *rest = target.split(".")
    if not rest:
        return f"{target!r} is a short name; write it with its module"
    if root not in LIBRARIES:
        found = importlib.util.find_spec(root) is not None
        return None if found else f"{target!r}: there is no module {root!r}"
    item: Any = importlib.import_module(root)
    for place, name in enumerate(rest):
        if not hasattr(item, name):
            path = ".".join([root, *rest[: place + 1]])
            try:
                item = importlib.import_module(path)
                continue
            except ImportError:
                guess = nearest(name, _names_in(item))
                hint = f"; did you mean {guess!r}?" if guess else ""
                return f"{target!r}: {'.'.join([root, *rest[:place]])} has no {name!r}{hint}"
        item = getattr(item, name)
    return item if callable(item) else f"{target!r} cannot be called; name a function or class"


def _names_in(item: Any) -> list[str]:
    """Names in a module or class, and of the modules in a package."""
    folders = [Path(folder) for folder in getattr(item, "__path__", ())]
    return [*dir(item), *(path.stem for folder in folders for path in folder.glob("*.py"))]


def _argument_faults(target: str, made: Any, given: Config) -> Iterator[str]:
    try:
        parameters = inspect.signature(made).parameters
        hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (TypeError, ValueError, NameError):  # built in, or annotated with what is not imported
        return
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    fixed = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = [name for name, parameter in parameters.items() if parameter.kind not in fixed]
    for name, value in given.items():
        if name not in names and not open_ended:
            guess = nearest(name, [other for other in names if other not in given])
            hint = f"did you mean {guess!r}?" if guess else f"it takes {', '.join(names)}"
            yield f"::{name}: {target} has no such argument; {hint}"
        wanted = hints.get(name)
        is_reference = isinstance(value, str) and value[:1] in {"@", "$", "%"}
        if wanted in (bool, int, str) and type(value) is not wanted and not is_reference:
            yield f"::{name}: is {json.dumps(value)[:60]}; {_NAMES[wanted.__name__]} belongs there"
    for name in names:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            yield f": argument {name!r} of {target} is missing; add it"
