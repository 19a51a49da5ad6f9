"""Files that classify reads and writes: results, grades, bundles."""
