"""Writes what the README shows from what runs: the output of the first example, and the quickstart's picture.

python scripts/readme.py                        runs scripts/examples/hello.py and writes its output into README.md
python scripts/readme.py --study runs/quickstart    also draws gain against tax of that study, into scripts/quickstart.svg
"""

import argparse
import contextlib
import io
import os
import pathlib
import re
import runpy
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
# The block of the README after the example.
OUTPUT = re.compile(r"(It prints:\n\n```\n)(.*?)(```)", re.DOTALL)


def hello() -> str:
    """Returns what the first example prints."""
    printed, here = io.StringIO(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        os.chdir(folder)  # it writes a figure
        try:
            runpy.run_path(str(ROOT / "scripts" / "examples" / "hello.py"))
        finally:
            os.chdir(here)
    return printed.getvalue()


def shown() -> str:
    """Returns the output that the README shows."""
    found = OUTPUT.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None, "README.md has no block of output"
    return found[2]


def draw(folder: str) -> bytes:
    """Returns the gain-tax plane of a study's first push, on white."""
    from vatjax import drawing, study
    from vatjax.study import arm_groups, plots

    results = study.open_study(folder)
    styles = plots.intervention_styles(list(results.design.interventions))
    _, svg = drawing.render(plots.plot_gain_tax(arm_groups.arm_groups(results)[0], styles))
    white = b'<rect width="100%" height="100%" fill="#ffffff"/>'
    return re.sub(rb"(<svg [^>]*>)", rb"\1" + white, svg, count=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="", help="folder of a finished configs/quickstart.yaml")
    arguments = parser.parse_args()
    if arguments.study:
        (ROOT / "scripts" / "quickstart.svg").write_bytes(draw(arguments.study))
    path = ROOT / "README.md"
    text, output = path.read_text(encoding="utf-8"), hello()
    path.write_text(OUTPUT.sub(lambda block: block[1] + output + block[3], text), encoding="utf-8")


if __name__ == "__main__":
    main()
