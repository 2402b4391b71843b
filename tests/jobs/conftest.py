"""What these tests share with the kill campaign: processes, as /proc shows them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
