"""One run: the routing code over a simulated fleet, and what came of it."""
