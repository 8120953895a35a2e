"""Check digits, and forms that are no personal data."""

import pytest

from sweeper.data.personal_kinds import addresses, cards, emails, ibans, luhn, mod97, phones


@pytest.mark.parametrize(("number", "right"), [("79927398713", True), ("79927398710", False), ("18", True)])
def test_the_check_digit_of_a_card(number: str, right: bool) -> None:
    assert luhn(number) == right


@pytest.mark.parametrize(
    ("account", "right"),
    [("GB82WEST12345698765432", True), ("GB82WEST12345698765423", False), ("BE71096123456769", True)],
)
def test_the_check_digits_of_an_account(account: str, right: bool) -> None:
    assert mod97(account) == right


def places(finder: object, text: str) -> list[str]:
    assert callable(finder)
    return [text[start:end] for start, end in finder(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mail müller@exämple-shop.de.", ["müller@exämple-shop.de"]),
        ("a.b+c@mail.uni.ac.uk, <d@e.io>", ["a.b+c@mail.uni.ac.uk", "d@e.io"]),
        ("jane@example.com or root@localhost or x@sub.example.org or a@b.test", []),
        ("git@github.com:org/name.git and abfs://files@account.dfs.windows.net/x", []),
        ("x @ y, A@B, @decorator, a@b@c.de", []),
    ],
)
def test_e_mail_addresses(text: str, found: list[str]) -> None:
    assert places(emails, text) == found


@pytest.mark.parametrize(
    "number",
    [
        "+49 171 1234567", "+1 (212) 555-0123", "+442079460958", "(212) 555-0123", "212-555-0123",
        "1-800-555-0199", "415.555.2671", "020 7946 0958", "030/901820", "0171 1234567", "01 42 68 53 00",
        "06-12345678",
    ],
)  # fmt: skip
def test_phone_numbers(number: str) -> None:
    assert places(phones, f"Ring {number}, please.") == [number]


def test_a_number_after_a_word_for_phones() -> None:
    assert places(phones, "Tel.: 9876543 or phone number 555 1234") == ["9876543", "555 1234"]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02 03:04:05", "01/02/2024", "01-02-2024 10 30", "3.14159265358979", "1e+12345678",
        "-2147483648 +2147483647", "Natick, MA 01760-2098", "10 20 30 40 50 60", "version 10.15.7.1234",
        "ISBN 978-3-16-148410-0", "0.1 0.25 0.123456789", "01 02 03 04 05 06 07 08", "[100, 200, 300, 4000]",
        "0x0123456789", "call the 2 functions",
    ],
)  # fmt: skip
def test_numbers_that_are_no_phone_numbers(text: str) -> None:
    assert places(phones, text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4111 1111 1111 1111", 1), ("378282246310005", 1), ("3782 822463 10005", 1),
        ("5555-5555-5555-4444", 1),
        ("4111 1111 1111 1112", 0), ("0000000000000000", 0), ("1234567812345670", 0),
        ("4111.111111111111", 0), ("x4111111111111111", 0), ("4111 1111 1111 1111 1111", 0),
    ],
)  # fmt: skip
def test_card_numbers(text: str, found: int) -> None:
    assert len(places(cards, f"paid with {text}.")) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("DE89 3704 0044 0532 0130 00 THIS", ["DE89 3704 0044 0532 0130 00"]),
        ("GB82WEST12345698765432", ["GB82WEST12345698765432"]),
        ("DE89 3704 0044 0532 0130 01", []),
        ("XX89370400440532013000", []),
    ],
)
def test_account_numbers(text: str, found: list[str]) -> None:
    assert places(ibans, text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from 93.184.216.34:80, http://151.101.1.69/", ["93.184.216.34", "151.101.1.69"]),
        ("2606:2800:220:1:248:1893:25c8:1946", ["2606:2800:220:1:248:1893:25c8:1946"]),
        ("127.0.0.1 0.0.0.0 192.168.1.20 10.0.0.7 255.255.255.255 203.0.113.9 ::1 2001:db8::1", []),
        ("v121.0.61.85, version 121.0.61.85, pkg==121.0.61.85, 1.2.3.4, 1.22.333.4444.5", []),
        ("12:30:45, x[::2], std::vector, 2024:01:02", []),
    ],
)
def test_ip_addresses(text: str, found: list[str]) -> None:
    assert places(addresses, text) == found
