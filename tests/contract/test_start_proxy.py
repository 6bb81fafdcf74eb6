"""`start-proxy.sh` with a Python of straw, and what `python -m claude_proxy` says when it cannot start.

The stand-in for Python notes each call and does what the script needs of it: no network, no real installation.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from claude_proxy import __version__
from tests import fake_cli

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0
EXIT_STATUS = 7
TOOLS = ("cat", "cksum", "cp", "dirname", "mkdir", "readlink", "rm")

STUB = f"""#!/bin/sh
# Notes the call, one line each, arguments between brackets.
{{
    printf '%s' "${{0##*/}}"
    for argument in "$@"; do printf ' [%s]' "$argument"; done
    printf '\\n'
}} >>"@FOLDER@/calls"
case "$*" in
    *ensurepip*) [ ! -e "@FOLDER@/no-venv" ] || exit 1 ;;
    *version_info*) [ ! -e "@FOLDER@/too-old" ] || exit 1 ;;
    --version) echo 'Python 3.13.1' ;;
    '-m venv --clear '*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
    '-m pip install '*) [ ! -e "@FOLDER@/no-network" ] || exit 1; pwd >"@FOLDER@/pip-folder" ;;
    '-P -m claude_proxy'*)
        printf '%s\\n' "${{CLAUDECODE-unset}}" >"@FOLDER@/claudecode"
        pwd >"@FOLDER@/folder"
        exit {EXIT_STATUS} ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A computer with the proxy's folder, a PATH of its own, and no Claude Code unless it is put there."""

    root: Path

    @property
    def proxy(self) -> Path:
        return self.root / "my proxy"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def start(self, *arguments: str, script: Path | None = None, shell: str | None = None, **environ: str) -> str:
        """Run the script to the end of the stand-in for the proxy; what it said."""
        done = self.run(*arguments, script=script, shell=shell, **environ)
        assert done.returncode == EXIT_STATUS, done.stderr
        return done.stderr

    def run(
        self, *arguments: str, script: Path | None = None, shell: str | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        command = [str(script or self.proxy / "start-proxy.sh"), *arguments]
        return subprocess.run(
            [*([shell] if shell else []), *command],
            cwd=self.home,
            env={"PATH": str(self.bin), "HOME": str(self.home), **environ},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def calls(self, *words: str) -> list[str]:
        """The calls of Python so far that contain all of these words."""
        path = self.root / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if all(word in line for word in words)]

    def installations(self) -> list[str]:
        return self.calls("[pip] [install]")

    def put(self, name: str, text: str = "#!/bin/sh\n") -> Path:
        """An executable file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def note(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8").strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With a Python 3.13, the tools that the script needs, and nothing else on PATH."""
    machine = Machine(tmp_path)
    for folder in (machine.proxy, machine.bin, machine.home):
        folder.mkdir()
    for name in ("start-proxy.sh", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, machine.proxy)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (machine.bin / tool).symlink_to(found)
    machine.put("bin/python3.13", STUB.replace("@FOLDER@", str(tmp_path)))
    return machine


def test_the_first_start_makes_an_environment_and_installs_with_the_cli(machine: Machine) -> None:
    """Without a `claude` anywhere the extra is installed, and the size of the download is said."""
    said = machine.start()
    assert (machine.proxy / ".venv" / "bin" / "python").exists()
    (installation,) = machine.installations()
    assert installation.endswith("[--editable] [.[cli]]")
    assert machine.note("pip-folder") == str(machine.proxy)
    assert said.count("166 MB") == 1


def test_the_progress_of_pip_is_shown(machine: Machine) -> None:
    """Nothing tells pip to be quiet."""
    machine.start()
    (installation,) = machine.installations()
    assert "quiet" not in installation and "-q]" not in installation and "progress" not in installation


@pytest.mark.parametrize("place", ["bin/claude", "home/.local/bin/claude"])
def test_a_machine_with_the_cli_is_spared_the_download(machine: Machine, place: str) -> None:
    """On PATH, or where its installer puts it."""
    machine.put(place)
    assert "166 MB" not in machine.start()
    (installation,) = machine.installations()
    assert installation.endswith("[--editable] [.]")


def test_the_second_start_installs_nothing(machine: Machine) -> None:
    """It only starts; and says nothing."""
    machine.start()
    assert machine.start() == ""
    assert len(machine.installations()) == 1
    assert len(machine.calls("[-m] [venv]")) == 1
    assert len(machine.calls("[-m] [claude_proxy]")) == 2


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_changed_requirements_are_installed(machine: Machine, name: str) -> None:
    """Into the environment that is there."""
    machine.start()
    with open(machine.proxy / name, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    machine.start()
    machine.start()
    assert len(machine.installations()) == 2
    assert len(machine.calls("[-m] [venv]")) == 1


def test_a_cli_that_is_found_later_changes_nothing(machine: Machine) -> None:
    """The installation that is there serves; the other way round the CLI is missing and is installed."""
    machine.start()
    claude = machine.put("bin/claude")
    machine.start()
    assert len(machine.installations()) == 1
    (machine.proxy / ".venv" / ".installed").unlink()
    machine.start()
    claude.unlink()
    machine.start()
    assert [line.rpartition(" ")[2] for line in machine.installations()] == ["[.[cli]]", "[.]", "[.[cli]]"]


def test_a_failed_installation_is_said_and_repeated(machine: Machine) -> None:
    """pip's own words stay; the proxy is not started; the next start tries again."""
    (machine.root / "no-network").touch()
    done = machine.run()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("start-proxy.sh: the installation failed")
    assert not machine.calls("claude_proxy")
    (machine.root / "no-network").unlink()
    machine.start()
    assert len(machine.installations()) == 2


def test_an_interrupted_reinstallation_is_repeated(machine: Machine) -> None:
    """What was noted of an earlier installation is forgotten before the next one begins."""
    machine.start()
    setup = machine.proxy / "setup.cfg"
    before = setup.read_text(encoding="utf-8")
    setup.write_text(before + "# changed\n", encoding="utf-8")
    (machine.root / "no-network").touch()
    assert machine.run().returncode == 1
    (machine.root / "no-network").unlink()
    setup.write_text(before, encoding="utf-8")
    machine.start()
    assert len(machine.installations()) == 3


def test_an_environment_that_does_not_work_is_made_anew(machine: Machine) -> None:
    """An interrupted start leaves a folder without Python; an upgrade of the system a link to none."""
    python = machine.proxy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    machine.start()
    python.unlink()
    python.symlink_to(machine.root / "gone")
    machine.start()
    assert len(machine.calls("[-m] [venv]")) == 2
    assert len(machine.installations()) == 2


def test_a_folder_that_was_moved_is_installed_again(machine: Machine, tmp_path: Path) -> None:
    """The environment holds the folder's path."""
    machine.start()
    moved = tmp_path / "moved"
    machine.proxy.rename(moved)
    machine.start(script=moved / "start-proxy.sh")
    assert len(machine.installations()) == 2
    assert machine.note("pip-folder") == str(moved)


def test_arguments_and_exit_status_are_passed_on(machine: Machine) -> None:
    """As they are: blanks, quotes and stars."""
    arguments = ("--demo", "--port", "3999", "--model", "a b", "*", "", "it's")
    machine.start(*arguments)
    (call,) = machine.calls("claude_proxy")
    assert call == "python [-P] [-m] [claude_proxy] " + " ".join(f"[{argument}]" for argument in arguments)


def test_the_session_of_claude_code_around_it_is_forgotten(machine: Machine) -> None:
    """`CLAUDECODE` is unset, whatever it was."""
    machine.start(CLAUDECODE="1")
    assert machine.note("claudecode") == "unset"


def test_it_runs_in_the_folder_that_it_was_called_from(machine: Machine) -> None:
    """Relative paths among the settings belong there."""
    machine.start()
    assert machine.note("folder") == str(machine.home)


def test_it_can_be_called_through_symlinks(machine: Machine) -> None:
    """One with an absolute target, one with a relative one, in a chain."""
    first = machine.root / "first link"
    first.symlink_to(machine.proxy / "start-proxy.sh")
    second = machine.bin / "proxy"
    second.symlink_to(Path("..") / first.name)
    machine.start(script=second)
    assert (machine.proxy / ".venv").is_dir()
    assert machine.note("pip-folder") == str(machine.proxy)


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "ksh"])
def test_it_runs_in_any_shell(machine: Machine, shell: str) -> None:
    """As far as they are installed here."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    machine.start(shell=found)
    machine.start(shell=found)
    assert len(machine.installations()) == 1


def test_a_candidate_that_runs_nothing_is_passed_over(machine: Machine) -> None:
    """Version managers put names on PATH that only say that nothing is installed."""
    python = machine.bin / "python3.13"
    python.rename(machine.bin / "python3")
    machine.put("bin/python3.13", "#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
    machine.start()
    assert machine.calls("python3 [-m] [venv]")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("no-python", "Python 3.11 or later was not found"), ("too-old", "Python 3.11 or later"), ("no-venv", "venv")],
)
def test_without_a_usable_python_it_says_what_is_missing(machine: Machine, trouble: str, words: str) -> None:
    """One line, exit status 1, and nothing is made."""
    if trouble == "no-python":
        (machine.bin / "python3.13").unlink()
    else:
        (machine.root / trouble).touch()
    done = machine.run()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("start-proxy.sh: ") and words in line
    assert not (machine.proxy / ".venv").exists()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A clean shell: a home folder that is empty, and PATH."""
    return {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback on which something else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def run_proxy(arguments: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`python -m claude_proxy` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "claude_proxy", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("claude-proxy: ") and words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bogus"], "--bogus"),
        (["--port", "high"], "--port"),
        (["--host", "0.0.0.0"], "--api-key"),
        (["--host", "no such host", "--api-key", "k"], "no such host"),
        (["--host", "203.0.113.7", "--api-key", "k"], "203.0.113.7"),
    ],
)
def test_a_wrong_flag_ends_with_one_line_and_status_2(
    arguments: list[str], words: str, environ: dict[str, str]
) -> None:
    """Unknown ones, values that do not fit, addresses that cannot be bound."""
    assert_refused(run_proxy(arguments, environ), words)


