"""How answers are written down: tables, figures' looks, pages."""
