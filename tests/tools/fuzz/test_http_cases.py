from tests.support.forms import in_chunks
from tools.fuzz.http_cases import STRUCTURE, Message, case, chunked, post, valid

CASES = [case(number, seed=1) for number in range(400)]


def test_a_case_follows_from_its_seed_and_number() -> None:
    assert [case(number, seed=1) for number in range(20)] == CASES[:20]
    assert case(3, seed=2).wire != CASES[3].wire


def test_cases_make_every_change_and_some_none() -> None:
    made = {change for one in CASES for change in one.changes}
    assert made == {*STRUCTURE, "bytes"}
    assert sum(not one.changes for one in CASES) > 20
    assert any(one.half_close for one in CASES)
    assert any(len(one.pieces) > 3 for one in CASES)


def test_unchanged_cases_are_valid_requests() -> None:
    wires = [message.wire() for message in valid().values()]
    for one in CASES:
        rest = b"" if one.changes else one.wire
        while rest:
            first = {wire for wire in wires if rest.startswith(wire)}
            assert len(first) == 1
            rest = rest.removeprefix(*first)


def test_chunks_are_those_of_the_body() -> None:
    message = chunked(b"abcdefghij", (3, 4))
    assert message.wire().partition(b"\r\n\r\n")[2] == b"3\r\nabc\r\n4\r\ndefg\r\n3\r\nhij\r\n0\r\n\r\n"


def test_each_change_changes_some_request() -> None:
    import random

    for name, change in STRUCTURE.items():
        changed = []
        for seed in range(20):
            message = post()
            change(message, random.Random(seed))
            changed.append(message.wire() != post().wire())
        assert any(changed), name


def test_a_message_is_its_head_and_content() -> None:
    message = Message(b"GET / HTTP/1.1", [(b"Host", b"x")], b"body", before=b"\n")
    assert message.wire() == b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\nbody"
    assert b"".join(in_chunks(message.wire(), 3)) == message.wire()
