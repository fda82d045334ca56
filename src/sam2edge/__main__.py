"""`python -m sam2edge`."""

import sys

from sam2edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
