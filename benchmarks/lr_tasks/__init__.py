"""Trainings of many kinds, to judge found learning rates: those that shaped the rule, and others opened at the end."""
