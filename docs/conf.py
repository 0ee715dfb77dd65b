"""Sphinx: pages in Markdown, the reference from docstrings."""

# autodoc imports modules with typing.TYPE_CHECKING set, under which pydantic does not work; what is
# imported already is left alone.
import graphkit.zoo

project = "graphkit"
author = "the graphkit authors"
release = version = graphkit.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"graphkit {release}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
napoleon_custom_sections = ["Shapes"]
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
