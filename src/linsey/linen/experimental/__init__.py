"""Layers whose interface may change."""
