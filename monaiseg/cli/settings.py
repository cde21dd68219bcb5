"""`monaiseg settings`: write, check and show settings files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monaiseg.cli.display import show_next
from monaiseg.cli.loudness import Json, note, print_json, result_as_json, say
from monaiseg.cli.options import read_settings
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.settings import Settings
settings_app = typer.Typer(no_args_is_help=True, help="Write, check and show settings files.")


@settings_app.command("init")
def settings_init(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("settings.json"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a settings file with every key at its default."""
    from monaiseg.files import write_atomic
    from monaiseg.settings import Settings, dump_settings

    check_free(file, force=force)
    write_atomic(file, dump_settings(Settings()).encode())
    say(f"written: {file}")
    show_next("monaiseg", "settings", "check", file)


@settings_app.command("check")
def settings_check(
    file: Annotated[Path, typer.Argument(help="Settings file, or the folder that holds it.")],
    as_json: Json = False,
) -> None:
    """Check a settings file and report all faults, each with what to use instead."""
    from monaiseg.settings import find_settings

    result_as_json(wanted=as_json)
    try:
        _check(file)
    except SettingsError as error:
        if not as_json:
            raise
        print_json({"file": file, "faults": str(error).splitlines()})
        raise typer.Exit(2) from error
    say(f"{find_settings(file)}: all keys are known and in range")
    if as_json:
        print_json({"file": find_settings(file), "faults": []})


def _check(file: Path) -> None:
    """Read settings and check what one key asks of another.

    Raises:
        SettingsError: the settings have faults; its message has one per line.
    """
    settings = read_settings(file)
    if settings.image_shape is not None:
        from monaiseg.transforms import resize_note

        if text := resize_note(settings):
            note(text)
    if settings.tsk_set.continue_train and not settings.tsk_set.model_path:
        raise SettingsError(
            f"{file}: tsk_set.continue_train is true but tsk_set.model_path is empty; give the checkpoint"
        )
    _check_network(settings)


@settings_app.command("show")
def settings_show(
    file: Annotated[Path, typer.Argument(help="Settings file, or the folder that holds it.")],
    chain: Annotated[
        bool, typer.Option("--chain", help="Print the transforms and the network instead.")
    ] = False,
) -> None:
    """Print the full settings, with EasyReg's spellings translated and defaults filled in."""
    from monaiseg.settings import dump_settings

    settings = read_settings(file)
    if chain:
        _show_chain(settings)
    else:
        typer.echo(dump_settings(settings), nl=False)


@settings_app.command("schema")
def settings_schema() -> None:
    """Print the JSON Schema with which editors complete and check settings files."""
    import json

    from monaiseg.settings import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _show_chain(settings: Settings) -> None:
    """Print the transforms and the network; labels or voxel size that depend on the data are assumed, with a note."""
    from monaiseg.data import LabelTable
    from monaiseg.networks import plan_topology
    from monaiseg.training import handlers_in_words
    from monaiseg.transforms import cached_chain, in_words, training_chain

    values = [value for value in settings.dataset.seg.interested_label_list if value > 0]
    table = LabelTable.from_values(values or [1])
    _show_list(
        "once for each case, then cached",
        in_words(cached_chain(settings, table, for_training=True).transforms),
    )
    _show_list("for each patch, at random", in_words(training_chain(settings, table)))
    spacing = settings.spacing_mm or (1.0, 1.0, 1.0)
    topology = plan_topology(settings.tsk_set.network, settings.patch_shape, spacing)
    _show_list("network, sizes along X, Y, Z", topology.in_words())
    _show_list("handlers, in order", handlers_in_words(settings))
    if not values:
        note("the labels come from the data; this list assumes one")
    if settings.spacing_mm is None:
        note("the voxel size comes from the data; this list assumes cubes of 1 mm")


def _show_list(title: str, lines: list[str]) -> None:
    typer.echo("\n".join([f"{title}:", *(f"  {line}" for line in lines)]))


def _check_network(settings: Settings) -> None:
    """Check that the network can halve the patch; how often it halves an axis depends on the voxel size, if known."""
    from monaiseg.networks import plan_topology

    spacing, network = settings.spacing_mm, settings.tsk_set.network
    if spacing is None:
        network = network.model_copy(update={"num_stages": None})
    plan_topology(network, settings.patch_shape, spacing or (1.0, 1.0, 1.0))


def check_free(file: Path, *, force: bool) -> None:
    """Raise SettingsError if a file would be replaced without `--force`."""
    if file.exists() and not force:
        raise SettingsError(
            f"{file}: already exists; choose another name, or replace it with --force"
        )
