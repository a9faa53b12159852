"""The site: ``uv run --group docs sphinx-build -W -b html -c docs . docs/_build/html``.

The source folder is the repository, so that notebooks, README files and tables of results stay where they
are, and links between them lead to the same places as on GitHub. Nothing is executed: notebooks are shown
with the outputs that they were committed with. ``_ext/course.py`` has what Sphinx cannot do by itself.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
REPOSITORY = "https://github.com/minigslora/minigslora"
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

project = "minigslora"
author = "The minigslora authors"
copyright = f"{author}. MIT licence"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax and its fonts lie beside the pages: they are read without a network
    "course",
]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "docs/**.md",
    "notebooks/[0-9]*.ipynb",
    "data/**.md",
    "minigslora/README.md",
    "minigslora/methods/README.md",
    "minigslora/reproduction/published/README.md",
    "teaching/**.md",
]
suppress_warnings = [
    "toc.empty_glob",  # teaching/ may be empty
    "ref.python",  # a short type name that two modules have
]
exclude_patterns = ["docs/_build", "docs/node_modules", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "sphinx_book_theme"
html_title = "minigslora"
html_baseurl = "https://minigslora.github.io/minigslora/"
templates_path = ["_templates"]
html_sidebars = {"**": ["search-button-field.html", "sbt-sidebar-nav.html"]}
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_extra_path = ["_root"]
html_show_sourcelink = False
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "back_to_top_button": False,  # white on orange
    "show_toc_level": 1,
}


def linkcode_resolve(domain: str, info: dict[str, str]) -> str:
    """Return where an object's source is read."""
    path = info["module"].replace(".", "/")
    return f"{REPOSITORY}/blob/main/{path}" + ("/__init__.py" if (DOCS.parent / path).is_dir() else ".py")
