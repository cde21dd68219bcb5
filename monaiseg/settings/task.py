"""Settings of the section `tsk_set`: how the network is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from monaiseg.settings.loss import LossSettings
from monaiseg.settings.network import NetworkSettings, SegNetSettings
from monaiseg.settings.optimisation import OptimSettings
from monaiseg.settings.section import BatchLimit, Count, NonNegative, Positive, Section, as_tuple


class TaskSettings(Section):
    """The network, its training, and what is written while it trains."""

    train: bool = True
    """true trains; false evaluates `model_path` on the test split, with at most `dataset.max_num_for_loading` cases."""
    output_root_path: str = ""
    """Folder of all data tasks; the command line fills it in."""
    data_task_name: str = ""
    """Name of the dataset's folder; the command line fills it in."""
    task_name: str = ""
    """Name of this training's folder; the command line fills it in."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from this number."""
    gpu_id: Annotated[int, Field(ge=-1)] | None = None
    """CUDA device; -1 is the CPU. null: the first GPU if there is one, else the CPU."""
    num_threads: Count | None = None
    """Threads of the CPU's compute. null: one a core."""
    num_workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Processes that cut and augment patches beside the computation."""
    amp: bool = True
    """Train in mixed precision: float16 on a GPU, bfloat16 on a processor that has instructions for it, else float32.
    Validation and prediction on a processor are in float32."""
    batch_size: Count | Annotated[tuple[Count, Count, Count, Count], BeforeValidator(as_tuple)] = 2
    """Patches per training step. EasyReg's list [train, val, test, debug] is accepted; only its first entry matters."""
    epochs: Count = 100
    """Epochs to train."""
    budget_minutes: Positive | None = None
    """Wall-clock minutes of the whole training: start-up, reading, validations and the last checkpoint included. The
    learning rate is laid out to end with them, and `epochs` is not asked. null: no limit."""
    max_batch_num_per_epoch: Annotated[
        tuple[BatchLimit, BatchLimit, BatchLimit], BeforeValidator(as_tuple)
    ] = (-1, -1, -1)
    """Steps of an epoch, and cases of a validation and of a debug pass. -1: as many as there are cases; 0 skips."""
    val_period: Count = 5
    """Validate every so many epochs, and after the last."""
    checkpoint_period: Count = 5
    """Commit a checkpoint every so many epochs, and after the last. The last two and the best are kept."""
    checkpoint_steps: Count | None = None
    """Also commit every so many steps inside an epoch. null: no."""
    keep_period: Annotated[int, Field(ge=0)] = 0
    """Keep for good the checkpoint of every so many epochs. 0: none."""
    save_fig_on: bool = True
    """Write an image / reference / prediction picture of one case to TensorBoard at validations."""
    save_val_fig_epoch: Count = 2
    """Write pictures and volumes at validations whose epoch divides by this."""
    save_running_resolution_3d_img: bool = False
    """Write the label maps of validation and debug cases, predicted and given, under records/3D, at the network's
    resolution."""
    print_step: Annotated[tuple[Count, Count, Count], BeforeValidator(as_tuple)] = (10, 4, 4)
    """Steps between two entries in TensorBoard. EasyReg's order [train, val, debug]; only the first matters: a
    validation is one entry."""
    gradient_accumulation_steps: Count = 1
    """Batches whose gradients are averaged before the weights change."""
    gradient_clip: Positive | None = 12.0
    """Greatest norm of the gradient. null: no clipping."""
    warmup_epochs: NonNegative = 1.0
    """Epochs over which the learning rate rises from a tenth to its full value."""
    weight_averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights that is validated and saved as best. 0: none."""
    continue_train: bool = False
    """Start from the checkpoint at `model_path`."""
    continue_train_lr: float = -1.0
    """Learning rate that the schedule starts from after `continue_train`. 0 or less: `optim.lr`."""
    reset_train_epoch: bool = False
    """Forget the checkpoint's epoch and count from `load_model_but_train_from_epoch`."""
    load_model_but_train_from_epoch: Annotated[int, Field(ge=0)] = 0
    """Epoch to count from under `reset_train_epoch`."""
    model_path: str = ""
    """Checkpoint, or folder of a training, to start from or to evaluate."""
    optim: OptimSettings = OptimSettings()
    loss: LossSettings = LossSettings()
    network: NetworkSettings = NetworkSettings()
    seg: SegNetSettings = SegNetSettings()
