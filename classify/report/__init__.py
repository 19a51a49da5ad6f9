"""A finished run as a report page, figures, tables and sentences."""
