"""The settings of the site: `sphinx-build -W docs OUT`, with the extra `docs`."""

from virnucpro import __version__

project, author, release = "virnucpro", "The virnucpro developers", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
myst_enable_extensions = ["deflist"]
exclude_patterns = ["html"]
html_theme = "furo"
html_title = f"virnucpro {release}"
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
myst_heading_anchors = 3
# Help and docstrings write `code` in single backticks.
default_role = "literal"
# Two hyphens before an option stay two.
smartquotes = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]
