"""The scheduler: a pure core that the live system and the simulator share."""
