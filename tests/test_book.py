"""The book and the repository around it: pages, notebooks and addresses fit together."""

import ast
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml

from blurlib import checkpoints
from blurlib.codec import zoo
from blurlib.training.config import tomllib

ROOT = Path(__file__).parents[1]
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pages(node) -> list[str]:
    """Every page that the table of contents names, in its order."""
    if isinstance(node, list):
        return [page for child in node for page in pages(child)]
    own = [node[key] for key in ("root", "file") if key in node]
    return own + [
        page for key in ("parts", "chapters", "sections") for page in pages(node.get(key, []))
    ]


def code_cells(path: Path) -> list[dict]:
    """The code cells of a notebook that have code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]


def links(*arguments: str, root: Path) -> subprocess.CompletedProcess:
    """Run tools/links.py as `make links` does."""
    command = [sys.executable, ROOT / "tools" / "links.py", "--root", root, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path):
    """A copy of every file that may carry the address."""
    for name in ("_config.yml", "README.md", "CITATION.cff", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("figures"))
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    return tmp_path


def test_every_page_is_once_in_the_table_of_contents():
    named = pages(TOC)
    assert len(named) == len(set(named))
    written = [*NOTEBOOKS, *(ROOT / "book").glob("*.md")]
    assert sorted(p.relative_to(ROOT).with_suffix("").as_posix() for p in written) == sorted(named)


def test_the_first_pages_show_what_the_shipped_weights_do():
    front = (ROOT / "book/_static/front/front.js").read_text(encoding="utf-8")
    made_with = json.loads(front.partition(" = ")[2].rstrip(";\n"))["weights"]
    names = (checkpoints.CODEC, checkpoints.PERCEPTUAL, checkpoints.DENOISER)
    assert made_with == {name: zoo.sha256(name) for name in names}, "run tools/front.py again"


@each_notebook
def test_a_notebook_asserts_something_and_was_run_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert any("assert " in "".join(cell["source"]) for cell in code_cells(path))
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert outputs, "a notebook without outputs is an empty page of the book"
    assert not [o for o in outputs if o["output_type"] == "error"]


@each_notebook
def test_every_plot_is_in_the_notebook(path):
    """Where a cell ends in a plot, its figure is kept: an inline backend may be lost on the way."""
    for cell in code_cells(path):
        last = ast.parse("".join(cell["source"])).body[-1]
        shown = ast.unparse(last)
        if isinstance(last, ast.Expr) and shown.startswith(("plotting.", "plots.")):
            kinds = set().union(*(output.get("data", ()) for output in cell["outputs"]))
            assert kinds & {"image/png", "text/html"}, shown


def stale(path: Path) -> list[int]:
    """Numbers of the cells tagged "from-results" whose stored tables and lines are not what they
    show now. These cells need no others: they read results/ and nothing else."""
    names, found = {}, []
    for cell in code_cells(path):
        if "from-results" not in cell["metadata"].get("tags", ()):
            continue
        *lines, last = ast.parse("".join(cell["source"])).body
        shows = isinstance(last, ast.Expr)
        body = ast.Module(lines if shows else [*lines, last], [])
        with contextlib.redirect_stdout(io.StringIO()) as printed, plt.rc_context():
            exec(compile(body, path.name, "exec"), names)
            value = shows and eval(compile(ast.Expression(last.value), path.name, "eval"), names)
        plt.close("all")
        html = value._repr_html_() if hasattr(value, "_repr_html_") else ""
        stored = [o.get("text") or o["data"].get("text/html", "") for o in cell["outputs"]]
        if printed.getvalue() + html != "".join(itertools.chain(*stored)):
            found.append(cell["execution_count"])
    assert names, f"{path.name}: no cell has the tag"
    return found


SHOW_RESULTS = [p for p in NOTEBOOKS if p.stem in ("07_rate_distortion", "08_perception")]


@pytest.mark.parametrize("path", SHOW_RESULTS, ids=lambda path: path.stem)
def test_stored_tables_are_those_of_the_results(path):
    assert stale(path) == [], "run the notebook again: its tables are older than results/"


def first_cell() -> str:
    """What every notebook begins with."""
    first = {"".join(code_cells(path)[0]["source"]) for path in NOTEBOOKS}
    assert len(first) == 1
    return first.pop()


CALLS = """
import subprocess, sys
from pathlib import Path
def run(command, check):
    print(" ".join(map(str, command)))
    if "clone" in command:
        (Path(command[-1]) / "blurlib").mkdir(parents=True)
        (Path(command[-1]) / "blurlib" / "__init__.py").write_text("")
subprocess.run = run
sys.path = [p for p in sys.path if "site-packages" not in p and p != CHECKOUT]
"""


def test_a_notebook_without_blurlib_fetches_it_once(tmp_path):
    parts = (f"CHECKOUT = {str(ROOT)!r}", CALLS, first_cell(), "import blurlib")
    code = "\n".join((*parts, "print(blurlib.__file__)"))
    for clones in (1, 0):  # the second time after a restart
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )  # fmt: skip
        *commands, file = run.stdout.splitlines()
        source = (tmp_path / "blurlib-source").resolve()
        assert file == str(source / "blurlib" / "__init__.py")
        assert sum("git clone" in command for command in commands) == clones
        assert commands[-1].endswith(f"-m pip install --quiet --editable {source}")


def test_nothing_that_is_needed_takes_torch_or_numpy_away():
    with open(ROOT / "pyproject.toml", "rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    assert not [line for line in needed if "<" in line.split(";")[0]]


def test_every_address_is_the_one_in_the_configuration():
    run = links("--check", root=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_wrong_addresses_are_found_and_set_right(checkout):
    wrong = {
        "README.md": "[![x](y)](https://mybinder.org/v2/gh/someone/else/main?labpath=n.ipynb)\n"
        "git clone https://github.com/someone/else.git",
        "book/intro.md": "<https://colab.research.google.com/github/someone/else/blob/main/n.ipynb>",
        "CITATION.cff": 'repository-code: "https://github.com/someone/else"',
        "notebooks/new.ipynb": '"!pip install git+https://github.com/someone/else.git"',
    }
    right = {}
    for file, text in wrong.items():
        path = checkout / file
        written = f"{path.read_text() if path.exists() else ''}\n{text}\n"
        path.write_text(written)
        right[path] = written.replace("someone/else", "blurlib/blurlib")
    run = links("--check", root=checkout)
    assert run.returncode == 1
    assert run.stdout.count("someone/else") >= 5
    assert all(f"{file}:" in run.stdout for file in wrong)
    assert links("--set", "blurlib/blurlib", root=checkout).returncode == 0
    assert links("--check", root=checkout).returncode == 0
    assert {path: path.read_text() for path in right} == right


def test_every_module_of_the_library_is_on_one_page_of_the_reference():
    pages = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("book/api*.md"))
    listed = re.findall(r"automodule:: (\S+)", pages)
    package = ROOT / "blurlib"
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.name != "__init__.py" and path.stem != "cli"
    ]
    assert sorted(listed) == sorted(modules)
