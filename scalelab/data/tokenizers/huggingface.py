"""A directory as transformers saves a tokenizer: tokenizer.json, and special tokens in tokenizer_config.json.

    tokenizer.json           the tokenizer, required
    tokenizer_config.json    eos_token ends a document; added_tokens_decoder: special tokens by number
    special_tokens_map.json  eos_token, where tokenizer_config.json has none

A special token that tokenizer.json lacks is added, and must get the number that the other file says.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer

from scalelab.data.tokenizers.base import ExternalTokenizer, read_bytes
from scalelab.files import exists, is_dir

CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"


class HuggingFaceDirectory(ExternalTokenizer):
    """A directory with a fast tokenizer."""

    kind: Literal["huggingface"] = "huggingface"
    """Names this tokenizer in TOKENIZERS."""

    def files(self) -> Sequence[Path]:
        """Return tokenizer.json and those of the other files that are there."""
        folder = Path(self.path).expanduser()
        whole = folder / "tokenizer.json"
        if not is_dir(folder):
            problem = "is a file" if exists(folder) else "does not exist"
            self.refuse(f"{self.path} {problem}", "name a directory that holds tokenizer.json")
        if not exists(whole):
            self.refuse(
                f"{self.path} has no tokenizer.json",
                "save it as a fast tokenizer: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            )
        return (whole, *(folder / name for name in (CONFIG, MAP) if exists(folder / name)))

    def adapt(self, inner: Tokenizer) -> str | None:
        """Add special tokens of tokenizer_config.json and return its eos_token."""
        beside = {path.name: self._json(path) for path in self.files()[1:]}
        config = beside.get(CONFIG, {})
        added = config.get("added_tokens_decoder") or {}
        if not isinstance(added, dict):
            self.refuse(f"added_tokens_decoder of {CONFIG} is no object", f"restore {CONFIG}")
        entries = sorted(
            ((str(number), entry) for number, entry in added.items()), key=lambda e: (len(e[0]), e[0])
        )
        for number, entry in entries:
            self._add(inner, number, entry)
        return _name(config.get("eos_token")) or _name(beside.get(MAP, {}).get("eos_token"))

    def _add(self, inner: Tokenizer, number: str, entry: Any) -> None:
        name = _name(entry)
        if name is None or not number.isdecimal():
            self.refuse(
                f"the added token {number!r:.20} of {CONFIG} has no name or number", f"restore {CONFIG}"
            )
        if inner.token_to_id(name) is None and entry.get("special"):
            inner.add_special_tokens([AddedToken(name, special=True)])
        if inner.token_to_id(name) != int(number):
            self.refuse(
                f"{name!r:.60} is token {inner.token_to_id(name)} in tokenizer.json and {number} in {CONFIG}",
                "take both files from the same tokenizer",
            )

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(read_bytes(path).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            self.refuse(f"{path.name} is not JSON: {error}", "restore it, or remove it and state `end`")
        if not isinstance(found, dict):
            self.refuse(f"{path.name} is not a JSON object", "restore it, or remove it and state `end`")
        return found


def _name(entry: Any) -> str | None:
    """Return the name of a token that is written as text or as an object."""
    name = entry.get("content") if isinstance(entry, dict) else entry
    return name if isinstance(name, str) and name else None
