"""Personal data: addresses and numbers masked and counted. Values are never recorded.

    e-mail      <EMAIL>
    telephone   <PHONE>    with a country code, or in the North American form; a decimal number, "+2023-04-05", and
                           "256 512 1024" where no word such as "phone" precedes, are no telephone numbers
    IP address  <IP>       valid and public; "version 1.2.3.4" and numbers of headings, such as "12.1.1.2. Title" at the
                           start of a line, are no addresses
    card        <CARD>     beginning and length of a known issuer, Luhn's check digit
    IBAN        <IBAN>     length of its country, remainder 1 by 97

A run of digits can go on after the number that it begins with ("4111 1111 1111 1111 123"): the longest part up to a
separator that passes the check is masked.

Source: ISO/IEC 7812-1 (Luhn), ISO 13616 (IBAN), RFC 5322, ITU-T E.164.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from scalelab.data.curate.base import Arrays, CurationStage, StageLedger, WebDocument, excerpt

PersonalDataKind = Literal["email", "phone", "ip", "card", "iban"]

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
    r"[A-Za-z]{2,24}(?![\w-])"
)
_CUT_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9.-]{0,100}$")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_CARD_GROUPS = re.compile(r"\d+|\d{4}([ -])(?:\d{4}\1\d{4}(?:\1\d{4}(?:\1\d{3})?|\1\d)|\d{6}\1\d{4,5})")
"""A card number by itself: undivided, or in the groups of an issuer."""
_PHONE = re.compile(
    r"(?<![\w.+/$€£-])(?:"
    r"\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}+\)?){2,6}"  # possessive: a run of digits is cut in one way only
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"
    r"|(?:1[ .-])?[2-9]\d{2}([ .-])[2-9]\d{2}\1\d{4}"
    r")(?![\w/-]|[.,]\d)"
)
_PHONE_GROUPS = re.compile(r"\+(?:\d{8,}|\d{1,3}(?:(?:[ .-]\(?|\()\d{2,}\)?)+)|[^+].*")
"""With a country code, a number by itself: undivided, or in groups of two digits or more behind the code."""
_IP4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_VERSION_BEFORE = re.compile(r"(?:version|release|ver\.?|v|section|chapter|§)\s*$", re.IGNORECASE)
_PHONE_BEFORE = re.compile(r"\b(?:tel|telephone|phone|mobile|fax|call)\b[^\d\n]{0,12}$", re.IGNORECASE)
_AMBIGUOUS_PHONE = re.compile(
    r"\+\d+\.\d+(?: .*)?|[2-9]\d\d \d{3} \d{4}|\+(?:19|20)\d\d-[01]\d-[0-3]\d(?: .*)?"
)
"""Forms that decimal numbers, rows of numbers, and dates of added lines have too."""
_NORTH_AMERICAN = re.compile(r"1(?:[2-9]\d\d){2}\d{4}")
_HEADING = re.compile(r"(?:\d{1,2}\.){4}[ \t\u00a0]+\S")
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d|35[2-8]\d)\d{12,15}|3(?:0[0-5]|09|[689]\d)\d{11,16}"
)
_IBAN_LENGTHS = {
    code: int(length)
    for code, length in (
        item.split("=")
        for item in [
            "AD=24",
            "AE=23",
            "AL=28",
            "AT=20",
            "AZ=28",
            "BA=20",
            "BE=16",
            "BG=22",
            "BH=22",
            "BR=29",
            "CH=21",
            "CR=22",
            "CY=28",
            "CZ=24",
            "DE=22",
            "DK=18",
            "DO=28",
            "EE=20",
            "EG=29",
            "ES=24",
            "FI=18",
            "FO=18",
            "FR=27",
            "GB=22",
            "GE=22",
            "GI=23",
            "GL=18",
            "GR=27",
            "GT=28",
            "HR=21",
            "HU=28",
            "IE=22",
            "IL=23",
            "IQ=23",
            "IS=26",
            "IT=27",
            "JO=30",
            "KW=30",
            "KZ=20",
            "LB=28",
            "LI=21",
            "LT=20",
            "LU=20",
            "LV=21",
            "MC=27",
            "MD=24",
            "ME=22",
            "MK=19",
            "MR=27",
            "MT=31",
            "MU=30",
            "NL=18",
            "NO=15",
            "PK=24",
            "PL=28",
            "PS=29",
            "PT=25",
            "QA=29",
            "RO=24",
            "RS=22",
            "SA=24",
            "SE=24",
            "SI=19",
            "SK=24",
            "SM=27",
            "TN=24",
            "TR=26",
            "UA=29",
            "VG=24",
            "XK=20",
        ]
    )
}


def is_card(number: str) -> bool:
    """Return whether digits, with spaces or dashes, are a card number of a known issuer."""
    digits = re.sub(r"[ -]", "", number)
    if _ISSUERS.fullmatch(digits) is None:
        return False
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + i % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_iban(number: str) -> bool:
    """Return whether text, with spaces, is an IBAN: its country's length, remainder 1 by 97."""
    text = number.replace(" ", "")
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def is_public_ip(text: str) -> bool:
    """Return whether text is an address that the public internet routes."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def is_phone(number: str) -> bool:
    """Return whether text has as many digits as a telephone number; with +1, those of a North American one."""
    digits = re.sub(r"\D", "", number)
    if number.startswith("+1"):
        return _NORTH_AMERICAN.fullmatch(digits) is not None
    return (8 if number.startswith("+") else 10) <= len(digits) <= 15


@dataclass(frozen=True)
class _Kind:
    """How one kind of personal data is found."""

    mask: str
    patterns: tuple[re.Pattern[str], ...]
    check: Callable[[str], bool]
    """Takes what a pattern matched, or a part of it."""
    separators: str = ""
    """Characters before which a match may be shortened where the whole does not pass the check."""
    part: re.Pattern[str] = re.compile(r".*")
    """Form of what is left of a match that was shortened, or that begins behind a separator."""
    is_other: Callable[[str, int, int], bool] = lambda text, start, end: False
    """Takes a text, from and to in characters: whether the surroundings show that it is something else."""


def _is_not_phone(text: str, start: int, end: int) -> bool:
    is_ambiguous = _AMBIGUOUS_PHONE.fullmatch(text, start, end) is not None
    return is_ambiguous and _PHONE_BEFORE.search(text[max(0, start - 24) : start]) is None


def _is_version_or_heading(text: str, start: int, end: int) -> bool:
    """Return whether a dotted number follows a word such as "version", or begins a line with a dot and a title."""
    del end
    before = text[max(0, start - 12) : start]
    is_heading = not before.rpartition("\n")[2].strip() and _HEADING.match(text, start) is not None
    return is_heading or _VERSION_BEFORE.search(before) is not None


_KINDS: dict[PersonalDataKind, _Kind] = {
    "email": _Kind("<EMAIL>", (_EMAIL,), lambda text: ".." not in text),
    "iban": _Kind("<IBAN>", (_IBAN,), is_iban, " "),
    "card": _Kind("<CARD>", (_CARD,), is_card, " -", _CARD_GROUPS),
    "phone": _Kind("<PHONE>", (_PHONE,), is_phone, " .-", _PHONE_GROUPS, _is_not_phone),
    "ip": _Kind("<IP>", (_IP4, _IP6), is_public_ip, is_other=_is_version_or_heading),
}
"""The kinds, in the order in which they are looked for."""


class PersonalData(CurationStage):
    """Masks personal data."""

    kind: Literal["pii"] = "pii"
    """Names this stage in CURATION_STAGES."""
    version: ClassVar[int] = 3
    mask: tuple[PersonalDataKind, ...] = Field(("email", "phone", "ip", "card", "iban"), min_length=1)
    """Kinds that are masked."""

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document without personal data."""
        del decision
        text, counts = masked(document.text, self.mask)
        if not counts:
            return document
        for name, n in counts.items():
            ledger.count(f"{name} masked", n)
        changed = WebDocument(**{**vars(document), "text": text})
        ledger.change(changed, excerpt(text, text.find(_KINDS[next(iter(counts))].mask)))
        return changed


