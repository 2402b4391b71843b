import json
import os
import shutil

import pytest
from tests_track import T0, Database, Family, said, sync_once

from scalelab.errors import TrackError
from scalelab.track.mirror import log_fit
from scalelab.track.sync import sync
