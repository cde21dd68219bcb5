"""Translation of EasyReg's settings files to our own keys.

`easyreg_keys` lists what each key becomes; keys that need more than a new name have a function here. A document in our
own spelling passes through unchanged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monaiseg.settings.easyreg_keys import (
    GRANTED,
    IGNORED,
    KEYS,
    REFUSED,
    RENAMED,
    TRANSFORM_SECTION,
    TRANSFORMS,
    VALUES,
    Listed,
    names_at,
)


@dataclass(frozen=True)
class Translation:
    """A settings document in our spelling, and what was found while translating it."""

    document: dict[str, Any]
    ignored: tuple[str, ...] = ()
    """Known keys that have no effect here, each as `path: why`."""
    problems: tuple[str, ...] = ()
    """Faults, each as `path: what; what to do`."""
    unknown: tuple[str, ...] = ()
    """Paths in EasyReg's own sections that EasyReg does not know either."""
    spelled: Mapping[str, str] = field(default_factory=dict)
    """Our path -> the path as the user wrote it, if they differ."""


def translate(document: Mapping[str, Any]) -> Translation:
    """Translate a settings document in EasyReg's spelling, ours or a mixture to our spelling.

    >>> translate({"tsk_set": {"epoch": 3, "loss": {"type": "dice_loss"}}}).document
    {'tsk_set': {'loss': {'type': 'dice'}, 'epochs': 3}}
    """
    draft = _Draft(_copy({key: value for key, value in document.items() if key != "$schema"}))
    _lists(draft)
    _normalisation(draft)
    _class_weights(draft)
    _transforms(draft)
    _values(draft)
    for path, ours in RENAMED.items():
        if (value := draft.take(path)) is not _NOTHING:
            draft.put(ours, value, path)
    _without_effect(draft)
    _leftovers(draft)
    return Translation(
        draft.document,
        tuple(draft.ignored),
        tuple(draft.problems),
        tuple(draft.unknown),
        draft.spelled,
    )


