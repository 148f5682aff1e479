"""Join tokens: every row of the table in `trust.token`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.errors import Invalid
from drover.model.records import Token
from drover.trust import token

FINGERPRINT = "ab" * 32
NOW = 1_000_000.0


def digits(count: int) -> str:
    """Chance that is none: the same hex digits each time."""
    return "5a" * count


def minted(ttl_s: float = 60.0, reusable: bool = False) -> tuple[token.Parsed, Token]:
    text, record = token.mint(digits, FINGERPRINT, NOW, ttl_s, reusable)
    return token.parse(text), record


def test_a_token_is_one_line_that_says_id_secret_and_fingerprint() -> None:
    text, record = token.mint(digits, FINGERPRINT, NOW)
    assert text == f"DROVER1-{'5a' * 4}-{'5a' * 16}-{FINGERPRINT}"
    assert token.parse(f"  {text}\n") == token.Parsed("5a" * 4, "5a" * 16, FINGERPRINT)
    assert record.expires_at == NOW + 3600


def test_only_a_hash_of_the_secret_is_kept() -> None:
    parsed, record = minted()
    assert parsed.secret not in str(record)
    assert len(record.secret_sha256) == 64


@pytest.mark.parametrize("text", ["", "DROVER1-", "DROVER1-12-34-56", "DROVER2-" + "a" * 106, "DROVER1-5a5a5a5a-x"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not a join token") as caught:
        token.parse(text)
    assert "drover token create" in caught.value.hint


@given(st.text(max_size=200))
def test_parse_never_fails_in_another_way(text: str) -> None:
    try:
        parsed = token.parse(text)
    except Invalid:
        return
    assert f"DROVER1-{parsed.id}-{parsed.secret}-{parsed.ca_fingerprint}" == text.strip()


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, token.MAX_TTL_S + 1, float("nan")])
def test_a_token_cannot_live_for_ever_or_not_at_all(ttl_s: float) -> None:
    with pytest.raises(Invalid, match="cannot live"):
        token.mint(digits, FINGERPRINT, NOW, ttl_s)


def test_a_good_token_has_no_refusal() -> None:
    parsed, record = minted()
    assert token.judge(record, parsed.id, parsed.secret, NOW + 59.9) == ""
    assert token.state(record, NOW) == "valid"


def test_an_unknown_token_is_said_to_be_unknown() -> None:
    parsed, _ = minted()
    assert "not one of this cluster's" in token.judge(None, parsed.id, parsed.secret, NOW)


def test_a_forged_secret_is_said_to_be_forged_even_when_expired_and_used() -> None:
    parsed, record = minted()
    spent = token.used(record, "h2")
    assert "is forged" in token.judge(spent, parsed.id, "0" * 32, NOW + 1e6)


def test_an_expired_token_says_since_when() -> None:
    parsed, record = minted()
    assert token.judge(record, parsed.id, parsed.secret, NOW + 60).endswith("expired 0 seconds ago")
    assert token.judge(record, parsed.id, parsed.secret, NOW + 60 + 7200).endswith("expired 2 hours ago")
    assert token.state(record, NOW + 60) == "expired"


def test_a_used_token_says_by_whom() -> None:
    parsed, record = minted()
    spent = token.used(record, "h2")
    assert "already used by host h2" in token.judge(spent, parsed.id, parsed.secret, NOW)
    assert token.state(spent, NOW) == "used"


def test_the_host_that_used_it_may_repeat_itself() -> None:
    parsed, record = minted()
    spent = token.used(record, "h2")
    assert token.judge(spent, parsed.id, parsed.secret, NOW, again="h2") == ""
    assert "already used" in token.judge(spent, parsed.id, parsed.secret, NOW, again="h3")


def test_a_reusable_token_is_good_until_it_expires() -> None:
    parsed, record = minted(reusable=True)
    spent = token.used(token.used(record, "h2"), "h3")
    assert spent.used_by == ("h2", "h3")
    assert token.judge(spent, parsed.id, parsed.secret, NOW) == ""
    assert "expired" in token.judge(spent, parsed.id, parsed.secret, NOW + 61)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 seconds"), (1, "1 second"), (59.9, "59 seconds"), (60, "1 minute"), (7199, "1 hour"), (200_000, "2 days")],
)
def test_durations_are_said_in_their_largest_unit(seconds: float, text: str) -> None:
    assert token.duration(seconds) == text
