"""Host and path of a page's URL, of whatever the page or its source calls a URL."""

from urllib.parse import urlsplit

MALFORMED = "malformed URL"
"""Finding that a stage counts where a URL has no host because it cannot be parsed."""


def host_of(url: str) -> str:
    """Return the host of a URL in lower case; empty where it has none or cannot be parsed."""
    return host_and_path(url)[0]


def host_and_path(url: str) -> tuple[str, str]:
    """Return host and path of a URL; both empty where it cannot be parsed."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket that is not closed, or a host that NFKC changes
        return "", ""
    return parts.hostname or "", parts.path


def is_malformed(url: str) -> bool:
    """Return whether text that stands for a URL cannot be parsed as one."""
    try:
        urlsplit(url)
    except ValueError:
        return True
    return False
