"""The documentation site: `nox -s docs` builds it into build/docs, a folder that needs no server.

Sphinx with MyST and MyST-NB, because the pages stay plain Markdown that GitHub shows and the tests run, and every link between pages,
down to the heading, is checked as the site is built. The source folder is the repository, so that a link leads to
the same place on GitHub and on the site.
"""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

project = "monaiseg"
copyright = "the monaiseg authors, Apache-2.0"  # noqa: A001 - Sphinx's name
release = re.search(r'__version__ = "(.+)"', (REPOSITORY / "monaiseg/__init__.py").read_text())[1]

extensions = ["myst_nb", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "benchmarks/RESULTS.md",
    "bundles/lpba/docs/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [".*", "build", "dist", "**/__pycache__"]
nitpicky = True
smartquotes = False  # quotation marks in the reference are code

nb_execution_mode = (
    "off"  # the tests run the notebook; the site shows the outputs that it was saved with
)
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_title = "monaiseg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_start.html"}
templates_path = ["_templates"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output
