"""Many scans: the same files however often a run is stopped, shared or repeated."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.phantoms import make_phantom, write_phantom
from monaiseg.errors import DataError, SettingsError
from monaiseg.prediction import Predictor, Share, Summary, predict_cohort, predict_files
from monaiseg.prediction.claims import Claim
from monaiseg.prediction.jobs import jobs_of
from monaiseg.prediction.pipeline import pipelined

NUM_SCANS = 6


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor(trained.run_folder, device="cpu")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Phantoms of different grids, and one scan of another size that has to be remarked on."""
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(NUM_SCANS):
        shape = (24, 24, 20 + 2 * number)
        made = make_phantom(shape, (1.0, 1.0, 1.0), "RAS", (1, 4), seed=number)
        write_phantom(folder, f"case_{number}", made)
    write_phantom(
        folder, "coarse", make_phantom((24, 24, 24), (1.0, 1.0, 6.0), "LPS", (1, 4), seed=9)
    )
    return folder / "images"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def label(trained, scans: Path, out: Path, *more: object, **options) -> subprocess.Popen:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "monaiseg", "predict", trained.run_folder, scans, "-o", out]
    command += ["--confidence", "--volumes", out / "volumes.csv", "--threads", "1", *more]
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def undisturbed(trained, scans, tmp_path_factory) -> dict[str, bytes]:
    """Content of the folder after one run."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    process = label(trained, scans, out)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert (
        "coarse.nii.gz: far outside the range of the training data: voxels of 1 x 1 x 6 mm" in said
    )
    return contents(out)


def test_a_run_leaves_a_label_map_and_a_confidence_of_each_scan_and_tables_of_all(undisturbed):
    names = [*(f"case_{n}" for n in range(NUM_SCANS)), "coarse"]
    expected = {f"{name}_{what}.nii.gz" for name in names for what in ("pred", "confidence")}

    assert undisturbed.keys() == expected | {"summary.json", "volumes.csv"}
    cases = json.loads(undisturbed["summary.json"])["cases"]
    assert [name for name, case in cases.items() if case["outside"]] == ["coarse"]
    assert len(undisturbed["volumes.csv"].splitlines()) == 1 + 2 * len(names)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    trained, scans, undisturbed, tmp_path
):
    """Killed as soon as it has added a file, so that each run gets somewhat further."""
    out = tmp_path / "out"
    kills = 0
    while True:
        before = len(list(out.glob("*"))) if out.exists() else 0
        process = label(trained, scans, out)
        while process.poll() is None:
            if kills < 3 and out.exists() and len(list(out.glob("[!.]*"))) > before:
                process.kill()
                kills += 1
                break
            time.sleep(0.002)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL

    assert kills
    assert contents(out) == undisturbed


@pytest.mark.slow
def test_shards_leave_what_one_process_leaves(trained, scans, undisturbed, tmp_path):
    processes = [label(trained, scans, tmp_path / "out", "--shard", f"{n}/3") for n in (1, 2, 3)]

    assert [process.wait() for process in processes] == [0, 0, 0]
    assert contents(tmp_path / "out") == undisturbed


def test_two_runs_into_one_folder_share_the_work(trained, scans, undisturbed, tmp_path):
    processes = [label(trained, scans, tmp_path / "out") for _ in range(2)]

    assert [process.wait() for process in processes] == [0, 0]
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.slow
def test_processes_of_torchrun_leave_what_one_process_leaves(trained, scans, undisturbed, tmp_path):
    command = ["torchrun", "--standalone", "--nproc_per_node", "2", "-m", "monaiseg", "predict"]
    command += [trained.run_folder, scans, "-o", tmp_path / "out", "--confidence"]
    command += ["--volumes", tmp_path / "out" / "volumes.csv"]
    program = [sys.executable, "-m", "torch.distributed.run", *map(str, command[1:])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    subprocess.run(program, check=True, capture_output=True, env=environment)
    assert contents(tmp_path / "out") == undisturbed


def test_a_scan_that_cannot_be_read_is_named_at_the_end_and_in_the_summary(
    predictor, phantom, tmp_path
):
    good = phantom(label_values=(1, 4), case_id="good").image
    bad = good.with_name("bad.nii.gz")
    bad.write_bytes(good.read_bytes()[:-50])
    out, made = tmp_path / "out", []

    with pytest.raises(DataError, match=r"bad\.nii\.gz"):
        predict_cohort(
            predictor,
            [case for case, _ in planned(bad, good, folder=out)],
            out,
            model="model",
            on_file=made.append,
            on_progress=lambda *_: None,
            say=lambda _: None,
        )
    cases = json.loads((out / "summary.json").read_text())["cases"]
    assert [file.output.name for file in made] == ["good_pred.nii.gz"]
    assert "bad.nii.gz" in cases["bad"]["fault"]
    assert cases["good"] == {
        "images": [str(good)],
        "label_map": "good_pred.nii.gz",
        "outside": [],
    }


def planned(*images: Path, folder: Path):
    return [(job.case, job.label_map) for job in jobs_of([[image] for image in images], folder)]


def test_scans_far_outside_are_refused_on_request_and_the_others_labelled(
    predictor, scans, tmp_path
):
    images = [[scans / name] for name in ("coarse.nii.gz", "case_0.nii.gz")]

    with pytest.raises(DataError, match=r"coarse.*voxels of 1 x 1 x 6 mm.*without --strict"):
        list(predict_files(predictor, images, tmp_path / "out", strict=True))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case_0_pred.nii.gz"]


def test_a_corrected_label_map_is_kept_when_only_its_confidence_is_missing(
    predictor, scans, tmp_path
):
    images, out = [[scans / "case_0.nii.gz"]], tmp_path / "out"
    (made,) = predict_files(predictor, images, out)
    corrected = nib.load(made.output)
    values = np.asarray(corrected.dataobj).copy()
    values[0, 0, 0] = 4
    nib.save(nib.Nifti1Image(values, corrected.affine, corrected.header), made.output)
    before = made.output.read_bytes()

    (file,) = predict_files(predictor, images, out, confidence=True)

    assert made.output.read_bytes() == before
    assert file.voxels == {**made.voxels, 0: made.voxels[0] - 1, 4: made.voxels[4] + 1}
    confidence = nib.load(out / "case_0_confidence.nii.gz")
    assert 0 <= confidence.get_fdata().min() < 0.9
    assert confidence.get_fdata().max() == pytest.approx(1, abs=0.02)


def test_a_run_waits_for_the_label_maps_of_another_and_makes_those_it_leaves(
    predictor, scans, tmp_path
):
    """The other run claims a scan, and dies before it has written anything."""
    out = tmp_path / "out"
    out.mkdir()
    other = Claim(out / "case_0_pred.nii.gz")
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(other.take).result()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        threading.Timer(0.3, other.drop).start()

    images = [[scans / f"case_{n}.nii.gz"] for n in range(2)]
    made = list(predict_files(predictor, images, out, say=say))

    assert said == ["waiting for 1 label maps that another run is making"]
    assert [file.output.name for file in made] == ["case_1_pred.nii.gz", "case_0_pred.nii.gz"]
    assert not list(out.glob(".*"))


def test_what_a_killed_run_leaves_is_removed(predictor, scans, tmp_path):
    out = tmp_path / "out"
    image = [scans / "case_0.nii.gz"]
    (made,) = predict_files(predictor, [image], out)
    lock = out / f".{made.output.name}.lock"
    lock.touch()

    list(predict_files(predictor, [image], out))

    assert [path.name for path in out.iterdir()] == [made.output.name]


def test_a_summary_is_completed_with_scans_that_were_labelled_before(predictor, scans, tmp_path):
    out = tmp_path / "out"
    images = [[scans / "coarse.nii.gz"]]
    (made,) = predict_files(predictor, images, out)
    summary = Summary(out, "model")

    summary.complete(jobs_of(images, out), predictor)

    cases = json.loads((out / "summary.json").read_text())["cases"]
    assert cases["coarse"]["outside"] == list(made.outside)
    assert made.outside


def test_a_share_is_every_nth_scan():
    scans = list(range(10))
    shares = [Share.parse(f"{n}/3").of(scans) for n in (1, 2, 3)]

    assert sorted(itertools.chain(*shares)) == scans
    halves = [Share(n, 2).within(Share(2, 3)).of(scans) for n in (1, 2)]
    assert sorted(itertools.chain(*halves)) == shares[1]
    for text in ("0/3", "4/3", "1", "1/0", "a/b"):
        with pytest.raises(SettingsError, match="use 1/8"):
            Share.parse(text)


def test_at_most_one_scan_is_read_ahead_and_results_keep_their_order():
    events: list[tuple[str, int]] = []

    def stage(name):
        def work(job, *_):
            events.append((name, job))
            time.sleep(0.01 if job % 2 else 0.002)
            return job

        return work

    stages = (stage("read"), stage("compute"), stage("write"))
    results = [done for _, done in pipelined(range(8), *stages, lambda _: True)]

    assert results == list(range(8))
    for job in range(2, 8):
        assert events.index(("read", job)) > events.index(("compute", job - 2))
        assert events.index(("write", job - 2)) < events.index(("write", job))


def test_nothing_is_read_ahead_where_memory_does_not_allow_it():
    events: list[tuple[str, int]] = []
    stages = [
        lambda job, *_, name=name: events.append((name, job)) for name in ("read", "infer", "write")
    ]
    list(pipelined(range(3), *stages, lambda _: False))

    assert [job for _, job in events] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_an_error_in_a_stage_is_that_jobs_result():
    def failing(job, *_):
        if job == 1:
            raise DataError("no")
        return job

    for place in range(3):
        stages = [lambda job, *_: job] * 3
        stages[place] = failing
        outcomes = dict(pipelined(range(3), *stages, lambda _: True))
        assert [outcomes[0], outcomes[2]] == [0, 2]
        assert isinstance(outcomes[1], DataError)


def test_two_scans_at_once_give_the_bytes_of_one_after_the_other(
    predictor, scans, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr("monaiseg.prediction.cohort.READ_AHEAD_SHARE", 0.0)
    images = [[path] for path in sorted(scans.glob("*.nii.gz"))]

    for file in predict_files(predictor, images, tmp_path / "out"):
        assert file.output.read_bytes() == undisturbed[file.output.name]


def test_json_names_the_files_of_each_scan_and_faults(trained, scans, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((scans / "case_0.nii.gz").read_bytes()[:1000])
    words = ["predict", trained.run_folder, scans / "coarse.nii.gz", broken, "-o", tmp_path / "out", "--json"]  # fmt: skip

    done = CliRunner().invoke(app, [str(word) for word in words])

    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert document["folder"] == str(tmp_path / "out")
    assert document["cases"]["coarse"]["label_map"] == "coarse_pred.nii.gz"
    assert "voxels" in document["cases"]["coarse"]["outside"][0]
    assert "broken.nii.gz" in document["cases"]["broken"]["fault"]
