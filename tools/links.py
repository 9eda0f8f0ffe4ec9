"""Keep the repository's address the same everywhere. Its home is `repository.url` in _config.yml.

    python tools/links.py --check             name each place that disagrees; exit code 1 if any
    python tools/links.py --set owner/name    write a new address to _config.yml and each place

Standard library only: it runs before anything is installed.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PLACES = ("README.md", "CITATION.cff", "CONTRIBUTING.md", "pyproject.toml")
FOLDERS = {"book": "*.md", "notebooks": "*.ipynb"}

REPOSITORY = r"(?P<repository>[\w.-]+/[\w.-]*\w)"
HOME = re.compile(rf"^(?P<before>\s+url: https://github\.com/){REPOSITORY}[ \t]*$", re.MULTILINE)
# What stands before an address that must be ours. A plain link to github.com may lead to anybody.
USES = re.compile(
    r"(?P<before>"
    r"mybinder\.org/v2/gh/"
    r"|colab\.research\.google\.com/github/"
    r"|git\+https://github\.com/"
    r"|git clone https://github\.com/"
    r"|repository-code: \"https://github\.com/"
    r"|Repository = \"https://github\.com/"
    rf"){REPOSITORY}"
)


def home(root: Path) -> str:
    """owner/name as _config.yml has it."""
    found = HOME.search((root / "_config.yml").read_text(encoding="utf-8"))
    if not found:
        raise ValueError("_config.yml has no line 'url: https://github.com/owner/name'")
    return found["repository"]


def files(root: Path) -> Iterator[Path]:
    """The files that may carry the address."""
    yield from (root / name for name in PLACES if (root / name).exists())
    for folder, pattern in FOLDERS.items():
        yield from sorted((root / folder).glob(pattern))


def same(found: str, expected: str) -> bool:
    """Whether a found address is the expected one; a clone address may end in .git."""
    return found.removesuffix(".git") == expected


def check(root: Path) -> list[str]:
    """One line per place whose address is not the one in _config.yml."""
    expected = home(root)
    return [
        f"{path.relative_to(root)}:{number}: {found['repository']} instead of {expected}"
        for path in files(root)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for found in USES.finditer(line)
        if not same(found["repository"], expected)
    ]


def carry(root: Path, repository: str) -> list[Path]:
    """Write owner/name to _config.yml and to each place; returns the files that changed."""
    if not re.fullmatch(REPOSITORY, repository):
        raise ValueError(f"not of the form owner/name: {repository!r}")
    home(root)
    changed = []
    for path in [root / "_config.yml", *files(root)]:
        old = path.read_text(encoding="utf-8")
        pattern = HOME if path.name == "_config.yml" else USES
        new = pattern.sub(lambda found: found["before"] + with_ending(found, repository), old)
        if new != old:
            path.write_text(new, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


def with_ending(found: re.Match, repository: str) -> str:
    """The new address, with .git where the old one had it."""
    return repository + (".git" if found["repository"].endswith(".git") else "")


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the checkout")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="name each place that disagrees")
    action.add_argument("--set", metavar="OWNER/NAME", help="carry this address to each place")
    options = parser.parse_args()
    try:
        if options.check:
            faults = check(options.root)
            print("\n".join(faults) or f"every address is {home(options.root)}")
            return 1 if faults else 0
        for path in carry(options.root, options.set):
            print(path.relative_to(options.root))
        return 0
    except (ValueError, OSError) as error:
        print(f"links: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
