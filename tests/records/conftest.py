"""A table file of any content, read as evidence or refused."""

import pytest

from scalelab.errors import DataError
from scalelab.records.runs import read_external


class Tables:
    """Writes a file and reads it as a table of runs."""

    def __init__(self, directory):
        self.directory = directory

    def write(self, content, name="runs.csv"):
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def read(self, content, name="runs.csv", columns=None, **more):
        """The evidence of a file with this content."""
        return read_external(self.write(content, name), columns or {}, (), None, **more).evidence

    def refuse(self, content, name="runs.csv", columns=None, **more):
        """The error with which a file of this content is refused; it names the file and a fix."""
        path = self.write(content, name)
        with pytest.raises(DataError) as error:
            read_external(path, columns or {}, (), None, **more)
        assert str(path) in error.value.where
        assert error.value.fix
        assert len(str(error.value)) < 1500
        return error.value


@pytest.fixture
def tables(tmp_path):
    return Tables(tmp_path)
