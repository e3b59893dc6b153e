"""Mirrors router/knowledge/sharing."""
