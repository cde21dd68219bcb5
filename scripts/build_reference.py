"""Write the reference pages from the code: settings, their schema, the command line and the Python names.

python scripts/build_reference.py           writes docs/settings.md, cli.md, api.md, and the schemas of settings and summaries
python scripts/build_reference.py --check   writes nothing; says which pages are out of date, and exits with 1
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

import monaiseg
from monaiseg.cli import app
from monaiseg.evaluation import summary_schema
from monaiseg.settings import easyreg_keys
from monaiseg.settings.messages import _in_words
from monaiseg.settings.schema import json_schema

DOCS = Path(__file__).parent.parent / "docs"
GENERATED = (
    "<!-- Written by scripts/build_reference.py from the code: edit the docstrings there. -->"
)


def main(arguments: list[str]) -> int:
    """Writes the pages, or with `--check` compares them; returns the exit code."""
    pages = {
        "settings.md": settings_page(),
        "settings.schema.json": json_text(json_schema()),
        "summary.schema.json": json_text(summary_schema()),
        "cli.md": command_page(),
        "api.md": python_page(),
    }
    paths = {DOCS / name: text for name, text in pages.items()}
    stale = [
        path for path, text in paths.items() if not path.exists() or path.read_text("utf-8") != text
    ]
    if "--check" in arguments:
        for path in stale:
            print(
                f"docs/{path.name} is out of date: run `python scripts/build_reference.py`",
                file=sys.stderr,
            )
        return int(bool(stale))
    DOCS.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(paths[path], encoding="utf-8")
        print(f"written: docs/{path.name}")
    return 0


def json_text(document: dict[str, Any]) -> str:
    """A JSON document as it stands in a file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- settings


def settings_page() -> str:
    """The settings file, section by section."""
    schema = json_schema()
    opening = (
        "One JSON file with two sections, `dataset` and `tsk_set`. Every key has a default: write only what you change. "
        "An unknown key is refused, with the nearest known name. Editors complete and check the file with "
        "[the schema](settings.schema.json), which `monaiseg settings schema` prints."
    )
    parts = ["# Settings", GENERATED, opening]
    for path, section in _sections(schema, schema):
        title = f"## `{path}`" if "." not in path else f"### `{path}`"
        rows = [
            (
                f"`{key}`",
                _values_of(node),
                _default_of(node),
                _said(node) + _elsewhere(f"{path}.{key}"),
            )
            for key, node in section["properties"].items()
            if "$ref" not in node
        ]
        parts += [title, section.get("description", "")]
        parts += [_table(("key", "value", "default", "meaning"), rows)] if rows else []
    return "\n\n".join(parts) + "\n"


