"""The token lens: prompts as the engine tokenises them, in exact block keys."""
