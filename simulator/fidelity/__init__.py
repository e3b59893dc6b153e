"""How far the simulator may be trusted: fits to real runs, judged on others."""
