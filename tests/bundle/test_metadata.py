"""Metadata name versions and labels, and no text in them is code."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from bundles import LPBA, REPOSITORY
from monaiseg.bundle.build import build_bundle
from monaiseg.data.label_files import load_label_table
from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError, SettingsError


def test_the_shipped_metadata_name_the_versions_that_are_tested():
    words = (REPOSITORY / "constraints.txt").read_text().split()
    tested = dict(word.split("==") for word in words if "==" in word)
    told = json.loads((LPBA / "configs" / "metadata.json").read_text())

    assert told["monai_version"] == tested["monai"]
    assert told["pytorch_version"] == tested["torch"]
    assert told["numpy_version"] == tested["numpy"]
    required = told["required_packages_version"]
    assert required.pop("monaiseg") == importlib.metadata.version("monaiseg")
    assert required == {name: tested[name] for name in required}


def test_the_labels_are_lpba40s_with_partners_and_colours(table):
    packaged = load_label_table("lpba40")
    assert table == packaged
    assert (len(table.foreground), table.values[1], table.values[-1]) == (56, 21, 182)
    assert sum(label.partner is not None for label in table.labels) == 54
    assert len({label.color for label in table.labels}) == 57
    described = json.loads((LPBA / "configs/metadata.json").read_text())["network_data_format"]
    assert tuple(described["outputs"]["pred"]["channel_def"].values()) == table.names


@pytest.mark.parametrize(
    "name",
    ["$__import__('os').system('x')", " $1", "@network", "%configs/train.json", "a@::b", "x %#y"],
)
def test_names_that_are_code_to_the_runner_are_refused(name, settings, tmp_path):
    """Labels at their source; what a channel or `about.json` says by the exporter itself."""
    with pytest.raises(DataError, match="run as code|is not a valid name"):
        LabelTable.from_values([1], {1: name})

    table, folder = LabelTable.from_values([1]), tmp_path / "bundle"
    with pytest.raises(SettingsError, match="cannot be used in a bundle"):
        build_bundle(settings, table, folder, channels=(name,))
    assert not folder.exists()
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "about.json").write_text(json.dumps({"data_source": name}))
    with pytest.raises(SettingsError, match="cannot be used in a bundle"):
        build_bundle(settings, table, folder)
