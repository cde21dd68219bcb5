"""Frames of bodies whose place is known."""

from __future__ import annotations

import pytest
import torch

from bodies import PARTNERS, RADII, body_points, make_body, mirrored_body, some_bodies, to_body
from monaiseg.atlas.building import train_atlas
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.mean_image import block_size
from monaiseg.atlas.scans import extent_of, foreground_of, scan_of, standardised
from monaiseg.atlas.template import Template

PLACES = {
    "in the middle": to_body(),
    "shifted": to_body((1.5, -1.0, 0.5)),
    "larger": to_body(scale=1.15),
    "turned": to_body(degrees=12),
    "all of them": to_body((-1.0, 1.0, 0.5), 0.9, -8),
}


def template_of_one(mm=1.0):
    """The body itself, as the template: the middle of its ellipsoid is the origin."""
    body = make_body(mm=mm)
    deviation = extent_of(foreground_of(body.image), body.spacing).deviation
    lattice = Lattice(tuple(body.image.shape[1:]), body.spacing)
    image = standardised(body.image, foreground_of(body.image))
    return Template(image, lattice, deviation, torch.tensor([[0.95, 0.96], [0.94, 0.96]]))


@pytest.fixture(scope="module")
def template():
    return template_of_one()


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("mm", [1.0, 0.05])
def test_a_known_place_is_found_to_a_fraction_of_a_voxel(place, mm):
    template = template_of_one(mm)
    body = make_body(place, mm)
    frame = template.place(template.scan(body.image, body.spacing))

    inside = foreground_of(body.image)
    found = frame.positions()[:, inside].T / mm
    true = body_points(place)[inside] * torch.tensor(RADII)
    error = (found - true).norm(dim=1)
    assert error.mean() < 0.25
    assert error.quantile(0.95) < 0.6
    assert frame.correlations.min() > 0.95


def test_the_affine_map_alone_finds_an_affine_place(template):
    place = PLACES["all of them"]
    body = make_body(place)
    frame = template.place_roughly(template.scan(body.image, body.spacing), steps=12)

    true = body_points(place) * torch.tensor(RADII)
    error = (frame.positions().movedim(0, -1) - true).norm(dim=-1)[foreground_of(body.image)]
    assert error.max() < 0.4


def test_voxels_of_another_shape_lead_to_the_same_place(template):
    """Thick slices: every second one."""
    body = make_body(PLACES["turned"])
    thin = template.place(template.scan(body.image, (1, 1, 1)))
    thick = template.place(template.scan(body.image[..., ::2], (1, 1, 2)))

    inside = foreground_of(body.image)[..., ::2]
    difference = (thin.positions()[..., ::2] - thick.positions()).norm(dim=0)[inside]
    assert difference.mean() < 0.3


def test_the_mirror_image_is_placed_at_the_mirror_image():
    """A symmetric template treats both sides alike, and never exchanges them."""
    trained = train_atlas(some_bodies(), list("abcd"), 5, PARTNERS)
    body = make_body(PLACES["all of them"], noise=1)
    frames = [
        trained.template.place(trained.template.scan(scan.image, scan.spacing))
        for scan in (body, mirrored_body(body))
    ]

    here, there = (frame.positions() for frame in frames)
    mirrored = there.flip(1) * torch.tensor([-1.0, 1, 1]).view(3, 1, 1, 1)
    assert (here - mirrored).abs().max() < 0.01


@pytest.mark.parametrize("brightness", [0.01, 1000.0])
def test_the_scale_of_intensities_does_not_matter(template, brightness):
    body = make_body(PLACES["turned"])
    one, other = (
        template.place(template.scan(image, (1, 1, 1)))
        for image in (body.image, body.image * brightness)
    )
    assert torch.allclose(one.positions(), other.positions(), atol=1e-2)


def test_channels_are_standardised_before_they_are_averaged():
    body = make_body().image
    inside = foreground_of(body)
    both = torch.cat([body, 1000 * body + 5])

    assert torch.equal(foreground_of(both), inside)
    assert torch.allclose(standardised(both, inside), standardised(body, inside), atol=1e-3)


def test_a_scan_without_flat_background_is_foreground_everywhere():
    noise = torch.rand(1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    assert foreground_of(noise).all()
    assert foreground_of(torch.ones(1, 4, 4, 4)).all()


def test_the_same_scan_has_the_same_frame_bit_for_bit(template):
    body = make_body(PLACES["all of them"], noise=1)
    one, other = (template.place(template.scan(body.image, (1, 1, 1))) for _ in range(2))

    assert torch.equal(one.positions(), other.positions())
    assert torch.equal(one.correlations, other.correlations)


def test_a_scan_of_something_else_does_not_fit(template):
    noise = torch.rand(1, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    box = torch.zeros(1, 20, 20, 20)
    box[:, 4:16, 4:16, 4:16] = 1 + noise[:, 4:16, 4:16, 4:16]

    body = make_body(PLACES["turned"], noise=2)
    assert template.fits(template.place(template.scan(body.image, body.spacing)))
    for image in (noise, box):
        assert not template.fits(template.place(template.scan(image, (1, 1, 1))))


@pytest.mark.parametrize("mm", [0.3, 3.0])
def test_a_body_of_another_size_does_not_fit(template, mm):
    body = make_body(mm=mm)
    frame = template.place(template.scan(body.image, body.spacing))

    assert frame.size == pytest.approx(1 / mm, rel=0.1)
    assert not template.fits(frame)


def test_a_template_comes_back_from_its_tensors():
    template = train_atlas(some_bodies(2, mm=2.0), list("ab"), 5, PARTNERS).template
    again = Template.from_tensors(template.tensors())

    body = make_body(PLACES["turned"], mm=2.0)
    one, other = (t.place(t.scan(body.image, body.spacing)) for t in (template, again))
    assert torch.equal(one.positions(), other.positions())
    assert torch.equal(again.least_correlations, template.least_correlations)


def test_points_between_voxels_lie_between_their_positions(template):
    body = make_body(PLACES["turned"])
    frame = template.place(scan_of(body.image, body.spacing, block_mm=2.0))

    positions = frame.positions()
    voxels = torch.tensor([[4, 6, 5], [11, 13, 10]])
    x, y, z = voxels.T
    assert torch.allclose(frame.points(voxels.float()), positions[:, x, y, z].T, atol=1e-4)


def test_blocks_have_the_positions_of_their_middles(template):
    body = make_body(PLACES["turned"])
    frame = template.place(template.scan(body.image, body.spacing))

    fine, coarse = frame.positions(), frame.positions((2, 2, 2))
    pooled = torch.nn.functional.avg_pool3d(fine, 2)
    assert coarse.shape == pooled.shape
    assert (coarse - pooled).abs().max() < 0.2


def test_lengths_follow_the_data():
    """A body ten times as small has blocks ten times as small."""
    sizes = [block_size(torch.tensor([30.0, 40.0, 25.0]) * scale) for scale in (1, 0.1)]
    assert sizes[0] == pytest.approx(10 * sizes[1])


def test_a_scan_of_one_value_is_placed_without_complaint(template):
    frame = template.place(template.scan(torch.ones(1, 12, 12, 12), (1, 1, 1)))
    assert frame.positions().isfinite().all()
    assert not template.fits(frame)
