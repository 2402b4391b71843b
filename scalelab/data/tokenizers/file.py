"""A tokenizer.json as the tokenizers library writes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from scalelab.data.tokenizers.base import ExternalTokenizer
from scalelab.files import is_dir


class TokenizerFile(ExternalTokenizer):
    """One file that is a whole tokenizer."""

    kind: Literal["file"] = "file"
    """Names this tokenizer in TOKENIZERS."""

    def files(self) -> Sequence[Path]:
        """Return the file."""
        path = Path(self.path).expanduser()
        if is_dir(path):
            self.refuse(
                f"{self.path} is a directory", "name its tokenizer.json, or set tokenizer.kind: huggingface"
            )
        return (path,)

    def adapt(self, inner: Tokenizer) -> str | None:
        """Return None: nothing lies beside the file."""
        return None
