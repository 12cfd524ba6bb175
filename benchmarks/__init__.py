"""Benchmarks of lightning_hp: real trainings, compared with other libraries. Run ``python -m benchmarks``."""
