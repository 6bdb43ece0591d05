"""Checkpoint locations: a local folder, the model that comes with the package, or a name on the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vatjax import errors, names, store

# The model organism that comes with the package; a folder of the same name is "./pocket".
POCKET = "pocket"
_ASSETS = Path(__file__).parent.parent / "assets"
POCKET_FOLDER = _ASSETS / POCKET

# Weights as safetensors, configurations and tokenizers: no pickles and no code.
_PATTERNS = ("*.json", "model*.safetensors", "*.jinja", "tokenizer.model", "*.txt")
_NAME = re.compile(r"[\w-][\w.-]{0,94}/[\w-][\w.-]{0,94}")


def local_folder(name_or_path: str | Path, weights: bool = True, patterns: Sequence[str] = _PATTERNS) -> Path:
    """Returns the local folder of a checkpoint; a name on the Hub is downloaded unless it is in the Hub's cache.

    `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` hold as everywhere in Hugging Face's libraries.

    Args:
        name_or_path: a folder, "pocket", or `owner/name` or `owner/name@revision` on the Hub.
        weights: whether to download weights too.
        patterns: names of the files to download.

    Raises:
        InputError: for anything else, and if files of the bundled model, or of a folder with a `sha256.json`, do not
            match their checksums.
    """
    if name_or_path == POCKET:
        store.verify_checksums(
            _ASSETS / POCKET, "the bundled model", "install vatjax again", required=("config.json", "model.safetensors")
        )
        return _ASSETS / POCKET
    path = Path(name_or_path).expanduser()
    with contextlib.suppress(OSError):  # a name that is too long for a file is not one
        if path.is_dir():
            if store.has_checksums(path):
                store.verify_checksums(path, "this model", "copy or build it again", required=("config.json",))
            return path
    if os.path.exists(path):
        raise errors.InputError(f"{path}: a checkpoint is a folder with a config.json, and this is a file")
    name, _, revision = str(name_or_path).partition("@")
    if not _NAME.fullmatch(name) or name.startswith("."):
        near = names.nearest(path.name, [p.name for p in path.parent.iterdir()]) if os.path.isdir(path.parent) else None
        near = names.nearest(str(name_or_path), [POCKET]) or (near and str(path.parent / near))
        hint = f"; did you mean {near}?" if near else ""
        raise errors.InputError(
            f"{name_or_path}: no such {'file' if str(name_or_path).endswith('.gguf') else 'folder'}, and neither {POCKET} nor a name on the Hub such as owner/name{hint}"
        )
    return _fetch(name, revision or None, [pattern for pattern in patterns if weights or "safetensors" not in pattern])


def _fetch(name: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except hub_errors.GatedRepoError:
        message = "access is gated: accept the terms on the Hub and set HF_TOKEN"
    except hub_errors.RevisionNotFoundError:
        message = f"has no revision {revision!r}"
    except hub_errors.RepositoryNotFoundError:
        message = "no such repository on the Hub, or a private one without HF_TOKEN"
    except hub_errors.HFValidationError:
        message = "not a name of a repository on the Hub"
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled):
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        message = "no folder of that name; as a name on the Hub it is not in the local cache, and " + (
            "HF_HUB_OFFLINE is set" if offline else "the Hub can't be reached"
        )
    except (OSError, hub_errors.HfHubHTTPError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"could not be fetched ({first})"
    raise errors.InputError(f"{name}: {message}")
