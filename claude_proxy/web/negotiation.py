"""Which dialect a request is answered in, and the dialect objects, one for each request.

In: a request's headers. Out: the dialect, which knows what outlives the request. The routes name one of the methods;
only where two dialects share a path do the headers decide, in `speaks_messages`.
"""

from werkzeug.datastructures import Headers

from ..core.conversation import Message
from ..dialects.chat.answer import ChatCompletions
from ..dialects.chat.request import parse_chat
from ..dialects.dialect import Dialect, Parsed, decode_object
from ..dialects.messages.answer import DEFAULT_VERSION, Messages, Signatures
from ..dialects.responses.answer import Responses
from ..dialects.responses.request import is_responses_shaped, parse_responses_shaped
from ..service import Service
from .client import owner_by_key


class CursorChat(ChatCompletions):
    """Chat that also takes the body of a Responses request: Cursor sends such ones to the chat route."""

    def parse(self, body: bytes, before: tuple[Message, ...] = ()) -> Parsed:
        """See `Dialect.parse`."""
        fields = decode_object(body)
        return (parse_responses_shaped if is_responses_shaped(fields) else parse_chat)(fields, before)


class Dialects:
    """Makes a dialect for each request; holds what one request of a dialect leaves for the next."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._signatures = Signatures()

    def chat(self, headers: Headers) -> Dialect:
        """Chat Completions; also for routes of our own, whose failures have OpenAI's shape."""
        return CursorChat()

    def messages(self, headers: Headers) -> Dialect:
        version = headers.get("anthropic-version", DEFAULT_VERSION)
        return Messages(self._signatures, version, headers.get("anthropic-beta", ""))

    def responses(self, headers: Headers) -> Responses:
        """Responses and Conversations, with what is stored for the owner of the key."""
        config = self._service.config
        return Responses(self._service.responses, owner_by_key(headers, config), config.model)

    def shared(self, headers: Headers) -> Dialect:
        """For paths that two dialects share (`/v1/models`), and for paths that are like no route."""
        return self.messages(headers) if speaks_messages(headers) else self.chat(headers)


def speaks_messages(headers: Headers) -> bool:
    """True for a client of the Messages API on a path that it shares with OpenAI's: its SDKs and Claude Code send
    `anthropic-version` (https://docs.anthropic.com/en/api/versioning), and show their key as `x-api-key`, where
    OpenAI's clients send `Authorization`."""
    return "anthropic-version" in headers or "x-api-key" in headers
