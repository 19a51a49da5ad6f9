"""Looking after stores: what would change, what is off, and making just that again."""