def masked(text: str, kinds: tuple[PersonalDataKind, ...]) -> tuple[str, dict[str, int]]:
    """Return a text with personal data masked, and how often each kind was found.

    Args:
        text: Any text.
        kinds: Kinds that are masked.
    """
    counts: dict[str, int] = {}
    for name, kind in _KINDS.items():
        if name not in kinds or (name == "email" and "@" not in text):
            continue
        for pattern in kind.patterns:
            found = list(_found(text, pattern, kind))
            if not found:
                continue
            counts[name] = counts.get(name, 0) + len(found)
            starts = [0, *(end for _, end in found)]
            ends = [*(start for start, _ in found), len(text)]
            text = kind.mask.join(text[start:end] for start, end in zip(starts, ends, strict=True))
    return text, counts


def _found(text: str, pattern: re.Pattern[str], kind: _Kind) -> Iterator[tuple[int, int]]:
    """Yield where the data of one kind stands, from and to in characters: the longest parts of matches that pass.

    Where none passes, the search goes on behind the first separator before a group of four.
    """
    at, resumed = 0, -1
    while (match := pattern.search(text, at)) is not None:
        start, last = match.span()
        shorter = [i for i in range(last - 1, start, -1) if text[i] in kind.separators]
        for end in (last, *shorter):
            is_part = end < last or start == resumed
            if is_part and kind.part.fullmatch(text, start, end) is None:
                continue
            if kind.check(text[start:end]) and not kind.is_other(text, start, end):
                yield start, end
                at = end
                break
        else:
            at = next((i for i in reversed(shorter) if text[i + 1 : i + 5].isalnum()), last)
            resumed = at + 1


def masked_excerpt(text: str) -> str:
    """Return a part of a text with all kinds of personal data masked, an e-mail address cut off at its end too."""
    return _CUT_EMAIL.sub("<EMAIL>", masked(text, tuple(_KINDS))[0])
