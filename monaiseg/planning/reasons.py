"""Reasons: why a plan makes each of its choices, in words."""

from __future__ import annotations

from dataclasses import dataclass

from monaiseg.data import Shape
from monaiseg.networks import plan_topology
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.forecasts import Forecast
from monaiseg.planning.limits import Limits
from monaiseg.planning.options import Option, patch_ladder
from monaiseg.settings import PlanningSettings, Settings


@dataclass(frozen=True)
class Choice:
    """A choice and its reason."""

    what: str
    why: str


def choices(
    settings: Settings,
    option: Option,
    cost: Forecast,
    fingerprint: Fingerprint,
    limits: Limits,
    rules: PlanningSettings,
    passes: float,
) -> tuple[Choice, ...]:
    """All choices with their reasons, ordered so that each follows from those before it."""
    return (
        *_choices_of_network(settings, option, cost, fingerprint, rules),
        *_choices_of_course(settings, cost, limits, rules, passes),
        *_choices_of_machine(settings, cost, limits, rules),
        _choice_of_validation(cost, limits, rules),
    )


def _choices_of_network(
    settings: Settings,
    option: Option,
    cost: Forecast,
    fingerprint: Fingerprint,
    rules: PlanningSettings,
) -> tuple[Choice, ...]:
    network, patch = settings.tsk_set.network, option.patch_shape
    topology = plan_topology(network, patch, fingerprint.spacing)
    spacing = " x ".join(f"{size:g}" for size in fingerprint.spacing)
    scan, whole = fingerprint.median_shape, patch_ladder(fingerprint, rules)[-1]
    holds_scan = all(p >= n for p, n in zip(patch, scan, strict=True))
    wider = next((width for width in rules.widths if width > option.channels), None)
    return (
        Choice(
            f"spacing {spacing} mm",
            "the median of the volumes, which are read as they were preprocessed"
            if fingerprint.preprocessing is not None
            else "as in the files; new scans of another are resampled"
            if fingerprint.is_uniform
            else "the median of the scans, which differ",
        ),
        _choice_of_intensity(settings, fingerprint),
        Choice(
            f"patch {_times(patch)}",
            f"holds the median scan of {_times(scan)}"
            if holds_scan
            else f"the largest up to {_times(whole)} that memory and minutes allow; the median scan has {_times(scan)}",
        ),
        Choice(
            f"network {network.variant}, {option.channels} channels, {len(topology.strides)} stages, total stride "
            f"{_times(topology.total_stride)}",
            f"{cost.parameters / 1e6:.2f} million weights; "
            + (
                f"{wider} channels would want {rules.steps_worth(wider)} steps or more memory"
                if wider
                else "the widest"
            ),
        ),
        Choice(
            f"batch {option.batch_size}",
            f"{option.batch_size * option.patch_voxels / 1e6:.2f} million voxels a step",
        ),
    )


def _choice_of_intensity(settings: Settings, fingerprint: Fingerprint) -> Choice:
    scale = settings.dataset.intensity
    if fingerprint.preprocessing is not None:
        return Choice(f"intensities by {scale.method}", "as the volumes were preprocessed")
    if fingerprint.window is None:
        return Choice(f"intensities by {scale.method}", "of each image by itself")
    low, high = fingerprint.window
    return Choice(
        f"intensities clipped to {low:g} and {high:g}",
        "Hounsfield units, three standard deviations about the mean of what is labelled",
    )


def _choices_of_course(
    settings: Settings, cost: Forecast, limits: Limits, rules: PlanningSettings, passes: float
) -> tuple[Choice, ...]:
    chosen = settings.tsk_set
    averaged = 1 / (1 - chosen.weight_averaging) / cost.steps
    return (
        Choice(
            f"{cost.steps} steps, {chosen.epochs} epochs of {cost.rhythm.steps_per_epoch}",
            f"what {limits.minutes:g} minutes hold; each training scan is seen about {passes:.0f} times",
        ),
        Choice(
            f"learning rate {chosen.optim.lr:g}, falling to nothing",
            f"warm-up of {chosen.warmup_epochs:g} epochs; weights averaged with decay {chosen.weight_averaging:g}, "
            f"{averaged:.0%} of the training",
        ),
        _choice_of_augmentation(settings, rules, passes),
    )


def _choice_of_augmentation(settings: Settings, rules: PlanningSettings, passes: float) -> Choice:
    few, many = rules.augmented_passes, rules.strongly_augmented_passes
    if passes < few:
        return Choice("augmentation off", f"on from {few} times that a scan is seen")
    if passes < many:
        return Choice("augmentation default", f"strong from {many} times that a scan is seen")
    if settings.dataset.seg.partition.flips:
        return Choice(
            "augmentation strong, mirrored left to right",
            "so that scans are not learned by heart; the trained network averages over mirrored windows",
        )
    return Choice(
        "augmentation strong",
        "so that scans are not learned by heart; not mirrored: labels have no names, or a side without partner "
        "(`prepare --label-table`)",
    )


def _choices_of_machine(
    settings: Settings, cost: Forecast, limits: Limits, rules: PlanningSettings
) -> tuple[Choice, ...]:
    where = "on disk" if settings.dataset.cache.where == "disk" else "in memory"
    return (
        Choice(
            f"cache {where}",
            f"cached cases may take {rules.cache_share:.0%} of {limits.memory_gb:g} GiB",
        ),
        Choice(
            f"{settings.tsk_set.num_threads} threads, {cost.workers} workers",
            "a worker cuts patches beside the step"
            if cost.workers
            else "patches are cut between steps, which a worker would slow down",
        ),
    )


def _choice_of_validation(cost: Forecast, limits: Limits, rules: PlanningSettings) -> Choice:
    validation = cost.validation
    share = rules.validations * validation.seconds / 60 / limits.minutes
    return Choice(
        f"validation every {cost.rhythm.val_period} epochs on {validation.cases} cases, overlap {validation.overlap:g}",
        f"{validation.seconds:.0f} s each, {share:.0%} of the minutes in all",
    )


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))
