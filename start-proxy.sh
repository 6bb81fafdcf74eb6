#!/bin/sh
# Start claude_proxy; at the first start make .venv beside this file and install into it.
#
#   ./start-proxy.sh [settings]      for example --demo; --help lists them all
#
# The package is installed editable: the code that runs is the code in this folder, so that `git pull` takes effect at
# the next start, and pip is needed again only when the requirements change. What was installed is noted in
# .venv/.installed at the very end of an installation; one that was interrupted is therefore repeated.
set -eu

say() { printf 'start-proxy.sh: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# The folder of this file, also when it was called through a symlink (macOS has no `readlink -f` before 12.3).
find_folder() {
    file=$1
    while [ -h "$file" ]; do
        target=$(readlink "$file")
        case $target in
            /*) file=$target ;;
            *) file=$(dirname "$file")/$target ;;
        esac
    done
    CDPATH='' cd -- "$(dirname -- "$file")" && pwd -P
}

# Each candidate is tried, not only looked up: version managers put names on PATH that run nothing.
find_python() {
    for candidate in python3.13 python3.12 python3.11 python3.14 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
                printf '%s\n' "$candidate"
                return
            fi
            bare=$candidate
        fi
    done
    [ -z "${bare-}" ] || fail "$bare has no venv module. On Debian or Ubuntu run: sudo apt install python3-venv"
    fail "Python 3.11 or later was not found. Install it from your system's packages or https://www.python.org/downloads/"
}

# PATH, and where the installer of Claude Code puts it without touching PATH; the proxy itself looks there too.
has_claude() { command -v claude >/dev/null 2>&1 || [ -x "${HOME-}/.local/bin/claude" ]; }

# Everything that makes an installation another one. A folder that was moved needs a new one: .venv holds its path.
describe() { printf '%s %s %s\n' "$(cat "$folder/setup.cfg" "$folder/pyproject.toml" | cksum)" "$1" "$folder"; }

is_installed() {
    [ -x "$venv/bin/python" ] && [ -f "$stamp" ] || return 1
    noted=$(cat "$stamp")
    # An installation with the CLI also serves who has found another one since.
    [ "$noted" = "$(describe "$extra")" ] || [ "$noted" = "$(describe '[cli]')" ]
}

install() {
    rm -f "$stamp"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        say "making .venv with $("$python" --version 2>&1)"
        "$python" -m venv --clear "$venv" || fail "the virtual environment could not be made"
    fi
    [ -z "$extra" ] || say "no claude on PATH: the CLI inside the claude-agent-sdk wheel is installed too, a download of 166 MB"
    # In a subshell: relative paths among the settings belong to the folder that we were called from.
    (cd "$folder" && "$venv/bin/python" -m pip install --disable-pip-version-check --editable ".$extra") ||
        fail "the installation failed, see above; it is tried again at the next start"
    describe "$extra" >"$stamp"
}

folder=$(find_folder "$0")
venv=$folder/.venv
stamp=$venv/.installed
extra='[cli]'
! has_claude || extra=''

is_installed || install

# Set inside a session of Claude Code; the CLI would take itself for a part of that session.
unset CLAUDECODE
# -P: not the modules of the folder that we were called from.
exec "$venv/bin/python" -P -m claude_proxy "$@"
