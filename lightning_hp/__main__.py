"""``python -m lightning_hp`` is the command ``lightning-hp``."""

import sys

from lightning_hp.cli import main

if __name__ == "__main__":
    sys.exit(main())
