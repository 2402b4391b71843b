"""A report that MLflow lacks is a warning, whatever the reason."""

import pytest

from scalelab.errors import RunError, TrackError
from scalelab.tracking.mirror_warning import warn_if_not_mirrored


@pytest.mark.parametrize("kind", [RunError, TrackError])
def test_a_report_that_is_written_does_not_fail_for_its_copy(kind, capsys):
    with warn_if_not_mirrored("the fit"):
        raise kind("the directory is read-only", where="runs/a", fix="give yourself write permission")

    said = capsys.readouterr().err
    assert "warning: the fit is not in MLflow yet: the directory is read-only" in said
    assert "fix:   give yourself write permission" in said
