"""Every registered executor keeps its promises."""

import pytest

from scalelab.jobs import EXECUTORS
from scalelab.testing.executors import check_executor


@pytest.mark.parametrize("name", [*EXECUTORS])
def test_it_conforms(name, tmp_path):
    check_executor(name, tmp_path)
