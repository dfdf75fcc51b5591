#!/bin/sh
# Starts this host's processes of one run and ends them together.
#
#   LOCAL=2 sh launch/multihost.sh --config=configs/NAME.py [flags of fjq.launch]
#   COORDINATOR=host0:12355 PROCESSES=4 PROCESS=0 sh launch/multihost.sh --config=...    on host0
#   COORDINATOR=host0:12355 PROCESSES=4 PROCESS=1 sh launch/multihost.sh --config=...    on the next, and so on
#
# COORDINATOR  host:port of process 0, reachable from every host; without it all processes are on this host
# PROCESSES    processes of the whole run (default: LOCAL)
# PROCESS      number of the first process on this host (default: 0)
# LOCAL        processes on this host (default: 1, with all its devices; several get one GPU each)
# GRACE        seconds between asking a process to end and ending it (default: 120)
# PYTHON       the interpreter (default: .venv/bin/python)
#
# The run folder must lie on a disk that all hosts share. SIGTERM or Ctrl-C saves, and the same command resumes.
set -u
case "${1:-}" in
    '' | -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
esac
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
if ! command -v "$python" >/dev/null; then
    echo "fjq: $python is absent; install with sh launch/quickstart.sh, or name an interpreter: PYTHON=..." >&2
    exit 2
fi
LOCAL=${LOCAL:-1}
PROCESSES=${PROCESSES:-$LOCAL}
PROCESS=${PROCESS:-0}
GRACE=${GRACE:-120}
if [ -z "${COORDINATOR:-}" ]; then
    if [ "$PROCESSES" -ne "$LOCAL" ]; then
        echo "fjq: $PROCESSES processes on several hosts need COORDINATOR=host:port of process 0" >&2
        exit 2
    fi
    COORDINATOR=127.0.0.1:$((20000 + $$ % 20000))
fi

pids=
stop() {
    # shellcheck disable=SC2086  # a list of numbers
    [ -z "$pids" ] || kill "-$1" $pids 2>/dev/null
}
trap 'stop TERM' TERM INT
i=0
while [ "$i" -lt "$LOCAL" ]; do
    [ "$LOCAL" -eq 1 ] || export JAX_LOCAL_DEVICE_IDS="$i"
    "$python" -m fjq.launch --coordinator="$COORDINATOR" --processes="$PROCESSES" --process=$((PROCESS + i)) "$@" &
    pids="$pids $!"
    i=$((i + 1))
done

# The first that fails decides the exit code, and takes the others with it: they would wait for it.
code=0
waited=
while [ -n "$pids" ]; do
    running=
    for pid in $pids; do
        if kill -0 "$pid" 2>/dev/null; then
            running="$running $pid"
            continue
        fi
        wait "$pid"
        ended=$?
        if [ "$ended" -ne 0 ] && [ "$code" -eq 0 ]; then
            code=$ended
            waited=0
        fi
    done
    pids=$running
    if [ -n "$waited" ] && [ -n "$pids" ]; then
        [ "$waited" -ne 1 ] || stop TERM
        [ "$waited" -lt "$GRACE" ] || stop KILL
        waited=$((waited + 1))
    fi
    if [ -n "$pids" ]; then
        sleep 1 &
        wait $! # which a signal interrupts, as it does not interrupt a plain sleep
    fi
done
exit "$code"
