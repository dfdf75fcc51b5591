# Sourced by the other scripts: goes to the repository, makes .venv and installs into it what the extras name.
# Usage: . "$(dirname "$0")/environment.sh"; install EXTRAS
cd "$(dirname "$0")/.." || exit 1
export PIP_DISABLE_PIP_VERSION_CHECK=1

find_python() {
    for name in "${PYTHON:-}" python3.12 python3.11 python3 python; do
        [ -n "$name" ] || continue
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$name"
            return 0
        fi
    done
    echo 'fjq needs Python 3.11 or 3.12; none was found. Install one, or name it: PYTHON=/path/to/python' >&2
    return 1
}

install() {
    extras=$1
    python=.venv/bin/python
    if ! "$python" -m pip --version >/dev/null 2>&1; then  # absent, or interrupted before pip was in it
        base=$(find_python) || exit 2
        "$base" -m venv --clear .venv || {
            echo 'the venv module of Python is absent; on Debian and Ubuntu: apt-get install python3-venv' >&2
            exit 2
        }
    fi
    # The stamp says what is installed: the second run of a script installs nothing.
    stamp=$("$python" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' \
        pyproject.toml constraints.txt)
    if ! grep -qsx "$stamp $extras" .venv/fjq-installed; then
        echo "installing fjq[$extras] into .venv"
        "$python" -m pip install --quiet --constraint constraints.txt --editable ".[$extras]" || exit 1
        echo "$stamp $extras" >> .venv/fjq-installed
    fi
}
