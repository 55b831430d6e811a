"""What every step stands on: errors, settings, params, stores, artifacts, runs, the ledger."""
