"""Sharpness-aware minimization (SAM): the perturbation of the weights and its schedule."""
