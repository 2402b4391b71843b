"""Personal data: addresses and numbers masked and counted. Values are never recorded.

    e-mail      <EMAIL>
    telephone   <PHONE>    with a country code, or in the North American form
    IP address  <IP>       valid and public; "version 1.2.3.4" and numbers of headings, such as "12.1.1.2. Title" at the
                           start of a line, are no addresses
    card        <CARD>     beginning and length of a known issuer, Luhn's check digit
    IBAN        <IBAN>     length of its country, remainder 1 by 97

Source: ISO/IEC 7812-1 (Luhn), ISO 13616 (IBAN), RFC 5322, ITU-T E.164.
"""

import ipaddress
import re
from collections.abc import Callable
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
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}+\)?){2,6}"  # possessive: a run of digits is cut in one way only
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"
    r"|(?:1[ .-])?[2-9]\d{2}([ .-])[2-9]\d{2}\1\d{4}"
    r")(?![\w/-]|[.,]\d)"
)
_IP4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_VERSION_BEFORE = re.compile(r"(?:version|release|ver\.?|v|section|chapter|§)\s*$", re.IGNORECASE)
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
    """Return whether text has as many digits as a telephone number."""
    return (8 if number.startswith("+") else 10) <= sum(map(str.isdigit, number)) <= 15


_KINDS: dict[PersonalDataKind, tuple[str, tuple[re.Pattern[str], ...], Callable[[str], bool]]] = {
    "email": ("<EMAIL>", (_EMAIL,), lambda text: ".." not in text),
    "iban": ("<IBAN>", (_IBAN,), is_iban),
    "card": ("<CARD>", (_CARD,), is_card),
    "phone": ("<PHONE>", (_PHONE,), is_phone),
    "ip": ("<IP>", (_IP4, _IP6), is_public_ip),
}
"""Mask, patterns and check of each kind, in the order in which they are looked for."""


class PersonalData(CurationStage):
    """Masks personal data."""

    kind: Literal["pii"] = "pii"
    """Names this stage in CURATION_STAGES."""
    version: ClassVar[int] = 2
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
        ledger.change(changed, excerpt(text, text.find(_KINDS[next(iter(counts))][0])))
        return changed


def masked(text: str, kinds: tuple[PersonalDataKind, ...]) -> tuple[str, dict[str, int]]:
    """Return a text with personal data masked, and how often each kind was found.

    Args:
        text: Any text.
        kinds: Kinds that are masked.
    """
    counts: dict[str, int] = {}
    for kind, (mask, patterns, check) in _KINDS.items():
        if kind not in kinds or (kind == "email" and "@" not in text):
            continue

        def replaced(
            match: re.Match[str], kind: str = kind, mask: str = mask, check: Callable[[str], bool] = check
        ) -> str:
            before = match.string[max(0, match.start() - 12) : match.start()]
            if not check(match[0]) or (
                kind == "ip" and (_VERSION_BEFORE.search(before) or _is_heading(match))
            ):
                return match[0]
            counts[kind] = counts.get(kind, 0) + 1
            return mask

        for pattern in patterns:
            text = pattern.sub(replaced, text)
    return text, counts


def _is_heading(match: re.Match[str]) -> bool:
    """Return whether a dotted number begins a line and is followed by a dot and a title."""
    line = match.string[max(0, match.start() - 12) : match.start()].rpartition("\n")[2]
    return not line.strip() and _HEADING.match(match.string, match.start()) is not None


def masked_excerpt(text: str) -> str:
    """Return a part of a text with all kinds of personal data masked, an e-mail address cut off at its end too."""
    return _CUT_EMAIL.sub("<EMAIL>", masked(text, tuple(_KINDS))[0])
