"""Ids, money, units, clock, errors, usage events and the registry: pure values that every slice speaks."""
