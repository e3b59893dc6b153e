"""What a router costs: CPU per request and per chunk, added latency and memory, next to its peers in one run."""
