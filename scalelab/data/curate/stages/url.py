"""Block lists: pages whose URL is on a list of hosts, or holds a blocked word."""

import re
from functools import cached_property
from pathlib import Path
from typing import Literal

from scalelab.data.curate.base import Arrays, CurationStage, StageLedger, WebDocument
from scalelab.data.curate.urls import MALFORMED, host_of, is_malformed
from scalelab.data.files.plain import lines


class UrlBlocklist(CurationStage):
    """Rejects pages by their URL."""

    kind: Literal["url"] = "url"
    """Names this stage in CURATION_STAGES."""
    hosts: str | None = None
    """File with one blocked host a line; its subdomains are blocked too. # begins a comment."""
    words: tuple[str, ...] = ()
    """Words that block a URL: between letters and digits of it, a word has to stand alone."""

    def inputs(self) -> list[Path]:
        """The list of hosts."""
        return [Path(self.hosts).expanduser()] if self.hosts else []

    @cached_property
    def _blocked(self) -> frozenset[str]:
        found = (line.partition("#")[0].strip().lower() for path in self.inputs() for _, line in lines(path))
        return frozenset(host.removeprefix("www.").rstrip(".") for host in found if host)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        if not self.words:
            return None
        return re.compile(
            rf"(?<![a-z0-9])({'|'.join(map(re.escape, self.words))})(?![a-z0-9])", re.IGNORECASE
        )

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document whose URL is not blocked."""
        del decision
        ledger.count(MALFORMED, int(is_malformed(document.url)))
        host = host_of(document.url).removeprefix("www.")
        parts = host.split(".")
        blocked = next((s for i in range(len(parts)) if (s := ".".join(parts[i:])) in self._blocked), None)
        if host and blocked:
            ledger.reject(document, "blocked host", blocked)
            return None
        if self._pattern is not None and (found := self._pattern.search(document.url)):
            ledger.reject(document, "blocked word in URL", found[0])
            return None
        return document
