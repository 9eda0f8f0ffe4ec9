"""The docstrings of blurlib, which are plain text, as reStructuredText for Sphinx.

A section such as "Args:" becomes a list of definitions. Another indented block is an equation or
code, and is shown as it is written.
"""

import re

HEADING = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
CODE = re.compile(r"(`+[^`]+`+|(?<!\S)\*\w[^*]*\w\*)")
ARRAY_LIKE = re.compile(r"_SupportsArray.+?complex \| str \| bytes\](?! \|)")
MODULES = re.compile(r"~(\w+\.)+")  # of the types of a dataclass's fields
ENTRY = re.compile(r"    (\S[^:]*): (.*)")


def to_rst(lines):
    shown, section, block = [], "", False
    for before, line in zip(["", *lines], lines, strict=False):
        indented = line.startswith("    ")
        if line and not indented:
            section, block = (line if HEADING.match(line) else ""), False
        if section == line and line:
            shown += [f"**{line[:-1]}**", ""]
        elif indented and section:
            entry = ENTRY.match(line)
            if entry and section != "Returns:":
                shown += [escaped(entry[1]), f"    {escaped(entry[2])}"]
            else:
                shown.append(escaped(line[4:]))
        elif indented and not block and not before:
            shown += ["::", "", line]
            block = True
        else:
            shown.append(line if block else escaped(line))
    return shown


def escaped(line):
    """Without the signs that mean something in reStructuredText alone."""
    parts = CODE.split(line)
    parts[::2] = (re.sub(r"([|*\\]|_(?=\W|$))", r"\\\1", part) for part in parts[::2])
    return "".join(parts)


def convert(app, what, name, obj, options, lines):
    lines[:] = to_rst(lines)


def signature(app, what, name, obj, options, arguments, returns):
    """With numpy's ArrayLike by its name, and types without their modules. A class of many fields
    describes them below: one word stands for them above."""
    arguments = MODULES.sub("", ARRAY_LIKE.sub("ArrayLike", arguments or ""))
    many = what == "class" and arguments.count(":") > 12
    return ("(**fields)" if many else arguments or None), returns


def skip(app, what, name, obj, skipped, options):
    """The fields of named tuples, which their class describes."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field") else None


def setup(app):
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
