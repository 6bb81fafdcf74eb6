"""Who imports whom: data flows down, no cycles, one place that starts processes, one file for each dialect."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "claude_proxy"
NAME = PACKAGE.name

# From the top down: a room, or a module of the root, imports only from those above it and from itself.
ROOMS = (
    ("__init__", "addresses", "values"),
    ("core",),
    ("config", "logs"),
    ("claude.wire",),
    ("claude.process",),
    ("claude.turn",),
    ("claude.fleet",),
    ("claude",),
    ("storage",),
    ("monitoring",),
    ("notify",),
    ("turns",),
    ("dialects",),
    ("demo",),
    ("service",),
    ("web",),
    ("__main__",),
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
WEB = {"flask", "werkzeug", "waitress"}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`…/claude/child.py` -> `claude.child`; a package is `claude.__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path): path for path in FILES}


def read_imports(path: Path) -> Iterator[tuple[str, bool]]:
    """What a file imports, wherever in it: ours without the package's name and True, others by their first name."""
    here = module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, _, rest = alias.name.partition(".")
                yield (rest or "__init__", True) if first == NAME else (first, False)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level + 1]
            elif (node.module or "").split(".")[0] == NAME:
                base = []
            else:
                yield (node.module or "").split(".")[0], False
                continue
            own = (node.module or "") if node.level else (node.module or "").partition(".")[2]
            base = [*base, *filter(None, own.split("."))]
            for alias in node.names:
                yield _resolve(base, alias.name), True


def _resolve(base: list[str], name: str) -> str:
    """The module of ours that `from base import name` reads."""
    for candidate in ([*base, name], [*base, name, "__init__"], base, [*base, "__init__"]):
        if ".".join(candidate) in MODULES:
            return ".".join(candidate)
    raise AssertionError(f"{'.'.join(base)} has no {name}")


OURS = {module: {name for name, ours in read_imports(path) if ours} for module, path in MODULES.items()}
OTHERS = {module: {name for name, ours in read_imports(path) if not ours} for module, path in MODULES.items()}


def room_of(module: str) -> str:
    """The longest beginning of its name that is a room: `claude.turn.ask` -> `claude.turn`."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in LEVELS), module)


def part_of(module: str) -> str:
    return module.split(".")[0]


def dialect_of(module: str) -> str | None:
    """`dialects.chat.request` -> `chat`; None for what belongs to no dialect."""
    room, *rest = module.split(".")
    return rest[0] if room == "dialects" and len(rest) > 1 else None


def read_attributes(path: Path, owner: str) -> set[str]:
    """`owner.x` as it stands in the file, and `from owner import x`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner:
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == owner:
            found.update(alias.name for alias in node.names)
    return found


def test_every_module_is_in_a_room() -> None:
    """A new module must be put in its place."""
    assert {room_of(module) for module in MODULES} <= set(LEVELS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_the_rooms_above_it(module: str) -> None:
    """Within a room the test for cycles is enough."""
    for imported in OURS[module]:
        assert LEVELS[room_of(imported)] <= LEVELS[room_of(module)], f"{module} imports {imported}"


def test_there_are_no_cycles() -> None:
    """Not even between modules of one package."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for imported in sorted(OURS[module] - {module}):
                visit(imported, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_errors_import_nothing_of_ours() -> None:
    """Everything may raise them."""
    assert OURS["core.errors"] == set()


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) == "claude"])
def test_what_knows_the_cli_knows_nothing_of_http(module: str) -> None:
    """Neither our own HTTP nor anyone else's; nor the settings of the server."""
    assert not OTHERS[module] & WEB
    assert {part_of(name) for name in OURS[module]} <= {"claude", "core"}


@pytest.mark.parametrize("module", [name for name in MODULES if dialect_of(name) is not None])
def test_dialects_never_import_one_another(module: str) -> None:
    """Each new dialect costs one folder and one line; what several share stands beside the folders."""
    for imported in OURS[module]:
        assert dialect_of(imported) in (None, dialect_of(module)), f"{module} imports {imported}"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if part_of(name) == "dialects" and dialect_of(name) is None]
)
def test_what_dialects_share_knows_no_dialect(module: str) -> None:
    """The shared files import shared files only."""
    assert not [name for name in OURS[module] if dialect_of(name) is not None]


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) == "demo"])
def test_the_demo_is_an_upstream_that_knows_nothing_of_us(module: str) -> None:
    """It could stand in a repository of its own."""
    assert {part_of(name) for name in OURS[module]} <= {"demo"}


def test_dialects_and_what_lies_above_them_know_no_web_framework() -> None:
    """They turn bytes into bytes; the demo is a server of its own."""
    for module, others in OTHERS.items():
        if LEVELS[room_of(module)] < LEVELS["service"] and part_of(module) != "demo":
            assert not others & WEB, module
    assert [module for module in MODULES if "waitress" in OTHERS[module] and part_of(module) != "demo"] == [
        "web.server"
    ]


def test_dialects_are_pure() -> None:
    """A dialect that could not be used without the proxy around it would not be isolated."""
    for module in MODULES:
        if part_of(module) == "dialects":
            assert {part_of(name) for name in OURS[module]} <= {"dialects", "core", "storage"}, module


def test_the_store_knows_of_the_cli_only_how_its_lines_look() -> None:
    """It is told which process is which; it starts and ends none."""
    for module, imported in OURS.items():
        if part_of(module) == "storage":
            assert {room_of(name) for name in imported} <= {"storage", "core", "claude.wire"}, module


def test_one_room_reads_the_process_table() -> None:
    """Others are handed what they need to know of a process."""
    assert {room_of(module) for module, others in OTHERS.items() if "psutil" in others} == {"claude.process"}


def test_one_module_starts_children() -> None:
    """`Popen` in `claude.process.child` alone; another runs a command and waits for its end."""
    used = {module: read_attributes(path, "subprocess") for module, path in MODULES.items()}
    assert {module for module, names in used.items() if "Popen" in names} == {"claude.process.child"}
    assert {module for module, names in used.items() if "run" in names} == {"claude.process.locate"}
    allowed = {"Popen", "run", "DEVNULL", "PIPE", "STDOUT", "TimeoutExpired", "SubprocessError", "CompletedProcess"}
    assert set().union(*used.values()) <= allowed
    starters = {"fork", "forkpty", "system", "popen", "posix_spawn", "posix_spawnp"}
    for module, path in MODULES.items():
        names = read_attributes(path, "os")
        assert not names & starters and not any(name.startswith(("spawn", "exec")) for name in names), module


def test_one_module_reads_the_environment() -> None:
    """All others are given what they need."""
    for module, path in MODULES.items():
        if module != "config":
            assert not read_attributes(path, "os") & {"environ", "environb", "getenv", "putenv"}, module


def test_the_official_sdk_of_the_cli_is_never_imported() -> None:
    """Only the binary inside its wheel is used."""
    assert not [module for module, names in OTHERS.items() if "claude_agent_sdk" in names]
