"""How long a replica of each kind takes: presets, first principles, fits to logs."""
