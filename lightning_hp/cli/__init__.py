"""``lightning-hp``: a sweep over a LightningCLI config, and its report, from the shell."""

from lightning_hp.cli.main import main

__all__ = ["main"]
