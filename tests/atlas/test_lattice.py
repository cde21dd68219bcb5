"""Lattices: cells, and reading between them."""

from __future__ import annotations

import pytest
import torch

from monaiseg.atlas.lattice import Lattice, blurred

LATTICE = Lattice((5, 4, 3), (1.0, 2.0, 4.0))


def centres():
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in LATTICE.shape], indexing="ij")
    mm = torch.stack(axes, dim=-1).view(-1, 3) * torch.tensor(LATTICE.cell_mm)
    return mm - LATTICE.half_extent_mm


def test_the_origin_is_the_middle():
    assert torch.allclose(centres().mean(0), torch.zeros(3))


def test_each_centre_lies_in_its_own_cell():
    assert torch.equal(LATTICE.cells(centres()), torch.arange(LATTICE.num_cells))


def test_places_outside_belong_to_the_nearest_cell():
    far = torch.tensor([[-99.0, -99.0, -99.0], [99.0, 99.0, 99.0]])
    assert LATTICE.cells(far).tolist() == [0, LATTICE.num_cells - 1]


def test_a_linear_function_is_read_exactly_between_the_centres():
    slope = torch.tensor([[2.0], [-1.0], [0.5]])
    table = centres() @ slope + 3
    positions = centres()[:-1] * 0.5 + centres()[1:] * 0.5
    assert torch.allclose(LATTICE.read(table, positions), positions @ slope + 3, atol=1e-5)


def test_what_is_spread_adds_up():
    positions, values = centres() * 0.7, torch.arange(float(LATTICE.num_cells))
    sums, weights = LATTICE.spread(values, positions)
    assert float(sums.sum()) == pytest.approx(float(values.sum()), rel=1e-5)
    assert float(weights.sum()) == pytest.approx(LATTICE.num_cells, rel=1e-5)


def test_one_layer_of_cells_is_enough():
    flat = Lattice((4, 4, 1), (1.0, 1.0, 1.0))
    values = flat.read(torch.arange(16.0)[:, None], torch.tensor([[0.0, 0.0, 5.0]]))
    assert float(values) == pytest.approx(7.5)


def test_a_blur_keeps_the_mean_of_a_spot_and_constants_at_the_border():
    spot = torch.zeros(9, 9, 9)
    spot[4, 4, 4] = 1
    assert float(blurred(spot, 0.8).sum()) == pytest.approx(1)
    assert torch.allclose(blurred(torch.full((3, 4, 5), 7.0), 2.0), torch.tensor(7.0))
