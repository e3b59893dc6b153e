"""Pure core shared by live and simulated routing: no clock, no randomness, no I/O of its own."""
