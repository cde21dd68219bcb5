"""Label values: numbers that mean nothing, that mean different things, or that are missing where they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted, one_a_case, several
from monaiseg.data import (
    MOSTLY_FOREGROUND,
    absent_note,
    is_forgotten,
    is_slip,
    kept_labels,
)
from monaiseg.errors import SettingsError

FEWEST_OWN, FEWEST_SHELLS = 3, 10
"""Shells, see `_shells`, that make a label map look interpolated: of values that most cases lack, or of any values. Label
maps of a brain with 139 labels, of mice with 37 and of a trunk with 41 have none or one. After linear resampling, they
have 3 to 81."""
BETWEEN_SHARE = 0.7
"""Share of the voxels of an interpolated value that lie between a lower and a higher value."""
ENOUGH_CASES = 3
"""A label in this many cases can be in every split."""


def unlisted_values(evidence: Evidence) -> Iterator[Finding]:
    """Values without a name where others have names, and label maps that look like images."""
    if evidence.table_fault is not None:
        yield Finding(
            "unlisted-values",
            "label maps with values that have no name, or too many values",
            "Each value becomes a class of the network. An unknown value is a mistake in the label map or in the table.",
            "Add the values to the label table, or correct the label maps.",
            tuple(Doubt("", line) for line in evidence.table_fault.splitlines()),
            stops_training=True,
        )


def interpolated_values(evidence: Evidence) -> Iterator[Finding]:
    """Label maps with values that occur only as thin shells between other values."""
    doubts = []
    for name, details in evidence.details.items():
        structures = details.structures
        if shells := _shells(evidence, name):
            words = f"{len(structures)} values, {len(shells)} of them only between others: {several(shells)}"
            doubts.append(Doubt(name, words, structures[shells[0]].middle))
    if doubts:
        yield Finding(
            "interpolated-values",
            f"{counted(len(doubts), 'label map')} with values that look interpolated",
            "Every value becomes a class of the network, and these do not stand for a structure.",
            "Go back to the original label maps and resample them by nearest neighbour; a mask of 0 to 255 is cut at its middle.",
            tuple(doubts),
        )


def _shells(evidence: Evidence, name: str) -> list[int]:
    """The values that interpolation has made in a label map: they form shells of one voxel around another value."""
    structures = evidence.details[name].structures if name in evidence.details else {}
    shells = [
        value
        for value, found in structures.items()
        if found.inner == 0
        and found.between >= BETWEEN_SHARE * found.voxels
        and value not in evidence.named
    ]
    cases = len(evidence.details)
    own = [value for value in shells if 2 * evidence.occurrences[value] < cases]
    return shells if len(own) >= FEWEST_OWN or len(shells) >= FEWEST_SHELLS else []


def different_codes(evidence: Evidence) -> Iterator[Finding]:
    """Cases that share no label value with the others, such as masks of 0 and 255 beside masks of 0 and 1."""
    labelled = evidence.labelled
    groups = _sharing_values(labelled)
    values = set().union(*(labelled[name] for names in groups for name in names))
    if len(groups) < 2 or values <= evidence.named.keys():
        return
    usual, *others = sorted(groups, key=len, reverse=True)
    common = several(sorted(set().union(*(labelled[name] for name in usual))))
    doubts = tuple(
        Doubt(name, f"values {several(sorted(labelled[name]))}")
        for names in others
        for name in names
    )
    yield Finding(
        "different-codes",
        f"{counted(len(doubts), 'label map')} without any label value of the others ({common})",
        "If 255 here and 1 there are the same structure, the network learns two classes and finds neither.",
        "Write all label maps with the same values. If they do show different structures, name all values in a label table.",
        doubts,
    )


def _sharing_values(labelled: Mapping[str, Mapping[int, int]]) -> list[list[str]]:
    """Groups of cases such that cases of different groups have no label value in common."""
    groups: list[tuple[set[int], list[str]]] = []
    for name, voxels in labelled.items():
        values, names = set(voxels), [name]
        for group in [group for group in groups if group[0] & values]:
            values |= group[0]
            names = [*group[1], *names]
            groups.remove(group)
        groups.append((values, names))
    return [names for _, names in groups]


def empty_label_maps(evidence: Evidence) -> Iterator[Finding]:
    """Label maps that hold background only, or nothing that counts."""
    maps = {name: found.label_voxels for name, found in evidence.facts.items()}
    maps = {name: voxels for name, voxels in maps.items() if voxels}
    ignored = evidence.table.ignored_value
    unlabelled = [name for name, voxels in maps.items() if voxels.keys() == {ignored}]
    if unlabelled:
        yield Finding(
            "nothing-labelled",
            f"{counted(len(unlabelled), 'case')} with the ignored value {ignored} everywhere",
            "Nothing can be learnt from such a case.",
            "Leave these cases out.",
            tuple(Doubt(name) for name in unlabelled),
            stops_training=True,
        )
    empty = [name for name in maps if name not in evidence.labelled and name not in unlabelled]
    if empty:
        everywhere = not evidence.labelled
        yield Finding(
            "empty-label-maps",
            f"{counted(len(empty), 'label map')} {'is' if len(empty) == 1 else 'are'} all background",
            "If the structure is there and was not drawn, the network learns to miss it.",
            "Keep these cases if the scans show none of the structures; otherwise draw them, or remove the cases.",
            tuple(Doubt(name) for name in empty),
            stops_training=everywhere,
        )


def inverted_label_maps(evidence: Evidence) -> Iterator[Finding]:
    """Label maps that are nearly all foreground."""
    if evidence.table.ignored_value is not None:
        return
    shares = {
        name: sum(voxels.values()) / sum(evidence.facts[name].label_voxels.values())
        for name, voxels in evidence.labelled.items()
    }
    full = {name: share for name, share in shares.items() if share > MOSTLY_FOREGROUND}
    if full and len(full) < max(2, len(shares) / 2):
        yield Finding(
            "inverted-label-maps",
            f"{counted(len(full), 'label map')} with very little background",
            "If foreground and background are exchanged, these cases teach the opposite of the others.",
            "Look at them. Exchange the values 0 and 1 if they are inverted.",
            tuple(Doubt(name, f"{share:.0%} foreground") for name, share in full.items()),
        )


def names_without_voxels(evidence: Evidence) -> Iterator[Finding]:
    """Labels that are named and occur nowhere."""
    for note in absent_note(evidence.facts, evidence.named, "the label table"):
        yield Finding(
            "names-without-voxels",
            note,
            "If the values are shifted by one, every structure has the wrong name.",
            "Nothing, if the table is that of a whole atlas; otherwise correct the table.",
        )


def labels_in_one_case(evidence: Evidence) -> Iterator[Finding]:
    """Labels that a single case has."""
    counts = _cases_with(evidence)
    labelled = evidence.labelled
    if len(labelled) < ENOUGH_CASES:
        return
    lone = {value: names[0] for value, names in sorted(counts.items()) if len(names) == 1}
    made = {name: set(_shells(evidence, name)) for name in set(lone.values())}
    lone = {value: name for value, name in lone.items() if value not in made[name]}
    doubts = []
    for value, name in lone.items():
        words = f"{evidence.label_name(value)} in {counted(labelled[name][value], 'voxel')}"
        doubts.append(Doubt(name, words, _middle(evidence, name, value)))
    if doubts:
        named = several(map(evidence.label_name, lone))
        yield Finding(
            "labels-in-one-case",
            f"{counted(len(lone), 'label')} in one case only: {named}",
            "A label that is only in training cases is never scored, and one that training cases lack cannot be learnt.",
            "If it is a slip of the pen, correct the label map. If it is a rare structure, add cases, or leave it out with dataset.seg.interested_label_list.",
            one_a_case(doubts),
        )


def _cases_with(evidence: Evidence) -> dict[int, list[str]]:
    """The cases that have each label."""
    found: dict[int, list[str]] = {label.value: [] for label in evidence.table.foreground}
    for name, voxels in evidence.labelled.items():
        for value in voxels:
            found.setdefault(value, []).append(name)
    return found


def _middle(evidence: Evidence, name: str, value: int) -> tuple[int, int, int] | None:
    details = evidence.details.get(name)
    structure = details and details.structures.get(value)
    return structure.middle if structure else None


def labels_absent_from_splits(evidence: Evidence) -> Iterator[Finding]:
    """Labels that enough cases have, and that a split lacks all the same."""
    if evidence.splits is None:
        return
    for split, cases in evidence.splits.items():
        if split == "train" and not evidence.details:
            continue  # a note of preparation says so
        absent = [
            value
            for value, names in _cases_with(evidence).items()
            if names and not set(names) & set(cases) and (split == "train" or len(names) > 1)
        ]
        if absent and cases:
            shown = several(map(evidence.label_name, absent))
            consequence = {
                "train": "They cannot be learnt.",
                "val": "They do not influence the choice of the best model.",
                "test": "They get no score.",
            }[split]
            yield Finding(
                "labels-absent-from-split",
                f"{counted(len(absent), 'label')} in no case of {split}: {shown}",
                consequence,
                "Split again with another --seed, or with split folders of your own.",
            )


def slips_and_gaps(evidence: Evidence) -> Iterator[Finding]:
    """Labels of a few voxels in a few cases, and labels that some cases lack although they never are small."""
    labelled = evidence.labelled
    slips, forgotten = [], []
    for value, names in _cases_with(evidence).items():
        sizes = sorted(labelled[name][value] for name in names)
        unnamed = value not in evidence.named
        if len(names) > 1 and is_slip(sizes, len(labelled), unnamed=unnamed):
            slips += [Doubt(n, f"label {value}", _middle(evidence, n, value)) for n in names]
        elif 2 * len(names) > len(labelled) and is_forgotten(sizes, len(labelled)):
            lacking = [name for name in labelled if value not in labelled[name]]
            forgotten += [Doubt(name, f"no label {evidence.label_name(value)}") for name in lacking]
    if slips:
        yield Finding(
            "slips-of-the-pen",
            f"labels of a few voxels in {counted(len({doubt.case for doubt in slips}), 'case')}",
            "Each becomes a class of the network.",
            "Correct the label maps, or leave the values out with dataset.seg.interested_label_list.",
            one_a_case(slips),
        )
    if forgotten:
        yield Finding(
            "structures-not-drawn",
            f"{counted(len({doubt.case for doubt in forgotten}), 'case')} without a structure that is never small in the others",
            "If it was not drawn, these cases teach the network that it is background.",
            "Draw it, or leave these cases out.",
            one_a_case(forgotten),
        )


def sides_in_names(evidence: Evidence) -> Iterator[Finding]:
    """Names that may tell a side of the body without saying so clearly."""
    if note := evidence.table.side_note():
        yield Finding(
            "unclear-sides",
            note,
            "Mirroring from left to right gives the network more to learn from, but it must be known which labels change places.",
            "Fill the column `partner` of the label table.",
        )


def settings_and_labels(evidence: Evidence) -> Iterator[Finding]:
    """Settings that ask for labels or channels that the cases do not have."""
    settings = evidence.settings
    if settings is None or not evidence.facts:
        return
    try:
        table = kept_labels(evidence.table, settings, "the dataset")
        if evidence.task is not None:
            evidence.task.as_read(settings)
        if settings.is_mirrored:
            table.partner_classes  # noqa: B018  it raises
            if note := table.mirror_note():
                yield _mirrored_without_names(note)
    except SettingsError as error:
        yield contradiction(str(error))
    counts = Counter(len(found.intensity) for found in evidence.facts.values())
    (count, _), *_ = counts.most_common(1)
    if settings.dataset.num_channels != count:
        yield contradiction(
            f"dataset.num_channels: is {settings.dataset.num_channels}, and the cases have {count} channels; use {count}"
        )


def _mirrored_without_names(note: str) -> Finding:
    return Finding(
        "mirrored-without-names",
        note,
        "If some labels are on one side, mirrored images teach the network the wrong side.",
        "Name the labels in a label table, or set dataset.seg.augmentation.flip.left_right to 0.",
    )


def contradiction(words: str) -> Finding:
    """Settings that do not go with the data."""
    return Finding(
        "settings-against-data",
        words,
        "The settings and the data describe different networks.",
        "Correct the settings.",
        stops_training=True,
    )
