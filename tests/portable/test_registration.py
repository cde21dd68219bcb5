"""Registration in NumPy finds the positions that torch's finds, and the atlas adds the same there."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from bodies import PARTNERS, K, make_body, some_bodies, to_body
from monaiseg.atlas.building import train_atlas
from monaiseg.atlas.scans import foreground_of
from monaiseg.errors import MonaisegWarning
from monaiseg.export.model_file import prior_record
from monaiseg.networks.atlas_prior import AtlasPrior
from monaiseg.portable.prior import prior_of
from monaiseg.portable.protobuf import ModelError
from monaiseg.portable.recipe import arrays_of
from monaiseg.portable.registration import foreground_of as numpys_foreground
from monaiseg.prediction.portable import torch_prior


@pytest.fixture(scope="module", params=[1.0, 0.05], ids=["1 mm", "0.05 mm"])
def mm(request):
    return request.param


@pytest.fixture(scope="module")
def by_torch(mm):
    trained = train_atlas(some_bodies(mm=mm), list("abcd"), K, PARTNERS)
    prior = AtlasPrior(K, (mm, mm, mm))
    prior.learn(trained.template, trained.atlas())
    return prior


def arrays(prior):
    class Network:
        pass

    network = Network()
    network.prior = prior
    record = prior_record(network)
    return arrays_of(record["template"]), arrays_of(record["atlas"])


@pytest.fixture(scope="module")
def by_numpy(by_torch):
    return prior_of(*arrays(by_torch), K)


@pytest.mark.parametrize("place", [to_body(), to_body((-1.0, 1.0, 0.5), 0.9, -8)])
@pytest.mark.parametrize("channels", [1, 2])
def test_positions_are_those_of_torch(by_torch, by_numpy, mm, place, channels):
    image = torch.cat([make_body(place, mm, noise=1, seed=n).image for n in range(channels)])

    expected = by_torch.positions(image).numpy()
    placed = by_numpy.template.place(image.numpy(), (mm, mm, mm))

    assert placed.positions.dtype == np.float32
    assert np.abs(placed.positions - expected).max() < 1e-3 * mm
    assert by_numpy.template.misfit(placed) is None


def test_thick_slices_and_a_scan_without_background_are_placed_alike(by_torch, by_numpy, mm):
    noise = torch.randn(1, 22, 26, 20, generator=torch.Generator().manual_seed(3))
    image = (make_body(mm=mm).image + noise)[..., ::2]
    by_torch.spacing = (mm, mm, 2 * mm)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MonaisegWarning)
        expected = by_torch.positions(image).numpy()
    by_torch.spacing = (mm, mm, mm)
    found = by_numpy.template.place(image.numpy(), (mm, mm, 2 * mm)).positions

    assert np.abs(found - expected).max() < 1e-3 * mm


def test_a_scan_of_something_else_is_named_with_the_numbers_of_torch(by_torch, by_numpy, mm):
    image = torch.rand(1, 20, 22, 18, generator=torch.Generator().manual_seed(0))

    with pytest.warns(MonaisegWarning) as caught:
        by_torch.positions(image, "the scan")
    misfit = by_numpy.template.misfit(by_numpy.template.place(image.numpy(), (mm, mm, mm)))

    assert str(caught[0].message) == f"the scan: {misfit}"


def test_the_atlas_adds_the_same_to_scores(by_torch, by_numpy, mm):
    positions = (torch.rand(3, 500, generator=torch.Generator().manual_seed(0)) - 0.5) * 40 * mm
    scores = torch.randn(K, 500, generator=torch.Generator().manual_seed(1))

    found = np.ascontiguousarray(scores.numpy().T)
    by_numpy.add_to(found, positions.numpy().T)

    assert np.abs(found.T - by_torch.add_to(scores.clone(), positions).numpy()).max() < 1e-5


def test_template_and_atlas_come_back_as_they_were_written(by_torch, by_numpy, mm):
    back = torch_prior(by_numpy, (mm, mm, mm))

    for name, tensor in by_torch.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("part", "name", "change"),
    [
        (0, "image", lambda a: a[1:]),
        (0, "image", lambda a: a * np.inf),
        (0, "shape", lambda a: a * 0),
        (0, "shape", lambda a: a * 100_000),
        (0, "cell_mm", lambda a: -a),
        (0, "deviation", lambda a: a * 0),
        (1, "counts", lambda a: a[1:]),
        (1, "counts", lambda a: a + 1),
        (1, "classes", lambda a: a + np.array(K, a.dtype)),
        (1, "logs", lambda a: a[:-1]),
        (1, "frequencies", lambda a: a[:-1]),
    ],
)
def test_a_forged_atlas_is_refused(by_torch, part, name, change):
    parts = arrays(by_torch)
    parts[part][name] = change(parts[part][name])

    with np.errstate(invalid="ignore"), pytest.raises(ModelError, match="has an atlas"):
        prior_of(*parts, K)


def test_rounding_errors_of_resampling_are_no_foreground():
    body = make_body().image - 0.7  # a background of -0.7, as after normalisation
    background = foreground_of(make_body().image).logical_not()
    rounded = torch.where(background, body * (1 + 1e-7 * (torch.rand(body.shape) > 0.5)), body)

    assert (rounded[0][background] != rounded.min()).any()
    assert torch.equal(foreground_of(rounded), background.logical_not())
    assert np.array_equal(numpys_foreground(rounded.numpy()), background.logical_not().numpy())
