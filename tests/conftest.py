"""Data and settings for the tests. Fixtures make real files, small enough to draw; nothing is imitated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import pytest

from drawings import write_case
from monaiseg.data.grid import Shape, Spacing
from monaiseg.data.phantoms import Phantom, make_phantom, write_phantom
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings

if TYPE_CHECKING:
    from monaiseg.data.cases import Case
    from monaiseg.data.data_tasks import DataTask
    from monaiseg.training.run import TrainingResult

REPOSITORY = Path(__file__).parent.parent

# No deadlines: a property that is slow once is not wrong. `nox -s properties` takes the long one.
_QUIET = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture]
hypothesis.settings.register_profile("local", deadline=None, suppress_health_check=_QUIET)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("local"), derandomize=True
)
hypothesis.settings.register_profile(
    "many", hypothesis.settings.get_profile("local"), max_examples=100_000
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those of `-m gpu`: the others say what happens on CPUs, on any computer."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


class PhantomFiles(NamedTuple):
    """A phantom on disk, and what was written."""

    image: Path
    label: Path
    phantom: Phantom


@pytest.fixture
def phantom(tmp_path: Path) -> Callable[..., PhantomFiles]:
    """Writes nested ellipsoids: `phantom(shape, spacing, orientation, label_values, seed, case_id, folder)`."""

    def write(
        shape: Shape = (24, 24, 24),
        spacing: Spacing = (1.0, 1.0, 1.0),
        orientation: str = "RAS",
        label_values: tuple[int, ...] = (1, 2),
        seed: int = 0,
        *,
        case_id: str = "case",
        folder: Path | None = None,
    ) -> PhantomFiles:
        made = make_phantom(shape, spacing, orientation, label_values, seed)
        return PhantomFiles(*write_phantom(folder or tmp_path / "phantoms", case_id, made), made)

    return write


@pytest.fixture(scope="session")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "dataset"
    grids: list[tuple[Shape, Spacing, str]] = [
        ((24, 24, 24), (1.0, 1.0, 1.0), "RAS"),
        ((24, 26, 22), (1.0, 1.0, 1.0), "LPS"),
        ((22, 24, 24), (1.1, 1.0, 1.0), "PIR"),
        ((24, 24, 20), (1.0, 1.0, 1.2), "LAS"),
        ((26, 24, 24), (0.9, 1.0, 1.0), "RAS"),
    ]
    for number, (shape, spacing, orientation) in enumerate(grids, start=1):
        made = make_phantom(shape, spacing, orientation, label_values=(1, 4), seed=number)
        write_phantom(folder, f"case_{number}", made)
    return folder


@pytest.fixture
def dataset(_dataset: Path, tmp_path: Path) -> Path:
    """A folder with `images` and `labels` of five phantoms of about 24 x 24 x 24, on five grids, label values 1 and 4.

    The test's own copy: it may break it.
    """
    return Path(shutil.copytree(_dataset, tmp_path / "dataset"))


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The smallest sensible settings: three steps an epoch on one core, a second or two in all."""
    document: dict[str, Any] = {
        "dataset": {
            "cache": {"where": "memory"},
            "seg": {
                "patch_size": [16, 16, 16],
                "crops_per_image": 2,
                "augmentation": {"enabled": False},
            },
        },
        "tsk_set": {
            "gpu_id": -1,
            "num_threads": 1,
            "num_workers": 0,
            "batch_size": 2,
            "epochs": 8,
            "val_period": 4,
            "checkpoint_period": 4,
            "save_fig_on": False,
            "optim": {"lr": 0.01},
            "network": {"channels": 8, "num_stages": 3, "deep_supervision_heads": 1},
        },
    }
    return settings_from_dict(document)


@pytest.fixture(scope="session")
def _data_task(_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> DataTask:
    from monaiseg.preparation import prepare

    root = tmp_path_factory.mktemp("prepared")
    return prepare(_dataset, root, "phantoms", train_size=60, test_size=20, val_size=20)


@pytest.fixture
def data_task(_data_task: DataTask, tmp_path: Path) -> DataTask:
    """`dataset`, prepared: three cases to train on, one to validate, one to test. The test's own copy."""
    from monaiseg.data.data_tasks import read_data_task

    return read_data_task(shutil.copytree(_data_task.folder, tmp_path / "tasks" / "phantoms"))


@pytest.fixture(scope="session")
def trained(_data_task: DataTask, settings: Settings) -> TrainingResult:
    """A network that has learned `dataset`: validation Dice above 0.9. Shared by the session: read only."""
    from monaiseg.training.run import train

    document = settings.model_dump(mode="json")
    document["dataset"]["seg"]["patch_size"] = [
        32,
        32,
        32,
    ]  # a whole image, so that it sees where it is
    document["tsk_set"]["network"]["num_stages"] = 2
    document["tsk_set"]["optim"]["lr"] = 0.03
    return train(
        settings_from_dict(document),
        output_root_path=_data_task.folder.parent,
        data_task_name=_data_task.folder.name,
        task_name="trained",
    )


@pytest.fixture
def cases(tmp_path) -> Callable[[int], tuple[Case, ...]]:
    """Writes that many cases with different images."""

    def write(count: int) -> tuple[Case, ...]:
        return tuple(
            write_case(tmp_path / f"images/S{n}.nii.gz", tmp_path / f"labels/S{n}.nii.gz", seed=n)
            for n in range(count)
        )

    return write


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    """Folder of 200 real cases, `images` and `labels`; the test is skipped where it is not there."""
    beside = REPOSITORY.parent / "shared" / "data" / "hippocampus"
    folder = Path(os.environ.get("MONAISEG_HIPPOCAMPUS") or beside)
    if not (folder / "images").is_dir():
        pytest.skip(
            "real data not found: set MONAISEG_HIPPOCAMPUS to the folder of images and labels"
        )
    return folder
