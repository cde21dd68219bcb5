"""Plans: settings that follow from data, limits and measurements alone, that fit, and that never waste a limit."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.facts import CaseFacts, ChannelFacts
from monaiseg.data.grid import padded_up
from monaiseg.errors import SettingsError
from monaiseg.networks.topology import plan_topology
from monaiseg.planning import forecasts, measuring, probes
from monaiseg.planning.costs import step_cost
from monaiseg.planning.fingerprint import Fingerprint, Scan, hounsfield_window
from monaiseg.planning.layout import layout
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.options import Option, patch_ladder
from monaiseg.planning.planner import Plan, plan_settings
from monaiseg.planning.probes import DataProbe, StepProbe, run_probes
from monaiseg.preparation import prepare
from monaiseg.settings.augmentation import AugmentationSettings, RotationSettings
from monaiseg.settings.planning import PlanningSettings
from monaiseg.settings.reading import load_settings
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints

GIB = 2**30
GPU = Limits(60, 8, 16, gpu_memory_gb=8)
RULES = PlanningSettings()


def machine(
    fingerprint: Fingerprint, speed: float = 1.0, widths: tuple[int, ...] = (16, 32, 64)
) -> Measurements:
    """A machine that computes 1 million voxels a second at width 16, and goes slower with the square of the width."""
    patch = patch_ladder(fingerprint, RULES)[0]
    voxels = 2 * math.prod(patch)

    def probe(width: int) -> StepProbe:
        seconds = voxels / 1e6 * (width / 16) ** 2 / speed
        parameters = 350_000 * (width // 16) ** 2
        return StepProbe(
            "folded",
            width,
            patch,
            2,
            fingerprint.num_channels,
            fingerprint.num_classes,
            step_seconds=seconds,
            window_seconds=seconds / 6,
            step_bytes=voxels * (8 * width + 12 * fingerprint.num_classes) + 16 * parameters,
            parameters=parameters,
        )

    data = DataProbe(4.0, GIB // 2, 1e-7, 5e-8)
    return Measurements("made up", 2, "cpu", data, tuple(probe(width) for width in widths))


def even(shape, count=20, spacing=(1.0, 1.0, 1.0), classes=3) -> Fingerprint:
    """A data task of equal scans, a fifth of them for validation."""
    scans = (Scan(shape, spacing),) * count
    return Fingerprint(scans, scans[: count // 5], 1, classes)


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


def planned(fingerprint: Fingerprint, limits: Limits, speed: float = 1.0) -> Plan | None:
    """A plan on the made-up machine; None where it is refused."""
    try:
        return plan_settings(fingerprint, limits, machine(fingerprint, speed), RULES)
    except SettingsError:
        return None


# ---------------------------------------------------------------- what holds for all data and all limits


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


# ---------------------------------------------------------------- on drawn examples


@pytest.mark.parametrize(
    ("cores", "cutting", "workers"), [(2, 1.0, 0), (4, 1.0, 1), (4, 0.1, 0), (1, 2.0, 0)]
)
def test_a_worker_takes_a_core_where_it_gives_back_more(cores, cutting, workers):
    """At width 16 a voxel computes for a microsecond; `cutting` is that of its cutting."""
    fingerprint = even((35, 50, 36))
    measured = machine(fingerprint)
    measured = replace(measured, cores=cores, data=DataProbe(4.0, GIB // 2, 1e-7, cutting * 1e-6))

    plan = plan_settings(fingerprint, Limits(2, cores, 4), measured, RULES)

    assert plan.settings.tsk_set.network.channels == 16
    assert plan.settings.tsk_set.num_workers == plan.forecast.workers == workers
    assert plan.settings.tsk_set.num_threads == cores - workers


def test_augmentation_grows_with_the_times_that_a_scan_is_seen():
    def strength(minutes, **facts):
        plan = planned(replace(even((35, 50, 36), count=200), **facts), Limits(minutes, 2, 4))
        seg = plan.settings.dataset.seg
        change = seg.augmentation
        mirrored = (change.flip.left_right, seg.partition.flips)
        (line,) = (choice.what for choice in plan.choices if "augmentation" in choice.what)
        return change.enabled, change.rotation.degrees, change.scaling.factor, *mirrored, line

    wide = (30.0, (0.7, 1.4))
    assert strength(0.6) == (False, 15.0, (0.85, 1.2), 0.0, (), "augmentation off")
    assert strength(10) == (True, 15.0, (0.85, 1.2), 0.0, (), "augmentation default")
    assert strength(500) == (
        True, *wide, 0.5, ("left_right",), "augmentation strong, mirrored left to right",
    )  # fmt: skip
    assert strength(500, can_mirror=False) == (True, *wide, 0.0, (), "augmentation strong")


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": (1.3, 1.2, 1.5)},
        {"img_after_resize": (32, 16, 48)},
        {"intensity": {"method": "percentile", "clip_range": (0, 200)}},
    ],
)
def test_a_plan_for_prepared_volumes_reads_them_as_they_are(change, dataset, tmp_path):
    """Training refuses settings that would resample or normalise them otherwise."""
    chosen = tmp_path / "chosen.json"
    chosen.write_text(json.dumps({"dataset": {"axis_order": "xyz", **change}}))
    task = prepare(dataset, tmp_path / "out", "brains", preprocess=chosen)
    fingerprint = Fingerprint.of(task)

    settings = planned(fingerprint, Limits(20, 2, 4)).settings

    assert task.as_read(settings).dataset.intensity.method == "none"
    assert fingerprint.network_shapes(fingerprint.train, (16, 16, 16)) == [
        padded_up(scan.shape, (16, 16, 16)) for scan in fingerprint.train
    ]


def test_memory_that_runs_out_in_a_probe_leaves_the_option_out():
    assert probes._apart(_starved) is None
    with pytest.raises(RuntimeError, match="shapes differ"):
        probes._apart(_broken)


def _starved() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


def _broken() -> None:
    raise RuntimeError("shapes differ")


def test_what_keeps_a_probe_from_measuring_is_said(monkeypatch):
    monkeypatch.setattr("monaiseg.planning.probes.sys.executable", shutil.which("false"))

    with pytest.raises(SettingsError, match=r"could not be measured: the process ended with 1;"):
        run_probes([], (Settings(), (16, 16, 16), 2), (1.0, 1.0, 1.0), cores=1, device="cpu")


def test_scans_that_fit_are_seen_whole():
    plan = planned(even((35, 50, 36)), Limits(20, 2, 4))

    assert plan.settings.patch_shape == (40, 56, 40)
    assert plan.settings.dataset.seg.patch_size == (40, 56, 40)
    assert plan.settings.dataset.spacing == (1.0, 1.0, 1.0)  # new scans may have another


def test_scans_of_different_spacing_are_brought_to_the_median():
    scans = tuple(Scan((40, 40, 20), (1.0, 1.0, size)) for size in (2.0, 3.0, 4.0))
    plan = planned(Fingerprint(scans, (), 1, 3), Limits(20, 2, 4))

    assert plan.settings.spacing_mm == (1.0, 1.0, 3.0)
    assert plan.settings.dataset.spacing == (1.0, 1.0, 3.0)


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
    with pytest.raises(ValueError, match=r"sensible_width \(20\) among them"):
        PlanningSettings(sensible_width=20)


def test_a_step_that_was_measured_is_taken_as_it_is_and_others_follow_from_it():
    scans = even((35, 50, 36))
    measured = machine(scans)
    patch = patch_ladder(scans, RULES)[0]

    known = step_cost(Option("folded", 32, patch, 2), scans, measured)
    between = step_cost(Option("folded", 24, patch, 4), scans, measured)

    assert known == measured.steps[1]
    assert between.step_seconds == pytest.approx(known.step_seconds * 2 * (24 / 32) ** 2)


def test_facts_of_any_orientation_are_read_along_the_same_axes(dataset):
    from monaiseg.data.cases import find_cases
    from monaiseg.data.facts import examine_cases
    from monaiseg.data.volumes import read_header

    cases = find_cases(dataset).cases
    facts: dict[str, CaseFacts] = examine_cases(cases)

    turned = Scan.of(facts["case_3"])  # 22 x 24 x 24 voxels of 1.1 x 1 x 1 mm along P, I, R
    assert turned.shape == (24, 22, 24)
    assert turned.spacing == pytest.approx((1.0, 1.1, 1.0))
    for case in cases:
        header = read_header(case.images[0]).grid
        assert facts[case.id].grid.spacing == pytest.approx(header.spacing)
        assert facts[case.id].grid.orientation == header.orientation


def test_without_a_gpu_to_measure_a_plan_for_one_wants_measurements(data_task):
    from monaiseg.planning.planner import plan

    with pytest.raises(SettingsError, match="--measurements"):
        plan(
            data_task.folder.parent,
            data_task.folder.name,
            minutes=10,
            memory_gb=4,
            gpu_memory_gb=8,
        )


def test_a_plan_for_a_gpu_follows_from_measurements_of_one():
    scans = even((120, 120, 120), classes=10)
    measured = machine(scans, speed=50)
    plan = plan_settings(scans, Limits(60, 4, 16, gpu_memory_gb=8), on_gpu(measured), RULES)

    assert plan.settings.tsk_set.gpu_id == 0
    assert plan.settings.tsk_set.network.variant == "standard"
    assert plan.forecast.device_bytes <= 8 * GIB


def on_gpu(measured: Measurements) -> Measurements:
    steps = tuple(replace(step, variant="standard") for step in measured.steps)
    return replace(measured, device="cuda", steps=steps)


def test_a_gpu_holds_the_scores_of_a_validation_too():
    """104 classes on scans of 512 x 512 x 304: a slab of scores, twice, is far larger than a step."""
    few, many = (even((120, 120, 120), classes=n) for n in (3, 104))
    wide = even((512, 512, 304), classes=104)
    taken = [
        forecasts.forecast(
            Option("standard", 16, (64, 64, 64), 2), scans, GPU, on_gpu(machine(scans)), RULES
        )
        for scans in (few, many, wide)
    ]

    assert taken[0].device_bytes < taken[1].device_bytes < taken[2].device_bytes
    slab = 512 * 512 * 304 // 512 * 64
    assert taken[2].device_bytes > 2 * 4 * 104 * slab


def test_a_step_that_did_not_fit_a_gpu_is_not_planned_again(monkeypatch):
    monkeypatch.setattr("monaiseg.planning.measuring.free_memory", lambda: GIB)  # of the computer
    scans = even((120, 120, 120))
    option = Option("standard", 32, (64, 64, 64), 2)

    failed = measuring._too_large(option, scans, GPU, on_gpu(machine(scans)))

    assert failed.step_bytes > GPU.gpu_memory_gb * GIB


def test_a_gpu_has_as_many_workers_as_keep_it_busy():
    assert forecasts._beside(1.0, 0.5, GPU, RULES.most_workers) == (1.0, 1)
    assert forecasts._beside(0.1, 0.35, GPU, RULES.most_workers) == (0.1, 4)
    assert forecasts._beside(0.1, 3.0, GPU, RULES.most_workers) == (pytest.approx(3.0 / 7), 7)


def test_scans_in_hounsfield_units_keep_their_scale():
    def channel(low: float, centre: float | None, spread: float | None) -> ChannelFacts:
        return ChannelFacts(low, 1500, 0, 1, 0, 0, 0, centre, spread)

    ct = [[channel(-1024, 40.0, 30.0)], [channel(-1000, 60.0, 30.0)], [channel(-200, 50.0, 30.0)]]
    scans = replace(even((35, 50, 36)), window=hounsfield_window(ct))

    assert scans.window == (-40.0, 140.0)
    intensity = planned(scans, Limits(20, 2, 4)).settings.dataset.intensity
    assert (intensity.clip_range, intensity.method) == ((-40.0, 140.0), "minmax")
    assert hounsfield_window([[channel(0, 40.0, 30.0)]] * 2) is None
    assert hounsfield_window([[channel(-1024, None, None)]] * 2) is None
    assert hounsfield_window([[channel(-1024, 40.0, 30.0)] * 2] * 2) is None
    assert (
        planned(even((35, 50, 36)), Limits(20, 2, 4)).settings.dataset.intensity.method == "zscore"
    )


@pytest.mark.parametrize(
    ("minutes", "period", "steps"), [(10, 4, False), (60, 1, False), (2000, 1, True)]
)
def test_no_power_cut_takes_more_than_some_minutes(minutes, period, steps):
    tsk = planned(even((35, 50, 36)), Limits(minutes, 2, 4)).settings.tsk_set

    assert tsk.checkpoint_period == period
    assert (tsk.checkpoint_steps is not None) == steps


def test_the_step_of_more_classes_than_a_byte_holds_is_measured():
    settings = layout(
        Option("folded", 16, (16, 16, 16), 1), even((16, 16, 16)), Limits(1, 1, 1), RULES
    )

    measured = probes._step_costs(dump_settings(settings), 300, (1.0, 1.0, 1.0), 1, "cpu")

    assert measured["num_classes"] == 300
    assert measured["step_seconds"] > 0


# ---------------------------------------------------------------- the command, and a training by its plan


def test_a_plan_is_measured_written_and_trained_on_time(data_task, tmp_path, monkeypatch):
    lenient = PlanningSettings(least_steps=1)  # however busy this machine is
    monkeypatch.setattr("monaiseg.planning.planner.PlanningSettings", lambda: lenient)
    settings, kept = tmp_path / "plan.json", tmp_path / "measured.json"
    root, name = str(data_task.folder.parent), data_task.folder.name
    words = ["plan", "--output-root-path", root, "-dtn", name, "--minutes", "0.5", "--cores", "1"]
    words += ["--memory", "4", "--measurements", str(kept)]

    first = CliRunner().invoke(app, [*words, "-o", str(settings)], catch_exceptions=False)
    again = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "again.json")])

    assert first.exit_code == again.exit_code == 0
    assert first.stdout.count("\n") > 10
    assert f'monaiseg train -ts "{settings}"' in first.stdout
    assert load_settings(settings) == load_settings(tmp_path / "again.json")

    words[words.index("--cores") + 1] = "2"
    other = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "other.json")])
    assert other.exit_code == 2
    assert "cores 1 then, 2 now" in other.stderr
    assert Measurements.load(kept).data.base_bytes > GIB // 10

    trained = CliRunner().invoke(
        app,
        ["train", "-ts", str(settings), "-o", root, "-dtn", name, "-tn", "planned"],
        catch_exceptions=False,
    )
    assert trained.exit_code == 0, trained.output
    assert "best mean Dice" in trained.stdout
    saved = checkpoints.newest(data_task.folder / "planned")
    assert "dice/mean" in saved.history[-1]
    assert saved.step == saved.scheduler["course"]["last_step"]


def test_a_plan_replaces_no_file_and_reads_no_file_that_holds_no_measurements(data_task, tmp_path):
    root, name = str(data_task.folder.parent), data_task.folder.name
    words = ["plan", "--output-root-path", root, "-dtn", name, "--minutes", "1", "-o"]
    there = tmp_path / "there.json"
    there.write_text(json.dumps({"steps": 1}))

    taken = CliRunner().invoke(app, [*words, str(there)])
    wrong = CliRunner().invoke(
        app, [*words, str(tmp_path / "new.json"), "--measurements", str(there)]
    )

    assert (taken.exit_code, wrong.exit_code) == (2, 2)
    assert "--force" in taken.stderr
    assert "holds no measurements" in wrong.stderr
    assert not (tmp_path / "new.json").exists()
