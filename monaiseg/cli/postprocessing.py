"""Post-processing on the command line: options of `predict`, and the choice of rules for `evaluate`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from monaiseg.cli.display import print_table, progress_bar
from monaiseg.cli.loudness import say
from monaiseg.errors import CheckpointError, SettingsError

if TYPE_CHECKING:
    from monaiseg.data import DataTask
    from monaiseg.prediction import Predictor

POSTPROCESSING = "Post-processing"

KeepLargest = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="LABEL|all",
        help="Keep the largest component of a label, by name or value, and turn the others into background. May be "
        "repeated, as may the next two.",
        rich_help_panel=POSTPROCESSING,
    ),
]
DropBelow = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="[LABEL=]VOLUME",
        help="Turn components below a volume into background: 0.5ml, or lesion=30mm3 for one label.",
        rich_help_panel=POSTPROCESSING,
    ),
]
FillHoles = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="LABEL|all",
        help="Turn background that a label encloses into this label.",
        rich_help_panel=POSTPROCESSING,
    ),
]
Chosen = Annotated[
    bool,
    typer.Option(
        "--postprocessing/--no-postprocessing",
        help="Apply the post-processing that `evaluate --tune-postprocessing` chose for the model, if it did.",
        rich_help_panel=POSTPROCESSING,
    ),
]


Rules = tuple[Optional[list[str]], Optional[list[str]], Optional[list[str]], bool]  # noqa: UP045
"""The values of the four options."""


def set_rules(
    predictor: Predictor,
    keep_largest: list[str] | None,
    drop_below: list[str] | None,
    fill_holes: list[str] | None,
    chosen: bool,
) -> None:
    """Give a predictor the rules that the command line asks for, or leave those of its model.

    Raises:
        SettingsError: a label or a volume is not known.
    """
    from monaiseg.data import rules_from_words

    asked = keep_largest or [], drop_below or [], fill_holes or []
    if any(asked):
        predictor.rules = rules_from_words(predictor.table, *asked)
    elif not chosen:
        predictor.rules = ()


def show_choices(predictor: Predictor) -> None:
    """Print what was chosen on validation cases: whether windows are mirrored, and the post-processing."""
    from monaiseg.data import rules_in_words

    if predictor.mirroring is not None:
        say(predictor.mirroring.in_words())
    for line in rules_in_words(predictor.rules, predictor.table):
        say(f"post-processing: {line}")


def tune(model: Path, task: DataTask, device: Any) -> None:
    """Choose rules on the validation cases of a dataset, write them beside the checkpoint and print them.

    Raises:
        SettingsError: there are too few validation cases.
    """
    from monaiseg.data import check_unchanged, rules_file, write_rules
    from monaiseg.evaluation import choose_rules
    from monaiseg.files import remove
    from monaiseg.prediction import Predictor, with_settings
    from monaiseg.settings import parse_settings
    from monaiseg.training import load_checkpoint

    checkpoint = load_checkpoint(model)
    if checkpoint.path is None:
        raise CheckpointError(f"{model}: is not a file; give the folder of a run")
    cases = task.cases.get("val", ())
    if not cases:
        raise SettingsError(
            f"{task.folder}: has no validation cases, on which post-processing is chosen"
        )
    settings = task.as_read(parse_settings(checkpoint.settings, str(checkpoint.path)), "val")
    predictor = Predictor(with_settings(checkpoint, settings), device=device, postprocessing=())
    check_unchanged(cases, task.facts)
    with progress_bar("choosing post-processing") as advance:
        counter = itertools.count(1)
        chosen = choose_rules(predictor, cases, lambda _: advance(next(counter), len(cases)))
    if not chosen:
        remove(rules_file(checkpoint.path))
        typer.echo(
            f"post-processing: none is used, as none raises the mean Dice of a label over the {len(cases)} validation cases"
        )
        return
    names = dict(zip(predictor.table.values, predictor.table.names, strict=True))
    rows = [
        [names[one.rule.value], f"{one.dice_before:.4f}", f"{one.dice_after:.4f}"] for one in chosen
    ]
    print_table(
        f"post-processing chosen on {len(cases)} validation cases",
        ["label", "Dice", "with it"],
        rows,
    )
    path = write_rules(checkpoint.path, chosen, predictor.table, [case.id for case in cases])
    say(f"written: {path}")
