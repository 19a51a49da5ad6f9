"""Files that classify reads and writes: results, predicted grades, bundles."""
