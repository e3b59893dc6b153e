"""The field's policies, to compare with: each is one rule behind the same `choose`."""
