"""The mathematics of a sweep: comparing settings, spacing of values."""
