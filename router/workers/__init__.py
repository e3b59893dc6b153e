"""Several router processes on one port: a supervisor that starts and watches them, and what one of them runs."""
