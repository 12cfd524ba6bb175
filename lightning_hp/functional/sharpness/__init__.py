"""The maths of sharpness-aware minimization."""
