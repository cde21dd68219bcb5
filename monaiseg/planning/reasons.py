"""Reasons: why a plan makes each of its choices, in words."""

from __future__ import annotations

from dataclasses import dataclass

from monaiseg.data import shape_in_words
from monaiseg.errors import counted
from monaiseg.networks import plan_topology
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.forecasts import Forecast
from monaiseg.planning.limits import Limits
from monaiseg.planning.options import Option, patch_ladder
from monaiseg.settings import PlanningSettings, Settings

FEW_PASSES = 10
"""Passes over the training scans below which a plan warns: hippocampus networks that saw each scan 6 times
reached a Dice of 0.20, and 0.86 after 20 times."""


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


def disturbance(taken: float, cores: int) -> Choice:
    """What other programs do to a plan: `taken` of the cores were theirs while steps were measured."""
    left = max(cores - taken, 0.1 * cores) / cores
    return Choice(
        f"other programs used {taken:g} of the cores meanwhile",
        f"planned for this computer without them; beside them, expect at most {left:.0%} of the steps in the same "
        "minutes, and set OMP_WAIT_POLICY=PASSIVE in the environment of `monaiseg train` to lose less",
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
    with_atlas = fingerprint.starts_from_atlas(rules)
    wider = next((width for width in rules.widths if width > option.channels), None)
    return (
        Choice(
            f"spacing {spacing} mm",
            "the median of the volumes, which `prepare --preprocess` has resampled"
            if fingerprint.preprocessing is not None
            else "as in the files; new scans with another spacing are resampled"
            if fingerprint.is_uniform
            else "the median of the scans, which differ; all are resampled",
        ),
        _choice_of_intensity(settings, fingerprint),
        *_choice_of_atlas(fingerprint, rules),
        Choice(
            f"patch of {shape_in_words(patch)} voxels",
            f"as large as the median scan, {shape_in_words(scan)}"
            if holds_scan
            else f"the largest, up to {shape_in_words(whole)}, that memory and time allow; the median scan has {shape_in_words(scan)}",
        ),
        Choice(
            f"{network.variant} network of {option.channels} channels and {len(topology.strides)} stages",
            f"{cost.parameters / 1e6:.2f} million weights; "
            + (
                f"{wider} channels would need {rules.steps_worth(wider, with_atlas=with_atlas)} steps or more memory"
                if wider
                else "the widest network"
            ),
        ),
        Choice(
            f"{option.batch_size} patches per batch"
            if option.batch_size > 1
            else "1 patch per batch",
            f"{option.batch_size * option.patch_voxels / 1e6:.2f} million voxels per step",
        ),
    )


def _choice_of_atlas(fingerprint: Fingerprint, rules: PlanningSettings) -> list[Choice]:
    position = fingerprint.position
    if position is None:
        return []
    says = f"position in the body explains {max(position.explained, 0):.0%} of the labels of new persons"
    if fingerprint.starts_from_atlas(rules):
        return [Choice("starts from an atlas of the training cases", says)]
    return [Choice("no atlas", f"{says}; it helps from {rules.atlas_explained:.0%}")]


def _choice_of_intensity(settings: Settings, fingerprint: Fingerprint) -> Choice:
    scale = settings.dataset.intensity
    if fingerprint.preprocessing is not None:
        return Choice(
            f"intensities scaled by {scale.method}", "as `prepare --preprocess` scaled the volumes"
        )
    if fingerprint.window is None:
        return Choice(f"intensities scaled by {scale.method}", "of each image on its own")
    low, high = fingerprint.window
    return Choice(
        f"intensities clipped to {low:g} and {high:g}",
        "Hounsfield units: the mean of the labelled voxels and three standard deviations on either side",
    )


def _choices_of_course(
    settings: Settings, cost: Forecast, limits: Limits, rules: PlanningSettings, passes: float
) -> tuple[Choice, ...]:
    chosen = settings.tsk_set
    averaged = 1 / (1 - chosen.weight_averaging) / cost.steps
    is_short = passes < FEW_PASSES and not chosen.network.atlas
    caution = ", which is few: expect low scores, and give it more minutes" if is_short else ""
    return (
        Choice(
            f"{cost.steps} steps, in {chosen.epochs} epochs of {cost.rhythm.steps_per_epoch}",
            f"as many as {limits.minutes:g} minutes allow; the network sees each training scan about {passes:.0f} times"
            f"{caution}",
        ),
        Choice(
            f"learning rate {chosen.optim.lr:g}, falling to 0",
            f"warm-up of {chosen.warmup_epochs:g} epochs; weights are averaged over about {averaged:.0%} of the run "
            f"(decay {chosen.weight_averaging:g})",
        ),
        _choice_of_augmentation(settings, rules, passes),
    )


def _choice_of_augmentation(settings: Settings, rules: PlanningSettings, passes: float) -> Choice:
    few, many = rules.augmented_passes, rules.strongly_augmented_passes
    change = settings.dataset.seg.augmentation
    mirrored = ", mirrored left to right" if change.enabled and change.flip.left_right else ""
    if passes < few:
        what = "no augmentation but mirroring left to right" if mirrored else "no augmentation"
        return Choice(what, f"more helps only if each scan is seen {few} times or more")
    if passes < many:
        return Choice(
            f"default augmentation{mirrored}",
            f"it is strong if each scan is seen {many} times or more",
        )
    if settings.dataset.seg.partition.flips:
        return Choice(
            "strong augmentation, with left-right mirroring",
            "against overfitting; predictions mirror windows too if that raises the validation Dice",
        )
    return Choice(
        "strong augmentation, without mirroring",
        "against overfitting; for mirroring, labels need names, and partners if they have a side "
        "(`prepare --label-table`)",
    )


def _choices_of_machine(
    settings: Settings, cost: Forecast, limits: Limits, rules: PlanningSettings
) -> tuple[Choice, ...]:
    where = "on disk" if settings.dataset.cache.where == "disk" else "in memory"
    return (
        Choice(
            f"cases cached {where}",
            f"the cache may use {rules.cache_share:.0%} of {limits.memory_gb:g} GiB",
        ),
        Choice(
            f"{counted(settings.tsk_set.num_threads or 1, 'thread')}, {counted(cost.workers, 'worker')}",
            "workers cut patches during the steps"
            if cost.workers
            else "patches are cut between steps; workers would slow the steps down",
        ),
    )


def _choice_of_validation(cost: Forecast, limits: Limits, rules: PlanningSettings) -> Choice:
    validation = cost.validation
    share = rules.validations * validation.seconds / 60 / limits.minutes
    return Choice(
        f"validation every {counted(cost.rhythm.val_period, 'epoch')} on {counted(validation.cases, 'case')}",
        f"{validation.seconds:.0f} s each, {share:.0%} of the time; windows overlap by {validation.overlap:g}",
    )
