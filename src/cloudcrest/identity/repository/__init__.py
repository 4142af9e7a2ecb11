"""What identity reads and writes: one file per noun."""