def _sections(
    node: dict[str, Any], schema: dict[str, Any], path: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every section below a node with its dotted path, outer ones first."""
    for key, child in node["properties"].items():
        if "$ref" in child:
            section = schema["$defs"][child["$ref"].rsplit("/", 1)[1]]
            here = f"{path}.{key}".lstrip(".")
            yield here, section
            yield from _sections(section, schema, here)


def _values_of(node: dict[str, Any]) -> str:
    return _in_words(node).replace(" and at most 2.14748e+09", "")  # what fits 32 bits is no advice


def _default_of(node: dict[str, Any]) -> str:
    return f"`{json.dumps(node['default'])}`" if "default" in node else ""


def _said(node: dict[str, Any]) -> str:
    return " ".join(node.get("description", "").split())


def _elsewhere(path: str) -> str:
    """A note of EasyReg's name for a key, where it has another one."""
    names = [f"`{theirs}`" for theirs, ours in easyreg_keys.RENAMED.items() if ours == path]
    return f" In EasyReg: {', '.join(names)}." if names else ""


# ---------------------------------------------------------------- command line


def command_page() -> str:
    """Every command with its usage, its options by group, and its examples."""
    root = typer.main.get_command(app)
    parts = ["# Command line", GENERATED, str(root.help), COMMON_TO_COMMANDS]
    for path, command in _commands(root, "monaiseg"):
        context = command.context_class(command, info_name=path)
        parts += [f"## `{path}`", inspect.cleandoc(command.help or "")]
        usage = re.sub(r"^Usage: |[{}]", "", command.get_usage(context))
        parts.append(f"```text\n{usage}\n```")
        for group, parameters in _groups(command).items():
            rows = [_option_row(parameter, context) for parameter in parameters]
            parts += [f"*{group}*", _table(("name", "value", "default", "meaning"), rows)]
        if command.epilog:
            parts += ["*Examples*", f"```console\n{_examples(command.epilog)}\n```"]
    return "\n\n".join(parts) + "\n"


COMMON_TO_COMMANDS = """\
`monaiseg --install-completion` installs completion of commands and options in your shell. Long options may be written
with `_` instead of `-`, as in EasyReg.

Every command takes these options:

| name | meaning |
| --- | --- |
| `--quiet`, `-q` | Print only results, warnings and errors. |
| `--verbose`, `-v` | Also print versions, messages of libraries, and where an error arose. |
| `--help`, `-h` | Show the command's options and examples. |

Exit codes: 0 done; 2 something that you can put right, and the message says how; 1 a bug, please report the traceback;
130 interrupted."""


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The commands below a group with what one types to call them."""
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from _commands(child, f"{path} {name}")
        elif not child.hidden:
            yield f"{path} {name}", child


def _groups(command: Any) -> dict[str, list[Any]]:
    """A command's parameters by the panel of its help that they are in; those that are hidden are left out."""
    groups: dict[str, list[Any]] = {}
    for parameter in command.params:
        if not parameter.hidden:
            is_argument = parameter.param_type_name == "argument"
            group = parameter.rich_help_panel or ("Arguments" if is_argument else "Options")
            groups.setdefault(group, []).append(parameter)
    return groups


KINDS = {"path": "path", "str": "text", "int": "whole number", "float": "number", "bool": ""}
"""Of an option's type as the help shows it, such as `<int>` -> in words."""


def _option_row(parameter: Any, context: Any) -> tuple[str, str, str, str]:
    """Names, kind of value, default and help of an option or argument."""
    if parameter.param_type_name == "argument":
        names, kind = [parameter.metavar or parameter.name.upper()], "path"
    else:
        names = [*parameter.opts, *parameter.secondary_opts]
        kind = _kind(parameter.display_type_rich(context))
    has_default = parameter.default is not None and not isinstance(parameter.default, bool)
    default = f"`{parameter.default}`" if has_default else ""
    return (
        ", ".join(f"`{name}`" for name in names),
        kind,
        "required" if parameter.required else default,
        " ".join((parameter.help or "").split()),
    )


def _kind(shown: str) -> str:
    """What kind of value an option takes, from what its help shows: `<float range>` or a metavar."""
    found = re.search(r"<(?:list\[)?(\w+)", shown)
    return KINDS[found[1].lower()] if found else f"`{shown}`"


def _examples(epilog: str) -> str:
    """The commands at the end of a command's help, as they are typed."""
    lines = [line.strip() for line in epilog.splitlines()]
    return "\n".join(f"$ {line}" for line in lines if line.startswith("monaiseg"))


# ---------------------------------------------------------------- Python


PYTHON_SETUP = """\
<!-- before running
python -c "
from monaiseg.data import make_phantom, write_phantom
for n in range(10):
    write_phantom('scans', f'scan_{n}', make_phantom((24, 24, 24), label_values=(1, 2), seed=n))
"
monaiseg prepare scans
echo '{"dataset": {"seg": {"patch_size": [16, 16, 16]}}, "tsk_set": {"epochs": 1, "num_workers": 0, "network": {"channels": 8}}}' > work/scans/settings.json
monaiseg train work/scans --name first
cp scans/images/scan_0.nii.gz scan.nii.gz
-->"""
"""What the examples of docstrings find when the tests run the page."""


def python_page() -> str:
    """Every public name with its signature and docstring."""
    parts = [
        "# Python",
        GENERATED,
        "Everything below is imported from `monaiseg` itself.",
        PYTHON_SETUP,
    ]
    for name in sorted(set(monaiseg.__all__) - {"__version__"}, key=str.lower):
        item = getattr(monaiseg, name)
        parts += [f"## `{name}`", f"```text\n{name}{_signature(item)}\n```", _prose(item)]
        if lines := _members(item):
            parts += ["*Members*", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _signature(item: Any) -> str:
    """Parameters, one a line where they are many; nothing for an exception."""
    if inspect.isclass(item) and issubclass(item, Exception):
        return ""
    found = inspect.signature(item)
    arrow = "" if inspect.isclass(item) else f" -> {_annotation(found.return_annotation)}"
    parameters: list[str] = []
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        shown = default if len(default) <= 40 else " = ..."
        parameters.append(f"{parameter.name}: {_annotation(parameter.annotation)}{shown}")
    line = f"({', '.join(parameters)}){arrow}"
    if len(line) <= 90:
        return line
    return "(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){arrow}"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _members(item: Any) -> list[str]:
    """A class's own public methods and properties, each with the first line of its docstring."""
    if not inspect.isclass(item) or issubclass(item, Exception):
        return []
    own = {
        name: member
        for name, member in vars(item).items()
        if name[0] != "_" and inspect.getdoc(member)
    }
    callables = (classmethod, staticmethod, property)
    return [
        f"`{name}{_call_of(getattr(item, name)) if not isinstance(member, property) else ''}`: {_first_line(member)}"
        for name, member in own.items()
        if isinstance(member, callables) or inspect.isfunction(member)
    ]


def _call_of(function: Any) -> str:
    names = [n for n in inspect.signature(function).parameters if n != "self"]
    return f"({', '.join(names)})"


def _first_line(item: Any) -> str:
    return (inspect.getdoc(item) or "").partition("\n\n")[0].replace("\n", " ")


def _prose(item: Any) -> str:
    """A docstring as Markdown: Google's sections as lists, examples as sessions."""
    text = inspect.getdoc(item) or ""
    text = re.sub(
        r"^>>>.*?(?=\n\n|\Z)",
        lambda m: f"```pycon\n{m[0]}\n```",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    lines: list[str] = []
    in_section = False
    for line in text.splitlines():
        if line in {"Args:", "Returns:", "Raises:", "Yields:"}:
            in_section = True
            lines += [f"*{'Parameters' if line == 'Args:' else line[:-1]}*", ""]
        elif in_section and re.match(r"    \S", line):
            lines.append(
                re.sub(r"^    (\w+):", r"- `\1`:", line) if ":" in line else f"- {line.strip()}"
            )
        elif in_section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [list(header), ["---"] * len(list(header)), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
