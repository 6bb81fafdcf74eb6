"""The tree of failures is drawn as it is, and every dialect has a word for each."""

import re
from collections.abc import Iterator

import pytest

from claude_proxy.core import errors
from claude_proxy.core.errors import MethodNotAllowed, ProxyError
from claude_proxy.dialects.chat.answer import ChatCompletions
from claude_proxy.dialects.messages.answer import Messages, Signatures
from claude_proxy.dialects.openai_errors import ERROR_WORDS, build_error
from tests import schema


def tree(root: type[ProxyError]) -> Iterator[type[ProxyError]]:
    """The classes below, each once."""
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


CLASSES = sorted({one for one in tree(ProxyError) if one.__module__ == errors.__name__}, key=lambda one: one.__name__)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_docstring_draws_every_class_with_its_status_and_kind(cls: type[ProxyError]) -> None:
    """Under its own parent."""
    lines = (errors.__doc__ or "").splitlines()
    (line,) = [line for line in lines if re.search(rf"── {cls.__name__} ", line)]
    assert f" {cls.status} {cls.kind}" in line
    depth = line.index("── ")
    above = lines[: lines.index(line)]
    parents = [one for one in above if "── " in one and one.index("── ") < depth]
    parent = parents[-1].split("── ")[1].split()[0] if parents else "ProxyError"
    assert parent == cls.__base__.__name__ if cls.__base__ else False


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_openais_dialects_have_words_for_every_class(cls: type[ProxyError]) -> None:
    """In the official shape, with all four keys."""
    error = cls("what happened", allow="GET") if issubclass(cls, MethodNotAllowed) else cls("what happened")
    body = build_error(error)
    schema.check("ErrorResponse", body)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert ChatCompletions().error(error, "req_1") == (cls.status, body)
    assert ChatCompletions().error_event(error, "req_1").startswith(b'data: {"error":')


def test_no_word_is_left_over() -> None:
    """Each kind belongs to a class."""
    assert set(ERROR_WORDS) == {cls.kind for cls in CLASSES}


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("invalid_request", "invalid_request_error"),
        ("unauthorized", "invalid_request_error"),
        ("forbidden", "permission_error"),
        ("interrupted", "invalid_request_error"),
        ("queue_full", "rate_limit_error"),
        ("plan_limit", "rate_limit_error"),
        ("cli_unavailable", "server_error"),
        ("timeout", "server_error"),
    ],
)
def test_the_type_is_openais(kind: str, type_: str) -> None:
    """As the SDKs know it."""
    assert ERROR_WORDS[kind][0] == type_


def test_a_failure_after_the_cli_began_must_not_be_tried_again() -> None:
    """The mark belongs to the one error, not to its class."""
    error = errors.UpstreamError("x")
    assert error.no_retry() is error
    assert [error.should_retry, errors.UpstreamError("y").should_retry] == [False, None]
    for cls in (errors.PlanLimitReached, errors.CliUnavailable, errors.NotAuthenticated):
        assert cls("x").should_retry is False


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.status == 409], ids=lambda cls: cls.__name__)
def test_a_conflict_is_final_in_every_dialect(cls: type[ProxyError]) -> None:
    """The SDKs try a 409 again by themselves, and what somebody stopped would begin again."""
    error = cls("what happened")
    assert error.should_retry is False
    assert build_error(error)["error"]["type"] == "invalid_request_error"
    status, body = Messages(Signatures()).error(error, "req_1")
    assert (status, body["error"]["type"]) == (409, "invalid_request_error")
