"""``python -m smelt`` is the command ``smelt``."""

import sys

from smelt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
