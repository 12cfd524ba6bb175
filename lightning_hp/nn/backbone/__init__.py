"""Backbones: any model without its head."""
