"""Every page says what is true: its blocks run in order, its JSON loads, its links lead somewhere.

A page's `bash` and `python` blocks run from top to bottom in one new folder, Python in one namespace. Two comments, which
readers of the page do not see, go just before a block or stand by themselves:

    <!-- not run: needs a GPU -->           the next block is skipped, and counted with its reason
    <!-- before running                     bash lines that run here, for instance to make phantoms
    monaiseg demo ...                       or to shorten a training
    -->
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import nbclient
import nbformat
import pytest

from monaiseg.settings.reading import settings_from_dict

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
RUN_ON_PAGES = [path for path in PAGES if path.parent != REPOSITORY or path.name == "README.md"]
LANGUAGES = {"bash", "python", "json", "text", "console", "bibtex", "pycon"}

_PIECE = re.compile(
    r"^<!-- before running\n(?P<hidden>.*?)^-->"
    r"|^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n\n?)?```(?P<language>\w*)[^\n]*\n(?P<source>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    """Of the page, where the block's first line of source stands."""
    language: str
    source: str
    reason: str | None
    """Why it does not run; None if it does."""
    hidden: bool
    """Whether it stands in a comment."""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path, text: str) -> list[Block]:
    """The blocks of a page in order; hidden ones are bash."""
    found = []
    for match in _PIECE.finditer(text):
        hidden = match["hidden"] is not None
        start = match.start("hidden" if hidden else "source")
        found.append(
            Block(
                page,
                text.count("\n", 0, start) + 1,
                "bash" if hidden else match["language"],
                match["hidden"] if hidden else match["source"],
                match["reason"],
                hidden,
            )
        )
    return found


BLOCKS = {page: blocks(page, page.read_text(encoding="utf-8")) for page in PAGES}
EVERY_BLOCK = [block for found in BLOCKS.values() for block in found]
PROGRAMS = [
    block
    for block in EVERY_BLOCK
    if block.language in {"bash", "python"} and block.page in RUN_ON_PAGES
]


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize(
    "page", sorted({block.page for block in PROGRAMS if block.reason is None}), ids=name
)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    monkeypatch.setenv("REPOSITORY", str(REPOSITORY))
    namespace = {"__name__": "__main__"}
    for block in PROGRAMS:
        if block.page != page or block.reason is not None:
            continue
        if block.language == "bash":
            run_bash(block)
        else:  # as if the page were the program, so that a traceback names the page and its line
            code = "\n" * (block.line - 1) + block.source
            exec(compile(code, str(page), "exec"), namespace)  # noqa: S102  the page is ours


def run_bash(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.source],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = (
        f"{block.where}: exit code {done.returncode}\n{block.source}\n{done.stdout}\n{done.stderr}"
    )
    assert done.returncode == 0, said


@pytest.mark.parametrize("block", [b for b in PROGRAMS if b.reason], ids=lambda block: block.where)
def test_a_block_that_does_not_run_says_why(block):
    pytest.skip(f"{block.where} is not run: {block.reason}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_is_closed_and_names_its_language(page):
    text = page.read_text(encoding="utf-8")
    fenced = [block for block in BLOCKS[page] if not block.hidden]
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(fenced)
    assert {block.language for block in fenced} <= LANGUAGES
    assert text.count("<!-- not run") == sum(block.reason is not None for block in fenced)
    assert text.count("<!-- before running") == len(BLOCKS[page]) - len(fenced)


@pytest.mark.parametrize(
    "block", [b for b in EVERY_BLOCK if b.language == "json"], ids=lambda block: block.where
)
def test_a_json_block_is_json_and_its_settings_load(block):
    document = json.loads(block.source)
    if {"dataset", "tsk_set"} & set(document):
        settings_from_dict(document, block.where)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_lead_to_files_that_are_there(page):
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    local = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    missing = [file for file, _, _ in local if file and not (page.parent / file).exists()]
    assert not missing
    own = {anchor(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    assert not [heading for file, _, heading in local if not file and heading not in own]


def anchor(title: str) -> str:
    """A heading's anchor, as Markdown renderers make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_reference_pages_are_those_of_the_code():
    script = REPOSITORY / "scripts" / "build_reference.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


PAGE = """
# A page

<!-- before running
echo made > made.txt
-->

```bash
cat made.txt
```

<!-- not run: needs a GPU -->
```bash
exit 1
```

```python
1 / 0
```
"""


def test_blocks_are_found_with_their_lines_and_reasons():
    found = blocks(REPOSITORY / "docs" / "page.md", PAGE)

    assert [(b.line, b.language, b.reason) for b in found] == [
        (5, "bash", None), (9, "bash", None), (14, "bash", "needs a GPU"), (18, "python", None),
    ]  # fmt: skip
    assert found[0].source == "echo made > made.txt\n"


def test_a_bash_block_that_does_not_run_is_named_with_its_line():
    with pytest.raises(AssertionError, match=r"page\.md:14: exit code 1"):
        run_bash(blocks(REPOSITORY / "docs" / "page.md", PAGE)[2])


NOTEBOOK = REPOSITORY / "docs" / "tutorials" / "notebook.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    """On the hippocampus if `MONAISEG_HIPPOCAMPUS` names its folder, otherwise on synthetic shapes."""
    monkeypatch.setenv("MONAISEG_MINUTES", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    cells = {cell["id"]: cell for cell in notebook.cells if cell["cell_type"] == "code"}
    shown = [
        output["data"]["text/plain"]
        for cell in cells.values()
        for output in cell["outputs"]
        if output["output_type"] == "display_data" and "text/plain" in output["data"]
    ]
    assert any(text.startswith("reading cases: ") for text in shown)
    assert any(text.startswith("epoch ") and "0:00 left" in text for text in shown)
