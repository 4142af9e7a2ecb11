"""Where a demand does the least harm to what is likely to come."""
