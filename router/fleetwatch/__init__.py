"""Watching the fleet: which engines there are, whether they answer, what they serve and what their `/metrics` tell."""
