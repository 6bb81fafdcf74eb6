"""Real processes: how a child is started, read and ended, what a killed proxy left behind, where the CLI is found."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from claude_proxy.claude.fleet import launcher
from claude_proxy.claude.fleet.agent_flags import build_options
from claude_proxy.claude.fleet.run_folder import clear_leftovers
from claude_proxy.claude.process import child as child_module
from claude_proxy.claude.process import locate, processes
from claude_proxy.claude.process.child import Child
from claude_proxy.core.errors import ChildDied, CliUnavailable
from claude_proxy.core.timing import Timing
from tests.fake_cli import Script, install
from tests.harness import is_alive, wait_until

ECHO = "import sys\nfor line in sys.stdin: sys.stdout.write(line); sys.stdout.flush()"
DEAF = (
    # Not `print`: the signal may come in the middle of one, and two at once are an error.
    "import os,signal,time\n"
    "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'SIGTERM\\n'))\n"
    "os.write(1, b'ready\\n')\n"
    "while True: time.sleep(60)"
)
LEAVES = (
    "import subprocess,sys\n"
    "held = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    "print(held.pid, flush=True)\n"
    "sys.stdin.readline()"
)

# A process in a session of its own, whose parent is gone; then an end with the status that is asked for.
ORPHANS = (
    "import os,subprocess,sys\n"
    "shell = ['sh', '-c', 'sleep 60 >/dev/null 2>&1 & echo $!']\n"
    "print(subprocess.check_output(shell, text=True, start_new_session=True), end='', flush=True)\n"
    "os._exit(int(sys.stdin.readline()))"
)

Make = Callable[..., Child]


def wait_for_exit(child: Child) -> None:
    """Its process has ended; it is not reaped."""
    wait_until(child.has_exited, "the child ended")


def end(child: Child) -> None:
    """Whatever it does."""
    child.kill()
    wait_for_exit(child)
    child.reap()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Start a Python program as a child."""
    with ExitStack() as stack:

        def start(program: str, *, has_commands: bool = False) -> Child:
            argv = [sys.executable, "-I", "-S", "-c", program]
            folder = tmp_path / "child"
            child = Child(
                argv, {**os.environ, "TMPDIR": str(folder)}, tmp_path, folder, Timing(), has_commands=has_commands
            )
            stack.callback(end, child)
            return child

        yield start


