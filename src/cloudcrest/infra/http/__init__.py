"""What every HTTP face of the control plane shares: problem documents, the unit of work, paging, idempotency keys."""
