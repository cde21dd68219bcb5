"""Splits: which cases are for training, validation and testing, by a seeded choice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from monaiseg.data.cases import SPLITS
from monaiseg.errors import DataError, SettingsError

DEBUG_CASES = 5
"""As many training cases are scored again beside validation; a few show over-fitting as well as all would."""


def split_cases(
    ids: Iterable[str], sizes: tuple[int, int, int] = (70, 20, 10), seed: int = 0
) -> dict[str, tuple[str, ...]]:
    """Case ids of train, val, test and debug.

    The order that decides is a hash of seed and id: it depends neither on the order of the files nor on which other
    cases there are.

    Args:
        ids: distinct case ids.
        sizes: percent of train, test and val; together 100. A split of more than 0 percent gets at least one case.
        seed: another seed, another split.

    Raises:
        SettingsError: the sizes are not percentages that sum to 100 with something to train on.
        DataError: there are fewer cases than splits to fill.

    >>> {split: len(ids) for split, ids in split_cases([f"S{n:02}" for n in range(40)]).items()}
    {'train': 28, 'val': 4, 'test': 8, 'debug': 5}
    """
    if any(size < 0 for size in sizes) or sum(sizes) != 100 or sizes[0] == 0:
        raise SettingsError(
            f"train_size, test_size and val_size are {sizes[0]}, {sizes[1]} and {sizes[2]}: use percentages that sum "
            "to 100, with more than 0 to train on"
        )
    order = _seeded_order(ids, seed)
    percent = dict(zip(("train", "test", "val"), sizes, strict=True))
    wanted = [split for split, size in percent.items() if size]
    if len(order) < len(wanted):
        raise DataError(
            f"{len(order)} cases cannot fill {', '.join(wanted)}: add cases, or give a split 0 percent"
        )
    counts = {split: len(order) * size // 100 for split, size in percent.items()}
    by_remainder = sorted(wanted, key=lambda split: -(len(order) * percent[split] % 100))
    for split in by_remainder[: len(order) - sum(counts.values())]:
        counts[split] += 1
    for split in wanted:
        if counts[split] == 0:
            counts[max(counts, key=counts.__getitem__)] -= 1
            counts[split] = 1
    splits: dict[str, Sequence[str]] = {}
    start = 0
    for split, count in counts.items():
        splits[split] = order[start : start + count]
        start += count
    splits["debug"] = choose_debug(splits["train"], seed)
    return {split: tuple(sorted(splits[split])) for split in SPLITS}


def choose_debug(train_ids: Iterable[str], seed: int) -> tuple[str, ...]:
    """Ids of a few training cases, the same for the same seed."""
    return tuple(sorted(_seeded_order(train_ids, seed)[:DEBUG_CASES]))


def _seeded_order(ids: Iterable[str], seed: int) -> list[str]:
    return sorted(ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