@pytest.fixture(params=["linux", "macOS"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This system, and one that knows neither pidfd nor a parent-death signal."""
    if request.param == "macOS":
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return str(request.param)


def test_lines_go_in_and_come_out(make: Make, system: str) -> None:
    """One at a time; without one in time there is none."""
    child = make(ECHO)
    assert child.receive(0.01) is None and not child.has_output()
    child.send(b"a\nb\n")
    assert [child.receive(), child.receive(5.0)] == [b"a", b"b"]
    assert child.returncode is None


def test_an_idle_child_ends_with_its_input_and_leaves_no_folder(make: Make, system: str) -> None:
    """Clearing up twice is no error."""
    child = make(ECHO)
    child.end_input()
    wait_for_exit(child)
    child.reap()
    assert child.returncode == 0 and not child.folder.exists()
    for late in (child.end_input, child.terminate, child.kill, child.reap):
        late()
    with pytest.raises(ChildDied):
        child.send(b"x\n")


def test_a_child_that_ignores_everything_is_killed(make: Make) -> None:
    """It may be deaf to the end of its input and to SIGTERM."""
    child = make(DEAF)
    assert child.receive() == b"ready"
    child.end_input()
    child.terminate()
    assert child.receive() == b"SIGTERM" and not child.has_exited()
    child.kill()
    wait_for_exit(child)
    assert child.returncode == -signal.SIGKILL and not is_alive(child.pid)


def test_what_a_killed_child_had_started_is_killed_too(make: Make) -> None:
    """Also in a session of its own."""
    child = make(LEAVES)
    line = child.receive()
    assert line is not None
    assert [one.pid for one in processes.descendants(child.pid)] == [int(line)]
    child.kill()
    wait_until(lambda: not is_alive(int(line)) and child.has_exited(), "the whole family gone")


@pytest.mark.parametrize("end", ["killed", "crashed", "terminated"])
def test_what_a_child_with_commands_left_without_parents_is_killed_too(make: Make, end: str) -> None:
    """By the TMPDIR that it inherited, in whatever session it is; a child without commands has none."""
    child = make(ORPHANS, has_commands=True)
    line = child.receive(10.0)
    assert line is not None
    orphan = int(line)
    assert os.getsid(orphan) not in (child.pid, os.getsid(0))
    if end == "crashed":
        child.send(b"7\n")
    else:
        getattr(child, {"killed": "kill", "terminated": "terminate"}[end])()
    wait_for_exit(child)
    assert child.returncode == (7 if end == "crashed" else -signal.SIGKILL)
    child.reap()
    wait_until(lambda: not is_alive(orphan), "the orphan gone")


def test_what_a_child_that_ended_well_left_running_stays(make: Make) -> None:
    """It was told to."""
    child = make(ORPHANS, has_commands=True)
    orphan = int(child.receive(10.0) or b"")
    child.send(b"0\n")
    wait_for_exit(child)
    child.reap()
    try:
        assert is_alive(orphan)
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_lines_of_several_senders_do_not_mix(make: Make) -> None:
    """Whoever decides on a permission writes while the turn's worker does."""
    child = make(ECHO)
    lines = [bytes([letter]) * (1 << 17) for letter in b"abcd"]
    threads = [threading.Thread(target=child.send, args=(line + b"\n",)) for line in lines]
    for thread in threads:
        thread.start()
    got = sorted(child.receive(10.0) or b"" for _ in lines)
    for thread in threads:
        thread.join(10.0)
    assert got == lines


def test_the_end_of_a_child_is_seen_although_another_holds_its_stdout(make: Make, system: str) -> None:
    """By the process, not by the pipe."""
    child = make(LEAVES)
    line = child.receive()
    assert line is not None
    try:
        child.send(b"go\n")
        with pytest.raises(ChildDied, match=r"ended \(0\)") as raised:
            child.receive(10.0)
        assert raised.value.returncode == 0
    finally:
        os.kill(int(line), signal.SIGKILL)


def test_the_end_of_stderr_is_kept_for_the_log(make: Make) -> None:
    """And gone with the child's folder."""
    child = make("import sys\nsys.stderr.write('x' * 5000 + 'the end')")
    with pytest.raises(ChildDied):
        child.receive()
    assert child.stderr_tail().endswith("xthe end") and len(child.stderr_tail()) == child_module.STDERR_TAIL_BYTES
    child.reap()
    assert child.stderr_tail() == ""


def test_a_program_that_cannot_be_started_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the system's kind."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError):
        Child(["/nowhere/claude"], {}, tmp_path, tmp_path / "child", Timing())


# What a killed proxy left behind.


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that somebody forgot."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def name_of(pid: int) -> str:
    """What is written down of a process that runs."""
    identity = processes.identify(pid)
    assert identity is not None
    return str(identity)


def left_by(folder: Path, pid: int | str, owner: str | None, *children: str) -> Path:
    """The folder of a run, with the names of its children."""
    folder = folder / f"claude-proxy-{pid}-x"
    folder.mkdir()
    (folder / "pids").write_text("".join(f"{line}\n" for line in children), encoding="utf-8")
    if owner is not None:
        (folder / "owner").write_text(owner, encoding="utf-8")
    return folder


def dead_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_dead_proxys_children_and_folder_go(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    """Its number may be another process's by now; a folder of an older kind goes when its owner is gone."""
    reused = left_by(tmp_path, os.getpid(), f"{os.getpid()}:1000.00:10.00", name_of(sleeper.pid))
    older = left_by(tmp_path, dead_pid(), None)
    assert clear_leftovers(tmp_path) == 1
    wait_until(lambda: sleeper.poll() is not None, "the forgotten child gone")
    assert not reused.exists() and not older.exists()


def test_what_a_dead_proxys_commands_started_goes(tmp_path: Path) -> None:
    """Nobody wrote it down: it is told by its TMPDIR; the like of it elsewhere stays."""
    folder = left_by(tmp_path, dead_pid(), None)
    marks = [str(folder / "7"), str(folder), f"{folder}-other", str(tmp_path)]
    left = [subprocess.Popen(["sleep", "60"], env={"TMPDIR": mark}, start_new_session=True) for mark in marks]
    try:
        assert clear_leftovers(tmp_path) == 2
        wait_until(lambda: None not in [one.poll() for one in left[:2]], "the commands gone")
        assert [one.poll() for one in left[2:]] == [None, None] and not folder.exists()
    finally:
        for one in left:
            one.kill()
            one.wait()


def test_a_mark_never_ends_the_process_that_looks_for_it(tmp_path: Path) -> None:
    """It may have been started with this TMPDIR itself."""
    program = (
        "import sys; from claude_proxy.claude.process import processes; print(processes.kill_by_tmpdir(sys.argv[1]))"
    )
    done = run_python(program, str(tmp_path), TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "0\n")


def run_python(program: str, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run another Python to its end."""
    argv = [sys.executable, "-c", program, *arguments]
    return subprocess.run(argv, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "line", ["nonsense", "木曜日", "", "PID", "PID:another-birth", "PID:1000.00:10.00", "None", "-1:1:1", "9" * 30]
)
def test_only_the_very_processes_that_were_recorded_are_ended(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", line: str
) -> None:
    """A number alone proves nothing."""
    folder = left_by(tmp_path, dead_pid(), None, line.replace("PID", str(sleeper.pid)))
    assert clear_leftovers(tmp_path) == 0
    assert sleeper.poll() is None and not folder.exists()


@pytest.mark.parametrize(
    "owner", ["NAME", "PID:4711", "PID:木曜日", "PID:", "", "PID:1000.00:AFTER", "PID:CREATED:10.00", None]
)
def test_what_may_be_a_running_proxys_stays(tmp_path: Path, owner: str | None) -> None:
    """Also where an older version wrote the name, where it is not written yet, or where the clock was set."""
    name = name_of(os.getpid())
    pid, created, after = name.split(":")
    words = {"NAME": name, "PID": pid, "CREATED": created, "AFTER": after}
    for word, value in words.items():
        owner = owner.replace(word, value) if owner is not None else None
    folder = left_by(tmp_path, os.getpid(), owner)
    assert clear_leftovers(tmp_path) == 0 and folder.exists()


def test_what_others_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not ours, what lies elsewhere, another user."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = tmp_path / "found"
    found.mkdir()
    left_by(found, "nobody", None)
    (found / f"claude-proxy-{dead_pid()}-link").symlink_to(elsewhere)
    assert clear_leftovers(found) == 0 and len(list(found.iterdir())) == 2 and elsewhere.exists()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    left_by(found, dead_pid(), None)
    assert clear_leftovers(found) == 0 and len(list(found.iterdir())) == 3


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_another_time_zone_or_language_names_the_same_process(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", zone: str
) -> None:
    """A service and a terminal often differ in them: neither may take the other's proxy for dead, nor miss its own."""
    environ = {"TZ": zone, "LANG": "ja_JP.UTF-8", "LC_ALL": "ja_JP.UTF-8"}
    program = (
        "import pathlib, sys\n"
        "from claude_proxy.claude.fleet.run_folder import clear_leftovers\n"
        "from claude_proxy.claude.process import processes\n"
        "print(processes.identify(int(sys.argv[1])), clear_leftovers(pathlib.Path(sys.argv[2])))\n"
    )
    owned = left_by(tmp_path, os.getpid(), name_of(os.getpid()), name_of(sleeper.pid))
    done = run_python(program, str(sleeper.pid), str(tmp_path), **environ)
    assert done.stdout == f"{name_of(sleeper.pid)} 0\n", done.stderr
    assert owned.exists() and sleeper.poll() is None
    left_by(tmp_path, dead_pid(), None, name_of(sleeper.pid))
    assert run_python(program, str(sleeper.pid), str(tmp_path), **environ).stdout.endswith(" 1\n")
    wait_until(lambda: sleeper.poll() is not None, "the forgotten child gone")


def test_a_process_that_is_gone_is_no_error() -> None:
    """It has gone by itself."""
    gone = subprocess.Popen(["sleep", "60"])
    noted = [psutil.Process(gone.pid)]
    name = name_of(gone.pid)
    assert processes.is_running(name) and not processes.has_ended(name)
    gone.kill()
    wait_until(lambda: processes.has_ended(name), "a zombie, which has ended")
    gone.wait()
    processes.send_signal(gone.pid, signal.SIGTERM)
    processes.send_group_signal(gone.pid, signal.SIGTERM)
    processes.kill_family(gone.pid, noted)
    assert processes.identify(gone.pid) is None and processes.descendants(gone.pid) == []
    assert processes.has_ended(name) and not processes.is_running(name)


def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers exist without a boot time, without the memory's size, and with processes that cannot be looked at."""

    def refuse(*_: object) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "boot_time", refuse)
    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    own = str(os.getpid())
    assert processes.identify(os.getpid()) is None and processes.ProcessNames().own == own
    assert processes.available_memory() is None
    monkeypatch.setattr(psutil.Process, "status", refuse)
    assert not processes.has_ended(own) and not processes.has_ended(f"{own}:1.00:1.00")
    assert not processes.is_running(own)


def test_the_available_memory_is_a_number_of_bytes() -> None:
    """Not more than there is."""
    available = processes.available_memory()
    assert available is not None and 0 < available <= psutil.virtual_memory().total


# Where the CLI is found.


def test_the_cli_is_found_on_the_path_and_in_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order; the version is read once."""
    monkeypatch.setattr(locate, "bundled_cli", lambda: None)
    environ = {"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path / 'bin'}:/bin:/usr/bin"}
    at_home = install(tmp_path / "home" / ".local" / "bin", Script(version="2.1.400"))
    assert locate.find("", environ) == locate.Installation(at_home, "2.1.400")
    on_path = install(tmp_path / "bin", Script(version="2.1.500"))
    assert locate.find("", environ).path == on_path
    assert locate.find(str(at_home), environ).path == at_home
    assert locate.command_of(on_path, environ) == "claude" and str(at_home) in locate.command_of(at_home, environ)


def test_the_wheels_cli_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its update is pip's."""
    folder = tmp_path / "claude_agent_sdk" / "_bundled"
    bundled = install(folder, Script(version="1.0.0"))
    monkeypatch.setattr(locate, "bundled_cli", lambda: bundled)
    monkeypatch.setattr(locate, "_is_executable", lambda path: path == bundled)
    with pytest.raises(CliUnavailable, match="pip install --upgrade claude-agent-sdk"):
        locate.find("", {"HOME": str(tmp_path), "PATH": ""})


def test_a_machine_without_a_cli_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a home, with and without the wheel."""
    monkeypatch.setattr(locate, "_is_executable", lambda path: False)
    for environ in ({"PATH": "/nowhere"}, {"HOME": "/nowhere", "PATH": "/nowhere"}):
        with pytest.raises(CliUnavailable, match="Run: "):
            locate.find("", environ)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert locate.bundled_cli() is None
    with pytest.raises(CliUnavailable, match="Run: "):
        locate.find("", {"PATH": "/nowhere"})


@pytest.mark.parametrize(
    ("script", "logged_in"),
    [("echo '{\"loggedIn\": true}'", True), ("echo '{\"loggedIn\": false}'; exit 1", False), ("echo nonsense", None)],
)
def test_a_login_is_what_the_cli_says(tmp_path: Path, script: str, logged_in: bool | None) -> None:
    """Unknown where it says nothing that can be read."""
    path = tmp_path / "claude"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    assert locate.read_login(path, {"PATH": "/bin:/usr/bin"}).logged_in is logged_in


def test_a_cli_that_hangs_is_no_cli(tmp_path: Path) -> None:
    """Its version is waited for only so long; its login is then unknown."""
    timing = Timing(ask_timeout=0.05)
    path = tmp_path / "claude"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    environ = {"PATH": "/bin:/usr/bin"}
    with pytest.raises(CliUnavailable, match="TimeoutExpired"):
        locate.find(str(path), environ, timing)
    assert locate.read_login(path, environ, timing).logged_in is None


def test_a_launcher_that_never_started_anything_has_nothing_to_clear(tmp_path: Path) -> None:
    """And knows no CLI."""
    idle: Any = launcher.Launcher("", {}, tmp_path, Timing())
    idle.close()
    assert idle.known() is None and idle.login_advice().startswith("claude auth login")


def test_without_agent_mode_no_agent_child_is_started(tmp_path: Path) -> None:
    """Whoever asks, and nothing is left of the attempt."""
    chats = launcher.Launcher("", {}, tmp_path, Timing())
    with pytest.raises(CliUnavailable, match="Agent mode is off"):
        chats.start("sonnet", agent=True)
    chats.close()


def test_a_folder_that_is_gone_is_an_error_of_the_start(tmp_path: Path) -> None:
    """The tools of an agent would work somewhere else."""
    options = build_options({}, workdir=tmp_path / "gone")
    agents = launcher.Launcher(str(install(tmp_path / "cli")), {}, tmp_path, Timing(), agent=options)
    with pytest.raises(CliUnavailable, match="No such file or directory"):
        agents.start("sonnet", agent=True)
    agents.close()


def test_what_the_cli_keeps_of_a_session_is_removed(tmp_path: Path) -> None:
    """Its file, and the folder of its sub-agents and long results; nothing by a name that is no session's."""
    project = tmp_path / ".claude" / "projects" / "-work"
    kept, gone = "0" * 8 + "-0000-0000-0000-" + "0" * 12, "1" * 8 + "-1111-1111-1111-" + "1" * 12
    for name in (kept, gone, "settings"):
        (project / name / "tool-results").mkdir(parents=True)
        (project / f"{name}.jsonl").touch()
    forgetful = launcher.Launcher("", {"HOME": str(tmp_path)}, tmp_path, Timing())
    assert forgetful.forget_sessions([gone, "settings", "*", "2" * 36]) == 1
    assert sorted(os.listdir(project)) == sorted([kept, f"{kept}.jsonl", "settings", "settings.jsonl"])
    forgetful.close()
