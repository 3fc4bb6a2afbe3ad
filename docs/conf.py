"""The site of docs/: `sphinx-build -W -n -b html docs build/docs`. It documents the cymdn that is installed."""

import re
import sys
from pathlib import Path

import cymdn

sys.path.insert(0, str(Path(__file__).parent))
import latex2mathml.converter
import stand_ins
from docutils.nodes import SkipNode, Text

stand_ins.install("torch", "jax")  # cymdn.torch and cymdn.jax are documented without these frameworks

project = "cymdn"
author = "The cymdn developers"
version = release = cymdn.__version__
project_copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
default_role = "autolink"  # a name in `single backquotes` in a docstring is a link if it is ours, else code
# names of others: their lists of names would have to come over the network at each build
nitpick_ignore_regex = [("py:.*", r"(jax|jnp|matplotlib|numpy|torch)(\..*)?")]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]
html_math_renderer = "mathml"

add_module_names = False
autodoc_typehints = "none"  # the docstrings say what an argument may be
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = f"cymdn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False


def number_references(_app, doctree, _docname):
    """Show references as they stand in the docstring, [1]; numpydoc gives each a name that is unique on the site."""
    for text in doctree.findall(Text):
        short = re.sub(r"R[0-9a-f]{12}-(\d+)", r"\1", text)
        if short != text:
            text.parent.replace(text, Text(short))


def setup(app):
    """Show formulas without a script: browsers have MathML."""
    app.connect("doctree-resolved", number_references)

    def show(display):
        def visit(writer, node):
            writer.body.append(latex2mathml.converter.convert(node.astext(), display=display))
            raise SkipNode

        return visit

    app.add_html_math_renderer("mathml", (show("inline"), None), (show("block"), None))
