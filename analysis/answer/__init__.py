"""What is said of fits: sentences, tables, figures, the report, JSON."""
