"""Plans: settings that follow from data, limits and measurements alone, that fit, and that never waste a limit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monaiseg.errors import DataError, MonaisegWarning, SettingsError
from monaiseg.networks.topology import plan_topology
from monaiseg.planning import planner
from monaiseg.planning.fingerprint import Fingerprint, Scan
from monaiseg.planning.limits import Limits
from monaiseg.planning.planner import Plan, check_spacings, plan_settings
from monaiseg.settings.augmentation import AugmentationSettings, RotationSettings
from monaiseg.settings.planning import PlanningSettings
from plans import GIB, RULES, even, machine, on_gpu, planned

axis = st.integers(20, 200)
sizes = st.sampled_from([0.5, 0.8, 1.0, 1.25, 3.0, 5.0])
scans = st.builds(Scan, st.tuples(axis, axis, axis), st.tuples(sizes, sizes, sizes))
fingerprints = st.builds(
    Fingerprint,
    train=st.lists(scans, min_size=1, max_size=5).map(tuple),
    val=st.lists(scans, max_size=3).map(tuple),
    num_channels=st.integers(1, 4),
    num_classes=st.sampled_from([2, 3, 20, 57, 300]),
)
limits = st.builds(
    Limits,
    minutes=st.floats(1, 2000),
    cores=st.integers(1, 16),
    memory_gb=st.floats(0.5, 64),
)


@given(fingerprint=fingerprints, limits=limits)
def test_a_plan_fits_its_limits_and_can_be_built(fingerprint, limits):
    plan = planned(fingerprint, limits)
    if plan is None:
        return
    settings, expected = plan.settings, plan.forecast

    stride = plan_topology(
        settings.tsk_set.network, settings.patch_shape, fingerprint.spacing
    ).total_stride
    assert all(size % step == 0 for size, step in zip(settings.patch_shape, stride, strict=True))
    assert expected.peak_bytes <= limits.memory_gb * GIB
    assert expected.end_seconds <= 60 * limits.minutes
    assert settings.tsk_set.budget_minutes == limits.minutes
    assert settings.tsk_set.num_threads + settings.tsk_set.num_workers == limits.cores


@given(fingerprint=fingerprints, limits=limits)
def test_equal_inputs_give_equal_plans(fingerprint, limits):
    assert planned(fingerprint, limits) == planned(fingerprint, limits)


@given(fingerprint=fingerprints, limits=limits, factor=st.floats(1.2, 10))
def test_more_minutes_never_give_a_smaller_network_nor_less_work(fingerprint, limits, factor):
    little = planned(fingerprint, limits)
    if little is None:
        return
    much = planned(fingerprint, replace(limits, minutes=factor * limits.minutes))

    assert much is not None
    assert size(much) >= size(little)
    assert work(much) > work(little)


@given(fingerprint=fingerprints, limits=limits, factor=st.floats(1, 10))
def test_more_memory_never_gives_a_smaller_patch_nor_a_refusal(fingerprint, limits, factor):
    little = planned(fingerprint, limits)
    much = planned(fingerprint, replace(limits, memory_gb=factor * limits.memory_gb))

    assert little is None or (much is not None and size(much) >= size(little))


@given(fingerprint=fingerprints, limits=limits)
def test_what_is_refused_names_the_smallest_limit_that_works(fingerprint, limits):
    measured = machine(fingerprint, speed=0.05)
    for _ in range(2):  # memory first, then minutes
        try:
            plan_settings(fingerprint, limits, measured, RULES)
        except SettingsError as error:
            enough = float(str(error).rsplit(" ", 1)[1])
            name = "memory_gb" if "--memory" in str(error) else "minutes"
            short = replace(limits, **{name: enough - 0.5})
            limits = replace(limits, **{name: enough})
            if getattr(short, name) > 0:
                with pytest.raises(SettingsError, match=str(error).split(":")[0]):
                    plan_settings(fingerprint, short, measured, RULES)
    plan_settings(fingerprint, limits, measured, RULES)


def size(plan: Plan) -> tuple[int, int]:
    """Width of the network and voxels of the patch."""
    return plan.settings.tsk_set.network.channels, math.prod(plan.settings.patch_shape)


def work(plan: Plan) -> float:
    """Seconds of steps."""
    return plan.forecast.steps * plan.forecast.step_seconds


def test_augmentation_grows_with_the_times_that_a_scan_is_seen():
    def strength(minutes, **facts):
        plan = planned(replace(even((35, 50, 36), count=200), **facts), Limits(minutes, 2, 4))
        seg = plan.settings.dataset.seg
        change = seg.augmentation
        mirrored = (change.flip.left_right, seg.partition.flips)
        (line,) = (choice.what for choice in plan.choices if "augmentation" in choice.what)
        return change.enabled, change.rotation.degrees, change.scaling.factor, *mirrored, line

    wide = (30.0, (0.7, 1.4))
    assert strength(0.6) == (False, 15.0, (0.85, 1.2), 0.0, (), "no augmentation")
    assert strength(10) == (True, 15.0, (0.85, 1.2), 0.0, (), "default augmentation")
    assert strength(500) == (
        True, *wide, 0.5, ("left_right",), "strong augmentation, with left-right mirroring",
    )  # fmt: skip
    assert strength(500, can_mirror=False) == (
        True,
        *wide,
        0.0,
        (),
        "strong augmentation, without mirroring",
    )


def test_scans_that_fit_are_seen_whole():
    plan = planned(even((35, 50, 36)), Limits(20, 2, 4))

    assert plan.settings.patch_shape == (40, 56, 40)
    assert plan.settings.dataset.seg.patch_size == (40, 56, 40)
    assert plan.settings.dataset.spacing == (1.0, 1.0, 1.0)  # new scans may have another


def test_little_memory_keeps_prepared_cases_on_disk():
    many = even((120, 120, 120), count=400)

    assert planned(many, Limits(60, 2, 32)).settings.dataset.cache.where == "memory"
    assert planned(many, Limits(60, 2, 4)).settings.dataset.cache.where == "disk"


def test_the_schedule_of_a_plan_has_its_warm_up_average_and_validations_inside_the_minutes():
    plan = planned(even((35, 50, 36)), Limits(20, 2, 4))
    tsk, expected = plan.settings.tsk_set, plan.forecast

    assert tsk.max_batch_num_per_epoch[0] * (tsk.epochs - 1) < expected.steps
    assert 0 < tsk.warmup_epochs < tsk.epochs / 10
    assert 0.9 <= tsk.weight_averaging < 1
    assert 1 <= tsk.epochs // tsk.val_period <= 6


def test_a_faster_machine_trains_a_wider_network():
    scans = even((35, 50, 36))
    widths = [
        planned(scans, Limits(10, 2, 8), speed).settings.tsk_set.network.channels
        for speed in (0.1, 1, 10, 1000)
    ]

    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (RULES.widths[0], RULES.widths[-1])


def test_a_plan_goes_by_the_rules_that_it_is_given():
    scans, limits = even((35, 50, 36), count=200), Limits(500, 2, 4)
    mild = AugmentationSettings(rotation=RotationSettings(degrees=20.0))
    rules = PlanningSettings(
        steps_for_width=((16, 1), (24, 10**6)),
        sensible_width=16,
        epochs=30,
        validations=3,
        strong_augmentation=mild,
    )

    settings = plan_settings(scans, limits, machine(scans), rules).settings

    assert settings.tsk_set.network.channels == 16
    assert (settings.tsk_set.epochs, settings.tsk_set.val_period) == (30, 10)
    assert settings.dataset.seg.augmentation == mild
    assert settings.dataset.seg.partition.flips == ()


def test_a_sensible_width_that_is_not_considered_is_refused():
    with pytest.raises(ValueError, match=r"must ascend and include sensible_width \(20\)"):
        PlanningSettings(sensible_width=20)


def test_a_plan_for_a_gpu_follows_from_measurements_of_one():
    scans = even((120, 120, 120), classes=10)
    measured = machine(scans, speed=50)
    plan = plan_settings(scans, Limits(60, 4, 16, gpu_memory_gb=8), on_gpu(measured), RULES)

    assert plan.settings.tsk_set.gpu_id == 0
    assert plan.settings.tsk_set.network.variant == "standard"
    assert plan.forecast.device_bytes <= 8 * GIB


@pytest.mark.parametrize(
    ("minutes", "period", "steps"), [(10, 4, False), (60, 1, False), (2000, 1, True)]
)
def test_no_power_cut_takes_more_than_some_minutes(minutes, period, steps):
    tsk = planned(even((35, 50, 36)), Limits(minutes, 2, 4)).settings.tsk_set

    assert tsk.checkpoint_period == period
    assert (tsk.checkpoint_steps is not None) == steps


def test_a_case_that_memory_does_not_hold_is_named_with_its_need():
    """No smaller network helps: one scan of 1600 x 1600 x 1600 voxels takes the memory while it is prepared."""
    usual = Scan((60, 60, 60), (1.0, 1.0, 1.0), "S01")
    large = Scan((800, 800, 800), (2.0, 2.0, 2.0), "S07")
    scans = Fingerprint((usual,) * 9 + (large,), (), 1, 3)

    with pytest.raises(
        SettingsError, match=r"^--memory: 8 GiB are too little to prepare .*'S07'"
    ) as raised:
        plan_settings(scans, Limits(60, 2, 8), machine(scans), RULES)

    said = str(raised.value)
    assert "(800 x 800 x 800 voxels, 1600 x 1600 x 1600 at the network's voxel size)" in said
    assert "crop it or leave it out, or give at least" in said


def test_a_small_network_that_does_not_fit_is_not_laid_on_a_case():
    scans = even((60, 60, 60), classes=300)

    with pytest.raises(SettingsError, match="the smallest network and patch"):
        plan_settings(scans, Limits(60, 2, 0.5), machine(scans), RULES)


def test_a_voxel_size_in_a_wrong_unit_is_refused_by_the_plan():
    """A scan in centimetres among scans in millimetres would be resampled to a thousand times its voxels."""
    usual = Scan((60, 60, 60), (1.0, 1.0, 1.0), "S01")
    scans = Fingerprint((usual,) * 4 + (Scan((60, 60, 60), (0.001,) * 3, "S05"),), (), 1, 3)

    with pytest.raises(DataError, match=r"case 'S05': .*is its voxel size in metres") as raised:
        check_spacings(scans)
    assert "S01" not in str(raised.value)


def test_a_doubtful_voxel_size_is_said_by_the_plan():
    usual = Scan((60, 60, 60), (1.0, 1.0, 1.0), "S01")
    scans = Fingerprint((usual,) * 4 + (Scan((60, 60, 15), (1.0, 1.0, 4.0), "S05"),), (), 1, 3)

    with pytest.warns(MonaisegWarning, match="case 'S05': has voxels of 1 x 1 x 4 mm"):
        check_spacings(scans)


@pytest.fixture
def two_gpus(monkeypatch):
    """torch sees two GPUs; of the second, other programs have taken most."""
    free = {0: 70 * GIB + 1, 1: 7.06 * GIB}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (int(free[d.index]), 80 * GIB))


MEASURED = machine(even((120, 120, 120)))
OF_A_GPU = on_gpu(MEASURED)


@pytest.mark.parametrize(
    ("device", "gigabytes", "measured", "limit"),
    [
        (None, None, None, (70.0, 0)),
        (None, 12.0, None, (12.0, 0)),
        ("cuda:1", None, None, (7.0, 1)),
        ("cpu", None, None, (None, 0)),
        (-1, None, None, (None, 0)),
        (None, None, MEASURED, (None, 0)),
        (None, None, OF_A_GPU, (70.0, 0)),
        (None, 24.0, OF_A_GPU, (24.0, 0)),
    ],
)
def test_the_limit_of_a_plan_is_the_free_memory_of_the_gpu_that_is_there(
    two_gpus, device, gigabytes, measured, limit
):
    assert planner._gpu(device, gigabytes, measured) == limit


@pytest.mark.parametrize(
    ("device", "gigabytes", "measured", "said"),
    [
        (None, 8.0, None, "no GPU that torch can use; plan on the computer that will train"),
        ("cpu", 8.0, None, "--gpu-memory and --device cpu contradict"),
        (None, None, OF_A_GPU, "say with --gpu-memory how many GiB"),
        ("cuda", None, None, "torch can use no GPU on this computer"),
    ],
)
def test_without_a_gpu_a_plan_for_one_is_refused_for_its_reason(device, gigabytes, measured, said):
    with pytest.raises(SettingsError, match=said):
        planner._gpu(device, gigabytes, measured)


def test_without_a_gpu_a_plan_is_for_the_cpu_and_measurements_of_a_gpu_need_its_memory():
    assert planner._gpu(None, None, None) == (None, 0)
    assert planner._gpu(None, 24.0, OF_A_GPU) == (24.0, 0)


def test_a_plan_names_the_gpu_that_it_is_for():
    scans = even((120, 120, 120), classes=10)
    limits = Limits(60, 4, 16, gpu_memory_gb=8, gpu_id=1)
    plan = plan_settings(scans, limits, on_gpu(machine(scans, speed=50)), RULES)

    assert plan.settings.tsk_set.gpu_id == 1
    assert limits.place == "cuda:1"
    assert "GiB on the GPU" in plan.forecast.in_words()
