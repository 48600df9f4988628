"""Makes and measures the embedded default model; docs/training.md says how."""
