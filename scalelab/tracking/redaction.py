"""Text without the credentials of the store: for messages, logs and errors of other packages.

    postgresql://ann:secret@host/db  ->  postgresql://***@host/db
    token=secret                     ->  token=***

Whatever leaves the tracking package as text goes through `redact`.
"""

import os
import re
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_URI")
"""Variables whose addresses may hold credentials."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
"""Variables that are credentials."""
HIDDEN = "***"
SHORTEST = 3
"""Length from which a password is replaced wherever it stands, characters."""
_USER_INFO = re.compile(r"([a-z][a-z0-9+.-]*://)[^/?#\s'\"]*@", re.IGNORECASE)
_FIELD = re.compile(
    r"((?:password|passwd|pwd|token|secret|api[_-]?key|access[_-]?key|sslpassword)\s*(?:=|%3D)\s*)"
    r"(?:[^&;\s'\"%]|%(?!26|3B))+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return the text with passwords, users before an @, and secret fields replaced by ***."""
    text = _FIELD.sub(rf"\1{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", text))
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _known() -> set[str]:
    """Secrets of the environment, as written, decoded and quoted."""
    found = {os.environ.get(name, "") for name in SECRETS}
    for name in VARIABLES:
        uri = os.environ.get(name, "")
        user_info, at, _ = uri.partition("://")[2].rpartition("@")
        if at and ":" in user_info:
            found.add(user_info.partition(":")[2])
        try:
            fields = parse_qsl(urlsplit(uri).query)
        except ValueError:
            fields = []
        found |= {value for key, value in fields if _FIELD.match(f"{key}=x")}
    spelled = {unquote(secret) for secret in found}
    spelled |= {spell(secret) for secret in spelled for spell in (quote, quote_plus)} | found
    return {secret for secret in spelled if len(secret) >= SHORTEST and secret != HIDDEN}
