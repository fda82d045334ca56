"""`python -m sam2edge`."""

import sys

from sam2edge.cli import main

sys.exit(main())
