"""Which replicas exist, whether they are well, and what their metrics say."""
