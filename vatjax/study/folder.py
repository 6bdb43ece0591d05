"""The folder of a study's results: checked before use, and marked with its design."""

from __future__ import annotations

from typing import Any

from vatjax import config, errors, store
from vatjax.study.design import Design
from vatjax.study.planning import open_artifact_store


def write_design(design: Design, folder: Any) -> None:
    """Writes the resolved design into the folder of its results.

    Raises:
        InputError: if the folder is not writable, or contains another study.
    """
    text = design.to_yaml()
    saved = check_folder(design, folder)
    try:
        # Only the folders of an earlier design may differ.
        if saved is None or config.to_dict(design) != config.to_dict(saved):
            store.commit(folder / "study.yaml", text.encode())
    except OSError as error:
        raise errors.InputError(f"{design.out}: {store.reason(error)}") from None


def check_folder(design: Design, folder: Any = None) -> Design | None:
    """Returns the design in the folder of results, or None without one; writes nothing.

    Args:
        design: of the study.
        folder: of its results, in place of the design's own.

    Raises:
        InputError: if the folder is not writable, or contains another study or other files.
    """
    check_writable(design)
    store.refuse_links(design.out, allowed=("pieces",))
    folder = store.path(design.out) if folder is None else folder
    path = folder / "study.yaml"
    try:
        if path.exists():
            saved = _load_design(path)
            content, saved_content = config.to_dict(design), config.to_dict(saved)
            differs = [key for key in content if content[key] != saved_content[key] and key not in ("out", "pieces")]
            if differs:
                raise errors.InputError(
                    f"{design.out}: holds a study that differs in {', '.join(differs)}; give another out (with the "
                    f"same pieces, {open_artifact_store(saved).folder}, shared artifacts are reused)"
                )
            return saved
        if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
            raise errors.InputError(f"{design.out}: contains files that are not of a study; give another out")
    except OSError as error:
        raise errors.InputError(f"{design.out}: {store.reason(error)}") from None
    return None


def _load_design(path: Any) -> Design:
    """Loads the design of a study from its file."""
    try:
        return config.parse(Design, store.read_text(path), str(path))
    except errors.InputError as error:
        raise errors.InputError(f"{error}\nThe saved design of the study is damaged: remove this file.") from None


def check_writable(design: Design) -> None:
    """Checks that the folders are writable, before anything is written.

    Raises:
        InputError: if the folder of results or of artifacts is not writable.
    """
    store.check_writable(design.out, "out")
    store.check_writable(open_artifact_store(design).folder, "pieces")


def _is_foreign(path: Any) -> bool:
    """Returns True if a file is not one that a run leaves before it has written its design."""
    return not (path.name == "claims" or (path.name.startswith(".study.yaml") and path.name.endswith(".tmp")))
