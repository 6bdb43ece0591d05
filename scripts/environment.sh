# shellcheck shell=bash
# Sourced by the other scripts: makes .venv with vatjax and the given extra in it, once, and puts it on the PATH.
#   . scripts/environment.sh ""     what running needs
#   . scripts/environment.sh test   and what the tests need
# PYTHON names the interpreter (3.11 to 3.13), VATJAX_VENV another folder than .venv.

extra="${1:-}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VATJAX_VENV:-$root/.venv}"

version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
  else
    set -- python3 python python3.13 python3.12 python3.11
  fi
  for candidate in "$@"; do
    if fits "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "vatjax needs Python 3.11, 3.12 or 3.13, and this is none of them: $*" >&2
  echo "Set PYTHON to one, for example: PYTHON=/usr/local/bin/python3.12 $0" >&2
  return 1
}

make_venv() { # only an empty place or a virtual environment is ever replaced
  if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
    echo "$venv is there and is no virtual environment; set VATJAX_VENV to another folder." >&2
    return 1
  fi
  echo "Making a virtual environment in $venv with Python $(version "$1")" >&2
  rm -rf "$venv"
  # Some distributions ship Python without ensurepip: then pip is borrowed from the interpreter itself.
  if ! "$1" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    "$1" -m venv --without-pip "$venv" || return 1
    "$1" -m pip --python "$venv/bin/python" install --quiet pip || return 1
  fi
}

if ! fits "$venv/bin/python" || { [ -n "${PYTHON:-}" ] && [ "$(version "$PYTHON")" != "$(version "$venv/bin/python")" ]; }; then
  python="$(find_python)" || exit 1
  make_venv "$python" || exit 1
fi
# The stamp says what was installed, from where, by which Python; without a change nothing is done.
wanted="$(cat "$root/pyproject.toml" "$root/scripts/constraints.txt" | cksum) $(version "$venv/bin/python") $root"
stamp="$venv/.vatjax-$extra"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "Installing vatjax${extra:+ with its $extra extra} (a few minutes the first time)" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$root/scripts/constraints.txt" -e "$root${extra:+[$extra]}" || exit 1
  echo "$wanted" >"$stamp"
fi
PATH="$venv/bin:$PATH"
export PATH
