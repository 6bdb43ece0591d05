# Sourced by the other scripts: makes .venv with vatjax and the given extra in it, once, and puts it on the PATH.
#   . scripts/environment.sh        what running needs
#   . scripts/environment.sh test   and what the tests need
# PYTHON names the interpreter (3.11 to 3.13), VATJAX_VENV another folder than .venv.

extra="${1:-}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VATJAX_VENV:-$root/.venv}"

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python python3.13 python3.12 python3.11}; do
    if fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  echo "vatjax needs Python 3.11, 3.12 or 3.13; found none of them (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11})." >&2
  echo "Set PYTHON to one, for example: PYTHON=/usr/local/bin/python3.12 $0" >&2
  return 1
}

make_venv() {
  local python
  python="$(find_python)" || return 1
  echo "Making a virtual environment in $venv with $("$python" --version)" >&2
  rm -rf "$venv"
  # Some distributions ship Python without ensurepip: then pip is borrowed from the interpreter itself.
  if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv" || return 1
    "$python" -m pip --python "$venv/bin/python" install --quiet pip || return 1
  fi
}

# The stamp says what was installed from which requirements; without a change nothing is done.
wanted="$(cat "$root/pyproject.toml" "$root/scripts/constraints.txt" | cksum) $extra"
stamp="$venv/.vatjax-$extra"
if ! fits "$venv/bin/python"; then
  make_venv || exit 1
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "Installing vatjax${extra:+ with its $extra extra} (a few minutes the first time)" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$root/scripts/constraints.txt" -e "$root${extra:+[$extra]}" || exit 1
  echo "$wanted" >"$stamp"
fi
PATH="$venv/bin:$PATH"
export PATH
