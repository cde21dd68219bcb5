"""The application: exit codes and EasyReg's spellings of the command line."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from monaiseg.cli.display import warnings_as_lines
from monaiseg.cli.words import spread, with_hyphens, written_out
from monaiseg.errors import MonaisegError, lack_of_memory


class Commands(TyperGroup):
    """Ends every command with the project's exit codes: 2 for problems that the user can fix, 130 for an interrupt."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept EasyReg's spellings: shortened options, underscores, several values after one option."""
        command = self.commands.get(args[0]) if args else None
        options = {name: p for p in command.params for name in p.opts} if command else {}
        return super().parse_args(ctx, spread([written_out(word, options) for word in args]))

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a problem that the user can fix becomes a message and an exit code."""
        try:
            with warnings_as_lines():
                return super().invoke(ctx)
        except MonaisegError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error
        except (MemoryError, RuntimeError) as error:
            lack = lack_of_memory(error)
            if lack is None:
                raise
            reason = next(iter(str(lack).splitlines()), "") or "no room for another array"
            typer.echo(
                f"the memory ran out ({reason[:200]}); close other programs, or lower tsk_set.batch_size, "
                "dataset.seg.patch_size or tsk_set.num_workers",
                err=True,
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error
        except BrokenPipeError as error:  # `monaiseg ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error


# EasyReg writes `--data_task_name` for `--data-task-name`: every option accepts both spellings.
CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": with_hyphens}

app = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train, evaluate and apply networks that segment 3-D medical images.",
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Train, evaluate and apply networks that segment 3-D medical images."""
    if version:
        from monaiseg import __version__

        typer.echo(f"monaiseg {__version__}")
        raise typer.Exit


def examples(commands: str) -> str:
    """The end of a command's help: commands to copy, one per line."""
    return "[bold]Examples[/bold]\n\n" + commands
