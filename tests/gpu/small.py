"""One preset for all tests on a GPU, so that they share engines: a build takes minutes."""

import dataclasses

from sam2edge.bundle.engines import Limits
from sam2edge.engines.profiles import PRESETS

SMALL = dataclasses.replace(PRESETS["desktop"], limits=Limits(images=3))
