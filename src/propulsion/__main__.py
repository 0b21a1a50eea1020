"""`python -m propulsion` is the command `propulsion`."""

import sys

from propulsion_tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
