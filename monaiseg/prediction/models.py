"""Models for prediction: checkpoints, which torch runs, and portable models, which onnxruntime runs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from monaiseg.data import InputRange, LabelTable, Spacing, read_rules
from monaiseg.errors import CheckpointError, DataError, MonaisegWarning, SettingsError
from monaiseg.networks import AtlasPrior, ResidualUNet, network_of
from monaiseg.portable import LabelRule
from monaiseg.prediction.portable import (
    OnnxNetwork,
    is_portable,
    read_portable,
    settings_of,
    table_of,
)
from monaiseg.settings import Settings, parse_settings
from monaiseg.training import (
    Checkpoint,
    Mirroring,
    check_weights,
    choose_device,
    load_checkpoint,
    prediction_flips,
    read_mirroring,
)


@dataclass(frozen=True)
class OpenedModel:
    """A trained network and what belongs to it."""

    settings: Settings
    table: LabelTable
    spacing: Spacing
    """Voxel size in mm along X, Y, Z that the network was laid out for."""
    channels: tuple[str, ...]
    network: ResidualUNet | OnnxNetwork
    inputs: InputRange
    """What the training saw."""
    rules: tuple[LabelRule, ...]
    """Post-processing that was chosen for the model on validation cases."""
    mirroring: Mirroring | None
    """Whether mirrored windows, if the settings ask for them, raise the Dice of validation cases. None: not known."""
    path: Path | None

    @property
    def flips(self) -> tuple[int, ...]:
        """Axes that windows are mirrored along: those in the settings, unless validation showed that it does not help."""
        return prediction_flips(self.settings, self.mirroring)

    def on(
        self, device: str | torch.device | None
    ) -> tuple[ResidualUNet | OnnxNetwork, torch.device]:
        """The network ready to predict, and its device, see `choose_device`. A portable model is always on the CPU."""
        place = choose_device(device)
        if isinstance(self.network, ResidualUNet):
            return self.network.to(place).eval(), place
        if place.type != "cpu":
            warnings.warn(
                f"{self.path}: portable models run on the CPU; give the checkpoint to use {place}",
                MonaisegWarning,
                stacklevel=2,
            )
        return self.network, torch.device("cpu")


def opened(source: Checkpoint | str | Path) -> OpenedModel:
    """Open a checkpoint, its file, the folder of a training run, or a portable model.

    Raises:
        CheckpointError: it is missing or damaged, or its weights do not fit the network that it describes.
        DataError: a file beside it, with what validation cases showed, is damaged or belongs to another checkpoint.
    """
    if not isinstance(source, Checkpoint) and is_portable(source):
        return _portable(Path(source))
    checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
    settings, table = _described(checkpoint)
    network = network_of(settings, table, checkpoint.spacing)
    network.load_state_dict(checkpoint.weights)
    if network.prior is not None:
        _check_atlas(network.prior, checkpoint.path)
    channels = tuple(checkpoint.channels)
    path = checkpoint.path
    rules = () if path is None else read_rules(path, table)
    mirroring = None if path is None else read_mirroring(path)
    return OpenedModel(
        settings,
        table,
        checkpoint.spacing,
        channels,
        network,
        _input_range(checkpoint),
        rules,
        mirroring,
        path,
    )


def _portable(path: Path) -> OpenedModel:
    model = read_portable(path)
    try:
        settings, table = settings_of(model.recipe), table_of(model.recipe)
    except (DataError, SettingsError) as error:
        raise CheckpointError(f"{path}: {error}; export it again") from error
    recipe, (x, y, z) = model.recipe, model.recipe.trained_spacing
    network, inputs = OnnxNetwork(model), InputRange.of_spacing((x, y, z))
    rules = recipe.postprocessing
    return OpenedModel(
        settings, table, (x, y, z), recipe.channels, network, inputs, rules, None, path
    )


def _described(checkpoint: Checkpoint) -> tuple[Settings, LabelTable]:
    """Settings and label table of a checkpoint, after checking that its weights fit the network they describe.

    The network is first built on the meta device, without memory: a file may describe one too large for any computer.
    """
    try:
        settings = parse_settings(checkpoint.settings, source="its settings")
        table = LabelTable.from_records(checkpoint.labels)
        with torch.device("meta"):
            network = network_of(settings, table, checkpoint.spacing)
    except (SettingsError, DataError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the network that it describes cannot be built: {error}; use another checkpoint"
        ) from error
    check_weights(checkpoint.weights, network.state_dict(), checkpoint.path)
    return settings, table


def _check_atlas(prior: AtlasPrior, path: Path | None) -> None:
    """Check that the tensors of an atlas, which a damaged or forged file may hold in any shape, are one."""
    try:
        prior.check()
    except DataError as error:
        raise CheckpointError(f"{path or 'checkpoint'}: {error}; use another checkpoint") from error


def _input_range(checkpoint: Checkpoint) -> InputRange:
    """What the training saw; only its voxel size, if the checkpoint does not say more."""
    if checkpoint.inputs is None:
        return InputRange.of_spacing(checkpoint.spacing)
    try:
        return InputRange.from_record(checkpoint.inputs)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path}: its description of the training scans cannot be read ({error}); use another checkpoint"
        ) from error
