"""The stand-alone runner: the modules of `monaiseg.portable` as one Python file.

It is a plain text file rather than a second package on an index. It needs no network to install, always fits the model
that it was written with, and whoever has to allow it on a computer can read all of it.
"""

from __future__ import annotations

import ast
import re
from importlib.resources import files

from monaiseg import __version__

MODULES = (
    "intensity",
    "resampling",
    "route",
    "registration",
    "protobuf",
    "prior",
    "windows",
    "postprocessing",
    "recipe",
    "model",
    "nifti",
    "program",
)
"""Modules in an order in which each uses only names of those before it."""
HEAD = '''\
"""Label scans with a model that `monaiseg export` wrote, without monaiseg, torch or MONAI.

    pip install numpy nibabel onnxruntime
    python {name} model.onnx scans -o labels
    python {name} model.onnx --verify

Written by monaiseg {version} from its package `monaiseg.portable`. Licence: Apache-2.0.
"""

from __future__ import annotations

'''
_TO_LINTERS = re.compile(r"  # (noqa|fmt|type):[^\n]*")
FOOT = """

if __name__ == "__main__":
    sys.exit(main())
"""


def runner_script(name: str = "runner.py") -> str:
    """The text of the program; `name` is the file that its documentation calls it by."""
    imports: set[str] = set()
    parts: list[str] = []
    for module in MODULES:
        source = files("monaiseg.portable").joinpath(f"{module}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
        at_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imports |= {line for node in at_top for line in _kept(node)}
        rest = source.splitlines()[at_top[-1].end_lineno :]
        parts.append("\n".join([f"\n\n# {'-' * 66} {module}", _comment(tree), *rest]))
    head = HEAD.format(name=name, version=__version__)
    text = head + "\n".join(sorted(imports, key=_order)) + "\n".join(parts) + FOOT
    return _TO_LINTERS.sub("", text)


def _kept(node: ast.Import | ast.ImportFrom) -> list[str]:
    """One line for each name that a statement imports; none for those of this package."""
    if isinstance(node, ast.Import):
        return [
            f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
            for alias in node.names
        ]
    if node.module == "__future__" or (node.module or "").startswith("monaiseg."):
        return []
    return [f"from {node.module} import {alias.name}" for alias in node.names]


def _order(line: str) -> tuple[bool, str]:
    """Standard library first."""
    return any(f" {name}" in line for name in ("numpy", "nibabel")), line


def _comment(tree: ast.Module) -> str:
    """A module's docstring as a comment."""
    text = ast.get_docstring(tree) or ""
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())
