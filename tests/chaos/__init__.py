"""`make chaos`: random accidents on real hosts, and the proof that no promise broke."""
