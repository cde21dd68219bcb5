"""Settings in the section `tsk_set`: how the network is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from monaiseg.settings.loss import LossSettings
from monaiseg.settings.network import NetworkSettings, SegNetSettings
from monaiseg.settings.optimisation import OptimSettings
from monaiseg.settings.section import BatchLimit, Count, NonNegative, Positive, Section, as_tuple


class TaskSettings(Section):
    """The network, how it is trained, and what is written during training."""

    train: bool = True
    """true: train. false: evaluate `model_path` on the test split, with at most `dataset.max_num_for_loading` cases."""
    output_root_path: str = ""
    """Folder of all data tasks; the command line fills it in."""
    data_task_name: str = ""
    """Name of the dataset's folder; the command line fills it in."""
    task_name: str = ""
    """Name of this run's folder; the command line fills it in."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Random seed for the whole run."""
    gpu_id: Annotated[int, Field(ge=-1)] | None = None
    """Index of the CUDA device; -1: the CPU. null: the first GPU if there is one, otherwise the CPU."""
    num_threads: Count | None = None
    """CPU threads for computation. null: one per core."""
    num_workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Worker processes that cut and augment patches while the network trains."""
    amp: bool = True
    """Train in mixed precision: float16 on a GPU, bfloat16 on a CPU that has instructions for it, otherwise float32.
    Validation and prediction on a CPU use float32."""
    deterministic: bool = True
    """On a GPU, use only operations that give the same bits each time, so that a run can be repeated and resumed exactly.
    This costs some time. false: use the fastest operations. A CPU always repeats exactly."""
    batch_size: Count | Annotated[tuple[Count, Count, Count, Count], BeforeValidator(as_tuple)] = 2
    """Patches per training step. EasyReg's list [train, val, test, debug] is accepted, but only its first entry is
    used."""
    epochs: Count = 100
    """Number of epochs to train."""
    budget_minutes: Positive | None = None
    """Wall-clock time of the whole run in minutes, including start-up, reading, validations and the last checkpoint.
    The learning-rate schedule ends with it, and `epochs` is not used. null: no limit."""
    max_batch_num_per_epoch: Annotated[
        tuple[BatchLimit, BatchLimit, BatchLimit], BeforeValidator(as_tuple)
    ] = (-1, -1, -1)
    """Steps per epoch, cases per validation and cases per debug pass. -1: as many as there are cases. 0: skip the
    validation or debug pass."""
    val_period: Count = 5
    """Number of epochs between validations. The last epoch is always validated."""
    checkpoint_period: Count = 5
    """Number of epochs between checkpoints. One is always saved after the last epoch. The last two and the best are
    kept."""
    checkpoint_steps: Count | None = None
    """Number of steps between additional checkpoints within an epoch. null: none."""
    keep_period: Annotated[int, Field(ge=0)] = 0
    """Number of epochs between checkpoints that are kept permanently. 0: none."""
    save_fig_on: bool = True
    """Write pictures of two validation cases (reference and prediction in three planes) to TensorBoard."""
    save_val_fig_epoch: Count = 2
    """Write pictures and volumes at validations whose epoch is a multiple of this."""
    save_running_resolution_3d_img: bool = False
    """Write the predicted and reference label maps of validation and debug cases to records/3D, at the network's
    resolution."""
    print_step: Annotated[tuple[Count, Count, Count], BeforeValidator(as_tuple)] = (10, 4, 4)
    """Steps between two entries in TensorBoard, as EasyReg's list [train, val, debug]. Only the first entry is used: a
    validation writes a single entry."""
    gradient_accumulation_steps: Count = 1
    """Number of batches whose gradients are averaged for each update of the weights."""
    gradient_clip: Positive | None = 12.0
    """Maximum norm of the gradient. null: no clipping."""
    warmup_epochs: NonNegative = 1.0
    """Number of epochs in which the learning rate rises from a tenth to its full value."""
    weight_averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights. The averaged weights are validated and saved as best.
    0: no averaging."""
    continue_train: bool = False
    """Start from the checkpoint at `model_path`."""
    continue_train_lr: float = -1.0
    """Learning rate that the schedule starts from with `continue_train`. 0 or less: use `optim.lr`."""
    reset_train_epoch: bool = False
    """Ignore the checkpoint's epoch and start counting from `load_model_but_train_from_epoch`."""
    load_model_but_train_from_epoch: Annotated[int, Field(ge=0)] = 0
    """Epoch to start counting from with `reset_train_epoch`."""
    model_path: str = ""
    """Checkpoint, or folder of a run, to start from or to evaluate."""
    optim: OptimSettings = OptimSettings()
    loss: LossSettings = LossSettings()
    network: NetworkSettings = NetworkSettings()
    seg: SegNetSettings = SegNetSettings()
