# Sourced by scripts/run and scripts/test: the virtual environment .venv, made once and then reused.
# Expects $ROOT, the folder of the checkout.

VENV="$ROOT/.venv"
STAMP="$VENV/.folio-installed"      # written last: without it, the environment is not finished
INSTALLING="$ROOT/.venv.installing" # holds the process that is installing
LOG="$ROOT/.venv.log"

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Prints "ok", or what is wrong with a Python: its version, "without venv", or nothing when it does not run.
judge_python() {
    "$1" - 2>/dev/null <<'PYTHON'
import importlib.util, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    print("%d.%d.%d" % sys.version_info[:3])
elif not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
    print("without venv")
else:
    print("ok")
PYTHON
}

# Sets PYTHON_FOUND to a Python that the locked TensorFlow has wheels for.
find_python() {
    local candidate verdict found="" locked
    locked=$(sed -n 's/^tensorflow==//p' "$ROOT/constraints.txt")
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        verdict=$(judge_python "$candidate" || true)
        case $verdict in
            ok)
                PYTHON_FOUND=$candidate
                return
                ;;
            "without venv") fail "$candidate has no venv module (on Debian and Ubuntu: apt-get install python3-venv)" ;;
            "") [[ $candidate != "${PYTHON:-}" ]] || found="$candidate does not run" ;;
            *) found="${found:+$found, }$candidate is $verdict" ;;
        esac
        # A Python that was asked for by name is not silently replaced by another.
        [[ -z ${PYTHON:-} || $candidate != "$PYTHON" ]] || break
    done
    fail "TensorFlow $locked has wheels for Python 3.11, 3.12 and 3.13 only; ${found:-no Python found}." \
        "Install one of them, or name it: PYTHON=/path/to/python3.12 scripts/${0##*/}"
}

# Another install into the same folder is waited for; one that was killed is not.
claim_install() {
    local other waiting=""
    until (set -o noclobber && printf '%s\n' "$$" >"$INSTALLING") 2>/dev/null; do
        [[ -s $INSTALLING ]] || sleep 1 # another process is between making the file and writing into it
        other=$(cat "$INSTALLING" 2>/dev/null || true)
        if [[ $other =~ ^[0-9]+$ ]] && kill -0 "$other" 2>/dev/null; then
            [[ -n $waiting ]] || printf 'Waiting for process %s, which is installing (if it is not: rm %s)\n' \
                "$other" "$INSTALLING" >&2
            waiting=yes
            sleep 1
        else
            [[ -w $ROOT ]] || fail "$ROOT: cannot be written to"
            rm -f "$INSTALLING"
        fi
    done
    trap 'rm -f "$INSTALLING"' EXIT
}

# What an installed environment depends on: the place, and what was asked for.
environment_key() {
    printf '%s\n' "$ROOT"
    cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum
}

# True when the environment is finished and holds what is asked for; one with `dev` will do for everything.
is_ready() {
    [[ -x $VENV/bin/python && -f $STAMP ]] || return 1
    [[ $(sed '$d' "$STAMP") == "$(environment_key)" ]] || return 1
    [[ -z $1 || $(tail -n 1 "$STAMP") == "$1" ]]
}

# ensure_environment [dev]: makes .venv, or leaves it as it is when it is up to date.
ensure_environment() {
    local extra=${1:-} key
    is_ready "$extra" && return
    claim_install
    if ! is_ready "$extra"; then
        # An environment from elsewhere, unfinished or broken is made anew; one that is merely out of date is updated.
        if [[ ! -f $STAMP || $(head -n 1 "$STAMP") != "$ROOT" ]] || ! "$VENV/bin/python" -c '' 2>/dev/null; then
            find_python
            rm -rf "$VENV"
            printf 'Making .venv with %s\n' "$PYTHON_FOUND" >&2
            "$PYTHON_FOUND" -m venv "$VENV" >"$LOG" 2>&1 || install_failed
        elif [[ $(tail -n 1 "$STAMP") == dev ]]; then
            extra=dev
        fi
        rm -f "$STAMP"
        key=$(environment_key)
        printf 'Installing Folio and what it needs, about 1 GB, usually 1 to 4 minutes (log: .venv.log)\n' >&2
        (cd "$ROOT" && "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input \
            -c constraints.txt -e ".${extra:+[$extra]}") >"$LOG" 2>&1 </dev/null || install_failed
        printf '%s\n%s\n' "$key" "${extra:-run}" >"$STAMP"
    fi
    rm -f "$INSTALLING"
    trap - EXIT
}

install_failed() {
    tail -n 15 "$LOG" >&2
    fail "the installation failed (the lines above end $LOG); the same command tries again"
}
