"""Builds the API reference with pdoc: python scripts/docs.py [FOLDER]

A docstring that names what does not exist, as `models.lod` or `ValueState.maks`, ends the build with its place.
"""

import ast
import contextlib
import importlib
import inspect
import pathlib
import re
import sys
import warnings

import pdoc

import vatjax

ROOT = pathlib.Path(vatjax.__file__).parent
# A dotted name in backticks; names of files end like these.
REFERENCE = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)+)(?:\(.*?\))?`")
FILES = (".json", ".py", ".yaml", ".html", ".npz", ".csv", ".png", ".jsonl")


def broken_references() -> list[str]:
    """Returns the places of docstrings that name an attribute which a module or class does not have."""
    broken = []
    for path in sorted(ROOT.rglob("*.py")):
        if "assets" in path.parts or path.name == "__main__.py":
            continue
        name = ".".join(("vatjax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        module = importlib.import_module(name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            arguments = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
            for reference in REFERENCE.findall(ast.get_docstring(node) or ""):
                head = reference.partition(".")[0]
                known = vars(module).get(head) or (vars(vatjax).get(head) if head in vatjax.__all__ else None)
                judged = inspect.ismodule(known) or inspect.isclass(known)
                if (
                    judged
                    and head not in arguments
                    and not reference.endswith(FILES)
                    and not _resolves(known, reference)
                ):
                    broken.append(f"{name}.{getattr(node, 'name', '__doc__')}: {reference}")
    return broken


def _resolves(known: object, reference: str) -> bool:
    for part in reference.split(".")[1:]:
        if part in getattr(known, "__annotations__", {}):
            return True  # a field of a dataclass
        if inspect.ismodule(known) and not hasattr(known, part):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"{known.__name__}.{part}")
        if not hasattr(known, part):
            return False
        known = getattr(known, part)
    return True


def main() -> None:
    warnings.simplefilter("error")  # pdoc warns of what it cannot resolve
    # It reads the fields of a NamedTuple in the module that exports it, where their types have no name.
    warnings.filterwarnings("ignore", r"Error parsing type annotation .* for [\w.]+\.__init__")
    for name in vatjax.__all__:  # pdoc reads a module's names, and these are loaded when they are first used
        vars(vatjax)[name] = getattr(vatjax, name)
    broken = broken_references()
    if broken:
        sys.exit("\n".join(["docstrings name what does not exist:", *broken]))
    pdoc.render.configure(docformat="google", footer_text=f"vatjax {vatjax.__version__}")
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    pdoc.pdoc("vatjax", "!vatjax.assets", "!vatjax.commands", output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main()