def with_data_settings(
    document: Mapping[str, Any], data_document: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """A settings document completed from its data settings (`datapro`); the document takes precedence.

    `seg` and `task_type` of `datapro` are `dataset.seg` and `dataset.task_type` under another name. The rest is about
    registration and EasyReg's preparation.

    Returns:
        The document, and the paths that have different values in the two.

    >>> with_data_settings({"tsk_set": {}}, {"datapro": {"seg": {"patch_size": [64, 64, 64]}}})
    ({'tsk_set': {}, 'dataset': {'seg': {'patch_size': [64, 64, 64]}}}, [])
    """
    data = _copy(data_document.get("datapro", data_document))
    if not isinstance(data, dict):
        return {**_copy(document), "datapro": data}, []
    dataset = {"seg": data["seg"]} if isinstance(data.get("seg"), dict) else {}
    if "max_num_for_loading" in dataset.get("seg", {}):
        dataset["max_num_for_loading"] = dataset["seg"].pop("max_num_for_loading")
    if "task_type" in data:
        dataset["task_type"] = data["task_type"]
    whole: dict[str, Any] = _copy(document)
    different: list[str] = []
    _fill(whole, {"dataset": dataset}, "", different)
    return whole, different


def _fill(
    section: dict[str, Any], more: Mapping[str, Any], above: str, different: list[str]
) -> None:
    """Fill in the keys that a section lacks, and collect the paths whose values differ."""
    for name, value in more.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and isinstance(section.setdefault(name, {}), dict):
            _fill(section[name], value, f"{path}.", different)
        elif section.setdefault(name, value) != value:
            different.append(path)


_NOTHING = object()


@dataclass
class _Draft:
    """A document while it is being translated."""

    document: dict[str, Any]
    ignored: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    spelled: dict[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Any:
        """The value at a path, or `_NOTHING` if there is none."""
        value: Any = self.document
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                return _NOTHING
            value = value[name]
        return value

    def take(self, path: str) -> Any:
        """Remove and return the value at a path."""
        value = self.get(path)
        if value is not _NOTHING:
            parent, _, name = path.rpartition(".")
            del self.get(parent)[name]
        return value

    def put(self, path: str, value: Any, said: str) -> None:
        """Set the value at one of our paths, which the user gave as `said`; setting it twice is a problem."""
        if self.get(path) is not _NOTHING:
            other = self.spelled.get(path, path)
            self.problems.append(f"{said} and {other} set the same thing; keep one of them")
            return
        *parents, name = path.split(".")
        section: Any = self.document
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                return  # the value in place of the section is reported separately
        section[name] = value
        if said != path:
            self.spelled[path] = said

    def refuse(self, path: str, value: Any, instead: str) -> None:
        shown = json.dumps(value, default=repr, ensure_ascii=False)
        self.problems.append(
            f"{path}: {shown if len(shown) <= 60 else shown[:57] + '...'} {instead}"
        )


def _lists(draft: _Draft) -> None:
    """Replace lists and nulls that are equivalent to a plain value."""
    for path in ("tsk_set.gpu_ids", "tsk_set.model_path"):
        value = draft.get(path)
        if isinstance(value, list) and len(value) == 1:
            draft.take(path)
            draft.put(path, value[0], path)
        elif isinstance(value, list):
            draft.take(path)
            what = "GPU" if path.endswith("gpu_ids") else "checkpoint"
            draft.refuse(path, value, f"must be one {what}")
    path = "tsk_set.max_batch_num_per_epoch"
    if isinstance(value := draft.get(path), list) and None in value:
        draft.take(path)
        draft.put(path, [0 if entry is None else entry for entry in value], path)
    path = "dataset.seg.partition.overlap_size"
    if isinstance(value := draft.get(path), list) and -1 in value:
        draft.take(path)


def _normalisation(draft: _Draft) -> None:
    """Clip first, then scale; as in EasyReg, by the image's own range."""
    path = "dataset.normalize_via_range_clip"
    bounds = draft.take(path)
    clips = _is_numbers(bounds, 2) and bounds[0] < bounds[1]
    if clips:
        draft.put("dataset.intensity.clip_range", bounds, path)
    elif bounds is not _NOTHING and not (_is_numbers(bounds, 2) and bounds[0] == bounds[1]):
        draft.refuse(path, bounds, "is not a list of two numbers, low and high; [-1, -1] is off")
    path_percentage = "dataset.normalize_via_percentage_clip"
    percentage = draft.take(path_percentage)
    if percentage is not _NOTHING and not _is_numbers([percentage], 1):
        draft.refuse(path_percentage, percentage, "is not a number; -1 is off")
    elif percentage is not _NOTHING and percentage > 0:
        draft.put("dataset.intensity.method", "percentile", path_percentage)
        if percentage != 1:  # a share below 1; 1 selects EasyReg's 95th percentile
            value = percentage * 100 if percentage < 1 else percentage
            draft.put("dataset.intensity.percentile", value, path_percentage)
        return
    if clips:
        draft.put("dataset.intensity.method", "minmax", path)


def _class_weights(draft: _Draft) -> None:
    path, weights = "tsk_set.loss.ce.weighted", "tsk_set.loss.ce.class_weight"
    weighted = draft.take(path)
    if weighted is False:
        draft.take(weights)
    elif weighted is True and draft.get(weights) is _NOTHING:
        draft.refuse(path, weighted, f"needs {weights}: one weight per class, background first")
    elif weighted is not _NOTHING and weighted is not True:
        draft.refuse(path, weighted, "is not true or false")


def _transforms(draft: _Draft) -> None:
    """Switch on the transforms that `transform_seq` lists, with their parameters; our own augmentation stays on."""
    path = f"{TRANSFORM_SECTION}.transform_seq"
    names = draft.take(path)
    used = _names(draft, path, names)
    for name in used:
        _transform(draft, TRANSFORMS[name], path)
    sections = {TRANSFORMS[name].section for name in used}
    if names == []:
        _default_schedule(draft)
        sections.add("default")
    for section in [*dict.fromkeys(listed.section for listed in TRANSFORMS.values()), "default"]:
        unused = f"{TRANSFORM_SECTION}.{section}"
        if section not in sections and isinstance(draft.get(unused), dict):
            for parameter in names_at(unused):
                draft.take(f"{unused}.{parameter}")
            draft.ignored.append(f"{unused}: transform_seq does not list it")


def _names(draft: _Draft, path: str, names: Any) -> list[str]:
    """The usable names in `transform_seq`, each once."""
    if names is _NOTHING:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        draft.refuse(path, names, f"is not a list of names; the names are {', '.join(TRANSFORMS)}")
        return []
    for name in names:
        if name not in TRANSFORMS:
            draft.refuse(path, name, f"is not one of {', '.join(TRANSFORMS)}")
    known = [name for name in dict.fromkeys(names) if name in TRANSFORMS]
    crops = [name for name in known if "sampling.method" in TRANSFORMS[name].says]
    if len(crops) > 1:
        draft.refuse(path, crops, "has several crops; keep one")
        known = [name for name in known if name not in crops[1:]]
    return known


def _transform(draft: _Draft, listed: Listed, said: str) -> None:
    for parameter, ours in listed.parameters.items():
        path = f"{TRANSFORM_SECTION}.{listed.section}.{parameter}"
        if draft.get(path) is not _NOTHING:
            _parameter(draft, path, f"dataset.seg.{ours}")
    for ours, value in listed.says.items():
        path = f"dataset.seg.{ours}"
        if ours == "sampling.method" or draft.get(path) is _NOTHING:
            draft.put(path, value, said)


def _parameter(draft: _Draft, path: str, ours: str) -> None:
    name = path.rpartition(".")[2]
    if name in {"crop_bg_ratio", "adopt_bg_ratio"}:
        value = draft.take(path)
        if not _is_numbers([value], 1) or not 0 <= value <= 1:
            draft.refuse(path, value, "is not a number of at least 0 and at most 1")
            return
        draft.put(ours, value, path)
        draft.put("dataset.seg.sampling.pos", 1 - value, path)
    elif name == "gaussian_var":
        value = draft.take(path)
        if not _is_numbers([value], 1) or value <= 0:
            draft.refuse(path, value, "is not a number above 0")
            return
        draft.put(ours, [math.sqrt(value)] * 2, path)
    else:
        _values(draft, path)
        value = draft.take(path)
        draft.put(ours, [value] if name == "bg_th_ratio" else value, path)


def _default_schedule(draft: _Draft) -> None:
    """Handle an empty `transform_seq`: our crop, and a B-spline deformation if it is switched on."""
    path = f"{TRANSFORM_SECTION}.default.using_bspline_deform"
    deforms, scale = draft.take(path), draft.take(f"{TRANSFORM_SECTION}.default.deform_scale")
    if deforms not in (True, False, _NOTHING):
        draft.refuse(path, deforms, "is not true or false")
    if deforms is True:
        draft.put("dataset.seg.augmentation.deformation.probability", 0.5, path)
        if scale is not _NOTHING:
            scale_path = f"{TRANSFORM_SECTION}.default.deform_scale"
            draft.put("dataset.seg.augmentation.deformation.displacement", scale, scale_path)


def _values(draft: _Draft, *paths: str) -> None:
    for path in paths or VALUES:
        value, table = draft.get(path), VALUES.get(path, {})
        for theirs, ours in table.items():
            if type(value) is type(theirs) and value == theirs:
                draft.take(path)
                draft.put(path, ours, path)
                break
        else:
            if True in table and value is not _NOTHING:
                draft.take(path)
                draft.refuse(path, value, "is not true or false")


def _without_effect(draft: _Draft) -> None:
    for path in sorted({*GRANTED, *IGNORED}):
        value = draft.take(path)
        granted = GRANTED.get(path, _NOTHING)
        if value is _NOTHING or (type(value) is type(granted) and value == granted):
            continue
        if path in REFUSED:
            draft.refuse(path, value, f"is not {json.dumps(granted)}; {REFUSED[path]}")
        else:
            draft.ignored.append(f"{path}: {IGNORED[path]}")


def _leftovers(draft: _Draft) -> None:
    """Collect what is left in EasyReg's own sections: keys that EasyReg does not know either."""
    sections = {
        ".".join(names[:depth])
        for names in (path.split(".") for path in (*RENAMED, *KEYS))
        for depth in range(len(names) - 1, 0, -1)
    }
    own = [section for section in sections if _is_easyregs(section)]
    for section in sorted(own, key=len, reverse=True):
        value = draft.take(section)
        if isinstance(value, dict):
            draft.unknown += [f"{section}.{name}" for name in value]
        elif value is not _NOTHING:
            draft.refuse(section, value, "is not a section in braces")


def _is_easyregs(section: str) -> bool:
    return section.startswith(TRANSFORM_SECTION) or section.endswith(".custom")


def _is_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
    )


def _copy(value: Any) -> Any:
    """A deep copy of the objects and lists of a document."""
    if isinstance(value, Mapping):
        return {name: _copy(entry) for name, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list | tuple) else value
