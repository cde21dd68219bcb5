"""Measurements: what steps cost on a machine. Saved as JSON, they can be used for further plans."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from monaiseg.errors import SettingsError
from monaiseg.files import read_json_object, write_atomic
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.limits import Limits
from monaiseg.planning.position import Position
from monaiseg.planning.probes import DataProbe, StepProbe, step_of


@dataclass(frozen=True)
class Measurements:
    """What was measured on a machine. It can be saved as JSON and used for further plans."""

    processor: str
    cores: int
    device: str
    data: DataProbe
    steps: tuple[StepProbe, ...]
    position: Position | None = None
    """What the positions of voxels say about their labels; None if that was not measured."""

    @property
    def disturbed(self) -> float:
        """Cores that other programs took while steps were measured."""
        return max(step.disturbed for step in self.steps)

    @classmethod
    def load(cls, path: str | Path) -> Measurements:
        """Load from a file that `save` wrote.

        Raises:
            SettingsError: the file holds no measurements.
        """
        try:
            document = read_json_object(Path(path))
            steps = tuple(step_of(record) for record in document["steps"])
            names = {name: document[name] for name in ("processor", "cores", "device")}
            said = document["position"]
            position = None if said is None else Position(**said)
            found = cls(**names, data=DataProbe(**document["data"]), steps=steps, position=position)
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"{path}: has no measurements ({error!r}); give a file that `monaiseg plan` wrote"
            ) from error
        if not found.steps:
            raise SettingsError(
                f"{path}: has no measured step; give a new file for new measurements"
            )
        return found

    def save(self, path: str | Path) -> None:
        """Save as JSON."""
        write_atomic(Path(path), (json.dumps(asdict(self), indent=1) + "\n").encode())


def check_alike(measured: Measurements, fingerprint: Fingerprint, limits: Limits) -> None:
    """Raise SettingsError if the steps were measured on other cores or for other data than those of the plan."""
    probe = measured.steps[0]
    then = (measured.device, measured.cores, probe.num_channels, probe.num_classes)
    now = (limits.device, limits.cores, fingerprint.num_channels, fingerprint.num_classes)
    names = ("device", "cores", "channels", "classes")
    if different := [
        f"{name} {a} then, {b} now" for name, a, b in zip(names, then, now, strict=True) if a != b
    ]:
        raise SettingsError(
            f"--measurements: these were made with other data or on another computer ({', '.join(different)}); give a new "
            "file for new measurements"
        )
