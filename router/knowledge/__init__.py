"""How the index learns which replica holds which prefix."""
