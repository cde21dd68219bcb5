"""Words: a settings file shown as the transforms, and the network, that it expands to."""

from __future__ import annotations

from typer.testing import CliRunner

from cached_items import PAIRS, settings_of
from monaiseg.cli import app
from monaiseg.settings.writing import dump_settings
from monaiseg.transforms.chains import cached_chain, training_chain
from monaiseg.transforms.words import in_words


def test_a_chain_is_shown_by_monais_names_with_what_was_chosen():
    chosen = settings_of(spacing=[1.0, 1.0, 2.0])
    lines = in_words(cached_chain(chosen, PAIRS, for_training=True).transforms)
    lines += in_words(training_chain(chosen, PAIRS))

    assert lines[0].startswith("LoadImaged(keys=('image',), reader='CheckedReader'")
    names = [line.partition("(")[0] for line in lines]
    for name in ("EnsureChannelFirstd", "Orientationd", "Spacingd", "RandCropByPosNegLabeld"):
        assert name in names
    assert any(line.startswith("Spacingd(keys=('image', 'label'), pixdim=") for line in lines)
    assert "spatial_size=(16, 16, 16)" in lines[-1]


def test_settings_show_chain_prints_transforms_and_stages(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(dump_settings(settings_of((32, 16, 16))))
    shown = CliRunner().invoke(app, ["settings", "show", "--chain", str(file)])

    assert shown.exit_code == 0
    for words in ("Orientationd(", "RandCropByPosNegLabeld(", "kernel 3 x 3 x 3, stride 2 x 2 x 2"):
        assert words in shown.output
    assert "the labels come from the data" in shown.output
