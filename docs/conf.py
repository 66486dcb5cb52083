"""How Sphinx builds the site: Markdown pages by MyST, the furo theme, nothing from the network."""

from __future__ import annotations

from atp_core import __version__

project = "atp-prune"
author = "the atp-prune authors"
copyright = "the atp-prune authors. Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Of the example plugins only what the tutorial links.
exclude_patterns = ["examples/*/*/**", "*.template.md"]
nitpicky = True

# --- Markdown ------------------------------------------------------------------------------------

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
# Headings have the anchors that a code host gives them, so that links work in both places.
myst_heading_anchors = 3

# --- the Python API, from docstrings -------------------------------------------------------------

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Types of other libraries have no page here, nor have type variables.
nitpick_ignore_regex = [(r"py:.*", r"(?!atp_core\.).*"), (r"py:.*", r"atp_core\..*\.[A-Z]")]

# --- HTML ----------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"atp-prune {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    "footer_icons": [],
}
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
