"""Benchmarks of lightning_hp: real trainings, side by side with the other tools. Run ``python -m benchmarks``."""