def test_an_unknown_variable_ends_with_one_line_and_status_2(environ: dict[str, str]) -> None:
    """A setting that is misspelt must not silently be none."""
    environ["CLAUDE_PROXY_PROT"] = "4000"
    assert_refused(run_proxy([], environ), "CLAUDE_PROXY_PROT")


def test_a_taken_port_ends_with_one_line_and_status_2(environ: dict[str, str], taken_port: int) -> None:
    """It names the port, and the flag for another one."""
    done = run_proxy(["--port", str(taken_port)], environ)
    assert_refused(done, f"port {taken_port}")
    assert "--port" in done.stderr


def test_version_and_help_end_well(environ: dict[str, str]) -> None:
    """On stdout, with status 0."""
    version = run_proxy(["--version"], environ)
    assert (version.returncode, version.stdout, version.stderr) == (0, f"claude-proxy {__version__}\n", "")
    shown = run_proxy(["--help"], environ)
    assert shown.returncode == 0 and "--demo" in shown.stdout and shown.stderr == ""


def test_inside_a_session_it_says_so_and_its_children_do_not_know(environ: dict[str, str], tmp_path: Path) -> None:
    """The first lines: address, the session around it, the CLI with its version, the login."""
    claude = fake_cli.install(tmp_path / "cli")
    environ.update(CLAUDECODE="1", CLAUDE_CODE_ENTRYPOINT="cli")
    process = subprocess.Popen(
        [sys.executable, "-m", "claude_proxy", "--port", "0", "--claude", str(claude)],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        try:
            said = []
            for line in lines:
                said.append(line.strip())
                if "ogged in" in line:
                    break
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(TIMEOUT)
    assert status == 0
    assert said[0].startswith(f"claude_proxy {__version__} listens on http://127.0.0.1:")
    assert "Claude Code session" in said[1]
    assert said[2].startswith("Claude Code CLI ") and str(claude) in said[2]
    assert said[3] == "The CLI is logged in."
    for child in fake_cli.read_log(claude):
        assert not child.environment & {"CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT"}
