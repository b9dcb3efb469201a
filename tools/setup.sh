#!/bin/sh
# Makes .venv where there is none and installs treadle into it, with the extras named:
#     tools/setup.sh dev docs
# Uses uv where it is on PATH, else `python3 -m venv` and pip. PYTHON=... picks the interpreter,
# VENV=... another folder than .venv, CONSTRAINTS=... a file of versions to keep to.
set -eu

venv=${VENV:-.venv}
extras=$(echo "$*" | tr ' ' ',')
is_new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

find_python() {
    for candidate in ${PYTHON:-python3.12 python3.11 python3 python python3.13 python3.14}; do
        # Run it: a name on PATH may be a shim with nothing behind it.
        if "$candidate" -c "$is_new_enough" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "treadle needs Python 3.11 or newer; tried: ${PYTHON:-python3.12, python3.11, python3," \
        "python, python3.13, python3.14}. Install one, or name it: make PYTHON=/path/to/python" >&2
    exit 1
}

make_venv() {
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --allow-existing --python "${PYTHON:->=3.11}" "$venv"
        return
    fi
    python=$(find_python)
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" || {
        echo "\`$python -m venv\` failed; on Debian and Ubuntu: apt install python3-venv." >&2
        exit 1
    }
}

if ! "$venv/bin/python" -c '' >/dev/null 2>&1; then
    make_venv
elif ! "$venv/bin/python" -c "$is_new_enough"; then
    echo "$venv holds $("$venv/bin/python" --version), treadle needs 3.11 or newer: remove it." >&2
    exit 1
fi

echo "Installing treadle[$extras] into $venv (the first time takes a minute or two)"
set -- --quiet ${CONSTRAINTS:+--constraint "$CONSTRAINTS"} --editable ".[$extras]"
if command -v uv >/dev/null 2>&1; then
    uv pip install --python "$venv/bin/python" "$@"
else
    # An earlier `uv venv` leaves no pip behind.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
    "$venv/bin/python" -m pip install --disable-pip-version-check "$@"
fi
