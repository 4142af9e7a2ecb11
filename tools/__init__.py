"""What the checks of this repository run."""
