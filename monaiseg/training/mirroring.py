"""Mirroring: whether mirrored windows raise the validation Dice of a trained network.

The settings may ask for each window to be predicted mirrored as well, which doubles the time of a prediction for each
direction. After its last step, a run therefore predicts the validation cases both ways. The two scores are in a file
beside the best checkpoint, `best-epoch-0012.mirroring.json`; predictions with this checkpoint follow them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monaiseg.errors import DataError
from monaiseg.files import read_beside, write_beside
from monaiseg.settings import Settings

SUFFIX = ".mirroring.json"
MIRRORED = "mirrored"
"""Name of the evaluator that mirrors windows."""
LEAST_GAIN = 0.0005
"""Mean Dice has to rise by at least this much. Less is noise, and not worth a prediction that takes twice as long."""


@dataclass(frozen=True)
class Mirroring:
    """Mean validation Dice after the last step of a run."""

    dice: float
    """Without mirrored windows."""
    dice_mirrored: float
    """With them."""

    @property
    def helps(self) -> bool:
        """Whether mirrored windows are worth their time. False if the Dice is undefined."""
        return self.dice_mirrored >= self.dice + LEAST_GAIN

    def in_words(self) -> str:
        """One line about what predictions do, and why.

        >>> Mirroring(0.8712, 0.8731).in_words()
        'mirrored windows: used, as they raise the validation Dice from 0.8712 to 0.8731'
        """
        if self.helps:
            return (
                f"mirrored windows: used, as they raise the validation Dice from {self.dice:.4f} to "
                f"{self.dice_mirrored:.4f}"
            )
        return (
            f"mirrored windows: not used, as the validation Dice is {self.dice_mirrored:.4f} with them and "
            f"{self.dice:.4f} without"
        )

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]]) -> Mirroring | None:
        """The scores in the last row of a run's history; None if the run did not predict both ways."""
        last = history[-1] if history else {}
        scores = last.get("dice/mean"), last.get(f"dice_{MIRRORED}/mean")
        return None if None in scores else cls(*map(float, scores))  # type: ignore[arg-type]  # no None


def prediction_flips(settings: Settings, found: Mirroring | None) -> tuple[int, ...]:
    """Axes that predictions mirror windows along: those in the settings, unless that is known not to help."""
    return settings.window_flips if found is None or found.helps else ()


def write_mirroring(checkpoint: Path, found: Mirroring) -> Path:
    """Write the scores beside a checkpoint; returns the file.

    Raises:
        StorageError: it cannot be written.
    """
    return write_beside(checkpoint, SUFFIX, asdict(found))


def read_mirroring(checkpoint: Path) -> Mirroring | None:
    """The scores beside a checkpoint; None if there are none.

    Raises:
        DataError: the file is damaged, or belongs to another checkpoint.
    """
    if (document := read_beside(checkpoint, SUFFIX)) is None:
        return None
    try:
        return Mirroring(float(document["dice"]), float(document["dice_mirrored"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{checkpoint.with_suffix(SUFFIX)}: does not hold two scores ({error!r}); remove it"
        ) from error
