"""The closed forms, and their ratio r carried from one curve to the others."""
