"""Draw the packages and what they import: the drawing in CONTRIBUTING.md.

python scripts/draw_structure.py           writes it into CONTRIBUTING.md
python scripts/draw_structure.py --check   writes nothing; says whether it is out of date, and exits with 1

Nothing of monaiseg is imported: grimp reads its sources.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "CONTRIBUTING.md"
ROOT = "monaiseg"
_DRAWING = re.compile(r"(?<=<!-- scripts/draw_structure.py -->\n```text\n).*?(?=```)", re.DOTALL)


def main(arguments: list[str]) -> int:
    """Write the drawing, or with `--check` compare it; returns the exit code."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = _DRAWING.sub(lambda _: drawing(), page)
    if "--check" not in arguments:
        PAGE.write_text(fresh, encoding="utf-8")
    elif fresh != page:
        print(f"{PAGE.name} is out of date: run `python scripts/draw_structure.py`")
        return 1
    return 0


def drawing() -> str:
    """One line a package, importers above what they import; then sizes."""
    modules = [
        path
        for path in (REPOSITORY / ROOT).rglob("*.py")
        if path != REPOSITORY / ROOT / "__init__.py"
    ]
    imported = arrows()
    counts = {
        package: sum(_package(_name(path)) == package for path in modules) for package in imported
    }
    lines = [
        f"{package:12} {counts[package]:3}  {', '.join(sorted(imported[package])) or '-'}"
        for package in _from_the_top(imported)
    ]
    total = sum(len(targets) for targets in imported.values())
    return "\n".join(
        [
            f"{'package':11} files  imports",
            *lines,
            "",
            f"{len(modules)} modules in {len(imported)} packages, {total} arrows between packages",
            *(
                f"longest {kind}: {size} lines, {where}"
                for kind, (size, where) in longest(modules).items()
            ),
            "",
        ]
    )


def arrows() -> dict[str, set[str]]:
    """Which packages, or modules beside them, each one imports from."""
    sys.path.insert(0, str(REPOSITORY))  # where grimp looks for the sources
    graph = grimp.build_graph(ROOT, cache_dir=None)
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules - {ROOT}:
        others = {_package(other) for other in graph.find_modules_directly_imported_by(module)}
        found[_package(module)] |= others - {_package(module), ROOT}
    return dict(found)


def _package(module: str) -> str:
    """The package of a module, or the module itself where it lies beside the packages."""
    return module.split(".")[1] if "." in module else module


def _name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


def _from_the_top(imported: dict[str, set[str]]) -> list[str]:
    """The packages, each after all that import it."""
    order: list[str] = []
    while left := imported.keys() - set(order):
        wanted = {target for package in left for target in imported[package]}
        free = sorted(left - wanted)
        if not free:
            raise ValueError(
                f"these packages import one another in a ring: {', '.join(sorted(left))}"
            )
        order += free
    return order


def longest(modules: list[Path]) -> dict[str, tuple[int, str]]:
    """Lines and place of the longest module, class and function."""
    found = {"module": (0, ""), "class": (0, ""), "function": (0, "")}
    for path in modules:
        text = path.read_text(encoding="utf-8")
        place = str(path.relative_to(REPOSITORY))
        for kind, size, name in [("module", text.count("\n"), ""), *_definitions(text)]:
            found[kind] = max(found[kind], (size, f"{name} in {place}" if name else place))
    return found


def _definitions(text: str) -> Iterator[tuple[str, int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield kind, (node.end_lineno or node.lineno) - node.lineno + 1, node.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
