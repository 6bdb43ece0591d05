"""Plain technical English: counts of wordings that engineers cannot search for may only fall."""

import ast
import re

import pytest

# A wording, and how often it stands in docstrings, messages and READMEs today.
MOST = {
    r"\bbehind\b": 0,
    r"\bbeside\b": 0,
    r"\b(?:is|are) not? told from\b": 0,
    r"\bhangs? on\b": 0,
    r"\b(?:is|are) no\b": 2,
    r"\b(?:some|no|every)body\b|\bwhoever\b": 0,
    r"\bwhat (?:there )?is\b": 3,
}
QUESTIONS = {"What", "Whether", "How", "Which", "Who", "Where", "Of"}
VAGUE = {"found", "own", "one", "made", "there", "kept", "wanted", "said", "told", "asked"}


@pytest.fixture(scope="module")
def trees():
    from tests.conftest import ROOT

    return {path: ast.parse(path.read_text()) for path in sorted((ROOT / "vatjax").rglob("*.py"))}


def documented(trees):
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                yield path, node, ast.get_docstring(node)


def messages(trees):
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.value


@pytest.mark.parametrize("wording", MOST)
def test_a_wording_is_no_more_frequent_than_it_was(wording, trees, root):
    texts = [*messages(trees), (root / "README.md").read_text()]
    texts += [path.read_text() for path in (root / "vatjax").rglob("README.md")]
    count = sum(len(re.findall(wording, text, re.IGNORECASE)) for text in texts)
    assert count <= MOST[wording], f"{count} of {wording!r}, and at most {MOST[wording]} are allowed"


def test_the_docstring_of_a_function_begins_with_a_verb(trees):
    found = [
        f"{path.name}: {node.name}: {text.split()[0]}"
        for path, node, text in documented(trees)
        if isinstance(node, ast.FunctionDef) and text.split()[0] in QUESTIONS
    ]
    assert not found


def test_names_say_what_they_hold(trees):
    vague = [
        f"{path.name}: {node.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}.union(
            argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)
        )
        & VAGUE
    ]
    assert len(vague) <= 3, vague
