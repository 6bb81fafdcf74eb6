"""Which conversation continues which, what it is called, and what is forgotten."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from claude_proxy.claude.wire.profile import Point
from claude_proxy.core.conversation import Message, Thinking, assistant, digest_chain, user
from claude_proxy.core.session_key import SessionKey
from claude_proxy.storage.sessions import Name, Session, Sessions, make_id, make_owner
from claude_proxy.storage.store import Store

HI, HELLO, MORE = user("hi"), assistant("hello"), user("more")


class Clock:
    """Unix seconds that go on only when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(Store(None), 100.0, Clock())


def chain(messages: Sequence[Message], name: Name = Name()) -> tuple[bytes, ...]:
    return digest_chain(name.partition.encode(), messages)


def turn(sessions: Sessions, messages: Sequence[Message], name: Name = Name(), reply: Message = HELLO) -> Session:
    """One whole turn: these messages, and this answer."""
    session = sessions.begin(name, chain(messages, name))
    whole = (*messages, reply)
    assert sessions.finish(session, [chain(whole, name)[-1]], len(whole), model="sonnet")
    return session


def test_a_conversation_keeps_its_id_as_it_goes_on(sessions: Sessions) -> None:
    """What begins with what was answered is the same session."""
    first = turn(sessions, [HI])
    second = turn(sessions, [HI, HELLO, MORE])
    assert (first.known, second.known) == (0, 2)
    assert second.id == first.id
    assert [record.message_count for record in sessions.records("")] == [4]


def test_an_answer_that_said_nothing_is_gone_on_from(sessions: Sessions) -> None:
    """No client can send it back; asked again, the question is a conversation of its own."""
    first = turn(sessions, [HI], reply=Message("assistant", (Thinking("hm"),)))
    again = sessions.begin(Name(), chain([HI]))
    assert again.known == 0 and again.id != first.id
    going_on = sessions.begin(Name(), chain([HI, MORE]))
    assert (going_on.known, going_on.id) == (1, first.id)


def test_two_conversations_that_open_alike_have_two_ids(sessions: Sessions) -> None:
    """An opening is no identity, not even with equal answers."""
    first = turn(sessions, [HI])
    second = turn(sessions, [HI])
    assert first.id != second.id and first.id.startswith("auto_") and len(first.id) == len("auto_") + 16


def test_two_that_open_alike_at_once_have_two_ids(sessions: Sessions) -> None:
    """Also while neither has ended."""
    one, other = sessions.begin(Name(), chain([HI])), sessions.begin(Name(), chain([HI]))
    assert one.id != other.id


def test_an_id_that_was_never_used_can_be_used_again(sessions: Sessions) -> None:
    """A turn that failed holds no id back."""
    first = sessions.begin(Name(), chain([HI]))
    sessions.release(first)
    assert sessions.begin(Name(), chain([HI])).id == first.id


def test_a_branch_from_an_earlier_point_is_a_session_of_its_own(sessions: Sessions) -> None:
    """The old one can still be continued."""
    first = turn(sessions, [HI])
    turn(sessions, [HI, HELLO, MORE], reply=assistant("yes"))
    branch = sessions.begin(Name(), chain([HI, HELLO, user("something else")]))
    going_on = sessions.begin(Name(), chain([HI, HELLO, MORE, assistant("yes"), HI]))
    assert branch.known == 2 and branch.id != first.id
    assert going_on.known == 4 and going_on.id == first.id


def test_a_name_is_the_id_and_partitions(sessions: Sessions) -> None:
    """Equal conversations under two names are two."""
    named = Name("", make_id("hdr", "my chat"))
    first = turn(sessions, [HI], named)
    assert first.id == "hdr_my%20chat"
    assert sessions.begin(Name("", "hdr_other"), chain([HI, HELLO, MORE], Name("", "hdr_other"))).known == 0
    assert sessions.begin(named, chain([HI, HELLO, MORE], named)).known == 2


def test_two_keys_never_share_a_session(sessions: Sessions) -> None:
    """The owner is a part of everything; sessions of others are neither listed, shown nor deleted."""
    mine, yours = Name(make_owner("my key")), Name(make_owner("your key"))
    session = turn(sessions, [HI], mine)
    assert sessions.begin(yours, chain([HI, HELLO, MORE], yours)).known == 0
    assert sessions.records(yours.owner) == []
    assert sessions.get(SessionKey(yours.owner, session.id)) is None
    assert not sessions.delete(SessionKey(yours.owner, session.id))
    assert sessions.get(session.key) is not None


