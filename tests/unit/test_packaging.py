"""What the package says of itself: version, license, command, requirements, and the files around it."""

import ast
import configparser
import importlib
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

import claude_proxy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    """setup.cfg, read as setuptools reads it."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def read_names(requirements: str) -> set[str]:
    """The projects in a list of requirements."""
    return {re.split(r"[<>=!~\[; ]", line.strip())[0] for line in requirements.splitlines() if line.strip()}


def read_imported() -> set[str]:
    """Projects of everything that the package imports and that is neither its own nor of the standard library."""
    names: set[str] = set()
    for path in (ROOT / "claude_proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").split(".")[0])
    return {name.replace("_", "-") for name in names - set(sys.stdlib_module_names) - {"claude_proxy"}}


def test_the_version_has_one_source(setup: configparser.ConfigParser) -> None:
    """`claude_proxy.__version__`, a plain version number."""
    assert setup["metadata"]["version"] == "attr: claude_proxy.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", claude_proxy.__version__)


def test_the_license_is_mit(setup: configparser.ConfigParser) -> None:
    """Said in setup.cfg, and there as a file."""
    assert setup["metadata"]["license"] == "MIT"
    assert setup["metadata"]["license_files"] == "LICENSE"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def test_the_console_command_leads_to_a_function(setup: configparser.ConfigParser) -> None:
    """`claude-proxy` does what `python -m claude_proxy` does."""
    entries = [line.split("=") for line in setup["options.entry_points"]["console_scripts"].strip().splitlines()]
    assert [name.strip() for name, _ in entries] == ["claude-proxy"]
    module, _, function = entries[0][1].strip().partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_import_is_required(setup: configparser.ConfigParser) -> None:
    """What is imported is required by name, or comes with flask or jsonschema."""
    required = read_names(setup["options"]["install_requires"])
    brought = {"werkzeug": "flask", "referencing": "jsonschema"}
    assert {brought.get(name, name) for name in read_imported()} <= required


def test_the_changelog_gives_a_reason_for_every_import() -> None:
    """Each runtime dependency that the code uses is listed with what it is for."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    listed = set(re.findall(r"\*\*([a-z-]+)\*\*", text))
    assert read_imported() | {"claude-agent-sdk"} == listed


def test_the_cli_is_an_extra_that_the_tests_include(setup: configparser.ConfigParser) -> None:
    """`[cli]` alone is what a user without a CLI installs; `[test]` brings it along."""
    extras = setup["options.extras_require"]
    assert read_names(extras["cli"]) == {"claude-agent-sdk"}
    assert read_names(extras["cli"]) <= read_names(extras["test"])


def test_types_are_shipped(setup: configparser.ConfigParser) -> None:
    """`py.typed` lies in the package and is packed."""
    assert (ROOT / "claude_proxy" / "py.typed").exists()
    assert "py.typed" in setup["options.package_data"]["claude_proxy"]


def test_pyproject_holds_the_build_system_alone() -> None:
    """Everything else is configured in setup.cfg."""
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))) == {"build-system"}


def test_python_is_said_once(setup: configparser.ConfigParser) -> None:
    """setup.cfg, the type checker and both scripts agree on the oldest Python."""
    assert setup["options"]["python_requires"] == ">=3.11"
    assert setup["mypy"]["python_version"] == "3.11"
    for script in ("start-proxy.sh", "tests/run.sh"):
        assert "sys.version_info < (3, 11)" in (ROOT / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["start-proxy.sh", "tests/run.sh", ".ci/run"])
def test_scripts_are_executable(name: str) -> None:
    """They are called by their names."""
    assert os.access(ROOT / name, os.X_OK)


def test_what_the_scripts_make_is_ignored_by_git() -> None:
    """Neither environment can be added by mistake."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".venv/", ".venv-test/", "*.egg-info/"} <= set(ignored)
