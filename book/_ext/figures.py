"""Figures are numbered anew on every page, as the chapters number theirs."""


def per_page(app, env):
    for figures in env.toc_fignumbers.values():
        for numbers in figures.values():
            numbers.update({name: (i,) for i, name in enumerate(numbers, 1)})
    return []


def setup(app):
    app.connect("env-get-updated", per_page, priority=900)  # Sphinx numbers them at 500
    return {"parallel_read_safe": True}
