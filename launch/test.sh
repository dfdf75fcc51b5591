#!/bin/sh
# Installs everything into .venv and runs the tests. `--all` runs the slow ones too; other arguments go to pytest.
set -eu
. "$(dirname "$0")/environment.sh"
install dev
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
workers="--numprocesses=2 --dist=loadfile"  # compilation keeps one core busy; the files of a fixture stay together
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
if [ "${1:-}" = --all ]; then
    shift
    exec .venv/bin/python -m pytest $workers "$@"
fi
exec .venv/bin/python -m pytest $workers -m "not slow" "$@"
