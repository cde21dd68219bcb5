"""Reading settings files, including those of EasyReg."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from monaiseg.errors import DataError, MonaisegWarning, SettingsError, listed
from monaiseg.files import read_bytes
from monaiseg.settings import easyreg
from monaiseg.settings.axes import along_xyz
from monaiseg.settings.json_text import MAX_BYTES, MAX_DEPTH, is_deep, parse_json
from monaiseg.settings.messages import explain, unknown_key
from monaiseg.settings.settings import Settings

SETTINGS_NAMES = ("cur_task_setting.json", "curr_task_settings.json", "curr_task_setting.json")
"""Names of a settings file in EasyReg's folders; the one in EasyReg's code comes first."""
DATA_SETTINGS_NAMES = ("cur_data_setting.json", "data_setting.json")
"""Names of EasyReg's second settings file, beside the first, which is about the data only."""


def find_settings(path: str | Path) -> Path:
    """The settings file at `path`, or in the folder `path` under one of EasyReg's names.

    Raises:
        SettingsError: there is no settings file.
    """
    path = Path(path)
    if not path.is_dir():
        if path.exists():
            return path
        beside = [path.parent / name for name in SETTINGS_NAMES if (path.parent / name).is_file()]
        hint = f"; did you mean {beside[0]}?" if beside else "; `monaiseg settings init` writes one"
        raise SettingsError(f"{path}: there is no such settings file{hint}")
    found = [path / name for name in SETTINGS_NAMES if (path / name).is_file()]
    if not found:
        raise SettingsError(f"{path}: has no settings file; put it there as {SETTINGS_NAMES[0]}")
    return found[0]


def load_settings(path: str | Path) -> Settings:
    """Load settings from a JSON file; EasyReg's files can be used unchanged.

    If EasyReg's `data_setting.json` is beside the file, it fills in what the file itself does not say.

    Raises:
        SettingsError: the file does not exist, is not JSON, or has faults; the message lists all faults.
    """
    path = Path(path)
    try:
        raw = read_bytes(path, MAX_BYTES)
    except DataError as error:
        raise SettingsError(
            f"{error}; give the path of a settings file; `monaiseg settings init` writes one"
        ) from error
    document = parse_json(raw, str(path))
    beside = [path.with_name(name) for name in DATA_SETTINGS_NAMES if path.name != name]
    for data_path in [other for other in beside if other.is_file()][:1]:
        document = _with_data_settings(document, path, data_path)
    return settings_from_dict(document, str(path))


def _with_data_settings(document: dict[str, Any], path: Path, data_path: Path) -> dict[str, Any]:
    data_document = parse_json(read_bytes(data_path), str(data_path))
    for name, parsed in ((path, document), (data_path, data_document)):
        if is_deep(parsed):
            raise SettingsError(f"{name}: nested too deeply; settings are {MAX_DEPTH} levels deep")
    dataset = document.get("dataset")
    if isinstance(dataset, dict) and dataset.get("axis_order") == "xyz":
        raise SettingsError(
            f'{path}: dataset.axis_order: is "xyz", and the lists of {data_path} beside it are in z, y, x order; put '
            f"its contents into {path.name} in x, y, z order, and remove it"
        )
    whole, different = easyreg.with_data_settings(document, data_document)
    if different:
        warnings.warn(
            f"{data_path}: {path.name} has other values for {', '.join(different)}, which are used",
            MonaisegWarning,
            stacklevel=3,
        )
    return whole


def parse_settings(raw: bytes | str, source: str = "settings") -> Settings:
    """Parse settings from JSON text. Messages call it `source`."""
    document = parse_json(raw.encode() if isinstance(raw, str) else raw, source)
    return settings_from_dict(document, source)


def settings_from_dict(document: Mapping[str, Any], source: str = "settings") -> Settings:
    """Settings from nested dictionaries, as parsed from JSON, in our spelling or EasyReg's.

    As in a file, spatial lists are in z, y, x order unless `dataset.axis_order` is "xyz".
    """
    if is_deep(document):
        raise SettingsError(f"{source}: nested too deeply; settings are {MAX_DEPTH} levels deep")
    translation = easyreg.translate(document)
    problems = [*translation.problems, *(f"{p}: {unknown_key(p)}" for p in translation.unknown)]
    try:
        settings = Settings.model_validate_json(json.dumps(along_xyz(translation.document)))
    except ValidationError as error:
        problems += [explain(fault, translation) for fault in error.errors()]
    except (TypeError, ValueError) as error:  # json.dumps: a value that JSON does not have
        problems.append(f"{error}; settings can hold only what JSON can")
    if problems:
        lines = dict.fromkeys(f"{source}: {problem}" for problem in problems)
        raise SettingsError(listed(list(lines)))
    if translation.ignored:
        warnings.warn(
            f"{source}: keys that have no effect here:\n" + listed(translation.ignored),
            MonaisegWarning,
            stacklevel=2,
        )
    return settings


def changed(settings: Settings, changes: Mapping[str, Any], source: str = "changes") -> Settings:
    """A copy of the settings with other values at some paths; spatial lists are in x, y, z order, as in `Settings`.

    >>> changed(Settings(), {"tsk_set.optim.lr": 0.01}).tsk_set.optim.lr
    0.01

    Raises:
        SettingsError: a path is unknown or a value is not allowed; the message lists all of them under `source`.
    """
    document = settings.model_dump(mode="json")
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = document
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise SettingsError(
                    f"{source}: {path}: {name} is not a section; see docs/settings.md"
                )
        section[key] = value
    return settings_from_dict(document, source)
