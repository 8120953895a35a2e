"""How personal data looks: e-mail and IP addresses, phone, card and account numbers.

What belongs to nobody doesn't count: addresses at domains reserved for examples (RFC 2606), IP addresses
that are private, local or reserved for documentation, four-part version numbers.

Every repetition is bounded or possessive, so that searching takes time in proportion to the text.
"""

import ipaddress
import re
from collections.abc import Iterator

Place = tuple[int, int]
"""Start and end, end excluded."""

_EMAIL = re.compile(
    r"(?<![\w.%+/@-])[\w.%+-]{1,64}+@((?:[^\W_][\w-]{0,62}+\.){1,8}[^\W\d_]{2,24}+)(?![\w@-])"
)
_RESERVED = re.compile(
    r"(?i)(?:[\w.-]{0,200}\.)?(?:example(?:\.(?:com|org|net))?|test|invalid|localhost|localdomain|local)"
)

_INTERNATIONAL = re.compile(
    r"(?<![\w.,:/+=#-])(?<!\d )\+\d(?:[ ().-]{0,2}\d){7,14}(?![\w/+=]|[-.,:]\d)", re.ASCII
)
_NORTH_AMERICAN = re.compile(
    r"(?<![\w.,:/+=#(-])(?<!\d[ ])(?:1[-. ])?"
    r"(?:\([2-9]\d\d\)[ -]?|[2-9]\d\d(?=([-. ])\d{3}\1)[-. ])[2-9]\d\d[-. ]\d{4}(?![\w/+=]|[-.,: ]\d)",
    re.ASCII,
)
_NATIONAL = re.compile(
    r"(?<![\w.,:/+=#(-])(?<!\d[ ])\(?0[1-9]\d{0,4}\)?[ /-]\d{2,8}(?:[ -]\d{2,8}){0,4}(?![\w/+=]|[-.,: ]\d)",
    re.ASCII,
)
_AFTER_A_WORD = re.compile(
    r"(?i)\b(?:phone|telephone|tel|fax|mobile|cell|call|whatsapp)(?: (?:number|no\.?|me at|us at|at))?"
    r"[.:# ]{1,3}(\(?\d(?:[ ().-]{0,2}\d){6,14})(?![\w/+=]|[-.,:]\d)",
    re.ASCII,
)
_NO_PHONE = re.compile(r"\d\d([/-])\d\d\1(?:\d\d){1,2}(?:[ -]\d\d)*|\d{5}-\d{4}")
"""Dates, with a time or without, and postal codes of the United States."""

_CARD = re.compile(
    r"(?<![\w.+-])(?:\d{13,19}(?!\.\d)"
    r"|(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})(?![ ]\d|\.\d))(?![\w+-])",
    re.ASCII,
)
_ISSUERS = re.compile(
    r"4(?:.{12}|.{15}|.{18})|(?:5[1-5]|2[2-7]|35).{14}|3[47].{13}|3[068].{12}|6(?:011|5|4[4-9]|2|0|7).*"
)
"""Beginnings and lengths that Visa, Mastercard, JCB, American Express, Diners and Discover give out."""

_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS", 23: "AE GI IL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "PT", 26: "IS TR", 27: "FR GR IT MC SM", 28: "AL AZ CY DO GT HU LB PL", 29: "BR PS QA UA", 31: "MT",
}  # fmt: skip
"""ISO 13616: characters of an account number, by country."""
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    + "|".join(
        rf"(?:{'|'.join(countries.split())})\d\d(?:[ -]?[A-Z0-9]){{{length - 4}}}"
        for length, countries in _IBAN_LENGTHS.items()
    )
    + r")(?![A-Za-z0-9])",
    re.ASCII,
)

_IPV4 = re.compile(r"(?<![\w.<>~^-])(?<![=<>~!]=)\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:]|\.\d)", re.ASCII)
_VERSION = re.compile(r"(?i)(?:\bv(?:er(?:sion)?)?|release|build)[ .:]{0,2}$")
_SMALL_PARTS = 32

_DIGIT = re.compile(r"\d", re.ASCII)
_MANY_DIGITS = re.compile(r"\d{3}[ ().-]{0,2}\d{2}|\d\d[ -]\d\d[ -]\d\d", re.ASCII)
_LONG_NUMBER = re.compile(r"\d{13}|\d{4}[ -]\d{4}", re.ASCII)


def emails(text: str) -> Iterator[Place]:
    """E-mail addresses; `git@host:path` is none."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            is_repository = match[0].startswith("git@") and text[match.end() : match.end() + 1] in (":", "/")
            if not is_repository and not _RESERVED.fullmatch(match[1]):
                yield match.span()


def phones(text: str) -> Iterator[Place]:
    """Phone numbers: international, North American, with a national 0, or any after a word such as `tel`."""
    if not _MANY_DIGITS.search(text):
        return
    if "+" in text:
        for match in _INTERNATIONAL.finditer(text):
            if 8 <= _digits(match[0]) <= 15:
                yield match.span()
    for match in _NORTH_AMERICAN.finditer(text):
        yield match.span()
    for match in _NATIONAL.finditer(text):
        if 9 <= _digits(match[0]) <= 12 and not _NO_PHONE.fullmatch(match[0]):
            yield match.span()
    for match in _AFTER_A_WORD.finditer(text):
        if not _NO_PHONE.fullmatch(match[1]):
            yield match.span(1)


def cards(text: str) -> Iterator[Place]:
    """Numbers of payment cards, checked by issuer and check digit (Luhn, ISO/IEC 7812-1)."""
    if _LONG_NUMBER.search(text):
        for match in _CARD.finditer(text):
            number = re.sub("[ -]", "", match[0])
            if _ISSUERS.fullmatch(number) and luhn(number):
                yield match.span()


def ibans(text: str) -> Iterator[Place]:
    """International bank account numbers, checked by country, length and check digits."""
    if _DIGIT.search(text):
        for match in _IBAN.finditer(text):
            if mod97(re.sub("[ -]", "", match[0])):
                yield match.span()


def addresses(text: str) -> Iterator[Place]:
    """IP addresses that are reachable from anywhere. One of four small numbers is taken for a version."""
    if not _DIGIT.search(text):
        return
    if "." in text:
        for match in _IPV4.finditer(text):
            before = text[max(0, match.start() - 12) : match.start()]
            small = max(map(int, match[0].split("."))) < _SMALL_PARTS
            if not small and _is_global(match[0]) and not _VERSION.search(before):
                yield match.span()
    if ":" in text:
        for match in _IPV6.finditer(text):
            if _is_global(match[0]):
                yield match.span()


def luhn(number: str) -> bool:
    """Whether the last digit of `number` is its check digit (ISO/IEC 7812-1, annex B)."""
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def mod97(account: str) -> bool:
    """Whether an IBAN without spaces has the right check digits (ISO 7064, MOD 97-10)."""
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


def _is_global(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)
