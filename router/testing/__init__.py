"""Shipped stand-ins: an engine that speaks vLLM's HTTP surface and KV events in real time."""
