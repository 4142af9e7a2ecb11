"""The rules of billing: accounts, ingest and pricing, rate cards, what usage cost, and the ledger's replay."""
