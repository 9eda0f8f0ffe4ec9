"""What the head of a page tells search engines and those who share its address.

Also two repairs: Colab's badge would be fetched while reading, so the book has its words instead;
and the theme wants a mode by name.
"""

import re
from html import escape, unescape

from docutils import nodes

CARD = "_static/front/card.jpg"
BADGE = "colab-badge.svg"
SKIPPED = (nodes.math, nodes.image, nodes.footnote_reference)


def description(doctree, longest=200):
    """The first paragraph of text, without its formulae, at most `longest` characters."""
    for paragraph in doctree.findall(nodes.paragraph):
        if any(paragraph.findall(nodes.math)) or not isinstance(paragraph.parent, nodes.section):
            continue
        text = " ".join(paragraph.astext().split())
        if len(text) > 40:
            return text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0] + " …"
    return ""


def tags(app, pagename, templatename, context, doctree):
    context["default_mode"] = "auto"
    if doctree is None:
        return
    owner, name = app.config.html_theme_options["repository_url"].rstrip("/").split("/")[-2:]
    site = f"https://{owner}.github.io/{name}/"
    context["pageurl"] = f"{site}{pagename}.html"  # Sphinx makes it the canonical address
    title = unescape(re.sub("<[^>]+>", "", context["title"]))
    text = description(doctree)
    named = {"description": text, "twitter:card": "summary_large_image"}
    open_graph = {
        "og:title": title,
        "og:type": "website",
        "og:site_name": app.config.html_title,
        "og:description": text,
        "og:url": context["pageurl"],
        "og:image": site + CARD,
        "og:image:alt": "One photo by JPEG and by blurlib at the same number of bytes",
    }
    for attribute, values in (("name", named), ("property", open_graph)):
        for key, value in values.items():
            if value:
                context["metatags"] += f'<meta {attribute}="{key}" content="{escape(value)}" />\n'


def badge(app, doctree):
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith(BADGE):
            image.replace_self(nodes.Text("Open in Colab"))


def setup(app):
    app.connect("doctree-read", badge)
    app.connect("html-page-context", tags)
    return {"parallel_read_safe": True}
