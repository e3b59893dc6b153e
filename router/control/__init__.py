"""The control plane: admin API and Prometheus metrics. Never on a request's path."""
