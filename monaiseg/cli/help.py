"""The help of a command: whole sentences, options in groups, examples to copy.

It is written as plain text, because loading rich takes longer than all the rest of `monaiseg --help`.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import typer

WIDTH = 100
"""Most characters in a line; a narrower terminal gets narrower lines."""
NAMES_WIDTH = 26
"""Most characters in the first column; longer names have a line of their own."""
ASKED = ("-h", "--help")
LOUD = ("quiet", "verbose")
VALUES = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "path": "PATH"}
"""What the help calls the value of an option that does not name it."""


def asks_for_help(command: Any, words: Sequence[str]) -> bool:
    """Whether a command line asks for help, or names a command that has nothing to do without arguments."""
    before_files = words[: words.index("--")] if "--" in words else words
    return any(word in ASKED for word in before_files) or (not words and command.no_args_is_help)


def find_command(root: Any, context: Any, words: Sequence[str]) -> tuple[Any, Any, list[str]]:
    """The innermost command that the words name, its context, and the words after its name."""
    command, left = root, list(words)
    while left and left[0] in getattr(command, "commands", {}):
        name = left.pop(0)
        command = command.commands[name]
        context = type(context)(command, info_name=name, parent=context)
    return command, context, left


def help_of(command: Any, context: Any) -> str:
    """The help of a command or a group of commands, ready to print."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    return "\n".join([*_opening(command, context, width), *_groups(command, context, width)])


def _opening(command: Any, context: Any, width: int) -> Iterator[str]:
    """Usage and description."""
    pieces = " ".join(command.collect_usage_pieces(context))
    usage = re.sub(r"\{([^{}|]*)\}", r"\1", pieces)  # typer puts what is required into braces
    yield f"{_heading('Usage:')} {context.command_path} {usage}"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield ""
        yield _wrapped(paragraph, width)


def _groups(command: Any, context: Any, width: int) -> Iterator[str]:
    """Commands, arguments and options, each group under its heading, and the examples."""
    groups = _rows(command, context)
    names_width = max(
        len(names) for rows in groups.values() for names, _ in rows if len(names) <= NAMES_WIDTH
    )
    for title, rows in groups.items():
        yield f"\n{_heading(f'{title}:')}"
        for names, meaning in rows:
            yield _row(names, meaning, names_width, width)
    if command.epilog:
        yield f"\n{_heading('Examples:')}"
        yield from (f"  {line}" for line in command.epilog.splitlines() if line)


def _rows(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Names and meanings by the title of their group."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            meaning = inspect.cleandoc(child.help or "").split("\n\n")[0]
            groups.setdefault(child.rich_help_panel or "Commands", []).append((name, meaning))
    for parameter in [
        *command.params,
        *_of_every_command(context),
        command.get_help_option(context),
    ]:
        if not getattr(parameter, "hidden", False):
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or default
            groups.setdefault(title, []).append(_parameter_row(parameter, context))
    return groups


def _of_every_command(context: Any) -> list[Any]:
    """The program's options that may also be written after a command."""
    root = context.find_root()
    inside = root is not context
    return [option for option in root.command.params if inside and option.name in LOUD]


def _parameter_row(parameter: Any, context: Any) -> tuple[str, str]:
    """How a parameter is written, and its meaning with its default.

    An option that has several long names is shown with the first; the others are EasyReg's.
    """
    record, meaning = parameter.get_help_record(context)
    if parameter.param_type_name == "argument":
        names = parameter.metavar or record
    else:
        longs = [name for name in parameter.opts if name.startswith("--")]
        shorts = [name for name in parameter.opts if not name.startswith("--")]
        names = ", ".join([*shorts, *longs[:1], *parameter.secondary_opts])
        names += "" if parameter.is_flag else " " + _value_of(record)
    meaning, _, facts = meaning.partition("  [")
    told = [fact for fact in facts.rstrip("]").split("; ") if fact.startswith(("default", "req"))]
    return names, meaning + (f" [{', '.join(told)}]" if told else "")


def _value_of(record: str) -> str:
    """What the help calls an option's value.

    >>> _value_of("-n, --number <int range>")
    'NUMBER'
    """
    value = record.rpartition(" ")[2] if "<" not in record else record[record.index("<") :]
    found = re.match(r"<(?:list\[)?(\w+)", value)
    return VALUES.get(found[1].lower(), found[1].upper()) if found else value


def _row(names: str, meaning: str, names_width: int, width: int) -> str:
    """One option or command; its meaning is wrapped in the second column."""
    indent = " " * (names_width + 4)
    text = _wrapped(meaning, width, indent)
    if len(names) > names_width:
        return f"  {_strong(names)}\n{text}"
    return f"  {_strong(names)}{text[len(names) + 2 :]}"


def _wrapped(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        max(width, len(indent) + 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _heading(text: str) -> str:
    return typer.style(text, bold=True) if sys.stdout.isatty() else text


def _strong(names: str) -> str:
    return typer.style(names, fg="cyan") if sys.stdout.isatty() else names
