"""EasyReg's settings files load unchanged, with the data settings that lie beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monaiseg.errors import MonaisegWarning, SettingsError
from monaiseg.settings.reading import load_settings, parse_settings
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings

REPOSITORY = Path(__file__).parents[2]

# ---------------------------------------------------------------- the second file, about the data

DATA_SETTINGS = {
    "datapro": {
        "dataset": {"dataset_name": "lpba", "divided_ratio": [0.7, 0.1, 0.2]},
        "reg": {"sched": "inter"},
        "task_type": "seg",
        "seg": {
            "max_num_for_loading": [9, 3, -1, 1],
            "patch_size": [64, 64, 64],
            "partition": {"overlap_size": [16, 16, 8], "padding_mode": "reflect"},
            "transform": {
                "transform_seq": ["my_balanced_random_crop"],
                "my_bal_rand_crop": {"scale_ratio": 0.25},
            },
        },
    }
}
"""As EasyReg's old settings folders hold it."""


@pytest.mark.parametrize("name", ["data_setting.json", "cur_data_setting.json"])
def test_data_settings_fill_in_what_the_settings_do_not_say(name, tmp_path):
    path = tmp_path / "cur_task_setting.json"
    path.write_text('{"dataset": {"seg": {"partition": {"padding_mode": "constant"}}}}')
    (tmp_path / name).write_text(json.dumps(DATA_SETTINGS))

    with pytest.warns(MonaisegWarning) as caught:
        settings = load_settings(path)

    assert settings.patch_shape == (64, 64, 64)
    assert settings.window_overlap == (0.25, 0.5, 0.5)
    assert settings.dataset.max_num_for_loading == (9, 3, -1, 1)
    assert settings.dataset.seg.sampling.method == "balanced"
    assert settings.dataset.seg.sampling.least_class_share == 0.25
    assert settings.dataset.seg.partition.padding_mode == "constant"
    (warning,) = caught
    assert str(warning.message) == (
        f"{tmp_path / name}: cur_task_setting.json has other values for "
        "dataset.seg.partition.padding_mode, which are used"
    )


def test_data_settings_beside_settings_in_another_order_of_axes_are_refused(tmp_path):
    path = tmp_path / "cur_task_setting.json"
    path.write_text(dump_settings(Settings()))
    (tmp_path / "data_setting.json").write_text(json.dumps(DATA_SETTINGS))

    with pytest.raises(SettingsError, match=r'axis_order: is "xyz".*data_setting.json'):
        load_settings(path)


def test_data_settings_of_a_registration_say_nothing(tmp_path):
    path = tmp_path / "cur_task_setting.json"
    path.write_text("{}")
    other = {"datapro": {"dataset": {"img_size": [9, 9, 9]}, "reg": {"axis": -1}, "seg": {}}}
    (tmp_path / "data_setting.json").write_text(json.dumps(other))

    assert load_settings(path) == Settings()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1", "data_setting.json: line 1"),
        ('{"datapro": {"seg": {"patch_sise": [1]}}}', "did you mean 'patch_size'"),
        ('{"datapro": 3}', "datapro"),
    ],
)
def test_faults_of_data_settings_are_named(text, found, tmp_path):
    path = tmp_path / "cur_task_setting.json"
    path.write_text("{}")
    (tmp_path / "data_setting.json").write_text(text)
    with pytest.raises(SettingsError, match=found):
        load_settings(path)


LPBA = {
    "seg_train": {"batch_size": 4, "epochs": 400, "image_shape": None, "train": True},
    "seg_aug": {"batch_size": 8, "epochs": 400, "image_shape": None, "train": True},
    "seg_eval": {"batch_size": 4, "epochs": 500, "image_shape": (196, 164, 196), "train": False},
}


@pytest.mark.parametrize("name", LPBA)
def test_the_lpba_settings_resolve(name):
    path = REPOSITORY / "scripts" / "settings_for_lpba" / name / "curr_task_settings.json"
    with pytest.warns(MonaisegWarning, match="use_physical_coord") as caught:
        settings = load_settings(path)
    task, seg = settings.tsk_set, settings.dataset.seg

    assert len(caught) == 1
    assert {
        "batch_size": settings.batch_size,
        "epochs": task.epochs,
        "image_shape": settings.image_shape,
        "train": task.train,
    } == LPBA[name]
    assert settings.patch_shape == (72, 72, 72)
    assert settings.window_overlap == pytest.approx((4 / 9,) * 3)
    assert (seg.sampling.method, seg.sampling.least_class_share) == ("balanced", 0.1)
    assert (task.loss.type, task.optim.optim_type, task.network.norm) == ("ce", "adam", "batch")
    assert (task.optim.lr_scheduler.type, task.optim.lr_scheduler.step.step_size) == ("step", 60)
    assert (task.gradient_accumulation_steps, task.warmup_epochs) == (2, 2)
    assert task.seg.class_num == 57
    assert parse_settings(dump_settings(settings)) == settings
