"""Makes and measures the embedded default model; packaging/model/README.md says how."""
