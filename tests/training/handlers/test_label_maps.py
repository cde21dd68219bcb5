"""Label maps: what the network made of the validation cases, as files."""

from __future__ import annotations

import torch
from monai.engines import SupervisedEvaluator

from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import read_label_map
from monaiseg.training.handlers.label_maps import SaveLabelMaps


def test_predicted_and_given_maps_are_written_in_label_values(tmp_path):
    case = {
        "image": torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8),
        "label": torch.ones(1, 1, 4, 4, 4, dtype=torch.uint8),
        "affine": torch.eye(4)[None],
        "case_id": ["S01"],
    }
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[case],
        network=torch.nn.Identity(),
        val_handlers=[SaveLabelMaps(tmp_path / "3D", LabelTable.from_values([21]), "val")],
        decollate=False,
    )

    evaluator.run()

    given = read_label_map(tmp_path / "3D" / "S01_val_iter_0_gt.nii.gz")
    assert sorted(path.name for path in (tmp_path / "3D").iterdir()) == [
        "S01_val_iter_0_gt.nii.gz",
        "S01_val_iter_0_output.nii.gz",
    ]
    assert given is not None
