"""DashScope: its native services as translations of the canonical request."""
