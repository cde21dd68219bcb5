"""One file that labels scans as the checkpoint does, in monaiseg and without it."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.volumes import read_label_map, read_label_table
from monaiseg.errors import CheckpointError, SettingsError
from monaiseg.export import export_onnx, runner_script
from monaiseg.export.network import onnx_network
from monaiseg.portable import ModelError, PortableModel, digest_of
from monaiseg.portable.nifti import ScanError, read_scan
from monaiseg.portable.program import main
from monaiseg.prediction import Predictor, read_portable

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ALONE = """
import sys

class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai", "monaiseg", "scipy", "pydantic", "ignite"):
            raise ImportError(f"{name} is closed")

sys.meta_path.insert(0, Closed())
"""
"""Makes importing anything but the runner's own needs an error."""


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor(trained.run_folder, device="cpu")


@pytest.fixture(scope="module")
def model(predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert export_onnx(predictor, path).passed
    return path


def agreement(one, other):
    return (one == other).mean()


def labelled(predictor, image):
    """The label map of a scan that may be larger than those of the training."""
    scan = predictor.read(image)
    return predictor.label_map(scan, predictor.infer(scan))


@pytest.mark.parametrize("orientation", ["RAS", "PIR"])
def test_the_file_labels_scans_as_the_checkpoint_does(orientation, predictor, model, phantom):
    image = phantom((36, 24, 40), (1.0, 1.1, 0.9), orientation, label_values=(1, 4)).image

    expected = labelled(predictor, image)
    found = labelled(Predictor(model), image)

    assert len(np.unique(expected)) == 3
    assert found.dtype == expected.dtype
    assert agreement(found, expected) > 0.9999


def test_the_runner_alone_labels_scans_alike(predictor, model, phantom, tmp_path):
    image = phantom((36, 24, 40), (1.0, 1.1, 0.9), "LPS", label_values=(1, 4)).image
    script = tmp_path / "runner.py"
    script.write_text(runner_script(script.name))
    (tmp_path / "sitecustomize.py").write_text(ALONE)

    done = subprocess.run(
        [sys.executable, script, model, image, "-o", tmp_path / "out"],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found, header = read_label_map(tmp_path / "out" / f"{image.name[:-7]}_pred.nii.gz")
    assert agreement(found, labelled(predictor, image)) > 0.9999
    assert header.grid.orientation == "LPS"


def test_the_runner_says_what_is_wrong_and_labels_the_others(model, phantom, tmp_path):
    image = phantom(label_values=(1, 4)).image
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    script = tmp_path / "runner.py"
    script.write_text(runner_script())

    command = [sys.executable, script, model, broken, image, "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "broken.nii.gz: cannot be read" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case_pred.nii.gz"]


def test_the_runner_names_the_labels_in_its_label_maps(predictor, model, phantom, tmp_path):
    image = phantom(label_values=(1, 4)).image

    assert main([str(model), str(image), "-o", str(tmp_path)]) == 0

    assert read_label_table(tmp_path / "case_pred.nii.gz") == predictor.table


def test_the_runner_refuses_two_scans_of_one_name(model, phantom, tmp_path, capsys):
    folders = [phantom(folder=tmp_path / name).image.parent for name in "ab"]

    assert main([str(model), *map(str, folders), "-o", str(tmp_path / "out")]) == 2

    assert "case: is the name of a scan in" in capsys.readouterr().err
    assert not any((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(("spacing", "far"), [(1.0, 0.11), (0.02, 0.003)])
def test_channels_on_other_grids_are_refused_by_the_runner(spacing, far, tmp_path):
    """A tenth of a voxel, whatever its size: 0.003 mm is a seventh of 0.02 mm."""
    voxels = np.zeros((8, 8, 8), np.float32)
    files = [tmp_path / f"scan_000{channel}.nii" for channel in range(2)]
    for file, shift in zip(files, (0, far), strict=True):
        affine = np.diag([spacing, spacing, spacing, 1])
        affine[0, 3] = shift
        nib.save(nib.Nifti1Image(voxels, affine), file)

    with pytest.raises(ScanError, match="is not on the same grid as"):
        read_scan(files, 2)


def test_a_scan_whose_two_forms_disagree_is_refused_by_the_runner(tmp_path):
    """nibabel places it by the sform, ITK by the qform: the label map would lie elsewhere in half of the viewers."""
    image = nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4))
    moved = np.eye(4)
    moved[:3, 3] = 10, -5, 3
    image.set_sform(moved, 2)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "scan.nii")

    with pytest.raises(ScanError, match=r"sform and qform disagree by up to 11\.6 mm"):
        read_scan([tmp_path / "scan.nii"], 1)


def test_the_scan_inside_the_file_gets_its_label_map(model):
    replay = read_portable(model).replay()

    assert replay.passed
    assert replay.differing <= 1e-4 * replay.voxels
    assert np.unique(read_portable(model).recipe.golden.label_map).size > 1


def test_export_verify_and_predict_on_the_command_line(trained, phantom, tmp_path):
    run = CliRunner().invoke
    target = tmp_path / "model.onnx"
    image = phantom(label_values=(1, 4)).image

    exported = run(app, ["export", str(trained.run_folder), "-o", str(target), "--runner"])
    verified = run(app, ["verify", str(target)])
    predicted = run(app, ["predict", str(target), str(image), "-o", str(tmp_path / "labels")])

    assert (exported.exit_code, verified.exit_code, predicted.exit_code) == (0, 0, 0)
    assert "onnxruntime agrees with torch on" in exported.output
    assert (tmp_path / "model_runner.py").is_file()
    assert "voxels agree" in verified.output
    (made,) = (tmp_path / "labels").glob("*_pred.nii.gz")
    assert read_label_table(made).values == (0, 1, 4)


def test_any_number_and_size_of_windows_runs(predictor, model):
    network = read_portable(model).network
    for shape in [(1, 1, 32, 32, 32), (3, 1, 64, 32, 48)]:
        assert network(np.zeros(shape, np.float32)).shape[0] == shape[0]


def test_the_file_format_is_one_that_older_runtimes_know(model):
    import onnx

    exported = onnx.load_from_string(model.read_bytes())

    assert exported.ir_version == 8
    assert [(opset.domain, opset.version) for opset in exported.opset_import] == [("", 18)]
    onnx.checker.check_model(exported)


def test_a_file_that_is_too_new_for_the_runtime_says_what_to_install(model):
    import onnx

    changed = onnx.load_from_string(model.read_bytes())
    changed.ir_version = 99

    with pytest.raises(ModelError, match=r"onnxruntime \d.*99, .*install the latest onnxruntime"):
        PortableModel(resigned(changed))


def test_a_network_that_does_not_fit_into_one_file_is_refused(predictor, tmp_path, monkeypatch):
    import torch

    huge = {"weights": torch.empty(1 << 28, device="meta")}
    monkeypatch.setattr(predictor.network, "state_dict", lambda: huge)

    with pytest.raises(
        SettingsError, match=r"has 1\.0 GiB of weights.*holds at most 0\.9; use the"
    ):
        export_onnx(predictor, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


def test_nothing_of_this_computer_is_in_the_file(model):
    content = model.read_bytes()

    for trace in (b".py", b"/home", b"site-packages", b"torch/", b"monaiseg/"):
        assert trace not in content


def test_names_in_the_runner_are_defined_once():
    import ast

    tree = ast.parse(runner_script())
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert sorted(names) == sorted(set(names))


# ---------------------------------------------------------------- files from others


def test_a_changed_byte_is_noticed(model, tmp_path):
    payload = bytearray(model.read_bytes())
    payload[len(payload) // 3] ^= 1
    (tmp_path / "model.onnx").write_bytes(payload)

    with pytest.raises(CheckpointError, match=r"model\.onnx: .*(damaged|cannot|holds)"):
        read_portable(tmp_path / "model.onnx")


@pytest.mark.parametrize("payload", [b"", b"no model", b"\xff" * 100, bytes(1000)])
def test_what_is_no_model_is_refused(payload, tmp_path):
    (tmp_path / "model.onnx").write_bytes(payload)

    with pytest.raises(CheckpointError, match=r"model\.onnx: "):
        Predictor(tmp_path / "model.onnx")


def resigned(onnx_model):
    """The bytes of a changed model, with the SHA-256 that belongs to them: damage is no excuse to refuse it."""
    (entry,) = onnx_model.metadata_props
    document = json.loads(entry.value)
    document["sha256"] = "0" * 64
    entry.value = json.dumps(document)
    payload = onnx_model.SerializeToString(deterministic=True)
    return payload.replace(b"0" * 64, digest_of(payload, "0" * 64).encode(), 1)


def with_custom_operator(onnx_model):
    onnx_model.graph.node[0].domain = "evil"


def with_imported_operators(onnx_model):
    onnx_model.opset_import.add(domain="com.example", version=1)


def with_a_loop(onnx_model):
    onnx_model.graph.node[0].op_type = "Loop"


def with_weights_elsewhere(onnx_model):
    tensor = onnx_model.graph.initializer[0]
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def with_a_function(onnx_model):
    onnx_model.functions.add(name="f", domain="evil")


@pytest.mark.parametrize(
    "change",
    [
        with_custom_operator,
        with_imported_operators,
        with_a_loop,
        with_weights_elsewhere,
        with_a_function,
    ],
)
def test_a_file_that_could_do_more_than_compute_is_refused(change, model):
    import onnx

    changed = onnx.load_from_string(model.read_bytes())
    change(changed)

    with pytest.raises(ModelError, match="which models of monaiseg never do"):
        PortableModel(resigned(changed))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", 2, "format 2"),
        ("patch", [10**6, 16, 16], "patch"),
        ("overlap", [1.0, 0.5, 0.5], "overlap"),
        ("labels", [], "labels"),
        ("spacing", [0, 1, 1], "spacing"),
        ("flips", [0, 7], "flips"),
        ("head", {"weight": {"dtype": "object", "shape": [1], "zlib": ""}}, "array of object"),
        (
            "golden",
            {"image": {"dtype": "int16", "shape": [10**6] * 3, "zlib": ""}},
            "array of int16",
        ),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused(key, value, said, model):
    import onnx

    changed = onnx.load_from_string(model.read_bytes())
    document = json.loads(changed.metadata_props[0].value)
    changed.metadata_props[0].value = json.dumps({**document, key: value})

    with pytest.raises(ModelError, match=said):
        PortableModel(resigned(changed))


def test_an_array_unpacks_no_further_than_its_shape(model):
    import base64
    import zlib

    import onnx

    bomb = base64.b64encode(zlib.compress(bytes(1 << 24))).decode()
    changed = onnx.load_from_string(model.read_bytes())
    document = json.loads(changed.metadata_props[0].value)
    document["golden"]["affine"] = {"dtype": "float64", "shape": [4, 4], "zlib": bomb}
    changed.metadata_props[0].value = json.dumps(document)

    with pytest.raises(ModelError, match="does not have the size"):
        PortableModel(resigned(changed))


@pytest.mark.slow
def test_networks_of_every_kind_are_exported(settings):
    pytest.importorskip("onnx")
    import onnxruntime
    import torch

    from monaiseg.networks.residual_unet import ResidualUNet
    from monaiseg.networks.topology import plan_topology
    from monaiseg.settings import NetworkSettings

    kinds = [("folded", "group", 2), ("standard", "batch", 1)]
    for variant, norm, channels in kinds:
        chosen = NetworkSettings(variant=variant, norm=norm, channels=4)
        topology = plan_topology(chosen, (16, 16, 32), (1.0, 1.0, 3.0))
        network = ResidualUNet(chosen, topology, channels, 3).eval()
        exported = onnx_network(network, channels)
        session = onnxruntime.InferenceSession(exported.SerializeToString())
        for shape in [(1, channels, 16, 16, 32), (2, channels, 32, 16, 64)]:
            windows = torch.randn(shape)
            (found,) = session.run(None, {"image": windows.numpy()})
            with torch.inference_mode():
                assert np.allclose(found, network.features(windows).numpy(), atol=1e-4)
