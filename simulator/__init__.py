"""A discrete-event model of vLLM replicas that the routing code runs against unchanged, and what is asked of it."""
