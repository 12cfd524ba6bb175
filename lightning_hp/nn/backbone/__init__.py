"""Backbones: any classification model without its head."""
