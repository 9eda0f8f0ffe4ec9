"""Formulae as HTML, typeset by KaTeX while the book is built.

A reader needs no script and no network for them, and a formula with a mistake is a warning with
its place, which fails the build. KaTeX runs in V8, which the package mini-racer brings along; its
styles and fonts are in _static/katex.
"""

import atexit
import json
import re
from functools import lru_cache
from pathlib import Path

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

KATEX = Path(__file__).parent / "katex" / "katex.min.js"

log = logging.getLogger(__name__)


@lru_cache(1)
def engine():
    context = MiniRacer()
    atexit.register(context.close)  # left open, its thread keeps Python from ending
    # The value of the script is KaTeX itself, which does not travel to Python.
    context.eval(KATEX.read_text(encoding="utf-8") + "; true")
    return context


@lru_cache(None)
def typeset(tex, display):
    """HTML with MathML inside; ValueError for what KaTeX does not understand."""
    options = json.dumps({"displayMode": display})
    try:
        return engine().eval(f"katex.renderToString({json.dumps(tex)}, {options})")
    except JSEvalException as error:
        found = str(error).split("\n")[0].replace("\u0332", "")  # KaTeX underlines the place
        raise ValueError(found.partition("ParseError: ")[2] or found) from None


def shown(node, tex, display):
    try:
        return typeset(tex, display)
    except ValueError as error:
        log.warning("%s", error, location=node)
        return ""


def keep_punctuation(app, doctree, docname):
    """What follows a formula without a space goes into its last box: a browser would start a new
    line before it."""
    for node in list(doctree.findall(nodes.math)):
        text = node.next_node(nodes.Text, descend=False, siblings=True)
        if text is not None and node.parent.index(text) == node.parent.index(node) + 1:
            after = re.match(r"[.,;:!?)\]’”]*", text)[0]
            node["after"] = after
            node.parent.replace(text, nodes.Text(text[len(after) :]))


def visit_inline(self, node):
    html = shown(node, node.astext(), display=False)
    if node.get("after"):
        end = "</span>" * 3
        html = f'{html.removesuffix(end)}<span class="after">{node["after"]}</span>{end}'
    self.body.append(self.starttag(node, "span", "", CLASS="math"))
    self.body.append(html + "</span>")
    raise nodes.SkipNode


def visit_display(self, node):
    tex = node.astext()
    if "\\\\" in tex and not node["nowrap"]:
        tex = rf"\begin{{split}}{tex}\end{{split}}"
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(shown(node, tex, display=True) + "</div>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_display, None))
    app.connect("doctree-resolved", keep_punctuation)
    app.add_css_file("katex/katex.min.css")
    return {"parallel_read_safe": True}
