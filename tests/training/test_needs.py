"""Needs: what cannot work is refused before the first step, with its case, its need and what helps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from children import in_child
from monaiseg.cli import app
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError, OutOfMemoryError
from monaiseg.networks.residual_unet import network_of
from monaiseg.settings.reading import changed
from monaiseg.settings.writing import dump_settings
from monaiseg.training import needs
from monaiseg.training.needs import features_bytes, preparing_threads
from monaiseg.training.run import train
from monaiseg.transforms import CaseChain, preparing_bytes
from monaiseg.transforms.load import OnImageGridd

GIB = 2**30
MIB = 2**20


def run(settings, task, **options):
    return train(
        settings,
        output_root_path=task.folder.parent,
        data_task_name=task.folder.name,
        task_name="run",
        **options,
    )


def with_size(task, case_id, shape):
    """The data task as if the scan of a case had this shape; only its facts say so."""
    facts = {**task.facts, case_id: replace(task.facts[case_id], shape=shape)}
    return replace(task, facts=facts)


def test_a_case_too_large_for_the_memory_is_named_before_the_first_step(
    settings, data_task, monkeypatch
):
    """300 GiB in one case: the first batch would be killed by the system, without a word."""
    large = data_task.cases["train"][1].id
    made = with_size(data_task, large, (2048, 2048, 2400))
    monkeypatch.setattr("monaiseg.training.run.read_data_task", lambda _: made)
    monkeypatch.setattr("monaiseg.training.recipe.check_unchanged", lambda *_: None)
    monkeypatch.setattr("monaiseg.training.needs.free_memory", lambda: 4 * GIB)

    with pytest.raises(OutOfMemoryError) as raised:
        run(settings, data_task)

    (line, remedy) = str(raised.value).splitlines()
    assert line.startswith(
        f"case {large!r}: takes about 281.2 GiB of memory to prepare (2048 x 2048"
    )
    assert remedy.startswith("4.0 GiB are free: crop these scans or leave them out")
    assert not list(data_task.folder.glob("run/checkpoints/*"))


def test_every_case_that_is_too_large_is_named_once(settings, data_task, monkeypatch):
    """debug has the cases of train again."""
    first, second, third = data_task.cases["train"]
    (val,) = data_task.cases["val"]
    made = with_size(with_size(data_task, first.id, (900, 900, 900)), val.id, (900, 900, 900))
    monkeypatch.setattr("monaiseg.training.run.read_data_task", lambda _: made)
    monkeypatch.setattr("monaiseg.training.recipe.check_unchanged", lambda *_: None)
    monkeypatch.setattr("monaiseg.training.needs.free_memory", lambda: 4 * GIB)

    with pytest.raises(OutOfMemoryError) as raised:
        run(settings, data_task)

    for case in (first, val):
        assert str(raised.value).count(f"case {case.id!r}") == 1
    for case in (second, third):
        assert case.id not in str(raised.value)


def test_the_command_exits_with_2_and_no_traceback(settings, data_task, tmp_path, monkeypatch):
    monkeypatch.setattr("monaiseg.training.needs.free_memory", lambda: MIB // 4)
    (tmp_path / "s.json").write_text(dump_settings(settings))

    words = ["train", data_task.folder, "--name", "run", "--settings", tmp_path / "s.json"]
    done = CliRunner().invoke(app, [str(word) for word in words])

    assert done.exit_code == 2
    assert "0 MiB are free: crop these scans" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("batch_size", "memory_mib", "advice"),
    [
        (64, 400, r"lower tsk_set.batch_size from 64 to \d+"),
        (1, 4, r"lower dataset.seg.patch_size to at most \d+ % of its voxels"),
        (1, 1, r"tsk_set.network.channels: the weights alone take more"),
    ],
)
def test_a_step_too_large_for_the_memory_is_refused_with_what_fits(
    settings, data_task, monkeypatch, batch_size, memory_mib, advice
):
    wide = changed(
        settings,
        {
            "dataset.seg.patch_size": [64, 64, 64] if batch_size > 1 else [32, 32, 32],
            "tsk_set.batch_size": batch_size,
        },
    )
    monkeypatch.setattr(needs, "check_cases", lambda _: None)
    monkeypatch.setattr("monaiseg.training.needs.free_memory", lambda: memory_mib * MIB)

    with pytest.raises(OutOfMemoryError, match=rf"a step with {batch_size} patch.* of .*{advice}"):
        run(wide, data_task)


def test_what_is_advised_fits(settings, data_task, monkeypatch):
    wide = changed(settings, {"dataset.seg.patch_size": [64, 64, 64], "tsk_set.batch_size": 64})
    monkeypatch.setattr("monaiseg.training.needs.free_memory", lambda: 400 * MIB)
    with pytest.raises(OutOfMemoryError) as raised:
        run(wide, data_task)
    fitting = int(str(raised.value).split("from 64 to ")[1].split(",")[0])

    for size in (fitting, fitting + 1):
        monkeypatch.setattr("monaiseg.training.run.initial_network", _stopped)
        expected = _PassedError if size == fitting else OutOfMemoryError
        with pytest.raises(expected):
            run(changed(wide, {"tsk_set.batch_size": size}), data_task)


class _PassedError(Exception):
    """The checks let the run go on."""


def _stopped(*_):
    raise _PassedError


def test_whole_images_are_judged_by_the_largest_one(settings, data_task, monkeypatch):
    whole = changed(settings, {"dataset.seg.use_whole_img_as_input": True, "tsk_set.batch_size": 1})
    large = data_task.cases["train"][2].id
    made = with_size(data_task, large, (400, 400, 400))
    monkeypatch.setattr("monaiseg.training.run.read_data_task", lambda _: made)
    monkeypatch.setattr("monaiseg.training.recipe.check_unchanged", lambda *_: None)
    monkeypatch.setattr("monaiseg.training.needs.free_memory", lambda: 3 * GIB)

    with pytest.raises(
        OutOfMemoryError, match=rf"1 patch of .*\(case '{large}', whole\).*to false"
    ):
        run(whole, data_task)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["standard", "folded"])
def test_the_features_of_a_step_are_estimated_from_below_and_not_far(settings, variant):
    """Against the memory that the process takes."""
    chosen = changed(
        settings,
        {
            "dataset.seg.patch_size": [96, 96, 96],
            "tsk_set.network.variant": variant,
            "tsk_set.network.channels": 32,
        },
    )
    table = LabelTable.from_values([1, 2])
    with torch.device("meta"):
        expected = features_bytes(network_of(chosen, table, (1, 1, 1)), (1, 96, 96, 96))

    def step():
        network = network_of(chosen, table, (1, 1, 1)).train()
        outputs = network(torch.zeros(1, 1, 96, 96, 96))
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        sum(output.sum() for output in outputs).backward()
        return True

    child = in_child(step)

    assert 0.3 * child.peak_bytes < expected < 1.05 * child.peak_bytes


def test_fewer_cases_are_prepared_at_once_where_memory_is_short(settings, monkeypatch):
    grids = [Grid.of((100, 100, 100), torch.eye(4).numpy())] * 3
    one = preparing_bytes(grids[0], settings)
    monkeypatch.setattr("monaiseg.training.needs.reading_threads", lambda: 4)

    found = []
    for room in (0.1, 1, 2.5, 40):
        monkeypatch.setattr("monaiseg.training.needs.free_memory", lambda r=room: int(2 * r * one))
        found.append(preparing_threads(grids, settings))

    assert found == [1, 1, 2, 4]


def test_memory_that_runs_out_while_a_case_is_prepared_names_it(settings, data_task, monkeypatch):
    """From torch, through MONAI's wrappers, in the threads that fill the cache."""
    (val,) = data_task.cases["val"]
    plain = OnImageGridd.__call__

    def starved(self, data):
        if val.id in str(data["image"].meta["filename_or_obj"]):
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
            )
        return plain(self, data)

    monkeypatch.setattr(OnImageGridd, "__call__", starved)

    with pytest.raises(OutOfMemoryError, match=rf"case '{val.id}': memory ran out \(Default"):
        run(settings, data_task)


def test_a_fault_of_the_data_is_not_taken_for_a_lack_of_memory(tmp_path):
    def broken(_):
        raise DataError("a.nii: takes more memory than there is") from MemoryError()

    with pytest.raises(DataError, match="case 'a': a.nii: takes more"):
        CaseChain([broken])({"image": ["a.nii"], "case_id": "a"})


def test_memory_that_runs_out_in_an_evaluation_names_the_case(trained, monkeypatch):
    def starved(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr("monaiseg.prediction.fitting.sliding_window_class_map", starved)
    task = json.loads((trained.run_folder.parent / "dataset.json").read_text())
    (name,) = [case["id"] for case in task["cases"] if case["split"] == "test"]

    done = CliRunner().invoke(app, ["evaluate", str(trained.run_folder), "--device", "cpu"])

    assert done.exit_code == 2
    assert f"case {name!r}: memory ran out (DefaultCPUAllocator" in done.output
