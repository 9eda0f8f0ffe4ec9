"""Figures are numbered anew on every page, as the chapters number theirs; names break only where
they are too long for a phone."""

from docutils import nodes

LONG = 36  # letters


def per_page(app, env):
    for figures in env.toc_fignumbers.values():
        for numbers in figures.values():
            numbers.update({name: (i,) for i, name in enumerate(numbers, 1)})
    return []


def breakable(app, doctree, docname):
    for literal in doctree.findall(nodes.literal):
        if max(map(len, literal.astext().split()), default=0) > LONG:
            literal["classes"].append("long")


def setup(app):
    app.connect("env-get-updated", per_page, priority=900)  # Sphinx numbers them at 500
    app.connect("doctree-resolved", breakable)
    return {"parallel_read_safe": True}
