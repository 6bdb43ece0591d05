"""The one place that writes: atomic commits, content addresses, expiring claims; on local folders and on buckets.

    store.commit("run/state.npz", data)            # all of it or nothing, whatever happens in between
    store.address({"items": digest, "seed": 0})    # the same content has the same name on every machine
    claim = store.claim("run/claims", "piece-7")   # None while somebody else is at work on it

A path is a local one or a URI (`gs://`, `s3://`, `az://`, `hf://`), which `etils.epath` opens.
"""

from vatjax.store.addresses import address, file_address
from vatjax.store.claims import Claim, Holder, claim, holder, holders
from vatjax.store.files import (
    Path,
    append,
    commit,
    commit_json,
    commit_npz,
    create,
    finite,
    leave_writing,
    load_npz,
    open_binary,
    path,
    read_text,
    reason,
    size,
    writes,
)
from vatjax.store.held import Held, alone, hold
from vatjax.store.seal import check_seal, seal, sealed

__all__ = [
    "Claim",
    "Held",
    "Holder",
    "Path",
    "address",
    "alone",
    "append",
    "check_seal",
    "claim",
    "commit",
    "commit_json",
    "commit_npz",
    "create",
    "file_address",
    "finite",
    "hold",
    "holder",
    "holders",
    "leave_writing",
    "load_npz",
    "open_binary",
    "path",
    "read_text",
    "reason",
    "seal",
    "sealed",
    "size",
    "writes",
]
