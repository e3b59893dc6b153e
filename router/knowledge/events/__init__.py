"""KV events: what the engines publish about their caches, into our own keys."""
