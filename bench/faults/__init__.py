"""Hosts fail under load, again and again, and everybody who writes or answers leaves a trace: `make faults`."""
