"""One replica: vLLM's scheduler and its prefix cache, step by step and in closed form."""
