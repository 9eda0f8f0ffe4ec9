"""What the library promises (`book/promises.md`), tried many times: a record, JSON, of each.

python -m experiments.robustness fuzz results/checks/fuzz.json
python -m experiments.robustness soak results/checks/soak.json
python -m experiments.robustness kill results/checks/kill.json
python -m experiments.robustness matrix results/checks/matrix.json
"""

import typer

from blurlib import cli
from experiments.robustness import fuzz, kill, matrix, soak

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
for command in (fuzz.fuzz, soak.soak, kill.kill, matrix.matrix):
    app.command()(command)

if __name__ == "__main__":
    cli.run(app)
