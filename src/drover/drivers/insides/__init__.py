"""What is a container's own and in no volume: its writable layer, its log, the ports it listens on."""
