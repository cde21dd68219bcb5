"""Sizes: multiples of 16, and at least the patch."""

from __future__ import annotations

from cached_items import settings_of
from monaiseg.data.phantoms import phantom_grid
from monaiseg.settings.reading import settings_from_dict
from monaiseg.transforms.network_grid import resize_note, target_shape


def test_sizes_are_kept_and_padded_alike_on_both_sides():
    grid = phantom_grid((18, 16, 3), orientation="RAS")
    assert target_shape(grid, settings_of()) == (32, 16, 16)
    assert target_shape(phantom_grid((18, 16, 3), orientation="SAR"), settings_of()) == (16, 16, 32)


def test_a_patch_larger_than_the_image_pads_the_image():
    assert target_shape(phantom_grid((35, 51, 35)), settings_of((40, 56, 40))) == (48, 64, 48)
    assert target_shape(phantom_grid((35, 10, 10)), settings_of((40, 56, 40))) == (48, 56, 40)


def test_given_sizes_are_rounded_up_and_the_note_names_both():
    zyx = settings_from_dict({"dataset": {"img_after_resize": [196, 164, 190]}})
    patch = settings_of(img_after_resize=[96, 96, 96])

    assert target_shape(phantom_grid((50, 50, 50)), zyx) == (192, 176, 208)
    assert "[190, 164, 196] is rounded up to [192, 176, 208] (x, y, z)" in str(resize_note(zyx))
    assert resize_note(patch) is None
    assert resize_note(settings_of()) is None
