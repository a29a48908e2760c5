"""The command line: `agentkd`, or `python -m agentkd`."""

from __future__ import annotations

import sys

from agentkd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
