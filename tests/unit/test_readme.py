"""The tables of the README and of docs/ say what the code does: nothing is missing, and nothing is made up."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from claude_proxy import config, values
from claude_proxy.config import Config
from claude_proxy.core import models
from claude_proxy.core.errors import BadRequest, ProxyError
from claude_proxy.demo import COMMANDS
from claude_proxy.dialects.chat.answer import ChatCompletions
from claude_proxy.dialects.chat.request import ROLES, ChatRequest
from claude_proxy.dialects.openai_errors import ERROR_WORDS
from claude_proxy.service import Service
from claude_proxy.web.app import create_app
from claude_proxy.web.guard import EXPOSED_HEADERS

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

TOOL = {"type": "function", "function": {"name": "look_up"}}
FUNCTION = {"name": "look_up"}

# Of each parameter: a value that asks for something, and what else it needs beside it.
HONOURED: dict[str, tuple[Any, dict[str, Any]]] = {
    "messages": ([{"role": "user", "content": "hello"}], {}),
    "model": ("opus", {}),
    "stream": (True, {}),
    "stream_options": ({"include_usage": True}, {}),
    "max_tokens": (5, {}),
    "max_completion_tokens": (5, {}),
    "stop": (["END"], {}),
    "temperature": (0.5, {}),
    "top_p": (0.5, {}),
    "reasoning_effort": ("low", {}),
    "tools": ([TOOL], {}),
    "tool_choice": ("required", {"tools": [TOOL]}),
    "parallel_tool_calls": (False, {"tools": [TOOL]}),
    "functions": ([FUNCTION], {}),
    "function_call": ({"name": "look_up"}, {"functions": [FUNCTION]}),
    "response_format": ({"type": "json_object"}, {}),
}
REFUSED: dict[str, Any] = {"n": 2, "logprobs": True, "modalities": ["text", "audio"]}
ACCEPTED: dict[str, Any] = {"user": "u", "prompt_cache_key": "k", "safety_identifier": "s"}
# The second value is the one of which the table says "unless".
IGNORED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0.5, 0),
    "presence_penalty": (0.5, 0),
    "logit_bias": ({"1": 2}, {}),
    "metadata": ({"a": "b"}, {}),
    "service_tier": ("flex", "auto", "default"),
    "store": (True, False),
    "top_logprobs": (2, 0),
    "verbosity": ("low", "medium"),
    "audio": ({"voice": "x", "format": "wav"},),
    "moderation": ({"model": "x"},),
    "prediction": ({"type": "content", "content": "x"},),
    "prompt_cache_options": ({"mode": "x"},),
    "prompt_cache_retention": ("24h",),
    "seed": (7,),
    "web_search_options": ({},),
}


def read_table(name: str) -> list[tuple[str, ...]]:
    """The rows below `<!-- table: name -->`, wherever it stands, without the two lines of its head."""
    found = [text for text in (path.read_text(encoding="utf-8") for path in DOCUMENTS) if _mark(name) in text]
    assert len(found) == 1, f"{_mark(name)} stands in {len(found)} documents"
    lines = found[0].partition(_mark(name))[2].lstrip("\n").splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows[2:]


def _render(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _mark(name: str) -> str:
    return f"<!-- table: {name} -->"


def _parse(**fields: Any) -> tuple[str, ...]:
    """The names that the dialect itself reports as ignored."""
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    return ChatCompletions().parse(json.dumps(body).encode()).ignored


def _shown_default(item: Field[Any]) -> str:
    if item.default is False:
        return "off"
    if item.default in ("", ()):
        return "none"
    if isinstance(item.default, float):
        return f"{item.default:g} s" if item.metadata["metavar"] == "SECONDS" else f"`{item.default:g}`"
    return f"`{item.default}`"


def _setting_row(item: Field[Any]) -> tuple[str, ...]:
    flags = [config.flag_name(item), *([item.metadata["short"]] if item.metadata["short"] else [])]
    meaning = item.metadata["help"]
    if values.choices(item.type):
        meaning += ": " + ", ".join(f"`{choice}`" for choice in values.choices(item.type))
    return ", ".join(f"`{flag}`" for flag in flags), f"`{config.variable_name(item)}`", _shown_default(item), meaning


def test_the_settings_table_is_the_settings() -> None:
    """Flag, short flag, variable, default and meaning of every setting, in the order of `--help`."""
    expected = [_setting_row(item) for item in config.SETTINGS]
    assert read_table("settings") == expected, "the table should be:\n" + _render(expected)


def test_the_family_table_names_every_family_variable_and_its_setting() -> None:
    """Variables of other proxies of this kind lead to the flag that the table says."""
    by_name = {item.name: item for item in config.SETTINGS}
    expected = {
        (f"`{variable}`", f"`{config.flag_name(by_name[target])}`")
        for variable, (target, _) in config.FAMILY_VARIABLES.items()
    }
    assert {row[:2] for row in read_table("family")} == expected


def test_every_flag_and_variable_in_the_texts_exists() -> None:
    """No document names a flag of the proxy, or a `CLAUDE_PROXY_*` variable, that is none."""
    variables = {config.variable_name(item) for item in config.SETTINGS} | set(config.FAMILY_VARIABLES)
    flags = {config.flag_name(item) for item in config.SETTINGS} | {"--version", "--help"}
    flags |= {"--url"}  # cloudflared's
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"CLAUDE_PROXY_[A-Z_]*[A-Z]", text)) <= variables, path.name
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - flags <= {"--model"}, path.name


def test_the_endpoints_table_is_the_url_map() -> None:
    """Every route is listed once, with `/v1` where it has that, and is served without it too."""
    rules = {
        (method, re.sub(r"<[^>]+>", "{id}", rule.rule))
        for rule in create_app(Service(Config())).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    listed = [tuple(row[0].strip("`").split(" ")) for row in read_table("endpoints")]
    short = {(method, path.removeprefix("/v1")) for method, path in listed}
    assert len(set(listed)) == len(listed)
    assert set(listed) | short == rules


def test_the_parameters_table_names_everything_that_is_read() -> None:
    """What `ChatRequest` reads is no more and no less than the rows that are not "ignored"."""
    effects = {row[0].strip("`"): row[1] for row in read_table("parameters")}
    assert {name for name, effect in effects.items() if effect != "ignored"} == set(ChatRequest.__struct_fields__)


def test_the_parameters_table_names_every_official_parameter() -> None:
    """All that the official SDK can send has a row."""
    official = set(completion_create_params.CompletionCreateParamsStreaming.__annotations__)
    assert official <= {row[0].strip("`") for row in read_table("parameters")}


def test_every_parameter_of_the_table_is_tried_here() -> None:
    """Each row has an example below, under the effect that the row claims."""
    tried = {"honoured": set(HONOURED), "400": set(REFUSED), "accepted": set(ACCEPTED), "ignored": set(IGNORED)}
    listed: dict[str, set[str]] = {effect: set() for effect in tried}
    for row in read_table("parameters"):
        listed[row[1]].add(row[0].strip("`"))
    assert listed == tried


@pytest.mark.parametrize("name", HONOURED)
def test_an_honoured_parameter_is_not_named_as_ignored(name: str) -> None:
    """A value that asks for something passes without remark."""
    value, others = HONOURED[name]
    assert _parse(**others, **{name: value}) == ()


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_accepted_parameter_is_not_named_as_ignored(name: str) -> None:
    """What has no effect on an answer needs no remark."""
    assert _parse(**{name: ACCEPTED[name]}) == ()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_parameter_is_a_bad_request_that_names_it(name: str) -> None:
    """A wish that would change the shape of the answer is refused, not dropped."""
    with pytest.raises(BadRequest) as raised:
        _parse(**{name: REFUSED[name]})
    assert raised.value.param == name


@pytest.mark.parametrize("name", IGNORED)
def test_an_ignored_parameter_is_named_unless_it_asks_for_nothing(name: str) -> None:
    """The first value is named; the values of which the table says "unless", and null, are not."""
    asking, *neutral = IGNORED[name]
    row = next(row for row in read_table("parameters") if row[0] == f"`{name}`")
    assert _parse(**{name: asking}) == (name,)
    for value in (None, *neutral):
        assert _parse(**{name: value}) == ()
    assert ("unless" in row[2]) == bool(neutral)
    for value in neutral:
        shown = value if isinstance(value, str) else json.dumps(value)
        assert shown in row[2].replace("`", "")


def test_the_row_of_messages_names_the_roles() -> None:
    """Exactly the roles that are understood."""
    row = next(row for row in read_table("parameters") if row[0] == "`messages`")
    assert re.findall(r"`(\w+)`", row[2]) == list(ROLES)


def test_the_errors_table_is_the_error_tree() -> None:
    """Kind, status, type and code of every failure; rows stand in the order of their status."""
    expected = set()
    for error in _all_errors(ProxyError):
        kind, code = ERROR_WORDS[error.kind]
        expected.add((f"`{error.kind}`", str(error.status), f"`{kind}`", f"`{code}`" if code else "none"))
    rows = read_table("errors")
    assert {row[:4] for row in rows} == expected
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert len(rows) == len(expected)
    assert set(ERROR_WORDS) == {row[0].strip("`") for row in rows}


def _all_errors(root: type[ProxyError]) -> list[type[ProxyError]]:
    return [root, *(error for child in root.__subclasses__() for error in _all_errors(child))]


def test_the_headers_table_names_what_answers_carry() -> None:
    """Each `X-Claude-Proxy-*` header that the code sets is there; each row is exposed to browsers."""
    listed = {row[0].strip("`") for row in read_table("headers")}
    assert listed <= {name.strip() for name in EXPOSED_HEADERS.split(",")}
    package = ROOT / "claude_proxy"
    set_by_code = {
        node.value.lower()
        for path in (package / "web").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(
            r"x-claude-proxy-[a-z-]+|x-request-id|request-id|x-should-retry|retry-after|server-timing",
            node.value.lower(),
        )
    }
    assert listed == set_by_code


def test_the_demo_table_is_the_list_of_commands() -> None:
    """Every word that the demo understands, with its example and meaning, in its own order."""
    expected = [(f"`{command.example}`", command.meaning) for command in COMMANDS]
    assert read_table("demo") == expected, "the table should be:\n" + _render(expected)


def test_the_models_table_maps_as_the_code_does() -> None:
    """Each plain name in the left column resolves to the alias in the right one, and no family name is missing."""
    mapped = {}
    for left, right in (row for row in read_table("models") if re.fullmatch(r"`\w+`", row[1])):
        mapped.update({name: right.strip("`") for name in re.findall(r"`([^`]+)`", left)})
    assert mapped == {name: family.alias for family in models.FAMILIES for name in family.names}
    aliases = re.findall(r"`([^`]+)`", read_table("models")[0][0])
    assert aliases == [family.alias for family in models.FAMILIES]
    for name in (*mapped, *aliases):
        assert models.resolve(name, "sonnet") == models.Resolution(mapped.get(name, name))


@pytest.mark.parametrize(
    ("name", "cli_model"),
    [
        ("claude-sonnet-4.5", "sonnet"),
        ("opus-4", "opus"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5-20251101"),
        ("sonnet[1m]", "sonnet[1m]"),
        ("local/opus", "opus"),
        ("openai/gpt-4o-mini", "haiku"),
        ("my-opus-model", "opus"),
        ("some-haiku", "haiku"),
        ("llama", "fable"),
    ],
)
def test_the_spellings_of_the_models_table_resolve_as_it_says(name: str, cli_model: str) -> None:
    """Dotted, bare, full, suffixed, prefixed and unknown names; the default is `fable` here."""
    assert models.resolve(name, "fable").cli_model == cli_model


def test_links_between_the_documents_lead_somewhere() -> None:
    """Every relative link names a file of the repository."""
    for path in (*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_two_commands_of_the_readme_exist() -> None:
    """One command runs the proxy, one passes its tests."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("start-proxy.sh", "tests/run.sh"):
        assert command in text
        assert (ROOT / command).stat().st_mode & 0o111
