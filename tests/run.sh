#!/bin/sh
# Every check of this repository, in an environment of their own; not 0 when any of them failed.
#
#   tests/run.sh
#
# The environment is .venv-test beside the package, or the folder named by TEST_VENV. pip is needed only when the
# requirements have changed; it brings the Claude Code CLI too (166 MB, once), which the tests run against a Messages
# API on loopback: no login is needed, and no network once this is installed.
set -eu

cd "$(dirname "$0")/.."
folder=$(pwd -P)
venv=${TEST_VENV:-$folder/.venv-test}
stamp=$venv/.installed

find_python() {
    for candidate in python3.13 python3.12 python3.11 python3.14 python3 python; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    echo 'tests/run.sh: Python 3.11 or later, with its venv module, was not found' >&2
    return 1
}

describe() { printf '%s %s\n' "$(cat setup.cfg pyproject.toml | cksum)" "$folder"; }

if ! [ -x "$venv/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$(describe)" ]; then
    rm -f "$stamp"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        "$python" -m venv --clear "$venv"
    fi
    "$venv/bin/python" -m pip install --disable-pip-version-check --editable '.[test]'
    describe >"$stamp"
fi

# Coding agents that nobody here wrote are clients in the end-to-end tests; without npm those tests are skipped.
agents=$venv/agents
wanted='opencode-ai@1.18.33 @openai/codex@0.169.0'
if command -v npm >/dev/null 2>&1 && [ "$(cat "$agents/.installed" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$agents"
    # shellcheck disable=SC2086  # one word for each package
    if npm install --prefix "$agents" --no-audit --no-fund --no-save $wanted; then
        printf '%s' "$wanted" >"$agents/.installed"
    else
        echo 'tests/run.sh: the coding agents could not be installed; their tests will be skipped' >&2
    fi
fi
PATH=$agents/node_modules/.bin:$PATH
export PATH

# What a shell may have set for another program, or for a proxy of its own, is no business of the tests.
unset CLAUDECODE PORT HOST DEBUG CLAUDE_MODEL PROXY_API_KEY

results=''
failed=0

check() {
    name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    status=0
    "$venv/bin/python" -m "$@" || status=$?
    if [ "$status" -eq 0 ]; then
        results="$results\n  passed  $name"
    else
        results="$results\n  FAILED  $name (exit status $status)"
        failed=1
    fi
}

sources='claude_proxy tests'
[ ! -d benchmarks ] || sources="$sources benchmarks"

# shellcheck disable=SC2086  # one word for each folder
{
    check black black --quiet --check --diff --line-length 120 $sources
    check isort isort --check --diff $sources
    check flake8 flake8 $sources
    check mypy mypy $sources
}
check 'unit and contract tests' pytest tests/unit tests/contract \
    --cov=claude_proxy --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=95
# Measured without these: what only the real CLI can show should not hide what nothing else tests.
check 'end-to-end tests' pytest tests/e2e
# Where a CLI does not let its children be used again, each conversation has a process: the other way, in full.
NO_RECYCLE=1
export NO_RECYCLE
check 'end-to-end tests, a process for each conversation' pytest tests/e2e
unset NO_RECYCLE

printf "\n== results%b\n" "$results"
exit "$failed"
