"""The control plane: metrics, admin API, explanations, logs."""
