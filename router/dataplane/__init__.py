"""Bytes: asyncio protocols over httptools. Knows HTTP, knows nothing of scoring."""
