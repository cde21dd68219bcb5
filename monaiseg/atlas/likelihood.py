"""Likelihood: how much the position of a voxel says about its label.

A plan uses this to decide whether to use an atlas. It compares the mean log-probability of the true labels under the
atlas of the other persons with that under the frequencies of the classes, which do not depend on the position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monaiseg.atlas.atlas import Atlas
from monaiseg.atlas.building import LabelledScan, TrainedAtlas
from monaiseg.atlas.frame import Frame
from monaiseg.atlas.parallel import mapped

FEW_VOXELS = 20_000
"""Number of foreground voxels of a case that a quick measurement uses."""
MOST_VOXELS = 100_000
"""Largest number of voxels of a case, and of its foreground, whose likelihood is computed: every n-th is used."""


@dataclass(frozen=True)
class Likelihood:
    """Mean log-probability of the label of a voxel, in nats; a perfect prediction has 0."""

    by_place: float
    """Mean log-probability under the atlas."""
    by_frequency: float
    """Mean log-probability under the frequencies of the classes."""

    @property
    def explained(self) -> float:
        """Share of the uncertainty about the label that the position removes; below 0 the position is misleading."""
        return 1 - self.by_place / self.by_frequency if self.by_frequency else 0.0


@dataclass(frozen=True)
class AtlasEvidence:
    """How well an atlas predicts cases when neither they nor other scans of their persons contribute to it."""

    foreground: Likelihood
    """Likelihood over the voxels of the foreground."""
    everywhere: Likelihood
    """Likelihood over all voxels."""
    dice: Tensor
    """Dice of the majority vote by case and class (cases, K); NaN if a class is in neither label map nor vote."""

    @property
    def mean_dice(self) -> float:
        """Mean over the foreground classes of their means over the cases in which they occur."""
        return float(self.dice.nanmean(0)[1:].nanmean())


def explained_share(cases: Sequence[LabelledScan], trained: TrainedAtlas) -> float:
    """`foreground.explained` of `measure_atlas`, from `FEW_VOXELS` of each case: much quicker."""
    atlases = trained.atlases_without(list(trained.votes_by_person))

    def of_case(index: int) -> tuple[float, float]:
        classes, atlas = cases[index].classes, atlases[trained.persons[index]]
        named = (classes > 0) & (classes < atlas.num_classes)
        return _mean_logs(classes, named, trained.frames[index], atlas, FEW_VOXELS)

    return _likelihood(mapped(of_case, range(len(cases)))).explained


def measure_atlas(cases: Sequence[LabelledScan], trained: TrainedAtlas) -> AtlasEvidence:
    """Evidence from the training cases, each with the atlas without its person."""
    means, dice = {}, {}
    for person in trained.votes_by_person:
        atlas = trained.atlas_without(person)
        for index in (i for i, name in enumerate(trained.persons) if name == person):
            case, frame = cases[index], trained.frames[index]
            means[index] = _log_probabilities(case, frame, atlas)
            dice[index] = vote_dice(case, frame, atlas)
    foreground, everywhere = zip(*means.values(), strict=True)
    by_case = torch.stack([dice[index] for index in range(len(cases))])
    return AtlasEvidence(_likelihood(foreground), _likelihood(everywhere), by_case)


def vote_dice(case: LabelledScan, frame: Frame, atlas: Atlas) -> Tensor:
    """Dice (K,) of the most frequent class at each voxel; NaN for classes in neither this vote nor the label map."""
    K = atlas.num_classes
    truth = case.classes.flatten().long()
    vote = atlas.likeliest(frame.positions()).flatten().long()[truth < K]
    truth = truth[truth < K]
    both = torch.bincount(vote[vote == truth], minlength=K)
    return 2 * both / (torch.bincount(vote, minlength=K) + torch.bincount(truth, minlength=K))


def _log_probabilities(
    case: LabelledScan, frame: Frame, atlas: Atlas
) -> tuple[tuple[float, float], tuple[float, float]]:
    """`_mean_logs` over the foreground and over all voxels."""
    known = case.classes < atlas.num_classes
    named, all_known = (
        _mean_logs(case.classes, where, frame, atlas, MOST_VOXELS)
        for where in (known & (case.classes > 0), known)
    )
    return named, all_known


def _mean_logs(
    classes: Tensor, where: Tensor, frame: Frame, atlas: Atlas, most: int
) -> tuple[float, float]:
    """Mean log-probabilities, by position and by frequency, of the classes (X, Y, Z) at `where`, bool (X, Y, Z).

    Every n-th of these voxels is used, so that there are at most `most`. Without any, both are NaN.
    """
    voxels = where.nonzero()
    some = voxels[:: math.ceil(max(len(voxels), 1) / most)]
    right = classes[tuple(some.T)].long()
    by_place = atlas.log_likelihood(frame.points(some.float()), right)
    return float(by_place.mean()), float(atlas.frequencies[right].mean())


def _likelihood(means: Sequence[tuple[float, float]]) -> Likelihood:
    """Mean over the cases that have such voxels."""
    by_place, by_frequency = torch.tensor(means, dtype=torch.float64).nanmean(0).tolist()
    return Likelihood(by_place, by_frequency)
