"""All file writes: atomic commits, content addresses and expiring leases, on local folders and on buckets.

    store.commit("run/state.npz", data)            # atomic: all of the data, or the old content
    store.address({"items": digest, "seed": 0})    # equal content has the same name on every machine
    claim = store.Claims("run/claims").claim("task-7")   # None while another process holds it

Paths are local, or URIs (`gs://`, `s3://`, `az://`, `hf://`), which `etils.epath` opens.
"""

from vatjax.store.addresses import address, file_address
from vatjax.store.checksums import has_checksums, verify_checksums, write_checksums
from vatjax.store.claims import Claims, check_exclusive_creation
from vatjax.store.files import (
    Guard,
    Path,
    append,
    check_writable,
    commit,
    commit_json,
    create,
    disable_writes,
    encode_json,
    guard_writes,
    nonfinite_to_none,
    open_binary,
    parse_json,
    path,
    read_json,
    read_text,
    reason,
    refuse_links,
    remove_file,
    size,
    writes_enabled,
)
from vatjax.store.leases import LeaseLost, Leases, acquire_all, acquire_exclusive
from vatjax.store.npz import commit_npz, expanded_limit, load_npz

__all__ = [
    "Claims",
    "Guard",
    "LeaseLost",
    "Leases",
    "Path",
    "acquire_all",
    "acquire_exclusive",
    "address",
    "append",
    "check_exclusive_creation",
    "check_writable",
    "commit",
    "commit_json",
    "commit_npz",
    "create",
    "disable_writes",
    "encode_json",
    "expanded_limit",
    "file_address",
    "guard_writes",
    "has_checksums",
    "load_npz",
    "nonfinite_to_none",
    "open_binary",
    "parse_json",
    "path",
    "read_json",
    "read_text",
    "reason",
    "refuse_links",
    "remove_file",
    "size",
    "verify_checksums",
    "write_checksums",
    "writes_enabled",
]
