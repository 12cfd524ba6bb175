"""Sharpness: the perturbation of SAM and its schedule; loss surfaces, rise at a radius, curvature."""
