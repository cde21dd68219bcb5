"""Options: the patches, batches and widths that a plan chooses from.

An *option* is a patch size, a batch size and a width of the network. Options form one row, each more demanding than the
one before: first the network grows to a sensible width on small patches, then the patch grows to the whole scan, and
then the network grows further.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from monaiseg.data import Shape, Spacing
from monaiseg.errors import SettingsError
from monaiseg.networks import plan_topology
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.limits import Limits
from monaiseg.settings import NetworkSettings, PlanningSettings

GRAIN = 8
"""Patch sizes are multiples of this, so that they can be halved three times."""


@dataclass(frozen=True)
class Option:
    """One way to train."""

    variant: str
    channels: int
    patch_shape: Shape
    batch_size: int

    @property
    def patch_voxels(self) -> int:
        """Number of voxels in a patch."""
        return math.prod(self.patch_shape)


def patch_ladder(fingerprint: Fingerprint, rules: PlanningSettings) -> list[Shape]:
    """Patch shapes along X, Y, Z, smallest first, each at least a seventh larger than the one before.

    The last is the median scan, rounded up to multiples of 8, if it is allowed. Starting from it, the axis that is
    longest in mm is shortened repeatedly.

    With an atlas there is one: the largest of these that `most_atlas_patch_voxels` allows. Smaller ones would be slower
    for the voxels that they show, and larger ones show nothing that positions do not say.

    >>> from monaiseg.planning.fingerprint import Fingerprint, Scan
    >>> patch_ladder(Fingerprint((Scan((36, 50, 35), (1.0, 1.0, 1.0)),), (), 1, 3), PlanningSettings())
    [(40, 56, 40)]
    """
    with_atlas, most = fingerprint.starts_from_atlas(rules), rules.most_patch_voxels
    if with_atlas:
        most = min(most, rules.most_atlas_patch_voxels)
    size = [max(GRAIN * math.ceil(n / GRAIN), 2 * GRAIN) for n in fingerprint.median_shape]
    rungs: list[Shape] = []
    while True:
        x, y, z = size
        voxels = x * y * z
        grown = not rungs or 8 * voxels <= 7 * math.prod(rungs[-1])
        fits = voxels <= most and grown
        if fits and _is_plannable(rules.cpu_network, (x, y, z), fingerprint.spacing):
            rungs.append((x, y, z))
            if with_atlas:
                return rungs
        axis = max(
            (a for a in range(3) if size[a] > 4 * GRAIN),
            key=lambda a: (size[a] * fingerprint.spacing[a], a),
            default=None,
        )
        if axis is None or (rungs and voxels <= rules.least_patch_voxels):
            return rungs[::-1]
        size[axis] -= GRAIN


def _is_plannable(network: NetworkSettings, patch: Shape, spacing: Spacing) -> bool:
    try:
        plan_topology(network, patch, spacing)
    except SettingsError:
        return False
    return True


def batch_sizes(
    patch: Shape, rules: PlanningSettings, *, with_atlas: bool = False
) -> tuple[int, ...]:
    """Candidates for the batch size, the preferred one first; smaller ones for when memory is short.

    With an atlas, a large patch is enough: it does not matter how much of the body a batch shows.
    """
    least = 1 if with_atlas else 2
    preferred = min(max(rules.batch_voxels // math.prod(patch), least), rules.most_patches)
    if with_atlas:
        return tuple(dict.fromkeys([preferred, 1]))
    return tuple(dict.fromkeys([preferred, 2, 1]))


def option_row(
    fingerprint: Fingerprint, limits: Limits, rules: PlanningSettings
) -> Iterator[tuple[Option, ...]]:
    """Options, the least demanding first; each comes once per batch size, the preferred one first."""
    ladder, sensible_width = patch_ladder(fingerprint, rules), rules.sensible_width
    narrow = [(ladder[0], width) for width in rules.widths if width < sensible_width]
    sensible = [(patch, sensible_width) for patch in ladder]
    wide = [(ladder[-1], width) for width in rules.widths if width > sensible_width]
    variant = rules.network_for(limits.device).variant
    with_atlas = fingerprint.starts_from_atlas(rules)
    for patch, width in itertools.chain(narrow, sensible, wide):
        sizes = batch_sizes(patch, rules, with_atlas=with_atlas)
        yield tuple(Option(variant, width, patch, batch) for batch in sizes)
