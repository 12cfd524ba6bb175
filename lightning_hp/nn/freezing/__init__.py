"""Freezing: which parameters of a backbone are trained in which epoch, and how the others are kept frozen."""
