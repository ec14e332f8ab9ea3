"""The documentation site: `sphinx-build -W docs build/docs`."""

from __future__ import annotations

import json
import os
import pydoc
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes

import tilevision

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import pictures  # noqa: E402 - lies beside this file

project = "tilevision"
author = "The tilevision developers"
project_copyright = f"2026, {author}"
release = version = tilevision.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute"]
default_role = "py:obj"
smartquotes = False  # they would turn --model into a dash
nitpicky = True
# Types in docstrings are words ("path or URL"), and other libraries' pages are not asked for
# their names: neither is a broken reference. A name of ours that is missing is one.
nitpick_ignore_regex = [(r"py:.*", r"(?!tilevision\.).*")]

myst_enable_extensions = ["colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # the widgets' own; the picture beside them stays

autodoc_typehints = "none"
autodoc_member_order = "groupwise"
napoleon_custom_sections = [
    *("Quick start", "The stages", "Boxes", "What goes wrong", "What is remembered"),
]
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

nb_execution_mode = "force"
nb_execution_timeout = 500
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # a page without a kernel has no live widgets, and fetches no script

html_theme = "pydata_sphinx_theme"
html_title = f"tilevision {release}"
html_static_path = ["_static", "_pictures"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sourcelink_suffix = ""  # the sources are Markdown, which llms.txt links
html_domain_indices = False
html_context = {"default_mode": "auto"}
# Pages that stand alone have no neighbours to list beside them.
html_sidebars = dict.fromkeys(
    ("index", "start", "concepts", "troubleshooting", "limits", "search", "genindex"), ()
)
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navbar_end": ["theme-switcher"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# docs/versions.py builds several versions beside one another.
if "TILEVISION_DOCS_SWITCHER" in os.environ:
    html_theme_options |= {
        "navbar_end": ["version-switcher", "theme-switcher"],
        "check_switcher": False,  # it is written after the sites
        "switcher": {
            "json_url": os.environ["TILEVISION_DOCS_SWITCHER"],
            "version_match": os.environ["TILEVISION_DOCS_VERSION"],
        },
    }


def _bring_notebooks() -> None:
    """Copy the repository's notebooks into the site; they are executed there."""
    shutil.copytree(
        ROOT / "notebooks",
        HERE / "notebooks",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns(".*"),
    )
    for path in (HERE / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        # Pictures of a panel arrive after their cell has ended; the kernel would be gone by then.
        notebook["cells"].append(
            {
                "cell_type": "code",
                "execution_count": None,
                "id": "wait",
                "metadata": {"tags": ["remove-cell"]},
                "outputs": [],
                "source": "import time\n\ntime.sleep(5)",
            }
        )
        path.write_text(json.dumps(notebook), encoding="utf-8")


def _there(_app: Any, _env: Any, node: Any, shown: Any) -> Any:
    """Leave a name that exists and has no place in the reference as it is; others are broken."""
    return shown if pydoc.locate(node.get("reftarget", "")) is not None else None


COLON = "\ue000"  # stands for one that napoleon would take for the end of an attribute's type


def _colons_hidden(_app: Any, what: str, *given: Any) -> None:
    """Keep napoleon from cutting a property's first sentence in two at its colon."""
    lines = given[-1]
    if what == "property" and lines:
        lines[0] = lines[0].replace(": ", f"{COLON} ")


def _with_dashes(*given: Any) -> None:
    """Write the dash between a parameter and its words as one, and hidden colons again."""
    lines = given[-1]
    lines[:] = [line.replace(" -- ", " – ").replace(COLON, ":") for line in lines]


def _tidied(_app: Any, doctree: Any) -> None:
    """Write dashes as dashes, and say of a picture that a cell drew which code drew it."""
    for text in doctree.findall(nodes.Text):
        if " -- " in text and not isinstance(text.parent, nodes.literal | nodes.literal_block):
            text.parent.replace(text, nodes.Text(text.replace(" -- ", " – ")))
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") == "cell_code":
            code = next(cell.findall(nodes.literal_block)).astext()
            for image in cell.findall(nodes.image):
                image["alt"] = f"What this draws: {code.splitlines()[-1].strip()}"


def _written_for_machines(app: Any, error: Exception | None) -> None:
    """Write llms.txt with links to the sources of the pages, which lie beside them."""
    if error is None:
        text = (HERE / "llms.txt").read_text(encoding="utf-8")
        Path(app.outdir, "llms.txt").write_text(text.replace("](", "](_sources/"), encoding="utf-8")


def setup(app: Any) -> None:
    """Make what the pages show before they are read."""
    app.connect("missing-reference", _there)
    app.connect("autodoc-process-docstring", _colons_hidden, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", _with_dashes, priority=900)  # after napoleon
    app.connect("doctree-read", _tidied)
    app.connect("build-finished", _written_for_machines)
    _bring_notebooks()
    pictures.make(HERE / "_pictures")
