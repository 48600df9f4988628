"""Every engine, precision and layout under each instruction set that this processor can be limited to."""
