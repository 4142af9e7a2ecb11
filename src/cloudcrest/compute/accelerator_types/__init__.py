"""The catalog of accelerator types: what is known of each, and what operators add."""
