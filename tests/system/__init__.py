"""The whole system: router processes, engines, a Redis server."""
