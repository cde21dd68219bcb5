"""Conditions of a run: what must stay the same for a resumed run to reach the same weights, and what has changed."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from monaiseg.settings import Settings
from monaiseg.training.checkpoint import versions

# Settings that do not affect the weights of a resumed run: its outputs and surroundings, and where it started from.
_WITHOUT_EFFECT = {
    "train", "output_root_path", "data_task_name", "task_name", "gpu_id", "num_threads", "num_workers",
    "checkpoint_period", "checkpoint_steps", "keep_period", "save_fig_on", "save_val_fig_epoch",
    "save_running_resolution_3d_img", "print_step", "continue_train", "continue_train_lr",
    "reset_train_epoch", "load_model_but_train_from_epoch", "model_path",
}  # fmt: skip


def conditions(
    settings: Settings,
    data: Mapping[str, str],
    labels: str,
    *,
    num_threads: int,
    device: str = "cpu",
    world_size: int = 1,
) -> dict[str, Any]:
    """Everything that determines the weights of a run, as plain values.

    Args:
        settings: only settings that affect the weights are used.
        data: content digest of each case, by "split/case id".
        labels: digest of the label table.
        num_threads: number of CPU threads; a sum over two threads is rounded differently from a sum over one.
        device: "cpu", or the name of the GPU.
        world_size: number of processes that train together.
    """
    document = settings.model_dump(
        mode="json", exclude={"dataset": {"cache"}, "tsk_set": _WITHOUT_EFFECT}
    )
    return {
        "settings": dict(_flat(document)),
        "data": dict(data),
        "labels": labels,
        "threads": num_threads,
        "device": device,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "world size": world_size,
        "versions": versions(),
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Differences between the conditions of two runs, in words. If there are none, the runs reach equal weights.

    >>> difference({"threads": 1, "data": {"train/a": "0f"}}, {"threads": 2, "data": {"train/a": "0f"}})
    ['threads: 1 then, 2 now']
    """
    words = []
    for part in dict.fromkeys([*old, *new]):
        then, now = old.get(part), new.get(part)
        if part == "data" and isinstance(then, Mapping) and isinstance(now, Mapping):
            words += _data_difference(then, now)
        elif part == "labels" and then != now:
            words.append("label table: values, names or partners have changed")
        elif isinstance(then, Mapping) and isinstance(now, Mapping):
            words += [
                f"{key}: {then.get(key, 'absent')} then, {now.get(key, 'absent')} now"
                for key in dict.fromkeys([*then, *now])
                if then.get(key, "absent") != now.get(key, "absent")
            ]
        elif then != now:
            words.append(f"{part}: {then} then, {now} now")
    return words


def _data_difference(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    groups = {
        "changed": sorted(case for case in then.keys() & now.keys() if then[case] != now[case]),
        "removed": sorted(then.keys() - now.keys()),
        "new": sorted(now.keys() - then.keys()),
    }
    return [
        f"cases {what}: {', '.join(cases[:10])}{f' and {len(cases) - 10} more' if cases[10:] else ''}"
        for what, cases in groups.items()
        if cases
    ]


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of nested dictionaries."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
