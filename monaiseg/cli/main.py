"""The application: exit codes and EasyReg's spellings of the command line."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from monaiseg.cli.display import warnings_as_lines
from monaiseg.cli.help import asks_for_help, find_command, help_of
from monaiseg.cli.loudness import NOW, QUIET, VERBOSE, at_the_front, set_loudness
from monaiseg.cli.words import spread, with_hyphens, written_out
from monaiseg.errors import MonaisegError, lack_of_memory, reached_limit

if "_MONAISEG_COMPLETE" in os.environ:  # a shell asks for completions
    sys.modules["rich"] = None  # type: ignore[assignment]  # typer then leaves it out, which saves half of the time

EXAMPLES = """\
monaiseg fit scans --minutes 20

monaiseg predict work/scans/first new/*.nii.gz -o labels
"""


class Commands(TyperGroup):
    """Answers `--help`, and ends every command with the project's exit codes: 2 for what the user can fix, 130 for an interrupt."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept EasyReg's spellings: shortened options, underscores, several values after one option."""
        args = at_the_front(args)
        _help_if_asked(self, ctx, [word for word in args if word not in (*QUIET, *VERBOSE)])
        name = next((word for word in args if not word.startswith("-")), "")
        command = self.commands.get(name)
        options = {name: p for p in command.params for name in p.opts} if command else {}
        return super().parse_args(ctx, spread([written_out(word, options) for word in args]))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the program."""
        formatter.write(help_of(self, ctx) + "\n")

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a problem that the user can fix becomes a message and an exit code."""
        try:
            with warnings_as_lines():
                return super().invoke(ctx)
        except MonaisegError as error:
            typer.echo(str(error), err=True)
            if NOW.verbose:
                traceback.print_exception(error)
            raise typer.Exit(2) from error
        except (MemoryError, RuntimeError) as error:
            if (reached := reached_limit(error)) is not None:
                typer.echo(reached, err=True)
                raise typer.Exit(2) from error
            if (lack := lack_of_memory(error)) is None:
                raise
            reason = next(iter(str(lack).splitlines()), "") or "an array did not fit"
            typer.echo(
                f"memory ran out ({reason[:200]}); {_less_memory(ctx.invoked_subcommand)}",
                err=True,
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error
        except BrokenPipeError as error:  # `monaiseg ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except OSError as error:
            if (reached := reached_limit(error)) is None:
                raise
            typer.echo(reached, err=True)
            raise typer.Exit(2) from error


def _less_memory(command: str | None) -> str:
    """What helps when a command runs out of memory."""
    if command in ("train", "fit", "demo"):
        return (
            "close other programs, or lower tsk_set.batch_size, dataset.seg.patch_size or tsk_set.num_workers in the "
            "settings"
        )
    return "close other programs, or use a computer with more memory"


def _help_if_asked(root: Any, context: Any, words: list[str]) -> None:
    """Show the help and end, if the words ask for it; a command that got no arguments ends with exit code 2."""
    if context.resilient_parsing:
        return
    command, inner, left = find_command(root, context, words)
    if asks_for_help(command, left):
        typer.echo(help_of(command, inner), err=not left)
        raise typer.Exit(0 if left else 2)


# EasyReg writes `--data_task_name` for `--data-task-name`: every option accepts both spellings.
CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": with_hyphens}

app = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, evaluate and apply networks that segment 3-D medical images.",
    epilog=EXAMPLES,
)


@app.callback(invoke_without_command=True)
def main(
    quiet: Annotated[
        bool, typer.Option(*QUIET, help="Print only results, warnings and errors.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            *VERBOSE, help="Also print versions, messages of libraries, and where an error arose."
        ),
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Train, evaluate and apply networks that segment 3-D medical images."""
    set_loudness(quiet=quiet, verbose=verbose)
    if version:
        from monaiseg import __version__

        typer.echo(f"monaiseg {__version__}")
        raise typer.Exit
