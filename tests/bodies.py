"""Bodies: phantoms whose place in the scan is known.

A body is an ellipsoid of radius 1 in *body coordinates* (x to the right, y to the front, z up) with a pair of organs, one
in front and one above. Left and right are mirror images in the image; their labels differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monaiseg.atlas.building import LabelledScan

LEFT, RIGHT, FRONT, TOP = 1, 2, 3, 4
K = 5
PARTNERS = (0, RIGHT, LEFT, FRONT, TOP)
SHAPE = (22, 26, 20)
RADII = (8.0, 10.0, 7.0)
"""Of the ellipsoid, in voxels."""
ORGANS = {  # class: centre in body coordinates, radius, intensity
    LEFT: ((-0.45, -0.1, 0.0), 0.35, 60.0),
    RIGHT: ((0.45, -0.1, 0.0), 0.35, 60.0),
    FRONT: ((0.0, 0.55, -0.1), 0.3, 90.0),
    TOP: ((0.0, -0.2, 0.55), 0.3, 20.0),
}


def to_body(
    shift: tuple[float, float, float] = (0, 0, 0), scale: float = 1.0, degrees: float = 0.0
) -> Tensor:
    """Affine map (3, 4) from voxel indices to body coordinates.

    Args:
        shift: of the body from the middle of the scan, in voxels.
        scale: of the body.
        degrees: that the body is turned about z, from x to y.
    """
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(3)
    turn[0, 0], turn[0, 1] = angle.cos(), angle.sin()
    turn[1, 0], turn[1, 1] = -angle.sin(), angle.cos()
    linear = turn / (torch.tensor(RADII)[:, None] * scale)
    centre = (torch.tensor(SHAPE) - 1) / 2 + torch.tensor(shift)
    return torch.cat([linear, -(linear @ centre)[:, None]], dim=1)


def make_body(
    place: Tensor | None = None, mm: float = 1.0, noise: float = 0.0, seed: int = 0
) -> LabelledScan:
    """A scan of a body in a place (3, 4) of `to_body`, with voxels of `mm`; outside the body it is 0."""
    place = to_body() if place is None else place
    points = body_points(place)
    inside = points.square().sum(-1).sqrt()
    image = 40 * torch.sigmoid((1 - inside) * 10)
    classes = torch.zeros(SHAPE, dtype=torch.uint8)
    for organ, (centre, radius, intensity) in ORGANS.items():
        distance = (points - torch.tensor(centre)).square().sum(-1).sqrt()
        image += (intensity - 40) * torch.sigmoid((radius - distance) * 12)
        classes[distance < radius] = organ
    image += noise * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    image[inside > 1.1] = 0
    return LabelledScan(image[None], classes, (mm, mm, mm))


def body_points(place: Tensor) -> Tensor:
    """Body coordinates (X, Y, Z, 3) of each voxel."""
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij")
    return torch.stack(axes, dim=-1) @ place[:, :3].T + place[:, 3]


def mirrored_body(scan: LabelledScan) -> LabelledScan:
    """The mirror image of a scan, whose organs have the labels of the other side."""
    partners = torch.tensor(PARTNERS, dtype=torch.uint8)
    return LabelledScan(scan.image.flip(1), partners[scan.classes.flip(0).long()], scan.spacing)


def some_bodies(count: int = 4, mm: float = 1.0) -> list[LabelledScan]:
    """Bodies that differ in place, size and noise."""
    return [
        make_body(
            to_body((n / 2 - 0.5, 0.5 - n / 2, n % 2), 0.95 + 0.03 * n, 3.0 * (n - 1)),
            mm,
            noise=1.0,
            seed=n,
        )
        for n in range(count)
    ]
