"""Input that nobody would send in earnest: `make fuzz`, and with a small budget in `make check`."""
