"""kvroute: a KV-cache-aware request router for vLLM, and a simulator that runs the same decisions."""

__version__ = "0.1.0"
