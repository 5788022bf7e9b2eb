"""`python -m linsey` is the `linsey` command."""

import sys

from linsey.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
