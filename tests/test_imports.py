"""Who may import whom, read from the source with `ast`: imports inside functions count too.

A room is a part directly under blurlib/: a folder, or a file like images.py.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "blurlib"

# What each room may import of blurlib. `cli` draws the picture of `blurlib demo`: nobody else may
# import `plotting`, and nobody may import `cli`.
ALLOWED = {
    "__init__": {"codec", "images", "pillow"},
    "checkpoints": set(),
    "diffusion": set(),
    "entropy": set(),
    "images": set(),
    "metrics": set(),
    "codec": {"checkpoints", "diffusion", "entropy", "metrics"},
    "pillow": {"checkpoints", "codec", "images"},
    "training": {"codec", "diffusion", "entropy", "images", "metrics"},
    "evaluation": {"checkpoints", "codec", "diffusion", "entropy", "images", "metrics"},
    "ablation": {*("codec", "diffusion", "entropy", "evaluation", "images", "metrics", "training")},
    "plotting": {"codec", "diffusion", "entropy", "evaluation", "images", "metrics", "training"},
    "cli": {
        *("ablation", "checkpoints", "codec", "diffusion", "entropy", "evaluation", "images"),
        "metrics",
        *("plotting", "training"),
    },
}
# Libraries that belong to one room, so that the rest works without them.
KEPT_BY = {"matplotlib": "plotting", "rich": "cli", "typer": "cli"}


def imported(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that the file imports.

    `from a import b` yields `a.b`: whether b is a module or not, its first parts are what counts.
    """
    here = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def violations(package: Path) -> list[str]:
    """One line per import that the rules forbid, and per room that they do not know."""
    found = []
    rooms = {
        path.relative_to(package).parts[0].removesuffix(".py") for path in package.rglob("*.py")
    }
    found += [f"{room}: no rule says what it may import" for room in sorted(rooms - set(ALLOWED))]
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for line, name in imported(path, package):
            top, _, rest = name.partition(".")
            other = rest.split(".")[0]
            inside = top == package.name and other in rooms and other != room
            if inside and other not in ALLOWED.get(room, set()):
                found.append(f"{path.relative_to(package)}:{line}: {room} imports {other}")
            if KEPT_BY.get(top, room) != room:
                found.append(f"{path.relative_to(package)}:{line}: {room} imports {top}")
            if name == f"{package.name}.*":
                found.append(f"{path.relative_to(package)}:{line}: {room} imports everything")
    return found


def test_blurlib_keeps_the_rules():
    assert violations(PACKAGE) == []


def test_the_rules_are_the_ones_that_were_meant():
    assert not ALLOWED["diffusion"]
    assert not ALLOWED["entropy"]
    assert "evaluation" not in ALLOWED["training"]
    assert "training" not in ALLOWED["evaluation"]
    assert [room for room, may in ALLOWED.items() if "plotting" in may] == ["cli"]
    assert [room for room, may in ALLOWED.items() if "cli" in may] == []


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("entropy/model.py", "import blurlib.diffusion.dct", "entropy imports diffusion"),
        ("entropy/model.py", "from blurlib.diffusion import dct", "entropy imports diffusion"),
        ("entropy/model.py", "from blurlib import diffusion", "entropy imports diffusion"),
        ("entropy/model.py", "from .. import diffusion", "entropy imports diffusion"),
        ("entropy/model.py", "from ..diffusion.dct import dct", "entropy imports diffusion"),
        ("diffusion/__init__.py", "from ..entropy import model", "diffusion imports entropy"),
        (
            "training/loop.py",
            "def f():\n    from .. import evaluation",
            "training imports evaluation",
        ),
        ("images.py", "from . import metrics", "images imports metrics"),
        ("images.py", "def f():\n    import matplotlib.pyplot", "images imports matplotlib"),
        ("codec/model.py", "from rich.progress import track", "codec imports rich"),
        ("codec/model.py", "import blurlib.cli", "codec imports cli"),
        ("evaluation/results.py", "from blurlib import plotting", "evaluation imports plotting"),
        (
            "metrics.py",
            "import importlib\nimportlib.import_module('blurlib.codec')",
            "imports codec",
        ),
        ("metrics.py", "from blurlib import *", "metrics imports everything"),
        ("helpers.py", "x = 1", "helpers: no rule"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, source, fault):
    package = tmp_path / "blurlib"
    for room in ALLOWED:
        if (PACKAGE / f"{room}.py").exists() or room in ("images", "metrics", "plotting", "cli"):
            (package / f"{room}.py").parent.mkdir(exist_ok=True)
            (package / f"{room}.py").write_text("")
        else:
            (package / room).mkdir(parents=True, exist_ok=True)
            (package / room / "__init__.py").write_text("")
    assert violations(package) == []
    (package / file).write_text(source)
    assert len(faults := violations(package)) == 1
    assert fault in faults[0]


def test_permitted_imports_pass(tmp_path):
    package = tmp_path / "blurlib"
    (package / "codec").mkdir(parents=True)
    (package / "entropy").mkdir()
    (package / "__init__.py").write_text("__version__ = '0'")
    (package / "entropy" / "coder.py").write_text("from . import model\nfrom .model import x")
    (package / "entropy" / "model.py").write_text("import torch, numpy.linalg")
    (package / "codec" / "zoo.py").write_text(
        "from blurlib import __version__\nfrom ..entropy import coder"
    )
    (package / "cli.py").write_text("import typer\nfrom . import plotting")
    (package / "plotting.py").write_text(
        "from matplotlib import pyplot\nfrom blurlib.codec import zoo"
    )
    assert violations(package) == []
