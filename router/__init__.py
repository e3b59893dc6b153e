"""The live router: bytes in, a decision, bytes out; and what it knows of its fleet."""
