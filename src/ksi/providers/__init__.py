"""Where completions come from: language model providers, local and remote."""
