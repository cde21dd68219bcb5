"""Splits: a seeded random split of the cases into training, validation and test."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence

from monaiseg.data.cases import SPLITS
from monaiseg.errors import DataError, SettingsError, counted

DEBUG_CASES = 5
"""Number of training cases that are scored at each validation; a few show overfitting as well as all would."""


def split_cases(
    ids: Iterable[str],
    sizes: tuple[int, int, int] = (70, 20, 10),
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Case ids of train, val, test and debug.

    Groups are sorted by a hash of seed and group, so their order depends neither on the order of the files nor on the
    other groups.

    Args:
        ids: distinct case ids.
        sizes: percent of train, test and val; together 100. A split of more than 0 percent gets at least one case.
        seed: random seed; another seed gives another split.
        groups: the group of each case, which is kept in one split; None if each case is its own group.

    Raises:
        SettingsError: the sizes are not percentages that sum to 100, with more than 0 for train.
        DataError: there are fewer cases, or groups, than splits to fill.

    >>> {split: len(ids) for split, ids in split_cases([f"S{n:02}" for n in range(40)]).items()}
    {'train': 28, 'val': 4, 'test': 8, 'debug': 5}
    """
    if any(size < 0 for size in sizes) or sum(sizes) != 100 or sizes[0] == 0:
        raise SettingsError(
            f"train_size, test_size and val_size are {sizes[0]}, {sizes[1]} and {sizes[2]}; use percentages that sum "
            "to 100, and more than 0 for training"
        )
    members: dict[str, list[str]] = {}
    for name in ids:
        members.setdefault(groups[name] if groups else name, []).append(name)
    percent = dict(zip(("train", "test", "val"), sizes, strict=True))
    wanted = [split for split, size in percent.items() if size]
    if len(members) < len(wanted):
        total = sum(map(len, members.values()))
        joined = "" if total == len(members) else f" in {counted(len(members), 'group')}"
        raise DataError(
            f"{counted(total, 'case')}{joined} cannot fill the splits {', '.join(wanted)}; add cases, or give a split 0 percent"
        )
    counts = _split_counts(sum(map(len, members.values())), percent)
    chosen = _dealt([members[group] for group in _seeded_order(members, seed)], counts)
    splits = {split: [name for group in chosen[split] for name in group] for split in chosen}
    splits["debug"] = [*choose_debug(splits["train"], seed)]
    return {split: tuple(sorted(splits[split])) for split in SPLITS}


def _split_counts(total: int, percent: Mapping[str, int]) -> dict[str, int]:
    """Number of cases for each split: its percentage of all cases, and at least one if that is more than 0."""
    wanted = [split for split, size in percent.items() if size]
    counts = {split: total * size // 100 for split, size in percent.items()}
    by_remainder = sorted(wanted, key=lambda split: -(total * percent[split] % 100))
    for split in by_remainder[: total - sum(counts.values())]:
        counts[split] += 1
    for split in wanted:
        if counts[split] == 0:
            counts[max(counts, key=counts.__getitem__)] -= 1
            counts[split] = 1
    return counts


def _dealt(
    groups: Sequence[Sequence[str]], counts: Mapping[str, int]
) -> dict[str, list[Sequence[str]]]:
    """Groups for each split, in order: each goes to the split that its middle falls into; no wanted split is empty."""
    ends = dict(zip(counts, itertools.accumulate(counts.values()), strict=True))
    dealt: dict[str, list[Sequence[str]]] = {split: [] for split in counts}
    start = 0
    for group in groups:
        middle = start + len(group) / 2
        dealt[next(split for split, end in ends.items() if middle < end)].append(group)
        start += len(group)
    for split, count in counts.items():
        if count and not dealt[split]:
            giver = max(dealt, key=lambda each: len(dealt[each]))
            smallest = min(dealt[giver], key=len)
            dealt[giver].remove(smallest)
            dealt[split].append(smallest)
    return dealt


def choose_debug(train_ids: Iterable[str], seed: int) -> tuple[str, ...]:
    """Ids of a few training cases; the same seed gives the same ids."""
    return tuple(sorted(_seeded_order(train_ids, seed)[:DEBUG_CASES]))


def _seeded_order(ids: Iterable[str], seed: int) -> list[str]:
    return sorted(ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
