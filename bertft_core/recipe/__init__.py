"""A stage of a run each, and the chain of them; no orchestrator."""