@pytest.mark.parametrize("name", ["a" * 10_000, "../../etc/passwd", "a\x00b\r\nc", "Größe", "%", "\udcff"])
def test_any_name_is_a_key_of_printable_ascii(name: str) -> None:
    """Never a path, never more than fits a header."""
    made = make_id("hdr", name)
    assert made.isascii() and made.isprintable() and len(made) <= 68
    assert "/" not in made and " " not in made


def test_long_names_that_begin_alike_stay_apart() -> None:
    """What is cut off still counts."""
    assert make_id("hdr", "a" * 100 + "1") != make_id("hdr", "a" * 100 + "2")


def test_a_deleted_session_is_forgotten_with_all_it_holds(sessions: Sessions) -> None:
    """Its digests, its history, its place; a second time it is unknown."""
    name = Name("", "hdr_bot")
    session = sessions.begin(name, chain([HI], name))
    whole = [HI, HELLO]
    sessions.finish(session, [chain(whole, name)[-1]], 2, model="sonnet", history=whole)
    assert sessions.delete(name.key)
    assert sessions.history(name.key) == ()
    assert sessions.begin(name, chain([HI, HELLO, MORE], name)).known == 0
    assert not sessions.delete(name.key)


def test_a_turn_that_ends_after_its_session_was_deleted_is_not_remembered(sessions: Sessions) -> None:
    """Deleting does not wait for a running turn, and is not undone by it."""
    name = Name("", "hdr_bot")
    session = sessions.begin(name, chain([HI], name))
    sessions.delete(name.key)
    assert not sessions.finish(session, [chain([HI, HELLO], name)[-1]], 2, model="sonnet")
    assert sessions.records("") == []


def test_history_is_kept_in_order_and_without_thinking(sessions: Sessions) -> None:
    """What is kept is what can be sent again."""
    name = Name("", "hdr_bot")
    reply = Message("assistant", (Thinking("hm", "sig"), *HELLO.content))
    for number in range(3):
        session = sessions.begin(name, chain([HI], name))
        sessions.finish(session, [bytes([number])], 2, model="m", history=[user(str(number)), reply])
    assert sessions.history(name.key) == (user("0"), HELLO, user("1"), HELLO, user("2"), HELLO)


def test_history_outlives_the_process(tmp_path: Path) -> None:
    """A bot's conversation goes on after a restart."""
    store = Store(tmp_path)
    first = Sessions(store, 100.0, Clock())
    session = first.begin(Name("", "hdr_bot"), chain([HI]))
    first.finish(session, [b"x"], 2, model="m", history=[HI, HELLO])
    store.close()
    again = Store(tmp_path)
    assert Sessions(again, 100.0, Clock()).history(session.key) == (HI, HELLO)
    again.close()


class CliFiles:
    """The sessions that a CLI keeps."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def forget_sessions(self, session_ids: Sequence[str]) -> None:
        self.forgotten += session_ids


def test_what_nobody_used_is_pruned_and_the_cli_is_told() -> None:
    """Sessions do not accumulate, nor do the CLI's files."""
    clock = Clock()
    cli = CliFiles()
    sessions = Sessions(Store(None), 100.0, clock, cli)
    session = sessions.begin(Name(), chain([HI]))
    point = Point("0a", "0b")
    sessions.finish(session, [b"x"], 2, model="m", point=point, claude_session_id="0a")
    clock.now += 99
    assert sessions.prune() == 0 and sessions.count() == 1
    clock.now += 2
    assert sessions.prune() == 1 and sessions.count() == 0
    assert cli.forgotten == ["0a"]


def test_a_known_point_comes_back_with_the_conversation(sessions: Sessions) -> None:
    """Where the CLI keeps a session, its place is found by content."""
    session = sessions.begin(Name(), chain([HI]))
    sessions.finish(session, [chain([HI, HELLO])[-1]], 2, model="m", point=Point("id", "uuid"))
    assert sessions.begin(Name(), chain([HI, HELLO, MORE])).point == Point("id", "uuid")
    assert sessions.begin(Name(), chain([MORE])).point is None


def test_the_longest_known_beginning_counts_however_long_the_conversation(sessions: Sessions) -> None:
    """Also when it is looked for in more than one piece."""
    long = [message for number in range(600) for message in (user(f"q{number}"), assistant(f"a{number}"))]
    turn(sessions, long[:1], reply=long[1])
    assert sessions.begin(Name(), chain([*long, HI])).known == 2


def test_a_store_that_fails_costs_only_the_memory() -> None:
    """The turn counts as remembered, so that its child is kept."""
    store = Store(None)
    sessions = Sessions(store, 100.0, Clock())
    session = sessions.begin(Name(), chain([HI]))
    store.close()
    assert sessions.finish(session, [b"x"], 2, model="m")
