"""DNS on the wire, checked with an independent parser (dnspython)."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.drivers.network import messages
from drover.drivers.network.messages import Malformed, Zone

ZONE = Zone({"web.app": ("10.44.0.2", "10.44.0.3"), "web": ("10.44.0.2", "10.44.0.3"), "db.app": ("10.44.0.9",)})


def ask(zone: Zone, name: str, kind: str = "A", limit_bytes: int = 512, **options: object) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **options)
    wire = query.to_wire()
    answer = dns.message.from_wire(zone.answer(wire, messages.parse(wire), limit_bytes))
    assert query.is_response(answer)
    return answer


def addresses(answer: dns.message.Message) -> list[str]:
    return [record.address for rrset in answer.answer for record in rrset]


def test_addresses_of_a_name_in_turn_with_a_short_life() -> None:
    answers = [ask(ZONE, "web") for _ in range(2)]
    assert {tuple(addresses(answer)) for answer in answers} == {("10.44.0.2", "10.44.0.3"), ("10.44.0.3", "10.44.0.2")}
    assert answers[0].rcode() == dns.rcode.NOERROR
    assert answers[0].flags & dns.flags.AA
    assert answers[0].flags & dns.flags.RA
    assert answers[0].answer[0].ttl <= 5


def test_letter_case_is_kept_and_does_not_matter() -> None:
    answer = ask(ZONE, "WeB.App")
    assert str(answer.question[0].name) == "WeB.App."
    assert set(addresses(answer)) == {"10.44.0.2", "10.44.0.3"}


@pytest.mark.parametrize("kind", ["AAAA", "MX", "TXT", "SRV"])
def test_a_known_name_has_no_other_records(kind: str) -> None:
    answer = ask(ZONE, "web", kind)
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


def test_reverse_look_up_gives_the_first_name() -> None:
    answer = ask(ZONE, "2.0.44.10.in-addr.arpa", "PTR")
    assert [str(record.target) for record in answer.answer[0]] == ["web.app."]


def test_what_a_zone_knows() -> None:
    asked = ("web", "db.app", "9.0.44.10.in-addr.arpa", "db", "app", "8.0.44.10.in-addr.arpa")
    assert [ZONE.knows(name) for name in asked] == [True, True, True, False, False, False]


def test_recursion_desired_is_repeated() -> None:
    assert ask(ZONE, "web").flags & dns.flags.RD
    assert not ask(ZONE, "web", flags=0).flags & dns.flags.RD


def test_more_addresses_than_fit_are_cut_and_the_client_is_told() -> None:
    many = Zone({"web": tuple(f"10.44.1.{n}" for n in range(1, 101))})
    cut = ask(many, "web")
    assert cut.flags & dns.flags.TC
    assert 1 < len(addresses(cut)) < 40
    whole = ask(many, "web", limit_bytes=65535)
    assert not whole.flags & dns.flags.TC
    assert len(addresses(whole)) == 100


def test_the_clients_own_limit_counts_within_reason() -> None:
    def limit(payload: int) -> int:
        return messages.parse(dns.message.make_query("web", "A", use_edns=0, payload=payload).to_wire()).udp_limit_bytes

    assert [limit(payload) for payload in (1000, 100, 9000)] == [1000, 512, 1232]
    assert messages.parse(dns.message.make_query("web", "A").to_wire()).udp_limit_bytes == 512


def test_single_labels() -> None:
    asked = {name: messages.parse(dns.message.make_query(name, "A").to_wire()) for name in ("web", "web.app", ".")}
    assert {name: question.is_single_label for name, question in asked.items()} == {
        "web": True,
        "web.app": False,
        ".": False,
    }


def test_names_that_cannot_be_sent_are_left_out() -> None:
    for name in ("x" * 64, "a..b", "größe"):
        zone = Zone({name: ("10.44.0.2",), "ok": ("10.44.0.3",)})
        assert not zone.knows("2.0.44.10.in-addr.arpa")
        assert [str(r.target) for r in ask(zone, "3.0.44.10.in-addr.arpa", "PTR").answer[0]] == ["ok."]


def test_a_dot_within_a_label_is_no_separator() -> None:
    wire = dns.message.make_query("web\\.app", "A").to_wire()
    assert not ZONE.knows(messages.parse(wire).name)


def error_of(query: bytes) -> bytes:
    with pytest.raises(Malformed) as raised:
        messages.parse(query)
    return raised.value.reply


def test_what_is_no_query_is_not_answered() -> None:
    response = dns.message.make_response(dns.message.make_query("web", "A")).to_wire()
    assert [error_of(bad) for bad in (b"", b"short", response)] == [b"", b"", b""]


def test_bad_questions_are_told_so() -> None:
    wire = dns.message.make_query("web", "A").to_wire()
    two_questions = wire[:4] + b"\0\2" + wire[6:]
    compressed = wire[:12] + b"\xc0\x0c" + wire[17:]
    cut_off = wire[:-3]
    for bad in (two_questions, compressed, cut_off):
        answer = dns.message.from_wire(error_of(bad), ignore_trailing=True)
        assert answer.rcode() == dns.rcode.FORMERR
        assert answer.id == dns.message.from_wire(wire).id
    update = wire[:2] + b"\x28\x00" + wire[4:]
    assert dns.message.from_wire(error_of(update)).rcode() == dns.rcode.NOTIMP


@given(st.binary(max_size=80))
def test_no_bytes_do_harm(data: bytes) -> None:
    try:
        question = messages.parse(data)
    except Malformed as error:
        told = error.reply
    else:
        assert messages.HEADER.size < question.end <= len(data)
        told = messages.reply(data, question)
    assert told == b"" or told[:2] == data[:2]
