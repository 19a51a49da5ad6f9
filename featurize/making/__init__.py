"""Making a store: drafted, planned, filled part by part, assembled, under a lock."""
