"""Likelihood: how much the place of a voxel says about its label.

The fact by which a plan decides on an atlas: the mean log-probability of the true labels under the atlas of the other
persons, against that under the frequencies of the classes, which do not know the place.
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

MOST_VOXELS = 100_000
"""Voxels of a case, and of its foreground, that are asked for their likelihood: every n-th."""


@dataclass(frozen=True)
class Likelihood:
    """Mean log-probability of a voxel's label, in nats; a perfect guess has 0."""

    by_place: float
    """Under the atlas."""
    by_frequency: float
    """Under the frequencies of the classes."""

    @property
    def explained(self) -> float:
        """Share of the uncertainty about the label that the place takes away; below 0 it misleads."""
        return 1 - self.by_place / self.by_frequency if self.by_frequency else 0.0


@dataclass(frozen=True)
class AtlasEvidence:
    """What an atlas says of cases that had no vote in it, their persons neither."""

    foreground: Likelihood
    """Over the voxels that have a label."""
    everywhere: Likelihood
    """Over all voxels."""
    dice: Tensor
    """Of the bare vote, by case and class (cases, K); NaN where a class is neither in the label map nor in the vote."""

    @property
    def mean_dice(self) -> float:
        """Mean over the foreground classes of the mean over the cases where they occur."""
        return float(self.dice.nanmean(0)[1:].nanmean())


def measure_atlas(cases: Sequence[LabelledScan], trained: TrainedAtlas) -> AtlasEvidence:
    """Evidence from the training cases, each under the atlas without its person."""
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
    """Dice (K,) of the most frequent class at each voxel; NaN for classes neither there nor in the label map."""
    K = atlas.num_classes
    truth = case.classes.flatten().long()
    vote = atlas.likeliest(frame.positions()).flatten().long()[truth < K]
    truth = truth[truth < K]
    both = torch.bincount(vote[vote == truth], minlength=K)
    return 2 * both / (torch.bincount(vote, minlength=K) + torch.bincount(truth, minlength=K))


def _log_probabilities(
    case: LabelledScan, frame: Frame, atlas: Atlas
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Means by place and by frequency over the foreground, and over all voxels."""
    classes = case.classes.flatten().long()
    positions = frame.positions().flatten(1).T
    known = (classes < atlas.num_classes).nonzero()[:, 0]
    named = known[classes[known] > 0]
    means = []
    for voxels in (named, known):
        some = voxels[:: math.ceil(max(len(voxels), 1) / MOST_VOXELS)]
        by_place = atlas.log_likelihood(positions[some], classes[some])
        by_frequency = atlas.frequencies[classes[some]]
        means.append((float(by_place.mean()), float(by_frequency.mean())))
    return means[0], means[1]


def _likelihood(means: Sequence[tuple[float, float]]) -> Likelihood:
    """Of the cases that have such voxels."""
    by_place, by_frequency = torch.tensor(means, dtype=torch.float64).nanmean(0).tolist()
    return Likelihood(by_place, by_frequency)
