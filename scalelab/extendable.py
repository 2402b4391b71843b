"""Config files that extend another file of their kind.

    extends: sweeps/questions/base.yaml    a file whose contents hold where this one has none

Mappings are joined key by key; one that names another `kind` replaces that of the base, and so does every list. The
path is relative to the working directory.
"""

import os
from pathlib import Path

from scalelab.config import Config, YamlDocument
from scalelab.errors import ConfigError
from scalelab.file_kinds import EXTENDS, MOST_BASES


class ExtendableConfig(Config):
    """A config whose files may extend one another."""

    @classmethod
    def read_file(cls, path: Path) -> YamlDocument:
        """Return the contents of a file, joined with those of the files that it extends.

        Raises:
            ConfigError: A file cannot be read, is of another kind, or extends itself.
        """
        document = super().read_file(path)
        above, seen = document, [Path(path)]
        while EXTENDS in above.data:
            base = cls._base_path(above)
            if len(seen) == MOST_BASES or any(base.resolve() == each.resolve() for each in seen):
                raise ConfigError(
                    f"{path} extends {' which extends '.join(map(str, [*seen[1:], base]))}",
                    where=above.place((EXTENDS,)),
                    fix=f"let at most {MOST_BASES} files extend one another, none of them itself",
                )
            seen.append(base)
            del above.data[EXTENDS]
            above = super().read_file(base)
            document.extend(above)
            document.data.pop(EXTENDS, None)
        return document

    @classmethod
    def _base_path(cls, document: YamlDocument) -> Path:
        """Return the path of the file that a document extends."""
        named = document.data[EXTENDS]
        if not isinstance(named, str):
            raise ConfigError(
                f"{EXTENDS} is {named!r}, no path",
                where=document.place((EXTENDS,)),
                fix=f"name one {cls.file_kind} file, by its path relative to the working directory",
            )
        if not os.path.isfile(named):  # False also of names that cannot be; pathlib raises
            raise ConfigError(
                f"there is no file {named} in {Path.cwd()}",
                where=document.place((EXTENDS,)),
                fix=f"give the path of a {cls.file_kind} file relative to the working directory",
            )
        return Path(named)
