"""Atlases of bodies, and what they say of cases that had no vote."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bodies import FRONT, LEFT, PARTNERS, RIGHT, TOP, K, make_body, some_bodies, to_body
from monaiseg.atlas.atlas import atlas_of
from monaiseg.atlas.building import train_atlas
from monaiseg.atlas.likelihood import Likelihood, measure_atlas, vote_dice
from monaiseg.atlas.votes import added, smoothed
from monaiseg.errors import DataError

PERSONS = ["anna", "ben", "ben", "carl"]


@pytest.fixture(scope="module")
def cases():
    return some_bodies(mm=2.0)


@pytest.fixture(scope="module")
def trained(cases):
    return train_atlas(cases, PERSONS, K, PARTNERS)


def test_the_vote_finds_the_organs_of_a_new_body(trained):
    body = make_body(to_body((1, 0.5, -0.5), 1.05, 5), mm=2.0, noise=1, seed=9)
    frame = trained.template.place(trained.template.scan(body.image, body.spacing))

    assert trained.template.fits(frame)
    assert vote_dice(body, frame, trained.atlas())[1:].min() > 0.6


def test_left_and_right_stay_right(trained, cases):
    """Symmetric images, mirrored votes: only the place tells the sides apart."""
    atlas = trained.atlas()
    for case, frame in zip(cases, trained.frames, strict=True):
        vote = atlas.likeliest(frame.positions())
        assert not ((vote == LEFT) & (case.classes == RIGHT)).any()
        assert not ((vote == RIGHT) & (case.classes == LEFT)).any()


def test_mirrored_votes_make_both_sides_alike(trained):
    counts = trained.atlas().counts[:-1].view(trained.total.lattice.shape)
    assert torch.equal(counts, counts.flip(0))


def test_the_others_votes_are_all_that_is_left(trained):
    others = [trained.votes_by_person[person] for person in ("anna", "carl")]
    expected = atlas_of(smoothed(added(others))).tensors()
    for name, tensor in trained.atlas_without("ben").tensors().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_label_that_one_person_alone_has_is_unknown_to_its_atlas(cases):
    """Both scans of a person have the organ on top; for the others it is background."""
    persons = ["anna", "ben", "ben", "carl"]
    alone = [
        case
        if person == "ben"
        else dataclasses.replace(case, classes=case.classes * (case.classes != TOP))
        for case, person in zip(cases, persons, strict=True)
    ]
    trained = train_atlas(alone, persons, K, None)
    assert (trained.atlas().classes == TOP).any()
    assert not (trained.atlas_without("ben").classes == TOP).any()


def test_a_persons_frames_do_not_depend_on_their_labels(trained, cases):
    blank = [dataclasses.replace(case, classes=case.classes * 0) for case in cases]
    again = train_atlas(blank, PERSONS, K, PARTNERS)
    for one, other in zip(trained.frames, again.frames, strict=True):
        assert torch.equal(one.positions(), other.positions())


def test_cases_are_correlated_with_a_template_without_them(trained):
    assert trained.template.correlations.shape == (4, 2)
    assert trained.template.correlations.min() > 0.8
    assert (trained.template.least_correlations < trained.template.correlations).all()


def test_place_says_much_about_the_labels_of_bodies(trained, cases):
    evidence = measure_atlas(cases, trained)
    assert evidence.foreground.explained > 0.5
    assert evidence.everywhere.explained > 0.5
    assert evidence.mean_dice > 0.8
    assert evidence.dice.shape == (len(cases), K)
    assert evidence.dice[:, FRONT].min() > 0.7


def test_place_says_nothing_about_labels_that_lie_anywhere(cases):
    """Organs drawn voxel by voxel, as often as tumours are here and there."""
    scattered = []
    for seed, case in enumerate(cases):
        draw = torch.rand(case.classes.shape, generator=torch.Generator().manual_seed(seed))
        scattered.append(dataclasses.replace(case, classes=(draw > 0.8).to(torch.uint8)))
    trained = train_atlas(scattered, list("abcd"), 2, (0, 1))
    evidence = measure_atlas(scattered, trained)
    assert evidence.everywhere.explained < 0.02


def test_the_explained_share_is_that_of_the_uncertainty():
    assert Likelihood(by_place=-0.5, by_frequency=-2.0).explained == pytest.approx(0.75)
    assert Likelihood(by_place=-3.0, by_frequency=-2.0).explained == pytest.approx(-0.5)


def test_a_single_case_makes_an_atlas(cases):
    trained = train_atlas(cases[:1], ["anna"], K, PARTNERS)
    assert trained.atlas().log_prior_map(trained.frames[0].positions()).isfinite().all()
    with pytest.raises(DataError, match="the only person in 1 case is 'anna'"):
        trained.atlas_without("anna")
